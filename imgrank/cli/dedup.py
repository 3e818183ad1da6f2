"""`imgrank dedup`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from imgrank.cli import options
from imgrank.config import COPY_SIMILARITY, DecodeSettings, DedupBy, DedupSettings, Keep


@click.command(short_help="Find the photos that are copies of each other.")
@options.bundle_argument
@click.option(
    "--by",
    default=DedupSettings.by,
    show_default=True,
    type=click.Choice(get_args(DedupBy)),
    help="overlay: local features of one photo lie on those of the other. similarity: descriptors alone. content: only "
    "files that are the same, byte by byte.",
)
@click.option(
    "--threshold",
    default=DedupSettings.threshold,
    show_default=True,
    type=click.FloatRange(0, 1),
    metavar="T",
    help="Overlay from which on two photos are copies.",
)
@click.option(
    "--min-similarity",
    type=click.FloatRange(-1, 1),
    metavar="S",
    help=f"Similarity of a pair from which on it is compared.  [default: {COPY_SIMILARITY}; by similarity: none]",
)
@click.option(
    "--neighbours",
    default=DedupSettings.neighbours,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="K",
    help="Photos nearest to each photo that are compared with it.",
)
@click.option(
    "--keep",
    default=DedupSettings.keep,
    show_default=True,
    type=click.Choice(get_args(Keep)),
    help="Which photo of a group stands first: most pixels, then most bytes, then oldest; oldest or newest file; or "
    "first in the bundle.",
)
@click.option("--duplicates-only", is_flag=True, help="Print the other photos only: those that are not needed.")
@click.option("--edges", is_flag=True, help="JSON lines also tell which pairs are copies, and by what.")
@click.option("--exact", is_flag=True, help="Compare every two descriptors instead of following the graph: slow.")
@click.option("-0", "--null", is_flag=True, help="Printed lines end in NUL instead of newline.")
@options.group_output_options
@options.decode_options
@options.root_option
@options.quiet_option
def command(bundle: Path, **chosen: Any) -> int:
    """Find the photos of a bundle that are copies of each other: resized, saved again, cropped, made brighter.

    A line is a group; its first photo is the one to keep, and each other photo is a copy of that one. Nothing is
    changed or deleted.

    \b
    Example:
        imgrank dedup db.h5
        imgrank dedup db.h5 --duplicates-only --format jsonl | imgrank remove db.h5 --ids-from -
        imgrank dedup db.h5 --duplicates-only --format paths -0 | xargs -0 -r rm --
    """
    from imgrank.cli.console import Console, size
    from imgrank.cli.group_output import write_groups
    from imgrank.steps.collection import open_collection
    from imgrank.steps.dedup import dedup

    if chosen["duplicates_only"] and chosen["edges"]:
        raise click.UsageError("--duplicates-only prints photos, not groups; leave --edges out")
    console = Console(chosen["quiet"])
    settings = DedupSettings(
        by=chosen["by"],
        threshold=chosen["threshold"],
        min_similarity=chosen["min_similarity"],
        neighbours=chosen["neighbours"],
        keep=chosen["keep"],
        exact=chosen["exact"],
    )
    limits = DecodeSettings(chosen["max_megapixels"], chosen["workers"])
    roots = [] if chosen["root"] is None else [chosen["root"]]
    with open_collection([bundle], limits, roots) as photos:
        found = dedup(photos, settings, edges=chosen["edges"], reporter=console)
        write_groups(found.groups, chosen["form"], nul=chosen["null"], duplicates=chosen["duplicates_only"])
    console.note(
        f"{found.photos} photos: {len(found.groups)} groups of copies; {found.extra} photos, {size(found.bytes)}, are "
        "copies of one that is kept"
    )
    return options.NOTHING_FOUND if chosen["exit_status"] and not found.groups else 0
