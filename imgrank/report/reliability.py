"""A reliability diagram: what was observed against what was stated, before and after a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imgrank.report.pareto import check_plot


@dataclass(frozen=True)
class Curve:
    """One side of the diagram.

    Attributes:
        name: with its number, for the legend.
        points: (stated, observed, pairs) of each bin that has any.
    """

    name: str
    points: Sequence[tuple[float, float, int]]


def plot_reliability(curves: Sequence[Curve], path: Path) -> None:
    """Write the diagram, with the number of pairs in each bin below it; the ending of the name chooses the format.

    Raises:
        MissingExtraError, SettingsError: as `imgrank.report.pareto.check_plot`.
    """
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", zorder=1)
    for place, curve in enumerate(curves):
        stated, observed, counts = zip(*curve.points, strict=True)
        axes.plot(stated, observed, marker="o", color=f"C{place}", label=curve.name, zorder=2)
        below.plot(stated, counts, marker="o", linestyle="", color=f"C{place}")
    axes.set_ylabel("share of pairs that show the same thing")
    axes.set_ylim(0, 1)
    axes.legend()
    below.set_yscale("log")
    below.set_ylabel("pairs")
    below.set_xlabel("probability that was stated")
    below.set_xlim(0, 1)
    for part in (axes, below):
        part.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
