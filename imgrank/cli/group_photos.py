"""`imgrank group`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from imgrank.cli import options, scorer_options
from imgrank.config import DecodeSettings, GroupSettings, Linkage, RerankSettings, ScorerName


@click.command(short_help="Find the sets of photos that show the same thing.")
@options.bundle_argument
@options.with_option
@click.option(
    "--neighbours",
    default=GroupSettings.neighbours,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="K",
    help="Photos nearest to each photo that are compared with it.",
)
@click.option("--mutual", is_flag=True, help="Compare only photos that are each among the neighbours of the other.")
@click.option(
    "--min-similarity",
    type=click.FloatRange(-1, 1),
    metavar="S",
    help="Similarity of a pair from which on it is compared.  [default: by the scorer]",
)
@click.option(
    "--scorer",
    default=RerankSettings.scorer,
    show_default=True,
    type=click.Choice([*get_args(ScorerName), "none"]),
    help="What compares a pair, as in `rerank`; none: the similarity decides alone.",
)
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Match score, or probability of mllm, from which on a pair is linked.  [default: by the scorer]",
)
@click.option(
    "--linkage",
    default=GroupSettings.linkage,
    show_default=True,
    type=click.Choice(get_args(Linkage)),
    help="single: every link joins. average, complete: groups are joined where half, or all, of the pairs between them "
    "are linked.",
)
@click.option("--edges", is_flag=True, help="JSON lines also tell which pairs are linked, and by what.")
@scorer_options.pair_options
@click.option("--exact", is_flag=True, help="Compare every two descriptors instead of following the graph: slow.")
@click.option("-0", "--null", is_flag=True, help="Printed lines end in NUL instead of newline.")
@options.group_output_options
@options.device_option
@options.decode_options
@options.roots_option
@options.quiet_option
def command(bundle: Path, **chosen: Any) -> int:
    """Find the sets of photos of a bundle that show the same thing, the largest first.

    Each photo is compared with its nearest neighbours, each pair once, by what the bundle keeps of the photos; what
    holds is a link, and links make groups. Files of the same content are always together. The bundle is only read.

    \b
    Example:
        imgrank group db.h5 --format tsv
        imgrank group db.h5 --scorer mllm --mllm builtin --min-score 0.8 | jq -c '[.photos[].path]'
    """
    from imgrank.cli.console import Console
    from imgrank.cli.group_output import write_groups
    from imgrank.steps.collection import open_collection
    from imgrank.steps.group import group_photos

    if chosen["scorer"] == "none" and (chosen["min_score"] is not None or chosen["mllm"] or chosen["cache"]):
        raise click.UsageError("--scorer none compares descriptors alone; leave --min-score, --mllm and --cache out")
    console = Console(chosen["quiet"])
    settings = GroupSettings(
        neighbours=chosen["neighbours"],
        mutual=chosen["mutual"],
        min_similarity=chosen["min_similarity"],
        min_score=chosen["min_score"],
        linkage=chosen["linkage"],
        exact=chosen["exact"],
    )
    second_stage, request, score_cache = None, None, None
    if chosen["scorer"] != "none":
        second_stage, request, score_cache = scorer_options.second_stage_of_pairs(chosen)
    limits = DecodeSettings(chosen["max_megapixels"], chosen["workers"])
    with open_collection([bundle, *chosen["others"]], limits, chosen["roots"]) as photos:
        found = group_photos(
            photos,
            settings,
            second_stage,
            request,
            score_cache=score_cache,
            edges=chosen["edges"],
            reporter=console,
        )
        write_groups(found.groups, chosen["form"], nul=chosen["null"])
    grouped = sum(len(group.photos) for group in found.groups)
    console.note(
        f"{found.photos} photos, {found.pairs} pairs compared, {found.linked} linked: "
        f"{len(found.groups)} groups of {grouped} photos"
    )
    return options.NOTHING_FOUND if chosen["exit_status"] and not found.groups else 0
