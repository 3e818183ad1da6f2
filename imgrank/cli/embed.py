"""`imgrank embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import options
from imgrank.config import DecodeSettings, GraphSettings


@click.command(short_help="Compute the global descriptors of photos.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=bytes))
@click.option("-o", "--output", required=True, type=options.BUNDLE, help="The bundle to make or add to.")
@options.dry_run_option
@options.photo_options
def command(paths: tuple[bytes, ...], output: Path, dry_run: bool, **chosen: Any) -> int:
    """Compute the global descriptors of photos.

    PATHS are photos and folders; folders are searched to the bottom. - reads paths from standard input. Photos that
    the bundle has already are not computed again, so the same command goes on after an interruption.

    \b
    Example:
        imgrank embed ./photos -o db.h5
        imgrank embed ./photos -o db.h5 --dry-run
        find ./photos -name '*.jpg' -print0 | imgrank embed - -0 -o db.h5
    """
    from imgrank.cli.console import Console

    console = Console(chosen["quiet"])
    if dry_run:
        print_estimate(console, paths, output, chosen)
        return 0
    console.watch(output)
    skipped = run_embed(console, paths, output, chosen)
    console.finish(output, f"imgrank index {output}")
    return options.IMAGES_SKIPPED if skipped else 0


def run_embed(
    console: Any, paths: tuple[bytes, ...], output: Path, chosen: dict[str, Any], *, adding: bool = False
) -> int:
    """Embed photos as the options say and report it; returns how many were skipped.

    Options that a command does not have are as if they were not given.
    """
    from imgrank.cli.console import skipped_text
    from imgrank.steps.embed import embed

    summary = embed(
        output,
        **_arguments(paths, chosen),
        strict=chosen["strict"],
        adding=adding,
        thumbnails=chosen.get("thumbnails"),
        reporter=console,
    )
    skipped = skipped_text(summary.skipped)
    moved = f" ({summary.moved} under another name)" if summary.moved else ""
    console.note(f"{summary.embedded} photos embedded, {summary.known} known already{moved}, {skipped}")
    if summary.gone:
        forget = f"`imgrank remove {output} --missing` forgets them"
        console.note(f"{summary.gone} photos are gone from the disk and are not found any more; {forget}")
    return summary.skipped_count


def print_estimate(
    console: Any,
    paths: tuple[bytes, ...],
    output: Path,
    chosen: dict[str, Any],
    *,
    graph: GraphSettings | None = None,
    adding: bool = False,
) -> None:
    """Print what `run_embed` would do, and what the graph would take if there is to be one."""
    from imgrank.cli.console import duration, size
    from imgrank.steps.embed_estimate import estimate_embed

    found = estimate_embed(output, **_arguments(paths, chosen), graph=graph, adding=adding, reporter=console)
    moved = f" ({found.moved} under another name)" if found.moved else ""
    gone = f", {found.gone} gone" if found.gone else ""
    again = f", {found.retried} to try again" if found.retried else ""
    odd = f" ({found.unreadable} of them not looking readable)" if found.unreadable else ""
    rate = f", as {found.measured} of them took" if found.measured else ""
    options.print_facts(
        {
            "photos": f"{found.new} new, {found.changed} changed{again}{odd}, {found.known} known already{moved}{gone}",
            "bytes": f"about {size(found.bytes)} more; {output} has {size(found.bundle_bytes)}",
            "time": f"about {duration(found.seconds)}{rate}{'; the graph takes more' if graph else ''}",
        }
    )


def _arguments(paths: tuple[bytes, ...], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return what `embed` and its estimate are given."""
    return {
        "paths": list(options.given_paths(paths, chosen["files_from"], chosen["null"])),
        "encoder": options.encoder_settings(chosen),
        "decode": DecodeSettings(chosen["max_megapixels"], chosen["workers"]),
        "root": chosen.get("root"),
        "device": chosen["device"],
        "batch_size": options.batch_size(chosen.get("batch_size", "auto")),
    }
