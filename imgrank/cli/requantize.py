"""`imgrank requantize`."""

from __future__ import annotations

from pathlib import Path

import click

from imgrank.cli import options


@click.command(short_help="Store cached tokens in fewer bytes, without the photos.")
@options.bundle_argument
@click.option("--recipe", required=True, metavar="STEPS", help="What to do with stored tokens; see cache-tokens.")
@click.option("--cache", metavar="NAME", help="Token cache to read.  [default: the only one]")
@click.option("--to", metavar="NAME", help="Name of the new cache.  [default: it takes the place of the old one]")
@options.device_option
@options.quiet_option
def command(bundle: Path, recipe: str, cache: str | None, to: str | None, device: str, quiet: bool) -> None:
    """Apply a recipe to the tokens of a cache: fewer of them, or in fewer bytes.

    Works from what is stored: no photos, no model. Says what is lost against that; `imgrank check --fidelity` says what
    it does to scores. The space of a cache that is replaced stays in the file.

    \b
    Example:
        imgrank requantize db.h5 --recipe "pq:24"
        imgrank requantize db.h5 --recipe "divprune:32 | int8" --to smaller
    """
    from imgrank.cli.console import Console, size
    from imgrank.devices import pick_device
    from imgrank.steps.requantize import requantize

    console = Console(quiet)
    found = requantize(bundle, recipe, cache=cache, to=to, device=pick_device(device), reporter=console)
    console.note(
        f"cache {found.cache!r}: {found.recipe}; {found.tokens_before} tokens in {size(found.bytes_before)} became "
        f"{found.tokens} in {size(found.bytes)}; {found.error:.2%} of their squared length lost"
    )
    console.done(f"{bundle}: {size(bundle.stat().st_size)}", f"imgrank check {bundle} --fidelity --cache {found.cache}")
