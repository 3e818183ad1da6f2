"""`imgrank migrate`."""

from __future__ import annotations

from pathlib import Path

import click

from imgrank.cli import options


@click.command(short_help="Bring a bundle to the current format version.")
@options.bundle_argument
@options.quiet_option
def command(bundle: Path, quiet: bool) -> None:
    """Write a bundle of an older format version anew in the current one.

    Older bundles can be searched as they are; commands that write ask for this first. The new file takes the place of
    the old one when it is complete; until then as much room again is needed.

    \b
    Example:
        imgrank migrate db.h5
    """
    from imgrank.cli.console import Console
    from imgrank.steps.migrate import CURRENT, migrate

    console = Console(quiet)
    version = migrate(bundle, reporter=console)
    done = f"was of version {version}, is of {CURRENT}" if version < CURRENT else "is up to date"
    console.done(f"{bundle}: {done}", f"imgrank check {bundle}")
