"""One relevant photo of each query, perturbed: what the robustness study shows to its methods."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.arrays import Pixels
from imgrank.boxes import split_name
from imgrank.errors import ImageError, InputError
from imgrank.evaluation.perturbations import PERTURBATIONS, perturb
from imgrank.images.decode import Photo
from imgrank.images.resize import fit_longer_side
from imgrank.images.scan import display
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK
from imgrank.steps.studies.objects import Located, Objects
from imgrank.steps.studies.trials import Case, Trials

_KEPT = 64  # decoded photos: those of the usual 50 queries, about 85 MB


@dataclass(frozen=True, eq=False)
class Pair:
    """A query and one relevant photo.

    Attributes:
        case: the query, with its shortlist.
        photo: name of the relevant photo.
        row: of that photo in the collection.
        located: where the object is in it, once its longer side is reduced.
        seed: of what is random in its perturbations.
        negatives: rows of the candidates that are neither relevant nor junk, in shortlist order.
        other: row of a photo of another object; None: there is none.
    """

    case: Case
    photo: bytes
    row: int
    located: Located
    seed: int
    negatives: list[int]
    other: int | None = None


class Perturbed:
    """The pairs of a study. Which relevant photo of a query is perturbed, the seed of the trials decides.

    All methods see the same perturbed pixels: a photo is reduced to `side`, perturbed, and reduced further to what a
    method looks at. At strength 0 a method sees the photo as it sees every photo of the database.

    Args:
        trials: queries and shortlists.
        boxes: see `Objects`.
        masks: see `Objects`.
        side: longer side at which photos are perturbed, pixels; smaller photos keep their size.
        reporter: told of photos that cannot be read.

    Raises:
        InputError: see `Objects`; or no query has a relevant photo that can be read.
    """

    def __init__(
        self,
        trials: Trials,
        boxes: Path | None = None,
        masks: Path | None = None,
        *,
        side: int,
        reporter: Reporter = SILENT,
    ) -> None:
        self.trials, self.side, self._reporter = trials, side, reporter
        self._photos = trials.judged.photos
        self._objects = Objects(trials.dataset, boxes, masks, self._photos.settings)
        self._judged = _judged(trials)
        self._reduced = lru_cache(maxsize=_KEPT)(lambda row: self._read(row, side).pixels)
        self.left_out: list[bytes] = []  # queries without a relevant photo that can be read
        found: list[Pair] = []
        with reporter.bar(len(trials.cases), "photos to be perturbed", "query") as advance:
            for case in trials.cases:
                pair = self._choose(case)
                if pair is None:
                    self.left_out.append(case.query)
                else:
                    found.append(pair)
                advance(1)
        if not found:
            raise InputError(
                f"no relevant photo of {len(trials.cases)} queries can be read; perturbing needs the photos: if they "
                "moved, give --root with their folder"
            )
        self.pairs = [self._beside(found, place) for place in range(len(found))]

    def photo(self, pair: Pair, name: str, strength: float, longer_side: int | None) -> Pixels:
        """Return the photo of a pair as a method sees it.

        Args:
            pair: one of `pairs`.
            name: a key of `PERTURBATIONS`.
            strength: 0 to 1.
            longer_side: what the method reduces photos to; None: it looks at the full size.
        """
        if strength == 0:
            return self._read(pair.row, longer_side).pixels
        other = None if pair.other is None else self._reduced(pair.other)
        pixels = self._reduced(pair.row)
        changed = perturb(name, pixels, pair.located.region, strength, seed=pair.seed, other=other)
        return changed if longer_side is None else fit_longer_side(changed, longer_side)

    def names_for(self, pair: Pair, names: Sequence[str]) -> list[str]:
        """Return which perturbations a photo can have: some need surroundings of the object."""
        return [name for name in names if not (PERTURBATIONS[name].around and pair.located.whole)]

    def facts(self) -> dict[str, Any]:
        """Return what decides the result beside the trials, as JSON."""
        digest = hashlib.blake2b(digest_size=16)
        for pair in self.pairs:
            place = np.asarray(pair.located.region)
            digest.update(repr((pair.case.query, pair.photo, pair.seed, place.shape, pair.other)).encode())
            digest.update(place.tobytes())
        return {
            "side": self.side,
            "pairs": len(self.pairs),
            "pairs_digest": digest.hexdigest(),
            "queries_without_a_readable_photo": len(self.left_out),
            "objects_by": dict(Counter(pair.located.source for pair in self.pairs)),
        }

    def notes(self, names: Sequence[str]) -> list[str]:
        """Return what a reader of the result has to know of the photos."""
        notes = []
        count = len(self.pairs)
        assumed = sum(pair.located.source == "middle half" for pair in self.pairs)
        if assumed:
            notes.append(
                f"Nothing says where the object is in {assumed} of {count} photos: a box in the middle, half of the "
                "photo, is taken for it by background scaling, clutter and occlusion."
            )
        whole = sum(pair.located.whole for pair in self.pairs)
        around = [name for name in names if PERTURBATIONS[name].around]
        if whole and around:
            notes.append(f"{whole} of {count} objects fill their photo and are left out of {' and '.join(around)}.")
        if self.left_out:
            some = ", ".join(map(display, self.left_out[:3])) + (", ..." if len(self.left_out) > 3 else "")
            notes.append(f"{len(self.left_out)} queries have no relevant photo that can be read: {some}.")
        return notes

    # Pairs

    def _choose(self, case: Case) -> Pair | None:
        """Return a query with the first of its relevant photos, in an order of chance, that can be read."""
        judged, own = self._judged[case.query], split_name(case.query)[0]
        names = sorted(name for name, grade in judged.items() if grade > 0 and name != own)
        # By the query's name, so that a larger sample has the same pairs and more.
        digest = hashlib.blake2b(case.query, digest_size=8, salt=b"positive").digest()
        numbers = [self.trials.settings.seed, *np.frombuffer(digest, "<u4").tolist()]
        for place in np.random.default_rng(numbers).permutation(len(names)).tolist():
            row = self.trials.judged.row_of(names[place])
            if row is None or not self._usable(row):
                continue
            try:
                photo = self._read(row, self.side)
            except ImageError as error:
                self._reporter.skipped(error)
                continue
            seen = (photo.pixels.shape[0], photo.pixels.shape[1])
            located = self._objects.located(case.query, names[place], (photo.width, photo.height), seen)
            candidates = zip(case.ranking.hits, case.rows[: self.trials.settings.top], strict=False)
            negatives = [candidate for hit, candidate in candidates if judged.get(hit.path, 0) == 0]
            return Pair(case, names[place], row, located, sum(numbers), negatives)
        return None

    def _usable(self, row: int) -> bool:
        part, own = self._photos.locate(row)
        return bool(self._photos.parts[part].statuses[own] == OK)

    def _beside(self, found: Sequence[Pair], place: int) -> Pair:
        """Return a pair with the next photo that shows something else: parts of it clutter and cover the object."""
        pair = found[place]
        for step in range(1, len(found)):
            one = found[(place + step) % len(found)]
            related = {one.photo, one.case.query} & {*self._judged[pair.case.query], pair.photo, pair.case.query}
            if not related and pair.photo not in self._judged[one.case.query]:
                return Pair(**{**vars(pair), "other": one.row})
        return pair

    def _read(self, row: int, longer_side: int | None) -> Photo:
        """Read a photo of the collection as it is read for its descriptor.

        Raises:
            ImageError: it is not there any more, or another one.
        """
        part, own = self._photos.locate(row)
        if longer_side is None:
            longer_side = 2**31 - 1  # photos are never enlarged
        (loaded,) = self._photos.parts[part].load(np.array([own]), longer_side)
        if loaded.photo is None:
            assert loaded.error is not None  # one or the other
            raise loaded.error
        return loaded.photo


def _judged(trials: Trials) -> dict[bytes, dict[bytes, int]]:
    """Return query -> photo -> largest relevance in any task, of photos that are relevant or junk in some task."""
    found: dict[bytes, dict[bytes, int]] = {case.query: {} for case in trials.cases}
    for task in trials.dataset.tasks:
        for query, judged in task.qrels.items():
            for photo, grade in judged.items():
                if grade != 0:
                    found[query][photo] = max(grade, found[query].get(photo, grade))
    return found
