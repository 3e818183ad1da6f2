"""`imgrank calibrate`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from imgrank.cli import options, scorer_options
from imgrank.config import CalibrationMethod, CalibrationSettings, DecodeSettings

if TYPE_CHECKING:
    from imgrank.steps.calibrate import CalibrationReport


@click.command(short_help="Learn what the scores of the second stage are worth.")
@options.bundle_argument
@click.option(
    "--qrels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Judgements (TREC, or `query photo`); queries are photos of the bundle, or files.",
)
@click.option(
    "--queries-root",
    type=click.Path(exists=True, file_okay=False, path_type=bytes),
    help="Folder that query names are below, where they are not photos of the bundle.",
)
@click.option(
    "--method",
    default=CalibrationSettings.method,
    show_default=True,
    type=click.Choice(get_args(CalibrationMethod)),
    help="isotonic: any rising curve; logistic: a sigmoid, for few pairs.",
)
@click.option(
    "--top",
    default=CalibrationSettings.top,
    show_default=True,
    type=click.IntRange(min=1),
    help="Candidates of each query: the K of the searches that it is for.",
)
@click.option(
    "--folds",
    default=CalibrationSettings.folds,
    show_default=True,
    type=click.IntRange(min=2),
    help="Parts of the queries; each is measured by a map of the others.",
)
@click.option(
    "--bins",
    default=CalibrationSettings.bins,
    show_default=True,
    type=click.IntRange(min=1, max=1000),
    help="Of the reliability table.",
)
@click.option(
    "--seed", default=CalibrationSettings.seed, show_default=True, type=click.IntRange(min=0), help="Deals queries out."
)
@scorer_options.evidence_options
@click.option(
    "--encoder",
    metavar="MODEL",
    help="Where the encoder of the bundle lies here, if it moved; for imported descriptors, which it is.",
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write a plot: .svg, .png or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --list, one for each calibration.")
@click.option("--list", "listed", is_flag=True, help="Print the calibrations of the bundle instead.")
@click.option("--remove", metavar="NAME", help="Take a calibration out of the bundle instead.")
@options.device_option
@options.decode_options
@options.root_option
@options.strict_option
@options.quiet_option
def command(bundle: Path, **chosen: Any) -> int:
    """Learn, from judged queries, the probability that a re-ranked photo shows what the query shows.

    Each query is searched, its --top candidates are scored, and a rising map is fitted from scores to the share of
    pairs that show the same thing. Photos that are not judged count as different; those of a relevance below 0 are
    left out, and so is the query itself. The map is kept in the bundle, with a reliability table of queries that it was
    not fitted on; `search --rerank` and `rerank`, asked in the same way, then give hits a field `calibrated`. The
    order of hits stays. Needs scikit-learn: pip install 'imgrank[calibrate]'.

    \b
    Example:
        imgrank calibrate db.h5 --qrels q.tsv
        imgrank calibrate db.h5 --qrels q.tsv --mllm builtin --top 20 --plot reliability.svg
        imgrank calibrate db.h5 --list
    """
    from imgrank.cli.console import Console

    if sum((chosen["qrels"] is not None, chosen["listed"], chosen["remove"] is not None)) != 1:
        raise click.UsageError("give one of --qrels FILE, --list and --remove NAME")
    console = Console(chosen["quiet"])
    if chosen["listed"]:
        _list(bundle, chosen["as_json"])
        return 0
    if chosen["remove"] is not None:
        from imgrank.steps.calibrate import remove_calibration

        remove_calibration(bundle, chosen["remove"])
        return 0
    report = _learn(bundle, chosen, console)
    console.scored(report.work, report.facts.scorer)
    if chosen["as_json"]:
        click.echo(json.dumps(report.record()))
    else:
        _print(report)
    console.done(
        f"{bundle}: calibration {report.name!r}", f"imgrank search {bundle} QUERY.jpg --rerank {report.facts.top}"
    )
    return options.IMAGES_SKIPPED if report.skipped else 0


def _learn(bundle: Path, chosen: dict[str, Any], console: Any) -> CalibrationReport:
    from imgrank.evaluation.qrels import read_qrels
    from imgrank.report.pareto import check_plot
    from imgrank.steps.calibrate import calibrate, plot

    if chosen["plot"] is not None:
        check_plot(chosen["plot"])
    scoring, request, score_cache = scorer_options.second_stage(chosen["top"], chosen)
    report = calibrate(
        bundle,
        read_qrels(chosen["qrels"]),
        CalibrationSettings(**{name: chosen[name] for name in ("method", "top", "folds", "bins", "seed")}),
        scoring,
        request,
        queries_root=chosen["queries_root"],
        encoder=chosen["encoder"],
        score_cache=score_cache,
        decode=DecodeSettings(chosen["max_megapixels"], chosen["workers"]),
        root=chosen["root"],
        strict=chosen["strict"],
        reporter=console,
    )
    if chosen["plot"] is not None:
        plot(report, chosen["plot"])
    return report


def _list(bundle: Path, as_json: bool) -> None:
    from imgrank.images.scan import printable
    from imgrank.steps.calibrate import list_calibrations

    rows = []
    for one in list_calibrations(bundle):
        if as_json:
            click.echo(json.dumps(one))
        change = f"{one['ece_before']:.4f} -> {one['ece']:.4f}"
        asked = f"{one['model']}, {one['asked']}" if one["asked"] else one["model"]
        rows.append([one["name"], one["method"], str(one["top"]), str(one["pairs"]), change, printable(asked)])
    if not as_json:
        _table(["name", "method", "top", "pairs", "calibration error", "scored by"], rows)


def _print(report: CalibrationReport) -> None:
    facts = report.facts
    taken = "its sigmoid" if facts.evidence == "logit" else "the score"
    record = report.record()
    click.echo(
        f"{report.name}: {facts.method}, from the {facts.evidence} of {facts.pairs} pairs of {facts.queries} queries, "
        f"{facts.same} of which show the same thing"
    )
    numbers = [
        [label, *(f"{record[side][key]:.4f}" for key in ("ece", "brier", "log_loss"))]
        for label, side in ((f"before: {taken} as it is", "before"), ("after: of queries not learned from", "after"))
    ]
    _table(["", "calibration error", "Brier", "log loss"], numbers)
    rows = [
        [f"{one['from']:.2f} to {one['to']:.2f}", str(one["count"])]
        + [f"{one[name]:.3f}" if one["count"] else "" for name in ("predicted", "observed")]
        for one in record["after"]["bins"]
    ]
    click.echo()
    _table(["calibrated", "pairs", "mean", "the same"], rows)


def _table(names: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console as Screen
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    plain = bool(os.environ.get("NO_COLOR"))
    Screen(file=sys.stdout, highlight=False, markup=False, color_system=None if plain else "auto").print(table)
