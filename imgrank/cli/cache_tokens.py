"""`imgrank cache-tokens`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import options
from imgrank.config import PRESETS, DecodeSettings


@click.command(short_help="Keep the visual tokens of photos.")
@options.bundle_argument
@click.option("--mllm", metavar="MODEL", help="Hugging Face id or folder.  [default: builtin]")
@options.preset_option
@options.token_options
@click.option(
    "--model-dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="Number type of the model.",
)
@click.option("--overwrite", is_flag=True, help="Throw away a cache of that name first.")
@options.device_option
@options.decode_options
@options.root_option
@options.strict_option
@options.quiet_option
def command(bundle: Path, mllm: str | None, preset: str | None, **chosen: Any) -> int:
    """Compute and keep the visual tokens of the photos of a bundle, so that re-ranking is fast and needs no photos.

    Tokens are what the language model receives of a photo: after the vision tower's merger, with their true places in
    the grid. Photos that are cached already are not computed again. The cache called local holds no tokens but the
    built-in local features, for --scorer geometric.

    \b
    Example:
        imgrank cache-tokens db.h5
        imgrank cache-tokens db.h5 --mllm Qwen/Qwen3-VL-8B-Instruct --prune divprune --keep 64
    """
    from imgrank.cli.console import Console, size

    console = Console(chosen.pop("quiet"))
    if mllm is None and preset is not None:
        mllm = PRESETS[preset].mllm
    skipped = run_cache_tokens(console, bundle, mllm=mllm, **chosen)
    console.done(f"{bundle}: {size(bundle.stat().st_size)}", f"imgrank search {bundle} QUERY.jpg --rerank 50")
    return options.IMAGES_SKIPPED if skipped else 0


def run_cache_tokens(
    console: Any,
    bundle: Path,
    *,
    mllm: str | None,
    cache: str | None = None,
    longer_side: int | None = None,
    max_tokens: int | None = None,
    prune: Any = None,
    keep: int | None = None,
    token_dtype: Any = None,
    device: str = "auto",
    model_dtype: str = "auto",
    overwrite: bool = False,
    max_megapixels: float = DecodeSettings.max_megapixels,
    workers: int = DecodeSettings.workers,
    root: Path | None = None,
    strict: bool = False,
) -> int:
    """Cache tokens and report it; returns how many photos were skipped."""
    from imgrank.cli.console import skipped_text
    from imgrank.steps.cache_tokens import cache_tokens

    summary = cache_tokens(
        bundle,
        mllm=mllm,
        cache=cache,
        settings=options.token_settings(longer_side, max_tokens, prune, keep, token_dtype),
        decode=DecodeSettings(max_megapixels, workers),
        root=root,
        device=device,
        dtype=model_dtype,
        overwrite=overwrite,
        strict=strict,
        reporter=console,
    )
    skipped = skipped_text(summary.skipped)
    console.note(f"cache {summary.cache!r}: {summary.images} photos computed, {summary.known} known already, {skipped}")
    return summary.skipped_count
