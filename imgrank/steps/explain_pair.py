"""What of two photos matched: places, matches and attention, by what the scorer compares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from imgrank.arrays import Floats, Ids, Pixels
from imgrank.errors import SettingsError
from imgrank.local.features import LocalFeatures
from imgrank.report.pair_sheet import Side
from imgrank.rerank.matches import Matches, best_matches, mutual_matches, strongest_first
from imgrank.steps.features import VisualSource

_CELLS = 8  # to the longer side: parts of a photo from which the clearest match is shown first

if TYPE_CHECKING:
    from imgrank.mllm.base import VisualTokens
    from imgrank.rerank.packing import PairScorer


@dataclass(frozen=True, eq=False)
class SeenPhoto:
    """One photo of a pair, as it is drawn and as it was compared.

    Attributes:
        title: for the picture.
        size: (width, height); only the proportions matter.
        shown: (h, w, 3) uint8 to be drawn; None where there is no photo.
        compared: (h, w, 3) uint8 at the size the features are computed at; None where there is no photo.
        features: what the scorer compared.
        reduced: some of its visual tokens may have been left out or averaged.
    """

    title: str
    size: tuple[int, int]
    shown: Pixels | None
    compared: Pixels | None
    features: Any
    reduced: bool = False


@dataclass(frozen=True)
class TokenFacts:
    """How much of both photos was compared.

    Attributes:
        kind: "visual tokens" or "local features".
        candidate: how many of the candidate.
        full: how many the candidate has before any are left out; None where that is not known.
        recipe: how the candidate's are kept; None for local features.
        cache: where they were kept; None: they were computed from the photo.
        query: how many of the query.
    """

    kind: str
    candidate: int
    full: int | None
    recipe: str | None
    cache: str | None
    query: int = 0

    @classmethod
    def of(cls, features: Any, source: Any, cache: str | None) -> Self:
        """Describe the features of a candidate."""
        if not isinstance(source, VisualSource):
            return cls("local features", len(features), None, None, cache)
        from imgrank.tokens.recipe import recipe_text

        return cls("visual tokens", len(features), features.full_length, recipe_text(source.settings), cache)

    def to_dict(self) -> dict[str, Any]:
        """Return a record."""
        known = {"kind": self.kind, "query": self.query, "candidate": self.candidate, "cache": self.cache}
        return known if self.full is None else {**known, "candidate_before": self.full, "recipe": self.recipe}

    def table(self) -> list[tuple[str, str]]:
        """Return names and values for people."""
        of = "" if self.full is None else f" of {self.full}"
        where = "computed from the photo" if self.cache is None else f"cache {self.cache!r}"
        rows = [("compared", f"{self.query} {self.kind} of the query"), ("with", f"{self.candidate}{of} ({where})")]
        return rows if self.recipe is None else [*rows, ("recipe", self.recipe)]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What matched.

    Attributes:
        method: how it was found, in a sentence.
        name: of the method, in records.
        found: number of matches.
        inliers: those that one change of view explains, where that was asked; these are what is shown.
        shown: the strongest of them.
        sides: how the query and the candidate are drawn.
        attention: (n,) and (m,) shares of the query's and of the candidate's tokens, where that was asked instead.
    """

    method: str
    name: str
    found: int
    shown: Matches
    sides: tuple[Side, Side]
    inliers: int | None = None
    attention: tuple[Floats, Floats] | None = None

    @property
    def lines(self) -> list[tuple[int, int]]:
        """Return what is shown as pairs of boxes."""
        return list(zip(self.shown.query.tolist(), self.shown.candidate.tolist(), strict=True))

    def table(self) -> list[tuple[str, str]]:
        """Return names and values for people."""
        if self.attention is not None:
            one, other = (f"{shares.sum():.1%}" for shares in self.attention)
            return [("attention", f"{one} to the query's tokens, {other} to the candidate's")]
        rows = [("matches", str(self.found))]
        return rows if self.inliers is None else [*rows, ("inliers", str(self.inliers))]


def local_evidence(query: SeenPhoto, candidate: SeenPhoto, scorer: str, most: int) -> Evidence:
    """Match local features, as the scorer of that name does."""
    sides = (_local_side(query), _local_side(candidate))
    if scorer == "maxsim":
        found = best_matches(query.features.vectors(), candidate.features.vectors())
        method = (
            f"Lines: the {min(most, len(found))} strongest of {len(found)} best matches, one for each local feature of "
            "the query, by cosine; their mean is half of the score."
        )
        return Evidence(method, "best-cosines", len(found), found.first(most), sides)
    from imgrank.local.geometry import correspondences

    pairs = correspondences(query.features, candidate.features)
    kept = pairs.inliers
    inliers = strongest_first(pairs.query[kept], pairs.candidate[kept], pairs.weights[kept])
    one, other = (
        replace(side, matched=np.isin(np.arange(len(photo.features)), rows))
        for side, photo, rows in zip(sides, (query, candidate), (inliers.query, inliers.candidate), strict=True)
    )
    shown = inliers.spread(candidate.features.keypoints[:, :2] * _CELLS).first(most)
    method = (
        f"Green: {len(inliers)} matches of local features that one change of view explains (inliers), of "
        f"{len(pairs.query)} matches in all; the score counts them, spread ones for more. Lines: {len(shown)} of them, "
        "the clearest of each part."
    )
    return Evidence(method, "inliers", len(pairs.query), shown, (one, other), inliers=len(inliers))


def visual_evidence(query: SeenPhoto, candidate: SeenPhoto, source: VisualSource, scorer: str, most: int) -> Evidence:
    """Match visual tokens, as the language model receives them, by cosine."""
    sides = (_visual_side(query, source), _visual_side(candidate, source))
    vectors = [photo.features.vectors[:, 0].astype(np.float32) for photo in (query, candidate)]
    if scorer == "maxsim":
        found = best_matches(*vectors)
        method = (
            f"Lines: the {min(most, len(found))} strongest of {len(found)} best matches, one for each visual token of "
            "the query, by cosine; their mean is half of the score."
        )
        return Evidence(method, "best-cosines", len(found), found.first(most), sides)
    found = mutual_matches(*vectors)
    method = (
        f"Lines: the {min(most, len(found))} strongest of {len(found)} pairs of visual tokens that are each other's "
        "nearest by cosine, as they enter the language model. This shows what looks alike to the model, not how it "
        "came to its answer."
    )
    return Evidence(method, "token-similarity", len(found), found.first(most), sides)


def attention_evidence(
    query: SeenPhoto,
    candidate: SeenPhoto,
    source: VisualSource,
    pairs: PairScorer,
    layers: tuple[int, int] | None,
) -> Evidence:
    """Tell what the position that predicts the answer attends to, averaged over heads and layers.

    Args:
        query: with all of its tokens.
        candidate: with those that are kept.
        source: of the tokens.
        pairs: asks the question.
        layers: first and last, from 1, of those that have attention; None: all.

    Raises:
        SettingsError: the model has no such layers.
    """
    weights = pairs.attention(query.features, candidate.features)
    count = len(weights[0])
    first, last = layers or (1, count)
    if not 1 <= first <= last <= count:
        raise SettingsError(f"--layers {first}-{last}: {source.model.name} has attention layers 1 to {count}")
    shares = [part[first - 1 : last].mean(axis=0) for part in weights]
    which = f"layers {first} to {last} of {count}" if last > first else f"layer {first} of {count}"
    method = (
        f"Colour: attention of the position that predicts the answer, mean over the heads of {which}, relative to "
        "the most in each photo. "
        f"{shares[0].sum():.1%} goes to the query's visual tokens, {shares[1].sum():.1%} to the candidate's, the rest "
        "to words. Attention is where the model looks, which is not why it decides."
    )
    sides = (_visual_side(query, source), _visual_side(candidate, source))
    drawn = (replace(sides[0], heat=shares[0]), replace(sides[1], heat=shares[1]))
    return Evidence(method, "attention", 0, strongest_first([], [], []), drawn, attention=(shares[0], shares[1]))


def legend(evidence: Evidence) -> list[str]:
    """Return what the marks in the picture mean, beside the lines."""
    query, candidate = evidence.sides
    notes = []
    if len(candidate.left_out):
        notes.append(f"{'Dimmed' if candidate.cells else 'Small grey dots'}: tokens that were left out.")
    if candidate.means:
        notes.append("Diamonds: a token there is the mean of a group; which others are in it is not kept.")
    for whose, side in (("query", query), ("candidate", candidate)):
        if side.boxes is None:
            notes.append(f"Where the tokens of the {whose} lie is not known without the photo, so nothing is marked.")
    return notes


def _local_side(photo: SeenPhoto) -> Side:
    features: LocalFeatures = photo.features
    width, height = photo.size
    # Lengths of keypoints are in units of the longer side.
    extent = np.array([width, height], dtype=np.float64) / max(photo.size)
    centres, diameters = features.keypoints[:, :2] / extent, features.keypoints[:, 2:3] / extent
    boxes = np.concatenate([centres - diameters / 2, diameters], axis=1).astype(np.float32)
    return Side(photo.title, photo.size, photo.shown, boxes, cells=False)


def _visual_side(photo: SeenPhoto, source: VisualSource) -> Side:
    """Return where the tokens of a photo lie."""
    from imgrank.tokens.recipe import averages, pooled_blocks

    tokens: VisualTokens = photo.features
    model, (width, height) = source.model, photo.size
    boxes = model.regions(tokens, (height, width), photo.compared)
    side = Side(photo.title, photo.size, photo.shown, cells=model.on_grid)
    if boxes is None:
        return side
    block = pooled_blocks(source.settings) if photo.reduced else None
    kept = tokens.index
    rest = np.setdiff1d(np.arange(tokens.full_length), kept)
    own = boxes[kept]
    if block is not None:
        own, rest = _blocks(boxes, tokens, block), rest[:0]
    whole = tokens.tile_count - 1 if tokens.tile_count > 1 else -1  # the tile that shows the whole photo
    inset = np.arange(tokens.full_length) // (tokens.grid[0] * tokens.grid[1]) == whole
    return replace(
        side,
        boxes=own,
        left_out=boxes[rest],
        inset=inset[kept],
        left_out_inset=inset[rest],
        means=photo.reduced and block is None and len(rest) > 0 and averages(source.settings),
    )


def _blocks(boxes: Floats, tokens: VisualTokens, side: int) -> Floats:
    """Return the (n, 4) areas of blocks of `side` x `side` tokens, each named by its first token."""
    tile, row, column = tokens.positions.astype(np.int64).T
    rows, columns = tokens.grid

    def place(y: Ids, x: Ids) -> Ids:
        number: Ids = (tile * rows + y) * columns + x
        return number

    top, left = row // side * side, column // side * side
    first = boxes[place(top, left)]
    last = boxes[place(np.minimum(top + side, rows) - 1, np.minimum(left + side, columns) - 1)]
    return np.concatenate([first[:, :2], last[:, :2] + last[:, 2:] - first[:, :2]], axis=1)
