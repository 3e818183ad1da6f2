"""`imgrank add`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import options


@click.command(short_help="Add photos to a bundle.")
@options.bundle_argument
@click.argument("paths", nargs=-1, type=click.Path(path_type=bytes))
@options.dry_run_option
@options.list_options
@options.device_option
@options.decode_options
@options.strict_option
@options.quiet_option
def command(bundle: Path, paths: tuple[bytes, ...], dry_run: bool, **chosen: Any) -> int:
    """Add photos to a bundle that is there, and to its graph.

    PATHS are photos and folders; - reads paths from standard input. As `imgrank index PATHS -o BUNDLE` does, with the
    encoder and settings of the bundle; but photos that are gone from a folder are not looked for.

    \b
    Example:
        imgrank add db.h5 new-photos/
        inotifywait -m -e close_write --format %w%f photos | xargs -n 1 imgrank add db.h5
    """
    from imgrank.cli.console import Console
    from imgrank.cli.embed import print_estimate, run_embed
    from imgrank.cli.index import NEXT, run_index

    console = Console(chosen["quiet"])
    if dry_run:
        print_estimate(console, paths, bundle, chosen, adding=True)
        return 0
    console.watch(bundle)
    skipped = run_embed(console, paths, bundle, chosen, adding=True)
    run_index(console, bundle)
    console.finish(bundle, NEXT.format(bundle))
    return options.IMAGES_SKIPPED if skipped else 0
