"""`imgrank compare`."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from imgrank.cli import options
from imgrank.cli.evaluate import measure_options


@click.command(short_help="Tell two runs apart.")
@click.argument("first", type=click.File("rb"))
@click.argument("second", type=click.File("rb"))
@measure_options
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
    from imgrank.evaluation.measures import PROTOCOLS, measure
    from imgrank.evaluation.qrels import read_qrels
    from imgrank.images.scan import display
    from imgrank.results import read_rankings
    from imgrank.steps.evaluate import compare, evaluate

    console = Console(chosen["quiet"])
    measures = chosen["measures"] or PROTOCOLS[chosen["protocol"]].measures
    for name in measures:
        measure(name)
    qrels = read_qrels(chosen["qrels"])
    runs = zip((first, second), options.run_names(first, second), strict=True)
    one_side, other = (evaluate(read_rankings(run, source=name), qrels, measures) for run, name in runs)
    for side in (one_side, other):
        tell_left_out(console, side)
    found = [compare(one_side, other, name) for name in measures]
    if as_json:
        rows = [
            {
                "measure": one.measure,
                "first": one.means[0],
                "second": one.means[1],
                "difference": one.difference,
                "low": one.interval[0],
                "high": one.interval[1],
                "p": one.p,
                "moved": {os.fsdecode(query): value for query, value in list(one.moved.items())[:top]},
            }
            for one in found
        ]
        click.echo(json.dumps({"schema_version": 1, "queries": len(one_side.values), "measures": rows}))
        return
    width = max(map(len, measures))
    click.echo(f"{'':{width}}   first  second  difference")
    for one in found:
        low, high = one.interval
        click.echo(
            f"{one.measure:{width}}  {one.means[0]:.4f}  {one.means[1]:.4f}  {one.difference:+.4f} "
            f"[{low:+.4f}, {high:+.4f}]  p {one.p:.4f}"
        )
    for query, value in list(found[0].moved.items())[:top]:
        click.echo(f"{value:+.4f}  {display(query)}")
