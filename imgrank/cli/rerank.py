"""`imgrank rerank`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from imgrank.cli import options, scorer_options
from imgrank.config import DecodeSettings, RerankSettings, Thresholds


@click.command(short_help="Re-order the hits of a search.")
@options.bundle_argument
@options.with_option
@click.option(
    "--top",
    default=RerankSettings.top,
    show_default=True,
    type=click.IntRange(min=1),
    help="Candidates of each query that are looked at again.",
)
@scorer_options.scorer_options
@click.option(
    "--queries-root",
    type=click.Path(exists=True, file_okay=False, path_type=bytes),
    help="Folder that relative query paths are below.",
)
@click.option("-0", "--null", is_flag=True, help="Printed records end in NUL instead of newline.")
@scorer_options.threshold_options
@options.output_options
@options.looking_options
@options.device_option
@options.decode_options
@options.roots_option
@options.quiet_option
def command(bundle: Path, top: int, **chosen: Any) -> int:
    """Re-order the hits that come on standard input.

    Reads the JSON lines of `imgrank search`, or a TREC run, whose documents are photos of the bundle and whose queries
    are photo files. The hits of a query stand together; each query is answered as soon as the next one begins.

    \b
    Example:
        imgrank search db.h5 vase.jpg -k 200 | imgrank rerank db.h5 --top 50
    """
    from imgrank.cli.console import Console, Output
    from imgrank.cli.looking import Looking
    from imgrank.results import read_rankings
    from imgrank.steps.collection import open_collection
    from imgrank.steps.rerank import Reranker, rerank_rankings

    console = Console(chosen["quiet"])
    output = Output(chosen["form"], chosen["null"], bundles=bool(chosen["others"]))
    limits = DecodeSettings(chosen["max_megapixels"], chosen["workers"])
    photos = open_collection([bundle, *chosen["others"]], limits, chosen["roots"])
    looking = Looking(chosen, photos, console, queries_root=chosen["queries_root"])
    settings, request, score_cache = scorer_options.second_stage(top, chosen)
    reranker = Reranker(photos, settings, request, score_cache=score_cache, reporter=console)
    if sys.stdin.isatty():
        console.note("reading hits from the terminal; pipe them in: imgrank search ... | imgrank rerank ...")
    rankings = read_rankings(options.own_input())
    kept = Thresholds(chosen["min_score"], chosen["min_probability"])
    for ranking in rerank_rankings(rankings, reranker, queries_root=chosen["queries_root"], thresholds=kept):
        output.write(ranking)
        looking.show(ranking)
    looking.finish()
    console.scored(reranker.work, reranker.stage.scorer.name)
    return options.NOTHING_FOUND if chosen["exit_status"] and output.hits == 0 else 0
