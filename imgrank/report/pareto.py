"""A plot of quality against bytes for a photo, as the third figure of arXiv:2604.13268."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imgrank.errors import MissingExtraError, SettingsError


@dataclass(frozen=True)
class Point:
    """One way to store tokens: its name, its bytes for a photo, its quality, and whether it is on the curve."""

    name: str
    size: float
    quality: float
    pareto: bool


_ENDINGS = (".svg", ".png", ".pdf")


def check_plot(path: Path) -> None:
    """Find out whether a plot can be written, before the work whose result it shows.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SettingsError: the name ends otherwise than .svg, .png or .pdf, or there is no such folder.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "plot", "a plot")
    if path.suffix.lower() not in _ENDINGS:
        raise SettingsError(f"plot {str(path)!r}: the name must end in {', '.join(_ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise SettingsError(f"plot {str(path)!r}: its folder does not exist; make it first")


def plot_pareto(points: Sequence[Point], quality: str, path: Path) -> None:
    """Write a plot; the ending of the name chooses the format.

    Args:
        points: at least one.
        quality: name of the axis.
        path: .svg, .png or .pdf.

    Raises:
        MissingExtraError, SettingsError: as `check_plot`.
    """
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curve = sorted((point for point in points if point.pareto), key=lambda point: point.size)
    axes.step([point.size for point in curve], [point.quality for point in curve], where="post", color="C0", zorder=1)
    for pareto, colour in ((True, "C0"), (False, "0.6")):
        some = [point for point in points if point.pareto == pareto]
        axes.scatter([point.size for point in some], [point.quality for point in some], color=colour, zorder=2)
    for point in points:
        axes.annotate(
            point.name, (point.size, point.quality), xytext=(4, 3), textcoords="offset points", fontsize=7,
            color="black" if point.pareto else "0.5",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, place: _size(value))
    axes.set_xlabel("bytes for a photo")
    axes.set_ylabel(quality)
    axes.margins(x=0.15)  # room for the names of the largest
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _size(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"
