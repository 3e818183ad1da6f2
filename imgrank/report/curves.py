"""Plots of studies: curves in one panel or several, and bars side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgrank.report.pareto import check_plot

_MARKERS = "osD^vPX*<>"


@dataclass(frozen=True)
class Curve:
    """A line.

    Attributes:
        label: for the legend; curves of the same label have the same colour in all panels.
        points: (x, y), in the order of x.
        band: (low, high) about each y; none: no band.
        dashed: how a level is drawn that others are held to.
        names: of the points, written beside them; none: they have no names.
    """

    label: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    dashed: bool = False
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """Curves over the same axes."""

    title: str
    curves: Sequence[Curve]
    levels: Mapping[str, float] = field(default_factory=dict)  # label -> y of a dashed line across


def plot_curves(
    panels: Sequence[Panel], path: Path, *, x: str, y: str, log_x: bool = False, columns: int = 5, share_y: bool = True
) -> None:
    """Write panels side by side, with one legend.

    Args:
        panels: at least one.
        path: .svg, .png or .pdf.
        x: name of that axis.
        y: name of that axis.
        log_x: whether x grows by factors.
        columns: at most so many panels in a row.
        share_y: whether all panels have the same scale.

    Raises:
        MissingExtraError, SettingsError: as `imgrank.report.pareto.check_plot`.
    """
    check_plot(path)
    across = min(columns, len(panels))
    down = -(-len(panels) // across)
    size = (7.0, 4.6) if len(panels) == 1 else (3.0 * across, 2.6 * down + 0.8)
    figure = _figure(size)
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=share_y)
    labels: dict[str, Any] = {}
    every = list(dict.fromkeys([one.label for panel in panels for one in panel.curves]))
    levels = list(dict.fromkeys([label for panel in panels for label in panel.levels]))
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        panel = panels[place]
        for one in panel.curves:
            number = every.index(one.label)
            xs, ys = [point[0] for point in one.points], [point[1] for point in one.points]
            (line,) = axes.plot(
                xs, ys, color=f"C{number}", marker=_MARKERS[number % len(_MARKERS)], markersize=3.5,
                linestyle="--" if one.dashed else "-",
            )  # fmt: skip
            labels.setdefault(one.label, line)
            for name, point in zip(one.names, one.points, strict=False):
                axes.annotate(
                    name, point, xytext=(3, 3), textcoords="offset points", fontsize=7, color=f"C{number}"
                )  # fmt: skip
            if one.band:
                axes.fill_between(
                    xs, [low for low, _ in one.band], [high for _, high in one.band], color=f"C{number}", alpha=0.12
                )
        for label, level in panel.levels.items():
            line = axes.axhline(level, color=f"C{levels.index(label)}", linestyle=":", linewidth=1.2)
            labels.setdefault(label, line)
        axes.set_title(panel.title, fontsize=9)
        axes.grid(alpha=0.3)
        if log_x:
            axes.set_xscale("log")
    figure.supxlabel(x, fontsize=10)
    figure.supylabel(y, fontsize=10)
    figure.legend(labels.values(), labels.keys(), loc="outside upper center", ncols=min(3, len(labels)), fontsize=8)
    figure.savefig(path, dpi=150)


def plot_bars(
    groups: Sequence[str], series: Mapping[str, Sequence[tuple[float, float, float]]], path: Path, *, x: str, y: str
) -> None:
    """Write bars side by side.

    Args:
        groups: names along x.
        series: label -> (mean, low, high) for each group.
        path: .svg, .png or .pdf.
        x: name of that axis.
        y: name of that axis.

    Raises:
        MissingExtraError, SettingsError: as `imgrank.report.pareto.check_plot`.
    """
    check_plot(path)
    figure = _figure((7.0, 4.6))
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    for number, (label, bars) in enumerate(series.items()):
        places = [place - 0.4 + (number + 0.5) * width for place in range(len(groups))]
        means = [bar[0] for bar in bars]
        errors = [[bar[0] - bar[1] for bar in bars], [bar[2] - bar[0] for bar in bars]]
        axes.bar(places, means, 0.92 * width, yerr=errors, color=f"C{number}", label=label, error_kw={"linewidth": 1})
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3, axis="y")
    figure.legend(loc="outside upper center", ncols=min(3, len(series)), fontsize=8)
    figure.savefig(path, dpi=150)


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
