"""`imgrank fuse`."""

from __future__ import annotations

from typing import Any, get_args

import click

from imgrank.cli import options
from imgrank.config import FusionMethod, FusionSettings


@click.command(short_help="Make one ranking of several.")
@click.argument("runs", nargs=-1, required=True, type=click.File("rb"))
@click.option(
    "--method",
    default=FusionSettings.method,
    show_default=True,
    type=click.Choice(get_args(FusionMethod)),
    help="rrf: by rank. combsum: the sum of scores, each run's brought to 0 to 1; combmnz: times the number of runs "
    "that have the photo.",
)
@click.option(
    "--rrf-k",
    default=FusionSettings.k,
    show_default=True,
    type=click.FloatRange(min=0),
    help="k of reciprocal rank fusion: the larger, the less the first places stand out.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=click.FloatRange(min=0),
    metavar="W",
    help="Of a run; given once for each, in their order.  [default: 1 each]",
)
@click.option(
    "-k",
    "--top-k",
    default=FusionSettings.top_k,
    show_default=True,
    type=click.IntRange(min=1),
    help="Hits for each query.",
)
@click.option("-0", "--null", is_flag=True, help="Printed records end in NUL instead of newline.")
@options.output_options
@options.quiet_option
def command(runs: tuple[Any, ...], weights: tuple[float, ...], **chosen: Any) -> int:
    """Fuse several rankings of the same queries: of several encoders, bundles, scorers or programs.

    RUNS are files of JSON lines, as `search` and `rerank` print them, or TREC runs; - is standard input. Photos go by
    their paths, queries by their names. A query that some runs lack is fused from the others.

    Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): the score is the sum of weight / (k + rank).

    \b
    Example:
        imgrank fuse dino.jsonl siglip.jsonl -k 100 > both.jsonl
        imgrank search db.h5 vase.jpg --scorer maxsim --rerank 50 | imgrank fuse - first.trec --weight 2 --weight 1
    """
    from imgrank.cli.console import Console, Output
    from imgrank.results import read_rankings
    from imgrank.steps.fuse_runs import fuse_runs

    names = options.run_names(*runs)
    console = Console(chosen["quiet"])
    settings = FusionSettings(chosen["method"], chosen["rrf_k"], chosen["top_k"])
    opened = [(name, read_rankings(run, source=name)) for name, run in zip(names, runs, strict=True)]
    rankings = fuse_runs(opened, settings, weights or None, console)
    named = any(hit.bundle is not None for ranking in rankings for hit in ranking.hits)
    output = Output(chosen["form"], chosen["null"], bundles=named)
    for ranking in rankings:
        output.write(ranking)
    return options.NOTHING_FOUND if chosen["exit_status"] and output.hits == 0 else 0
