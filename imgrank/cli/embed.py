"""`imgrank embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import options
from imgrank.config import DecodeSettings


@click.command(short_help="Compute the global descriptors of photos.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=bytes))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle to make or add to.")
@options.photo_options
def command(paths: tuple[bytes, ...], output: Path, **chosen: Any) -> int:
    """Compute the global descriptors of photos.

    PATHS are photos and folders; folders are searched to the bottom. - reads paths from standard input. Photos that
    the bundle has already are not computed again, so the same command goes on after an interruption.

    \b
    Example:
        imgrank embed ./photos -o db.h5
        find ./photos -name '*.jpg' -print0 | imgrank embed - -0 -o db.h5
    """
    from imgrank.cli.console import Console, size

    console = Console(chosen["quiet"])
    skipped = run_embed(console, paths, output, chosen)
    console.done(f"{output}: {size(output.stat().st_size)}", f"imgrank index {output}")
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
        list(options.given_paths(paths, chosen["files_from"], chosen["null"])),
        encoder=options.encoder_settings(chosen),
        decode=DecodeSettings(chosen["max_megapixels"], chosen["workers"]),
        root=chosen.get("root"),
        device=chosen["device"],
        batch_size=options.batch_size(chosen.get("batch_size", "auto")),
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
