"""Options of `imgrank search` that say what is searched for, and among which photos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

import click

from imgrank.cli import options
from imgrank.config import Fuse, SearchSettings, Thresholds

if TYPE_CHECKING:
    from imgrank.steps.collection import Collection
    from imgrank.steps.search import Query
    from imgrank.steps.selection import Selection

query_options = options.together(
    click.option(
        "--box",
        metavar="X,Y,W,H",
        help="Search for this part of the one query photo: left, top, width and height in pixels. In lists, a path may "
        "end in #xywh=X,Y,W,H instead.",
    ),
    click.option(
        "--id",
        "ids",
        multiple=True,
        type=click.IntRange(min=0),
        metavar="ID",
        help="Search for more like this photo of the (first) bundle; may be given several times.",
    ),
    click.option(
        "--fuse",
        type=click.Choice(get_args(Fuse)),
        help="All query photos show one object and are one query: by the mean of their descriptors, by the most "
        "similar of them, or by reciprocal ranks.",
    ),
)

selection_options = options.together(
    click.option(
        "--filter",
        "include",
        multiple=True,
        type=click.Path(path_type=bytes),
        metavar="GLOB",
        help="Search only photos whose stored path fits: 'paintings/*', or a folder; several: any of them.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        type=click.Path(path_type=bytes),
        metavar="GLOB",
        help="Leave out photos whose stored path fits; several: any of them.",
    ),
    click.option("--exclude-self", is_flag=True, help="Leave out the query itself: the same file or the same content."),
    click.option(
        "--collapse",
        is_flag=True,
        help="Show one of photos that are copies of each other; the record lists the others as `collapsed`.",
    ),
    click.option(
        "--collapse-at",
        type=click.FloatRange(-1, 1),
        metavar="S",
        help="Similarity of descriptors from which two hits are copies, instead of what `imgrank dedup` looks at.",
    ),
    click.option(
        "--expand",
        default=SearchSettings.expand,
        show_default=True,
        type=click.IntRange(min=0),
        metavar="N",
        help="Alpha query expansion: search again with the mean of the query and its N first hits.",
    ),
    click.option(
        "--expand-alpha",
        default=SearchSettings.expand_alpha,
        show_default=True,
        type=click.FloatRange(min=0),
        metavar="A",
        help="Their weights are their similarities to this power.",
    ),
)


def search_settings(top_k: int, chosen: dict[str, Any]) -> SearchSettings:
    """Return what the options ask of the shortlist."""
    copies_at = chosen["collapse_at"]
    return SearchSettings(
        top_k,
        chosen["ef"],
        chosen["exact"],
        exclude_self=chosen["exclude_self"],
        collapse=chosen["collapse"] or copies_at is not None,
        copies_at=copies_at,
        expand=chosen["expand"],
        expand_alpha=chosen["expand_alpha"],
    )


def tell_if_nothing_is_selected(photos: Collection, console: Any) -> None:
    """Say that no hit can come, where the patterns fit no photo."""
    if photos.selected and not any(photos.searched(part).any() for part in range(len(photos.parts))):
        console.note(
            "--filter and --exclude leave no photo to search; patterns are of whole stored paths, below the root"
        )


def selection(chosen: dict[str, Any]) -> Selection:
    """Return which photos are searched."""
    from imgrank.steps.selection import Selection

    return Selection(chosen["include"], chosen["exclude"])


def thresholds(chosen: dict[str, Any]) -> Thresholds:
    """Return what hits must reach."""
    return Thresholds(chosen["min_score"], chosen["min_probability"])


def named_queries(queries: tuple[bytes, ...], chosen: dict[str, Any]) -> Iterator[bytes]:
    """Return the names of the query photos; those that are no stream are looked for at once.

    Raises:
        click.UsageError: a box, and not exactly one photo.
        InputError: a photo is not there, or there is none at all.
    """
    from imgrank.boxes import Box
    from imgrank.images.scan import scan

    if not queries and chosen["files_from"] is None and chosen["ids"]:
        return iter(())
    paths = options.given_paths(queries, chosen["files_from"], chosen["null"])
    if b"-" in queries or chosen["files_from"] is not None:
        if chosen["box"] is not None:
            raise click.UsageError("--box is for one photo; in a list, let paths end in #xywh=X,Y,W,H")
        return scan(paths, parts=True)
    found = list(scan(list(paths), parts=True))
    if chosen["box"] is not None:
        box = Box.parse(chosen["box"])
        if len(found) != 1 or chosen["ids"]:
            raise click.UsageError("--box is for one photo; for several, let paths end in #xywh=X,Y,W,H")
        found = [box.of(found[0])]
    return iter(found)


def joined_queries(names: Iterator[bytes], photos: Collection, chosen: dict[str, Any]) -> Iterator[bytes | Query]:
    """Return the queries: photos of the bundle by id, then photos by name; all of them as one with --fuse.

    Raises:
        InputError: the bundle has no such photo, or no descriptor of it.
    """
    from itertools import chain

    from imgrank.steps.search import Query

    rows = [photos.row_of_query(number) for number in chosen["ids"]]
    if chosen["fuse"] is None:
        return chain((Query((row,)) for row in rows), names)

    def joined() -> Iterator[Query]:
        together: list[bytes | int] = [*rows, *names]
        if together:
            yield Query(tuple(together), chosen["fuse"])

    return joined()


def check_together(top: int | None, chosen: dict[str, Any]) -> None:
    """Refuse options that make no sense with each other.

    Raises:
        click.UsageError: there are some.
    """
    if top is None and options.typed("top_only", "time_budget", "symmetric"):
        raise click.UsageError("--top-only, --time-budget and --symmetric are for re-ranking: give --rerank K")
    if chosen["fuse"] is not None and options.typed("top_only", "time_budget"):
        raise click.UsageError("--fuse looks at every pair of each photo; leave --top-only and --time-budget out")
    if chosen["descriptors"] is None:
        return
    if options.typed("ids", "box", "fuse"):
        raise click.UsageError("--descriptors takes the place of query photos; leave --id, --box and --fuse out")
    for name in ("exclude_self", "collapse", "collapse_at", "expand"):
        if options.typed(name):
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option} is for query photos; with --descriptors, leave it out")
