"""`imgrank compact`."""

from __future__ import annotations

from pathlib import Path

import click

from imgrank.cli import options


@click.command(short_help="Give back the space of removed photos and replaced parts.")
@options.bundle_argument
@options.quiet_option
def command(bundle: Path, quiet: bool) -> None:
    """Write a bundle anew without removed photos and unused space, and build its graph again. Ids stay.

    The new file takes the place of the old one when it is complete; until then as much room again is needed. Every row
    that is copied is compared with its checksum.

    \b
    Example:
        imgrank remove db.h5 --missing
        imgrank compact db.h5
    """
    from imgrank.cli.console import Console, size
    from imgrank.steps.compact import compact

    console = Console(quiet)
    found = compact(bundle, reporter=console)
    rows = f"{found.kept} rows kept, {found.dropped} dropped"
    sizes = f"{size(found.bytes_before)} became {size(found.bytes)}"
    console.done(f"{bundle}: {rows}, {sizes}", f"imgrank check {bundle}")
