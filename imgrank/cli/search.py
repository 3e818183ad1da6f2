"""`imgrank search`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import options, query_options, scorer_options
from imgrank.config import DecodeSettings, RerankSettings, SearchSettings


@click.command(short_help="Find photos of the same thing.")
@options.bundle_argument
@click.argument("queries", nargs=-1, type=click.Path(path_type=bytes))
@query_options.query_options
@options.with_option
@click.option(
    "-k",
    "--top-k",
    default=SearchSettings.top_k,
    show_default=True,
    type=click.IntRange(min=1),
    help="Hits for each query.",
)
@click.option(
    "--rerank",
    "top",
    type=click.IntRange(min=1),
    metavar="K",
    help=f"Look again at the K best and re-order them ({RerankSettings.top} is a good number).",
)
@scorer_options.scorer_options
@click.option("--exact", is_flag=True, help="Compare with every photo instead of following the graph.")
@click.option(
    "--ef",
    default=SearchSettings.ef,
    show_default=True,
    type=click.IntRange(min=0),
    help="Candidates kept while following the graph; 0 takes max(2 k, 128).",
)
@click.option(
    "--encoder",
    metavar="MODEL",
    help="Where the encoder of the bundle lies here, if it moved; for imported descriptors, which it is.",
)
@click.option(
    "--descriptors",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Descriptors of the queries instead of photos, in a format of `imgrank import`; for .npy, --files-from has "
    "their paths.",
)
@options.list_options
@query_options.selection_options
@scorer_options.threshold_options
@options.output_options
@options.looking_options
@options.device_option
@options.decode_options
@options.roots_option
@options.strict_option
@options.quiet_option
def command(bundle: Path, queries: tuple[bytes, ...], top_k: int, top: int | None, **chosen: Any) -> int:
    """Find the photos of a bundle that show the same thing as each QUERY photo.

    QUERIES are photos, or folders of them. - reads paths from standard input and answers each as it comes.

    \b
    Example:
        imgrank search db.h5 vase.jpg --rerank 50
        imgrank search db.h5 room.jpg --box 310,120,200,340 -k 10
        imgrank search db.h5 front.jpg back.jpg --fuse mean
        imgrank search db.h5 --id 7 --filter 'paintings/*' --collapse
        imgrank search db.h5 vase.jpg --rerank 50 --html hits.html --open
        imgrank search 2023.h5 vase.jpg --with 2024.h5 --with 2025.h5
        find queries -name '*.jpg' | imgrank search db.h5 - -k 10 --format tsv
        imgrank search ilias.h5 --descriptors queries.hdf5 | imgrank rerank ilias.h5 --queries-root ./ilias
    """
    from imgrank.cli.console import Console, Output
    from imgrank.cli.looking import Looking
    from imgrank.errors import ImageError, InputError
    from imgrank.steps.collection import open_collection
    from imgrank.steps.rerank import Reranker
    from imgrank.steps.search import Searcher

    query_options.check_together(top, chosen)
    console = Console(chosen["quiet"])
    output = Output(chosen["form"], chosen["null"], bundles=bool(chosen["others"]))
    if chosen["descriptors"] is not None:
        return _of_descriptors(console, output, bundle, queries, top_k, top, chosen)
    # Named queries are looked at before anything is loaded; a stream is taken as it comes.
    names = query_options.named_queries(queries, chosen)
    limits = DecodeSettings(chosen["max_megapixels"], chosen["workers"])
    photos = open_collection([bundle, *chosen["others"]], limits, chosen["roots"], query_options.selection(chosen))
    query_options.tell_if_nothing_is_selected(photos, console)
    looking = Looking(chosen, photos, console)
    found = query_options.joined_queries(names, photos, chosen)
    reranker = None
    if top is not None:
        settings, request, score_cache = scorer_options.second_stage(top, chosen)
        reranker = Reranker(photos, settings, request, score_cache=score_cache, reporter=console)
    searcher = Searcher(
        photos,
        query_options.search_settings(top_k, chosen),
        reranker=reranker,
        thresholds=query_options.thresholds(chosen),
        encoder=chosen["encoder"],
        device=chosen["device"],
        stored_only=not queries and chosen["files_from"] is None,
    )
    answered = skipped = 0
    for ranking in searcher.search_all(found):
        if isinstance(ranking, ImageError):
            if chosen["strict"]:
                raise ranking
            skipped += 1
            console.skipped(ranking)
            continue
        answered += 1
        output.write(ranking)
        looking.show(ranking)
    looking.finish()
    if reranker is not None:
        console.scored(reranker.work, reranker.stage.scorer.name)
    if skipped and not answered:
        raise InputError("no query photo could be read")
    if chosen["exit_status"] and output.hits == 0:
        return options.NOTHING_FOUND
    return options.IMAGES_SKIPPED if skipped else 0


def _of_descriptors(
    console: Any,
    output: Any,
    bundle: Path,
    queries: tuple[bytes, ...],
    top_k: int,
    top: int | None,
    chosen: dict[str, Any],
) -> int:
    """Search with descriptors that are there already."""
    from imgrank.cli.looking import Looking
    from imgrank.steps.collection import open_collection
    from imgrank.steps.search_descriptors import search_descriptors

    if queries or chosen["encoder"] is not None:
        raise click.UsageError("--descriptors takes the place of query photos and of --encoder; leave those out")
    if top is not None:
        raise click.UsageError(
            "--descriptors has no query photos to look at again: leave --rerank out, and pipe the "
            "hits into imgrank rerank --queries-root DIR"
        )
    listing = None if chosen["files_from"] is None else Path(chosen["files_from"].name)
    limits = DecodeSettings(chosen["max_megapixels"], chosen["workers"])
    photos = open_collection([bundle, *chosen["others"]], limits, chosen["roots"], query_options.selection(chosen))
    query_options.tell_if_nothing_is_selected(photos, console)
    looking = Looking(chosen, photos, console)
    settings = query_options.search_settings(top_k, chosen)
    kept = query_options.thresholds(chosen)
    for ranking in search_descriptors(
        photos, settings, chosen["descriptors"], listing=listing, nul=chosen["null"], thresholds=kept
    ):
        output.write(ranking)
        looking.show(ranking)
    looking.finish()
    return options.NOTHING_FOUND if chosen["exit_status"] and output.hits == 0 else 0
