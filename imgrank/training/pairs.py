"""From the keypoints of drawn photos to groups of pairs: a query, candidates, and what is true of them.

Negatives are mostly hard: look-alikes of the query's subject, and photos of other subjects that the built-in encoder
finds near, as a shortlist would. Each time a photo is used, other keypoints of it are chosen, and they are turned,
scaled, recoloured and disturbed: the drawn photos go a long way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.local.keypoints import COLOUR_POINTS, Keypoints, choice_cost
from imgrank.mllm.keypoint_network import INPUTS, inputs_of
from imgrank.training.corpus import Photos
from imgrank.training.hardship import carried, crowded, replaced, wobbled, worn
from imgrank.training.noise import Generator
from imgrank.training.subjects import SAME, SIBLING, VARIANT

OTHER, TWIN = 3, 4  # kinds of negatives beside the roles of photos
NO_MATCH, UNKNOWN = -1, -2
# Keypoints of two photos are one point of their subject where place, size and angle agree within these.
_NEAR, _NEAR_SIZES, _OCTAVES, _DEGREES = 0.010, 0.25, 0.6, 25.0
_EMPTY = 0.03  # share of the negatives that are photos without any keypoint


@dataclass(frozen=True)
class GroupSettings:
    """How groups are made.

    Attributes:
        tokens: keypoints of a query; photos with fewer repeat some.
        candidate_tokens: keypoints of a candidate.
        candidates: of one query.
        choice_noise: spread of the noise on the order in which keypoints are chosen; 0 takes what inference takes.
        augment: whether keypoints are turned, scaled, recoloured and disturbed.
        hardship: from 0 to 1, how strongly candidates suffer what `hardship` does; queries suffer half of it.
    """

    tokens: int = 256
    candidate_tokens: int = 256
    candidates: int = 6
    choice_noise: float = 0.7
    augment: bool = True
    hardship: float = 0.0


@dataclass(frozen=True, eq=False)
class Groups:
    """g queries with k candidates each.

    Attributes:
        query: (g, tokens, INPUTS) float32.
        candidates: (g, k, candidate_tokens, INPUTS) float32.
        same: (g, k) float32, 1 where the candidate shows the query's subject.
        kind: (g, k) uint8: `SAME`, `SIBLING`, `VARIANT`, `OTHER` for another subject, or `TWIN` for another thing put
            where the query's is, with all that is around it.
        match: (g, k, candidate_tokens) int64, the query's token that shows the same point; NO_MATCH or UNKNOWN.
    """

    query: Floats
    candidates: Floats
    same: Floats
    kind: npt.NDArray[np.uint8]
    match: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Chosen:
    inputs: Floats
    places: npt.NDArray[np.float64]  # (tokens, 4), as they were before the augmentation


class Sampler:
    """Draws groups from photos.

    Args:
        photos: of whole subjects.
        nearest: (n, m) photos of other subjects that are near each photo, nearest first.
    """

    def __init__(self, photos: Photos, nearest: npt.NDArray[np.int64]) -> None:
        self._photos, self._nearest = photos, nearest
        self._of: dict[tuple[int, int], list[int]] = {}
        for index, key in enumerate(zip(photos.subject.tolist(), photos.role.tolist(), strict=True)):
            self._of.setdefault(key, []).append(index)
        self._queries = np.flatnonzero(photos.role == SAME)

    def draw(self, rng: Generator, count: int, settings: GroupSettings) -> Groups:
        """Draw `count` groups."""
        groups = [self._group(rng, settings) for _ in range(count)]
        return Groups(*(np.stack(parts) for parts in zip(*groups, strict=True)))

    def _group(
        self, rng: Generator, settings: GroupSettings
    ) -> tuple[Floats, Floats, Floats, npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        photos = self._photos
        query = int(rng.choice(self._queries))
        subject = int(photos.subject[query])
        others = [index for index in self._of[subject, SAME] if index != query]
        rng.shuffle(others)
        right = others[: min(int(rng.integers(1, 3)), settings.candidates)]
        chosen = list(right)
        while len(chosen) < settings.candidates:
            chosen.append(self._negative(rng, query, subject))
        kinds = [int(photos.role[i]) if photos.subject[i] == subject else OTHER for i in chosen]
        found = [photos.keypoints[i] for i in chosen]
        if settings.hardship:
            for place in range(len(right), len(chosen)):
                made = self._composed(rng, query, subject, others, chosen[place])
                if made is not None:
                    found[place], kinds[place] = made
                if rng.uniform() < _EMPTY:
                    found[place], kinds[place] = _without_keypoints(found[place]), OTHER
        own = self._tokens(rng, photos.keypoints[query], settings.tokens, settings, settings.hardship / 2)
        theirs = [self._tokens(rng, one, settings.candidate_tokens, settings, settings.hardship) for one in found]
        matches = [
            self._matches(query, own, index, their, kind)
            for index, their, kind in zip(chosen, theirs, kinds, strict=True)
        ]
        kind = np.array(kinds, np.uint8)
        candidates = np.stack([their.inputs for their in theirs])
        return own.inputs, candidates, (kind == SAME).astype(np.float32), kind, np.stack(matches)

    def _negative(self, rng: Generator, query: int, subject: int) -> int:
        draw = rng.uniform()
        role = VARIANT if draw < 0.3 else SIBLING if draw < 0.45 else None
        if role is not None and (subject, role) in self._of:
            return self._of[subject, role][0]
        # Far down the list about as often as near its top: a shortlist has both.
        row = self._nearest[query]
        return int(row[int(len(row) * rng.uniform() ** 2)])

    def _composed(
        self, rng: Generator, query: int, subject: int, others: list[int], negative: int
    ) -> tuple[Keypoints, int] | None:
        """Put the keypoints of a negative photo to a harder use, now and then.

        Either the query's thing is replaced where it stands, or a part of the thing in another photo of it.
        """
        photos, draw = self._photos, rng.uniform()
        if draw >= 0.35 or (subject, SIBLING) not in self._of:
            return None
        twin = draw < 0.2 or not others
        base = query if twin else int(rng.choice(others))
        filler = negative if twin and rng.uniform() < 0.6 else self._of[subject, SIBLING][0]
        if (int(photos.subject[filler]), SIBLING) not in self._of:  # a scene, not a thing
            return None
        made = replaced(
            rng, photos.keypoints[base], photos.plane[base], photos.keypoints[filler], photos.plane[filler], whole=twin
        )
        return made, TWIN if twin else VARIANT

    def _tokens(
        self, rng: Generator, keypoints: Keypoints, count: int, settings: GroupSettings, hardship: float
    ) -> _Chosen:
        foreign = np.zeros(len(keypoints), bool)
        if hardship:
            other = int(rng.integers(len(self._photos)))
            keypoints, foreign = crowded(rng, keypoints, self._photos.keypoints[other], hardship)
        places = keypoints.places.astype(np.float64)
        moved, inside = places, np.ones(len(places), bool)
        if settings.augment:
            moved, inside = _moved(rng, places, keypoints.extent)
        if hardship:
            moved = wobbled(rng, moved, hardship)
            places[foreign, :2] = _far(rng, int(foreign.sum()))
        ranks = choice_cost(keypoints) + rng.gumbel(size=len(places)) * settings.choice_noise * rng.uniform()
        ranks[~inside] = np.inf
        rows = np.argsort(ranks)[: min(count, max(1, int(inside.sum())))]
        if not len(rows):
            nowhere = np.concatenate([_far(rng, count), np.zeros((count, 2))], axis=1)
            return _Chosen(np.zeros((count, INPUTS), np.float32), nowhere)
        rows = np.resize(rows, count)
        sift, colours = keypoints.root_sift[rows], keypoints.colours[rows]
        if settings.augment:
            sift, colours = _disturbed(rng, sift), _recoloured(rng, colours)
        if hardship:
            sift = worn(rng, sift, hardship)
        taken = Keypoints(sift, moved[rows].astype(np.float32), colours, keypoints.extent)
        return _Chosen(inputs_of(taken), places[rows])

    def _matches(self, query: int, own: _Chosen, index: int, their: _Chosen, kind: int) -> npt.NDArray[np.int64]:
        if kind in (VARIANT, TWIN):
            return np.full(len(their.places), UNKNOWN)
        if kind != SAME:
            return np.full(len(their.places), NO_MATCH)
        plane = self._photos.plane
        return true_matches(own.places, their.places, plane[query] @ np.linalg.inv(plane[index]))


def true_matches(
    query: npt.NDArray[np.float64], candidate: npt.NDArray[np.float64], back: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return (n,) the query's keypoint that shows the same point as each keypoint of a candidate, or NO_MATCH.

    Args:
        query: (m, 4) places: x, y, size, angle.
        candidate: (n, 4) places.
        back: (3, 3) homography from places in the candidate to places in the query.
    """
    x, y, size, angle = carried(candidate, back).T
    distance = np.hypot(x[:, None] - query[:, 0], y[:, None] - query[:, 1])
    octaves = np.abs(np.log2(np.maximum(size, 1e-6))[:, None] - np.log2(np.maximum(query[:, 2], 1e-6)))
    cosine = np.cos(np.deg2rad(angle[:, None] - query[:, 3]))
    near = np.maximum(_NEAR, _NEAR_SIZES * query[:, 2])
    cost = distance / near + octaves / _OCTAVES
    cost[(distance > near) | (octaves > _OCTAVES) | (cosine < np.cos(np.deg2rad(_DEGREES)))] = np.inf
    best = cost.argmin(axis=1)
    return np.where(np.isfinite(cost[np.arange(len(cost)), best]), best, NO_MATCH)


def _without_keypoints(photo: Keypoints) -> Keypoints:
    return Keypoints(photo.root_sift[:0], photo.places[:0], photo.colours[:0], photo.extent)


def _far(rng: Generator, count: int) -> npt.NDArray[np.float64]:
    """Return (count, 2) places outside of every photo and apart from each other, so that they match nothing."""
    return 10 + 10 * rng.uniform(size=(count, 2))


def _moved(
    rng: Generator, places: npt.NDArray[np.float64], extent: tuple[float, float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Turn, scale and shift a photo's keypoints about its middle; tell which stay inside."""
    degrees = rng.uniform(-180, 180) if rng.uniform() < 0.1 else rng.normal(0, 6)
    factor = float(np.exp(rng.uniform(-0.35, 0.3)))
    shift = rng.normal(0, 0.04, 2)
    cosine, sine = np.cos(np.deg2rad(degrees)) * factor, np.sin(np.deg2rad(degrees)) * factor
    middle = np.array(extent) / 2
    x, y = (places[:, :2] - middle).T
    moved = places.copy()
    moved[:, 0], moved[:, 1] = (
        cosine * x - sine * y + shift[0] + middle[0],
        sine * x + cosine * y + shift[1] + middle[1],
    )
    moved[:, 2] *= factor
    moved[:, 3] = (moved[:, 3] + degrees) % 360
    inside = np.abs(moved[:, :2] - middle) < 0.5
    return moved, inside[:, 0] & inside[:, 1]


def _disturbed(rng: Generator, sift: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if rng.uniform() < 0.3:
        return sift
    # Real photos of one thing differ by more than light and lens: up to a cosine of about 0.9 by this alone.
    noise = rng.standard_normal(sift.shape, dtype=np.float32) * np.float32(rng.uniform(0, 20))
    return np.clip(sift + noise, 0, 255).astype(np.uint8)


def _recoloured(rng: Generator, colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    lab = colours.reshape(len(colours), COLOUR_POINTS, 3).astype(np.float32)
    lab[..., 0] = (lab[..., 0] - 128) * np.exp(rng.normal(0, 0.15)) + 128 + rng.normal(0, 15)
    lab[..., 1:] = (lab[..., 1:] - 128) * np.exp(rng.normal(0, 0.25)) + 128 + rng.normal(0, 6, 2)
    return np.clip(lab, 0, 255).astype(np.uint8).reshape(len(colours), -1)
