"""`imgrank compare`."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from imgrank.cli import judged_options, options

if TYPE_CHECKING:
    from imgrank.steps.evaluate import Comparison


@click.command(short_help="Tell two runs apart.")
@click.argument("first", type=click.File("rb"))
@click.argument("second", type=click.File("rb"))
@judged_options.judgement_options
@judged_options.measure_options
@click.option(
    "--top", default=10, show_default=True, type=click.IntRange(min=0), help="Queries that moved most, to be named."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.quiet_option
def command(first: Any, second: Any, top: int, as_json: bool, **chosen: Any) -> None:
    """Compare two runs over the same judged queries: means, difference, and whether chance explains it.

    The interval of the difference is a paired bootstrap over queries (95 %), p that of a paired randomization test. The
    queries that moved most are those of the first measure.

    \b
    Example:
        imgrank compare a.jsonl b.trec --qrels q.tsv
        imgrank compare dino.jsonl siglip.jsonl --qrels q.tsv --measure AP@100 --json
    """
    from imgrank.cli.console import Console
    from imgrank.cli.evaluate import tell_left_out
    from imgrank.results import read_rankings
    from imgrank.steps.evaluate import compare, evaluate_tasks
    from imgrank.steps.judged_photos import names_of_run

    console = Console(chosen["quiet"])
    dataset = judged_options.dataset_of(chosen)
    measures = judged_options.measures_of(chosen, dataset)
    sides = []
    for run, name in zip((first, second), options.run_names(first, second), strict=True):
        rankings = read_rankings(run, source=name)
        sides.append(
            evaluate_tasks(
                rankings if chosen["dataset"] is None else names_of_run(rankings, dataset), dataset, measures
            )
        )
        for task, result in sides[-1].items():
            tell_left_out(console, task, result)
    found = {task: [compare(one, sides[1][task], name) for name in measures] for task, one in sides[0].items()}
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
