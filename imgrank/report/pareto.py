"""A plot of quality against bytes for a photo, as the third figure of arXiv:2604.13268."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imgrank.errors import MissingExtraError


@dataclass(frozen=True)
class Point:
    """One way to store tokens: its name, its bytes for a photo, its quality, and whether it is on the curve."""

    name: str
    size: float
    quality: float
    pareto: bool


def plot_pareto(points: Sequence[Point], quality: str, path: Path) -> None:
    """Write a plot; the ending of the name chooses the format.

    Args:
        points: at least one.
        quality: name of the axis.
        path: .svg, .png or .pdf.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "a plot") from error
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
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _size(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"
