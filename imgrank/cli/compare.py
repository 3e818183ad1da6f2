"""`imgrank compare`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgrank.cli import judged_options, options

if TYPE_CHECKING:
    from imgrank.evaluation.datasets.base import Dataset
    from imgrank.steps.evaluate import Comparison
    from imgrank.steps.moved import Run


@click.command(short_help="Tell two runs apart.")
@click.argument("first", type=click.File("rb"))
@click.argument("second", type=click.File("rb"))
@judged_options.judgement_options
@judged_options.measure_options
@click.option(
    "--top", default=10, show_default=True, type=click.IntRange(min=0), help="Queries that moved most, to be named."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a page with those queries and the first photos of both runs, too; one file that needs no other.",
)
@click.option(
    "--photos", default=8, show_default=True, type=click.IntRange(min=1), help="Photos of each run on that page."
)
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder where that page looks for relative names of photos and queries first; several are tried in order.",
)
@options.quiet_option
def command(first: Any, second: Any, top: int, as_json: bool, **chosen: Any) -> None:
    """Compare two runs over the same judged queries: means, difference, and whether chance explains it.

    The interval of the difference is a paired bootstrap over queries (95 %), p that of a paired randomization test. The
    queries that moved most are those of the first measure.

    \b
    Example:
        imgrank compare a.jsonl b.trec --qrels q.tsv
        imgrank compare dino.jsonl siglip.jsonl --qrels q.tsv --measure AP@100 --json
        imgrank compare a.jsonl b.trec --qrels q.tsv --html moved.html --root ./photos
    """
    from imgrank.cli.console import Console
    from imgrank.cli.evaluate import tell_left_out
    from imgrank.results import read_rankings
    from imgrank.steps.evaluate import compare, evaluate_tasks
    from imgrank.steps.judged_photos import names_of_run
    from imgrank.steps.looking import check_page
    from imgrank.steps.moved import Run

    console = Console(chosen["quiet"])
    if chosen["html"] is not None:
        check_page(chosen["html"])
    elif options.typed("photos", "roots"):
        raise click.UsageError("--photos and --root are of the page: give --html FILE, too")
    dataset = judged_options.dataset_of(chosen)
    measures = judged_options.measures_of(chosen, dataset)
    sides, runs = [], []
    for run, name in zip((first, second), options.run_names(first, second), strict=True):
        read = read_rankings(run, source=name)
        rankings = list(read if chosen["dataset"] is None else names_of_run(read, dataset))
        sides.append(evaluate_tasks(rankings, dataset, measures))
        runs.append(Run(name, rankings, sides[-1]))
        for task, result in sides[-1].items():
            tell_left_out(console, task, result)
    found = {task: [compare(one, sides[1][task], name) for name in measures] for task, one in sides[0].items()}
    if chosen["html"] is not None:
        _write_page(console, (runs[0], runs[1]), dataset, found, top, chosen)
    if as_json:
        reports = {
            task: {"queries": len(sides[0][task].values), "measures": [_report(one, top) for one in rows]}
            for task, rows in found.items()
        }
        whole = {"dataset": dataset.title, "tasks": reports} if any(reports) else reports[""]
        click.echo(json.dumps({"schema_version": 1} | whole))
        return
    for task, rows in found.items():
        _print_table(task, rows, top)


def _write_page(
    console: Any,
    runs: tuple[Run, Run],
    dataset: Dataset,
    found: dict[str, list[Comparison]],
    top: int,
    chosen: dict[str, Any],
) -> None:
    from imgrank.steps.moved import write_moved

    roots = [os.fsencode(root) for root in chosen["roots"]]
    lacking = write_moved(chosen["html"], runs, dataset, found, queries=top, photos=chosen["photos"], roots=roots)
    if lacking:
        why = ", ".join(f"{count} {reason}" for reason, count in lacking.most_common())
        hint = "; give --root with the folder that their names are below" if "missing" in lacking else ""
        console.note(f"{chosen['html']}: {lacking.total()} pictures cannot be shown: {why}{hint}")


def _report(one: Comparison, top: int) -> dict[str, Any]:
    return {
        "measure": one.measure,
        "first": one.means[0],
        "second": one.means[1],
        "difference": one.difference,
        "low": one.interval[0],
        "high": one.interval[1],
        "p": one.p,
        "moved": {os.fsdecode(query): value for query, value in list(one.moved.items())[:top]},
    }


def _print_table(task: str, rows: list[Comparison], top: int) -> None:
    from imgrank.images.scan import display

    width = max([len(task), *(len(one.measure) for one in rows)])
    click.echo(f"{task:{width}}   first  second  difference")
    for one in rows:
        low, high = one.interval
        click.echo(
            f"{one.measure:{width}}  {one.means[0]:.4f}  {one.means[1]:.4f}  {one.difference:+.4f} "
            f"[{low:+.4f}, {high:+.4f}]  p {one.p:.4f}"
        )
    for query, value in list(rows[0].moved.items())[:top]:
        click.echo(f"{value:+.4f}  {display(query)}")
