"""`imgrank relocate`."""

from __future__ import annotations

from pathlib import Path

import click

from imgrank.cli import options


@click.command(short_help="Say where the photos of a bundle are now.")
@options.bundle_argument
@click.option(
    "--root",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that stored paths are relative to.",
)
@click.option("--force", is_flag=True, help="Also where not one photo is there.")
@options.quiet_option
def command(bundle: Path, root: Path, force: bool, quiet: bool) -> None:
    """Say which folder the paths of a bundle are relative to, after it has moved.

    Nothing is computed again. A bundle that lies in the folder of its photos, or above it, needs no word when both
    move together.

    \b
    Example:
        imgrank relocate db.h5 --root /mnt/archive/photos
    """
    from imgrank.cli.console import Console
    from imgrank.images.scan import display
    from imgrank.steps.relocate import relocate

    console = Console(quiet)
    found = relocate(bundle, root, force=force)
    console.done(
        f"root is {display(found.root)}; {found.found} photos are there, {found.lacking} are not",
        f"imgrank remove {bundle} --missing" if found.lacking else f"imgrank search {bundle} QUERY.jpg",
    )
