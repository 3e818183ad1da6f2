"""`imgrank cache-tokens`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import options, token_options
from imgrank.config import PRESETS, DecodeSettings


@click.command(short_help="Keep the visual tokens of photos.")
@options.bundle_argument
@click.option("--mllm", metavar="MODEL", help="Hugging Face id or folder.  [default: builtin]")
@options.preset_option
@token_options.token_options
@click.option(
    "--model-dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="Number type of the model.",
)
@click.option(
    "--codebooks",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take codebooks over from a bundle, or from a faiss index for each level of tokens.",
)
@click.option(
    "--proof-pairs",
    default=200,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Pairs that are scored with all of their tokens, for `imgrank check --fidelity`; 0: none.",
)
@click.option("--overwrite", is_flag=True, help="Throw away a cache of that name first.")
@options.dry_run_option
@options.device_option
@options.decode_options
@options.root_option
@options.strict_option
@options.quiet_option
def command(bundle: Path, mllm: str | None, preset: str | None, dry_run: bool, **chosen: Any) -> int:
    """Compute and keep the visual tokens of the photos of a bundle, so that re-ranking is fast and needs no photos.

    Tokens are what the language model receives of a photo: after the vision tower's merger, with their true places in
    the grid. Photos that are cached already are not computed again. The cache called local holds no tokens but the
    built-in local features, for --scorer geometric.

    \b
    Steps of a recipe, in this order:
      resize:PIXELS max-tokens:N           what the model sees of a photo
      divprune:K                           the K tokens that differ most (or a share: 33%)
      kmeans:K ward:K merge:4 pool:2       means of like, or of neighbouring, tokens
      grid:2 random:K                      every second row and column; by chance
      float16 bfloat16 int8                number types
      pq:M opq:M rpq:M                     product quantization into M bytes; with a rotation; with twice the bytes

    \b
    Example:
        imgrank cache-tokens db.h5
        imgrank cache-tokens db.h5 --mllm Qwen/Qwen3-VL-8B-Instruct --recipe "resize:560 | divprune:64 | pq:512"
        imgrank cache-tokens db.h5 --mllm Qwen/Qwen3-VL-8B-Instruct --bytes-per-image 32KiB --dry-run
    """
    from imgrank.cli.console import Console

    console = Console(chosen.pop("quiet"))
    if mllm is None and preset is not None:
        mllm = PRESETS[preset].mllm
    if dry_run:
        _print_estimate(console, bundle, mllm, chosen)
        return 0
    console.watch(bundle)
    skipped = run_cache_tokens(console, bundle, mllm=mllm, **chosen)
    console.finish(bundle, f"imgrank search {bundle} QUERY.jpg --rerank 50")
    return options.IMAGES_SKIPPED if skipped else 0


def run_cache_tokens(console: Any, bundle: Path, *, mllm: str | None, **chosen: Any) -> int:
    """Cache tokens and report it; returns how many photos were skipped.

    `chosen` are options of the command; those that are left out have its defaults.
    """
    from imgrank.cli.console import skipped_text
    from imgrank.steps.cache_tokens import cache_tokens

    settings = token_options.token_request(chosen)
    summary = cache_tokens(bundle, mllm=mllm, settings=settings, **_steps_options(chosen), reporter=console)
    skipped = skipped_text(summary.skipped)
    console.note(f"cache {summary.cache!r}: {summary.images} photos computed, {summary.known} known already, {skipped}")
    if summary.whole and settings is not None:
        console.note(f"{summary.whole} photos have no more tokens than {summary.recipe} keeps: they keep all of them")
    return summary.skipped_count


def _steps_options(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the options under the names that the library has for them."""
    decode = DecodeSettings(
        chosen.pop("max_megapixels", DecodeSettings.max_megapixels), chosen.pop("workers", DecodeSettings.workers)
    )
    if "model_dtype" in chosen:
        chosen["dtype"] = chosen.pop("model_dtype")
    return {**chosen, "decode": decode}


def _print_estimate(console: Any, bundle: Path, mllm: str | None, chosen: dict[str, Any]) -> None:
    from imgrank.cli.console import duration, size
    from imgrank.steps.cache_estimate import estimate_tokens

    settings = token_options.token_request(chosen)
    for other in ("codebooks", "proof_pairs", "strict"):
        chosen.pop(other)
    found = estimate_tokens(bundle, mllm=mllm, settings=settings, **_steps_options(chosen), reporter=console)
    lines = {
        "cache": found.cache,
        "recipe": found.recipe,
        "photos": f"{found.images} to compute, {found.known} known already",
        "tokens": f"{found.tokens:.0f} of {found.full_tokens:.0f} for a photo, "
        f"{found.tokens * found.images:.0f} in all",
        "bytes": f"{size(found.bytes_per_image)} for a photo, {size(found.total_bytes)} in all",
        "time": f"about {duration(found.seconds)}",
    }
    options.print_facts(lines)
