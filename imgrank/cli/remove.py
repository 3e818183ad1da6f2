"""`imgrank remove`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from imgrank.cli import options


@click.command(short_help="Take photos out of a bundle.")
@options.bundle_argument
@click.argument("names", nargs=-1, type=click.Path(path_type=bytes))
@click.option(
    "--ids-from",
    type=click.File("rb"),
    metavar="FILE",
    help="Read ids from FILE, one a line, or records that have one, as `search` prints them; - is standard input.",
)
@click.option("--missing", is_flag=True, help="Also the photos that are not on the disk any more.")
@click.option("-n", "--dry-run", is_flag=True, help="Print the paths and change nothing.")
@options.root_option
@options.quiet_option
def command(bundle: Path, names: tuple[bytes, ...], **chosen: Any) -> None:
    """Take photos out of a bundle: they are not found any more.

    NAMES are photos, folders, or patterns over stored paths, in which * goes through folders. Where one of them fits
    no photo, nothing is removed. The photos themselves stay on the disk; their space in the bundle comes back with
    `imgrank compact`.

    \b
    Example:
        imgrank remove db.h5 photos/holiday 'photos/*-draft.jpg'
        imgrank remove db.h5 --missing --dry-run
        imgrank search db.h5 logo.png -k 5 --format jsonl | imgrank remove db.h5 --ids-from -
    """
    from imgrank.cli.console import Console
    from imgrank.results import read_ids
    from imgrank.steps.remove import remove

    if not names and chosen["ids_from"] is None and not chosen["missing"]:
        raise click.UsageError("say which photos: NAMES, --ids-from FILE or --missing")
    console = Console(chosen["quiet"])
    ids = [] if chosen["ids_from"] is None else list(read_ids(chosen["ids_from"], bundle))
    dry_run = chosen["dry_run"]
    found = remove(bundle, names, ids=ids, missing=chosen["missing"], root=chosen["root"], dry_run=dry_run)
    if dry_run:
        for path in found.paths:
            sys.stdout.buffer.write(path + b"\n")
        console.note(f"{len(found.paths)} photos would be removed, {found.left} would be left")
    else:
        console.done(f"{len(found.paths)} photos removed, {found.left} left", f"imgrank compact {bundle}")
