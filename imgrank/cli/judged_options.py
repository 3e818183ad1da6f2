"""Options that name judgements, and what rankings are measured by: a published data set, or one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgrank.cli.options import together

if TYPE_CHECKING:
    from imgrank.evaluation.datasets.base import Dataset
    from imgrank.steps.judged_photos import JudgedPhotos

_USUAL_DEPTH = 1000
_WHOLE_AT_MOST = 30_000  # photos
_KEPT_AT_MOST = 5_000_000  # hits, of about 400 bytes
PROTOCOL_NAMES = ("trec", "revisited", "gldv2", "top100", "ilias", "instre", "holidays", "ukbench")

judgement_options = together(
    click.option(
        "--qrels",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Judgements: TREC qrels, or lines `query photo`; below 0 is junk.",
    ),
    click.option("--dataset", metavar="NAME", help="A published data set instead; `imgrank dataset` lists them."),
    click.option(
        "--data", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER", help="Where the data set lies."
    ),
    click.option(
        "--distractors",
        metavar="NAME|rest",
        help="Distractors of the data set that are ranked, too; rest: every other photo of the bundles.",
    ),
)

measure_options = together(
    click.option(
        "--protocol",
        type=click.Choice(PROTOCOL_NAMES),
        help="Which measures, computed as that benchmark's evaluator does.  [default: the data set's own; trec]",
    ),
    click.option(
        "--measure",
        "measures",
        multiple=True,
        metavar="NAME",
        help="AP, AP@100, P@1, R@100, RR, nDCG@10, oracle-AP, ...; several; instead of the protocol's.",
    ),
)

searched_options = together(
    click.option(
        "-k",
        "--depth",
        type=click.IntRange(min=1),
        help="Hits of each query.  [default: 1000; the whole data set where its evaluator ranks that, up to 30000]",
    ),
    click.option("--exact", is_flag=True, help="Compare with every photo instead of following the graph."),
    click.option(
        "--queries",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder of the query photos; without it they are photos of the bundle, left out of their own ranking.",
    ),
    click.option("--allow-missing", is_flag=True, help="Go on where the bundles lack photos; they count as not found."),
)


def dataset_of(chosen: Mapping[str, Any]) -> Dataset:
    """Return what the options name: a published data set, or judgements of one's own.

    Raises:
        UsageError: both or neither, or an option that only goes with the other.
        SettingsError, InputError: see `read_dataset` and `read_qrels`.
    """
    from imgrank.evaluation.datasets.registry import read_dataset
    from imgrank.evaluation.qrels import read_qrels
    from imgrank.steps.judged_photos import own_dataset

    qrels, name, folder = chosen["qrels"], chosen["dataset"], chosen["data"]
    if (qrels is None) == (name is None):
        raise click.UsageError("give judgements: --qrels FILE, or --dataset NAME --data FOLDER; one of them")
    if name is None:
        for option in ("data", "distractors"):
            if chosen[option] is not None:
                raise click.UsageError(f"--{option} goes with --dataset")
        return own_dataset(read_qrels(qrels), chosen.get("protocol") or "trec")
    if folder is None:
        raise click.UsageError("--dataset needs --data FOLDER: where the data set lies")
    return read_dataset(name, folder, chosen["distractors"])


def measures_of(chosen: Mapping[str, Any], dataset: Dataset) -> tuple[str, ...]:
    """Return the names of the measures that are asked for.

    Raises:
        SettingsError: there is no such measure.
    """
    from imgrank.evaluation.measures import PROTOCOLS, measure

    measures: tuple[str, ...] = chosen["measures"] or PROTOCOLS[chosen["protocol"] or dataset.protocol].measures
    for name in measures:
        measure(name)
    return measures


def depth_of(chosen: Mapping[str, Any], judged: JudgedPhotos, *, kept: bool = False) -> int:
    """Return how many hits each query has: as many as are asked for, or as the data set's evaluator looks at.

    Args:
        chosen: options.
        judged: what is ranked.
        kept: whether the rankings of all queries are in memory at once.
    """
    from imgrank.evaluation.measures import PROTOCOLS

    if chosen["depth"] is not None:
        return int(chosen["depth"])
    count = judged.ranked
    whole = PROTOCOLS[chosen["protocol"] or judged.dataset.protocol].whole
    fits = not kept or count * len(judged.queries()) <= _KEPT_AT_MOST
    return count if whole and fits and count <= _WHOLE_AT_MOST else _USUAL_DEPTH
