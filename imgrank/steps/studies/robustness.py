"""`study robustness`: how far a relevant photo may change before a method does not know it any more.

As Fig. 5 of arXiv:2604.13268, with ranges of our own (`imgrank.evaluation.perturbations`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from imgrank.arrays import Floats, Pixels
from imgrank.errors import MismatchError, SettingsError
from imgrank.evaluation.perturbations import PERTURBATIONS
from imgrank.evaluation.uncertainty import bootstrap_interval
from imgrank.images.query import read_query
from imgrank.images.scan import display
from imgrank.nearest import did_you_mean
from imgrank.prefetch import prefetch
from imgrank.report.curves import Curve, Panel, plot_curves
from imgrank.rerank.base import PairScores
from imgrank.steps.rerank import Reranker
from imgrank.steps.studies.frame import Row, Study
from imgrank.steps.studies.method import Method
from imgrank.steps.studies.perturbed import Pair, Perturbed
from imgrank.steps.studies.trials import Case, Trials

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
HARDEST = 20  # a level is of one in so many negatives: 5 %
LEAST_AGREEMENT = 0.99  # cosine of a photo's descriptor now and in the bundle; less than float16 on a GPU gives
_AHEAD = 8  # photos perturbed while a model looks at earlier ones
COLUMNS = ("method", "perturbation", "strength", "kind", "mean", "low", "high", "above", "queries", "negatives")


def check_perturbations(names: Sequence[str]) -> tuple[str, ...]:
    """Return the perturbations that are asked for, in the order of `PERTURBATIONS`; none asked for: all.

    Raises:
        SettingsError: there is no such.
    """
    for name in names:
        if name not in PERTURBATIONS:
            raise SettingsError(
                f"--perturbation {name!r}: there are {', '.join(PERTURBATIONS)}; {did_you_mean(name, PERTURBATIONS, 1)}"
            )
    return tuple(name for name in PERTURBATIONS if name in (names or PERTURBATIONS))


def robustness_study(
    photos: Perturbed, methods: Sequence[Method], names: Sequence[str], strengths: Sequence[float]
) -> Study:
    """Return a study of perturbed relevant photos.

    Args:
        photos: pairs, one of each query.
        methods: the first stage says a similarity, a language model a probability, other scorers a value in [0, 1].
        names: of perturbations.
        strengths: ascending, in [0, 1].
    """
    trials = photos.trials
    judges: dict[str, _Judge] = {}

    def measure(method: Method, pair: Pair) -> list[Row]:
        if method.label not in judges:
            judges.clear()  # one model at a time
            judges[method.label] = _FirstStage(trials) if method.settings is None else _SecondStage(trials, method)
        return _rows(judges[method.label], method.label, photos, pair, names, strengths)

    return Study(
        "robustness",
        COLUMNS,
        {
            "trials": trials.facts(),
            "methods": [method.facts() for method in methods],
            "perturbations": {name: PERTURBATIONS[name].extreme for name in names},
            "strengths": list(strengths),
            "hard_negatives": f"mean of the largest {100 // HARDEST} % of the first {trials.settings.top} candidates",
            **photos.facts(),
        },
        {
            f"{method.label}\t{os.fsdecode(pair.case.query)}": lambda method=method, pair=pair: measure(method, pair)  # type: ignore[misc]
            for method in methods
            for pair in photos.pairs
        },
        _plot,
        photos.notes(names),
        lambda found: _table([row for rows in found.values() for row in rows]),
    )


class _Judge(Protocol):
    """A method that says something of a query and photos, which are pixels or rows of the collection."""

    kind: str

    def say(self, pair: Pair, photos: Perturbed, wanted: Sequence[tuple[str, float]]) -> tuple[Floats, Floats]:
        """Return what is said of the pair's photo, perturbed in n ways, and of its negatives."""


class _FirstStage:
    """Cosines of descriptors, without what an augmented graph does to them: nothing could do it to pixels."""

    kind = "similarity"

    def __init__(self, trials: Trials) -> None:
        self._encoder, self._photos = trials.encoder, trials.judged.photos

    def say(self, pair: Pair, photos: Perturbed, wanted: Sequence[tuple[str, float]]) -> tuple[Floats, Floats]:
        """Compute the descriptors of perturbed photos as those of the bundle were."""
        side, query = self._encoder.longer_side, self._query(pair.case)
        pixels = prefetch((photos.photo(pair, name, strength, side) for name, strength in wanted), _AHEAD)
        vectors = np.concatenate([self._encoder.encode(batch).descriptors for batch in self._batches(pixels)])
        for (_, strength), vector in zip(wanted, vectors, strict=True):
            if strength == 0:
                self._check(pair, vector)
        return vectors @ query, self._photos.descriptors(np.array(pair.negatives, dtype=np.int64)) @ query

    def _batches(self, pixels: Iterator[Pixels]) -> Iterator[list[Pixels]]:
        while batch := list(itertools.islice(pixels, max(1, self._encoder.batch_size))):
            yield batch

    def _query(self, case: Case) -> Floats:
        if isinstance(case.photo, int):
            descriptor: Floats = self._photos.descriptors(np.array([case.photo]))[0]
            return descriptor
        seen = read_query(case.photo, self._photos.settings, self._encoder.longer_side)
        descriptor = self._encoder.encode([seen.pixels]).descriptors[0]
        return descriptor

    def _check(self, pair: Pair, vector: Floats) -> None:
        cosine = float(self._photos.descriptors(np.array([pair.row]))[0] @ vector)
        if cosine < LEAST_AGREEMENT:
            bundle = self._photos.parts[self._photos.locate(pair.row)[0]].bundle.path
            raise MismatchError(
                bundle,
                f"its descriptor of {display(pair.photo)} and the one that {self._encoder.name} computes now have a "
                f"cosine of {cosine:.3f}, so perturbed photos cannot be compared with those of the bundle; name the "
                "encoder that its descriptors are of (--encoder), or study methods with a second stage only",
            )


class _SecondStage:
    """Probabilities, or values, of a scorer; perturbed photos are candidates whose tokens are not kept."""

    def __init__(self, trials: Trials, method: Method) -> None:
        self._reranker: Reranker = trials.reranker(method)
        self._photos = trials.judged.photos
        self.kind = "value"

    def say(self, pair: Pair, photos: Perturbed, wanted: Sequence[tuple[str, float]]) -> tuple[Floats, Floats]:
        """Score perturbed photos with all that caching would do to their tokens."""
        stage, look = self._reranker.stage, self._reranker.prepare(pair.case.photo)
        if look.features is None:
            look = replace(look, features=stage.source.of_query(look.pixels))
        source = stage.bundles[self._photos.locate(pair.row)[0]].source
        scoring = stage.scorer.about(look.features)
        pixels = (photos.photo(pair, name, strength, source.longer_side) for name, strength in wanted)
        scores = PairScores.joined(scoring(prefetch(map(source.of_candidate, pixels), _AHEAD)))
        self.kind = "value" if scores.logits is None else "probability"
        return scores.values, self._reranker.scores(pair.negatives, look).values


def _rows(
    judge: _Judge, label: str, photos: Perturbed, pair: Pair, names: Sequence[str], strengths: Sequence[float]
) -> list[Row]:
    """Return what a method says of one pair: a row for each perturbation and strength."""
    names = photos.names_for(pair, names)
    # The photo as it is, is the same in all ways, and is looked at once.
    every = [(name, strength) for name in names for strength in strengths if strength > 0]
    wanted = [*([(names[0], 0.0)] if names and 0 in strengths else []), *every]
    if not wanted:
        return []
    values, negatives = judge.say(pair, photos, wanted)
    found = dict(zip(wanted, values.tolist(), strict=True))
    level = hard_negative_level(negatives)
    return [
        {
            "method": label,
            "query": os.fsdecode(pair.case.query),
            "photo": os.fsdecode(pair.photo),
            "perturbation": name,
            "strength": strength,
            "kind": judge.kind,
            "value": found[names[0] if strength == 0 else name, strength],
            "level": level,
        }
        for name in names
        for strength in strengths
    ]


def hard_negative_level(negatives: Floats) -> float | None:
    """Return the mean of the largest 5 % of (n,) numbers, of one at least; None where there are none."""
    count = -(-len(negatives) // HARDEST)
    return float(np.sort(negatives.astype(np.float64))[-count:].mean()) if count else None


def _table(found: Sequence[Row]) -> list[Row]:
    """Average over queries: what is said of pairs, how often it is above the query's own level, and the levels."""
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for row in found:
        groups.setdefault((row["method"], row["perturbation"], row["strength"]), []).append(row)
    order = list(PERTURBATIONS)
    methods = list(dict.fromkeys(method for method, _, _ in groups))
    rows = []
    for key in sorted(groups, key=lambda key: (methods.index(key[0]), order.index(key[1]), key[2])):
        some = groups[key]
        values = np.array([row["value"] for row in some])
        low, high = bootstrap_interval(values)
        held = [(row["value"], row["level"]) for row in some if row["level"] is not None]
        rows.append(
            {
                **dict(zip(("method", "perturbation", "strength"), key, strict=True)),
                "kind": some[0]["kind"],
                "mean": float(values.mean()),
                "low": low,
                "high": high,
                "above": float(np.mean([value > level for value, level in held])) if held else None,
                "queries": len(some),
                "negatives": float(np.mean([level for _, level in held])) if held else None,
            }
        )
    return rows


def _plot(rows: Sequence[Row], path: Path) -> None:
    labels = list(dict.fromkeys(row["method"] for row in rows))
    panels = []
    for name in dict.fromkeys(row["perturbation"] for row in rows):
        curves, levels = [], {}
        for label in labels:
            own = [row for row in rows if row["perturbation"] == name and row["method"] == label]
            points = [(row["strength"], row["mean"]) for row in own]
            curves.append(Curve(label, points, [(row["low"], row["high"]) for row in own]))
            if own and own[0]["negatives"] is not None:
                levels[f"{label}: hard negatives"] = own[0]["negatives"]
        panels.append(Panel(name, curves, levels))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    plot_curves(panels, path, x="strength", y=", ".join(kinds[:-1]) + (" or " if kinds[1:] else "") + kinds[-1])
