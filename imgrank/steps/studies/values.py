"""How large or how cluttered the object of a query is in each relevant photo: given, from boxes, or estimated."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.arrays import Floats
from imgrank.boxes import split_name
from imgrank.config import RerankSettings
from imgrank.errors import InputError, SettingsError
from imgrank.local.features import LocalFeatures
from imgrank.local.geometry import correspondences
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK
from imgrank.steps.second_stage import Request
from imgrank.steps.studies.annotations import read_values
from imgrank.steps.studies.method import Method
from imgrank.steps.studies.objects import Objects, Pair, check_names, positives
from imgrank.steps.studies.trials import Trials

SCALE, CLUTTER = "scale", "clutter"
LEAST_MATCHES = 8  # that one map explains; of wrong pairs of the development photos 97 % have fewer
ESTIMATED = "matches of local features"


@dataclass(frozen=True, eq=False)
class Values:
    """A number for relevant photos.

    Attributes:
        by: its name.
        numbers: (query, photo) -> number, for those that have one.
        source: where they are from.
        notes: sentences that belong to the result.
    """

    by: str
    numbers: Mapping[Pair, float]
    source: str
    notes: list[str] = field(default_factory=list)


def values_of(
    trials: Trials, by: str, *, boxes: Path | None = None, given: Path | None = None, reporter: Reporter = SILENT
) -> Values:
    """Return the value of each relevant photo of the trials' queries.

    Args:
        trials: queries.
        by: "scale", the share of the photo's area that is the object's; "clutter"; or a name that the data set or the
            file knows.
        boxes: a file of boxes, for scale.
        given: a file of values.
        reporter: told of progress.

    Raises:
        SettingsError: nothing gives such a value, or files that exclude each other are given.
        InputError: see `read_values` and `Objects`; or no relevant photo has a value.
    """
    if boxes is not None and (given is not None or by != SCALE):
        raise SettingsError("--boxes say how large objects are: they go with --by scale, and without --values")
    wanted = positives(trials.dataset)
    if given is not None:
        held = read_values(given)
        check_names(given, held, wanted)
        numbers = {
            (query, photo): held[key]
            for query, photo in wanted
            if (key := (query, photo) if (query, photo) in held else (None, photo)) in held
        }
        return _checked(Values(by, numbers, "the file"), len(wanted))
    known = trials.dataset.values.get(by)
    if known is not None and boxes is None:
        return _checked(
            Values(by, {pair: known[pair] for pair in wanted if pair in known}, "the data set"), len(wanted)
        )
    if by not in (SCALE, CLUTTER):
        names = ", ".join(dict.fromkeys((SCALE, CLUTTER, *trials.dataset.values)))
        raise SettingsError(
            f"--by {by!r}: there are no such values, but {names}; for values of your own, give --values FILE"
        )
    objects = Objects(trials.dataset, boxes)
    if by == SCALE and objects.has_boxes:
        return _checked(Values(by, _shares(trials, objects, wanted), "boxes"), len(wanted))
    note = (
        f"No {by} is known: it is estimated from where local features of the query match in the photo, which favours "
        "photos that local features recognise, and methods that compare those."
    )
    return _checked(Values(by, _estimates(trials, by, wanted, reporter), ESTIMATED, [note]), len(wanted))


def _checked(values: Values, wanted: int) -> Values:
    if not values.numbers:
        raise InputError(f"no relevant photo has a value of {values.by} from {values.source}; give --values FILE")
    lacking = wanted - len(values.numbers)
    if lacking:
        values.notes.append(
            f"{lacking} of {wanted} relevant photos have no {values.by} from {values.source} and are in no group."
        )
    return values


def _shares(trials: Trials, objects: Objects, wanted: Mapping[Pair, None]) -> dict[Pair, float]:
    """Return the area of boxes by that of their photos, for photos of the bundles whose size is known."""
    shares = {}
    for query, photo in wanted:
        width, height = _size(trials, photo)
        if min(width, height) > 0 and (known := objects.box(query, photo, width, height)) is not None:
            shares[query, photo] = known[0].width * known[0].height / (width * height)
    return shares


def _size(trials: Trials, photo: bytes) -> tuple[int, int]:
    """Return (width, height) of an upright photo; zeros where the bundles do not know it."""
    row = trials.judged.row_of(photo)
    if row is None:
        return 0, 0
    part, own = trials.judged.photos.locate(row)
    record = trials.judged.photos.parts[part].bundle.images.record(own)
    return record.width, record.height


# Estimates


def _estimates(trials: Trials, by: str, wanted: Mapping[Pair, None], reporter: Reporter) -> dict[Pair, float]:
    method = Method(ESTIMATED, ESTIMATED, RerankSettings(scorer="geometric"), Request())
    reranker = trials.reranker(method, score_cache=False)
    photos = trials.judged.photos
    cases = {case.query: case for case in trials.cases}
    found = {}
    with reporter.bar(len(wanted), f"{by} of photos", "photo") as advance:
        for query, pairs in itertools.groupby(wanted, key=lambda pair: pair[0]):
            look = reranker.prepare(cases[query].photo)
            features: Any = reranker.stage.source.of_query(look.pixels) if look.features is None else look.features
            for pair in pairs:
                advance(1)
                row, size = trials.judged.row_of(pair[1]), _size(trials, pair[1])
                if row is None or 0 in size or pair[1] == split_name(query)[0]:
                    continue
                part, own = photos.locate(row)
                if photos.parts[part].statuses[own] != OK:
                    continue
                extent = matched_extent(features, reranker.candidate(row))
                if extent is not None:
                    found[pair] = extent[0] / _area(*size) if by == SCALE else extent[1]
    return found


def matched_extent(query: LocalFeatures, photo: LocalFeatures) -> tuple[float, float] | None:
    """Estimate where the object of a query is in a photo: the box around the matches that one map explains.

    Returns:
        the area of the box in squares of the photo's longer side, and which share of the photo's keypoints lies outside
        of it; None where too few matches agree to say.
    """
    pairs = correspondences(query, photo)
    places: Floats = photo.keypoints[:, :2]
    inliers = places[pairs.candidate[pairs.inliers]]
    if len(inliers) < LEAST_MATCHES:
        return None
    low, high = inliers.min(axis=0), inliers.max(axis=0)
    inside = ((places >= low) & (places <= high)).all(axis=1)
    return float(np.prod((high - low).astype(np.float64))), float(1 - inside.mean())


def _area(width: int, height: int) -> float:
    """Return the area of a photo in squares of its longer side."""
    return width * height / max(width, height) ** 2
