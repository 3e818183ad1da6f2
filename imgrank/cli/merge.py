"""`imgrank merge`."""

from __future__ import annotations

from pathlib import Path

import click

from imgrank.cli import options


@click.command(short_help="Make one bundle of several.")
@click.argument("bundles", nargs=-1, required=True, type=options.BUNDLE)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle to make.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@options.quiet_option
def command(bundles: tuple[Path, ...], output: Path, force: bool, quiet: bool) -> None:
    """Make one bundle of the photos of several, which must have been made with one encoder.

    A photo that two of them have is taken from the one named first. Ids are kept where those of the bundles do not
    overlap, as after `imgrank split`. Token caches are taken over where all of them have one of that name, made in
    the same way, with the same codebooks. Calibrations are those of the bundle named first.

    \b
    Example:
        imgrank merge museum-a.h5 museum-b.h5 -o museums.h5
    """
    from imgrank.cli.console import Console
    from imgrank.cli.index import NEXT
    from imgrank.steps.merge import merge

    console = Console(quiet)
    found = merge(bundles, output, force=force, reporter=console)
    twice = f", {found.twice} of them in two bundles" if found.twice else ""
    console.note(f"{found.images} photos{twice}")
    for path in found.renumbered:
        console.note(f"photos of {path} have new ids: theirs are in use")
    for name, reason in found.left_out.items():
        console.note(f"cache {name!r} is left out: {reason}")
    if found.thumbnails_lost:
        console.note("thumbnails are left out: not every bundle has them, of one size; `imgrank index --thumbnails N`")
    for name in found.calibrations:
        console.note(
            f"calibration {name!r} was learned on {bundles[0]} alone; `imgrank calibrate {output}` learns it anew"
        )
    console.finish(output, NEXT.format(output))
