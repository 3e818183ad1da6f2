"""`imgrank split`."""

from __future__ import annotations

from pathlib import Path

import click

from imgrank.cli import options


@click.command(short_help="Make several bundles of one.")
@options.bundle_argument
@click.option("--shards", required=True, type=click.IntRange(min=1), metavar="N", help="How many.")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where they go.  [default: beside the bundle]",
)
@click.option("--force", is_flag=True, help="Write over files that are there.")
@options.quiet_option
def command(bundle: Path, shards: int, folder: Path | None, force: bool, quiet: bool) -> None:
    """Write the photos of a bundle into N bundles of about equal size, in order; the bundle stays as it is.

    Ids stay, so `imgrank merge` of the shards gives the bundle back. Prints the names of the new files.

    \b
    Example:
        imgrank split db.h5 --shards 4
        imgrank search db-01-of-04.h5 query.jpg --with db-02-of-04.h5
    """
    from imgrank.cli.console import Console
    from imgrank.steps.split import split

    console = Console(quiet)
    targets = split(bundle, shards, folder=folder, force=force, reporter=console)
    for target in targets:
        click.echo(str(target))
    console.done(f"{len(targets)} bundles", f"imgrank search {targets[0]} QUERY.jpg")
