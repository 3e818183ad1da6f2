"""`imgrank demo`."""

from __future__ import annotations

from pathlib import Path

import click

from imgrank.cli import options


@click.command(short_help="Try everything on drawn photos.")
@click.argument("folder", default="imgrank-demo", type=click.Path(file_okay=False, path_type=Path))
@options.quiet_option
def command(folder: Path, quiet: bool) -> None:
    """Try everything once, without photos of your own and without a download.

    Draws a small collection of photos into FOLDER (the same objects at other scales, turned, partly hidden and in
    clutter, among look-alikes), indexes it, searches, re-ranks, prints the best hits and draws them.

    \b
    Example:
        imgrank demo
    """
    from imgrank.cli.console import Console, print_table
    from imgrank.results import Ranking
    from imgrank.steps.demo import SHOWN, run_demo

    console = Console(quiet)
    result = run_demo(folder, console)
    for ranking in result.rankings:
        print_table(Ranking(ranking.query, ranking.hits[:SHOWN]))
        click.echo()
    before, after = result.right_first
    total = len(result.rankings)
    click.echo(f"best hit is right for {before} of {total} queries, and for {after} after re-ranking")
    click.echo("mAP {:.3f}, and {:.3f} after re-ranking".format(*result.mean_ap))
    click.echo(f"picture of the hits: {result.picture}")
    query = result.rankings[0].query.decode()
    console.done(str(result.bundle), f"imgrank search {result.bundle} {query} --rerank 50")
