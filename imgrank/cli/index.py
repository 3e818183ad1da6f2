"""`imgrank index`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from imgrank.cli import options
from imgrank.config import PRESETS, DecodeSettings, GraphSettings

NEXT = "imgrank search {} QUERY.jpg --rerank 50"


@click.command(short_help="Make photos searchable.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=bytes))
@click.option("-o", "--output", type=options.BUNDLE, help="The bundle to make or add to.")
@click.option(
    "--m", type=click.IntRange(min=2), help=f"Links of a photo and level in the graph.  [default: {GraphSettings.m}]"
)
@click.option(
    "--ef-construction",
    type=click.IntRange(min=1),
    help=f"Candidates considered for the links of a photo.  [default: {GraphSettings.ef_construction}]",
)
@click.option(
    "--threads",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Threads that build the graph; 0 takes one per core, 1 gives the same graph every time.",
)
@click.option(
    "--augment",
    type=click.IntRange(min=0),
    metavar="N",
    help="Database-side augmentation: move each descriptor towards its N nearest before the graph is built.  "
    f"[default: {GraphSettings.augment}]",
)
@click.option(
    "--augment-alpha",
    type=click.FloatRange(min=0),
    metavar="A",
    help=f"Their weights are their similarities to this power.  [default: {GraphSettings.augment_alpha}]",
)
@click.option("--rebuild", is_flag=True, help="Build the graph anew instead of extending it.")
@click.option("--cache-tokens", is_flag=True, help="Run `imgrank cache-tokens` afterwards.")
@click.option("--mllm", metavar="MODEL", help="For --cache-tokens: whose visual tokens.")
@click.option("--recipe", metavar="STEPS", help="For --cache-tokens: what is kept; see `imgrank cache-tokens --help`.")
@options.dry_run_option
@options.photo_options
def command(paths: tuple[bytes, ...], output: Path | None, dry_run: bool, **chosen: Any) -> int:
    """Make photos searchable: embed them and build the neighbour graph.

    With -o, PATHS are photos and folders, which are embedded first. Without it, the one path is a bundle that has
    descriptors already. A graph that is there is extended by the photos that came since.

    \b
    Example:
        imgrank index ./photos -o db.h5
        imgrank index ./photos -o db.h5 --dry-run
        imgrank index db.h5 --m 32
        imgrank index db.h5 --augment 5
        imgrank index db.h5 --thumbnails 256
    """
    from imgrank.cli.console import Console
    from imgrank.cli.embed import run_embed

    console = Console(chosen["quiet"])
    skipped = 0
    if output is None:
        if len(paths) != 1 or chosen["files_from"] is not None:
            raise click.UsageError("give -o BUNDLE with photos, or one bundle alone")
        bundle = Path(click.format_filename(paths[0]))
        if bundle.is_dir():
            raise click.UsageError(f"{bundle} is a folder of photos; say where the bundle goes: -o {bundle.name}.h5")
        if dry_run:
            raise click.UsageError("--dry-run tells of photos: give them, and -o BUNDLE")
        console.watch(bundle)
        skipped = _run_thumbnails(console, bundle, chosen)
    else:
        bundle = output
        if dry_run:
            _print_estimate(console, paths, output, chosen)
            return 0
        console.watch(bundle)
        skipped = run_embed(console, paths, output, chosen)
    run_index(console, bundle, _graph_settings(chosen), chosen["threads"], chosen["rebuild"])
    if chosen["cache_tokens"]:
        from imgrank.cli.cache_tokens import run_cache_tokens

        preset = chosen["preset"]
        mllm = chosen["mllm"] or (PRESETS[preset].mllm if preset else None)
        skipped += run_cache_tokens(console, bundle, mllm=mllm, device=chosen["device"], recipe=chosen["recipe"])
    if output is not None:
        _hint(console)
    console.finish(bundle, NEXT.format(bundle))
    return options.IMAGES_SKIPPED if skipped else 0


def run_index(
    console: Any, bundle: Path, settings: GraphSettings | None = None, threads: int = 0, rebuild: bool = False
) -> None:
    """Build or extend the graph and report it."""
    from imgrank.steps.build_index import RECALL_AT, build_index

    summary = build_index(bundle, settings, threads=threads, rebuild=rebuild, reporter=console)
    console.note(f"graph {summary.action}: {summary.rows} photos, recall@{RECALL_AT} {summary.recall:.4f}")


_GRAPH_OPTIONS = ("m", "ef_construction", "augment", "augment_alpha")


def _run_thumbnails(console: Any, bundle: Path, chosen: dict[str, Any]) -> int:
    """Make thumbnails of the photos of a bundle, where they are asked for; returns how many photos gave none."""
    if chosen["thumbnails"] is None:
        return 0
    from imgrank.steps.thumbnails import add_thumbnails

    decode = DecodeSettings(chosen["max_megapixels"], chosen["workers"])
    wanted = {name: chosen[name] for name in ("root", "strict")}
    return sum(add_thumbnails(bundle, chosen["thumbnails"], decode=decode, **wanted, reporter=console).values())


def _graph_settings(chosen: dict[str, Any]) -> GraphSettings | None:
    asked = {name: chosen[name] for name in _GRAPH_OPTIONS if chosen[name] is not None}
    return replace(GraphSettings(), **asked) if asked else None


def _print_estimate(console: Any, paths: tuple[bytes, ...], output: Path, chosen: dict[str, Any]) -> None:
    from imgrank.cli.embed import print_estimate

    print_estimate(console, paths, output, chosen, graph=_graph_settings(chosen) or GraphSettings())
    if chosen["cache_tokens"]:
        console.note("tokens come to that; once the photos are indexed: imgrank cache-tokens BUNDLE --dry-run")


def _hint(console: Any) -> None:
    """Say when this machine could run stronger models than the default ones."""
    from imgrank.devices import gpu_memory_without_torch

    memory = gpu_memory_without_torch()
    best = PRESETS["best"]
    if memory is not None and memory >= best.gpu_memory:
        console.note(f"a GPU is here on which --preset best would fit ({best.encoder}, {best.mllm}); {best.note}")
