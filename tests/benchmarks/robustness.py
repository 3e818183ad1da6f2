"""How far a photo may change before the built-in descriptor and a model stop seeing the same object in it.

    python tests/benchmarks/robustness.py [--mllm builtin] [--objects 24] [--strengths 0 0.25 0.5 0.75 1]

Draws objects with numbers that no training used. Of each, one photo is the query and another the positive, which is
perturbed in the ten ways of `imgrank.evaluation.perturbations`. Prints Markdown tables: the mean probability of "same"
and the mean similarity of the descriptors by strength, and what they have to stay above: the same for look-alikes
(siblings and variants of the object) and for photos of other objects. As in the robustness study of arXiv:2604.13268
(Fig. 5), whose hard negatives are the worst 5 %; the mean over these is given too.
"""

from __future__ import annotations

import argparse
import itertools
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from imgrank.arrays import Pixels
from imgrank.config import RerankSettings
from imgrank.encode.builtin import BuiltinEncoder
from imgrank.evaluation.perturbations import PERTURBATIONS, Box, perturb
from imgrank.mllm.base import VisionLanguageModel, VisualTokens
from imgrank.mllm.registry import load_mllm
from imgrank.rerank.packing import PairScorer
from imgrank.steps.second_stage import choose_prompt
from imgrank.training.subjects import SAME, Shot, draw_subject

FIRST = 1_000_000  # training numbers its subjects from 0
OTHERS = 8  # photos of other objects that each query meets
LARGEST = 0.6  # share of the photo that the box of the object may take: clutter needs room
LEAST_SHOWN = 0.9  # share of the object's box that must lie in the frame
LONGER_SIDE, MAX_TOKENS = 560, 512


@dataclass(frozen=True, eq=False)
class Case:
    """An object: photos of it, where it is in the positive, and photos of its look-alikes."""

    query: Pixels
    positive: Pixels
    box: Box
    look_alikes: list[Pixels]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the two stages see of a photo."""

    descriptor: np.ndarray
    tokens: VisualTokens


def box_of(shot: Shot) -> Box | None:
    """Return the object's box in a photo; None where it is too large, or not enough of it is in the frame."""
    height, width = shot.pixels.shape[:2]
    x, y, w = shot.plane @ np.array([[0.0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    x, y = x / w * max(height, width), y / w * max(height, width)
    x0, y0, x1, y1 = max(0, int(x.min())), max(0, int(y.min())), min(width, int(x.max())), min(height, int(y.max()))
    if x1 <= x0 or y1 <= y0:
        return None
    area = (x1 - x0) * (y1 - y0)
    shown = area / ((x.max() - x.min()) * (y.max() - y.min()))
    return (x0, y0, x1, y1) if shown >= LEAST_SHOWN and area <= LARGEST * height * width else None


def draw_case(number: int) -> Case | None:
    shots = draw_subject(number)
    views = [shot for shot in shots if shot.role == SAME]
    look_alikes = [shot.pixels for shot in shots if shot.role != SAME]
    for view in views[1:]:
        box = box_of(view)
        if look_alikes and box is not None:  # whole scenes have neither
            return Case(views[0].pixels, view.pixels, box, look_alikes)
    return None


def draw_cases(count: int, pool: ThreadPoolExecutor) -> list[Case]:
    cases: list[Case] = []
    first = FIRST
    while len(cases) < count:  # a few at a time: about half of the subjects will do
        cases += [case for case in pool.map(draw_case, range(first, first + 8)) if case is not None]
        first += 8
    return cases[:count]


class Stages:
    """Both stages, as `imgrank search --rerank` would use them."""

    def __init__(self, model: VisionLanguageModel) -> None:
        self._model, self._encoder = model, BuiltinEncoder()
        self._scoring = threading.Lock()
        self._pairs = PairScorer(model, *choose_prompt(model, RerankSettings(), None))

    def see(self, photo: Pixels) -> Seen:
        (tokens,) = self._model.encode([photo], longer_side=LONGER_SIDE, max_tokens=MAX_TOKENS)
        return Seen(self._encoder.encode([photo]).descriptors[0], tokens)

    def compare(self, query: Seen, candidates: Sequence[Seen]) -> np.ndarray:
        """Return (2, n): probability and similarity of each candidate."""
        with self._scoring:  # one pass of a model at a time
            logits = self._pairs.score(query.tokens, [candidate.tokens for candidate in candidates])
        similarities = [float(query.descriptor @ candidate.descriptor) for candidate in candidates]
        return np.stack([1 / (1 + np.exp(-logits.astype(np.float64))), similarities])


def measure(
    stages: Stages, cases: Sequence[Case], queries: Sequence[Seen], strengths: Sequence[float], number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what both stages say of a case: (2, perturbations, strengths), (2, look-alikes) and (2, other objects)."""
    case, query = cases[number], queries[number]
    other = cases[(number + 1) % len(cases)].query
    changed = [strength > 0 for strength in strengths]  # the photo as it is would be seen ten times
    photos = [
        perturb(name, case.positive, case.box, strength, seed=number, other=other)
        for name, strength in itertools.product(PERTURBATIONS, itertools.compress(strengths, changed))
    ]
    scores = stages.compare(query, [stages.see(photo) for photo in (case.positive, *photos)])
    curves = np.repeat(np.repeat(scores[:, :1, None], len(PERTURBATIONS), axis=1), len(strengths), axis=2)
    curves[:, :, changed] = scores[:, 1:].reshape(2, len(PERTURBATIONS), -1)
    following = [queries[(number + 1 + step) % len(cases)] for step in range(min(OTHERS, len(cases) - 1))]
    look_alikes = [stages.see(photo) for photo in case.look_alikes]
    return curves, stages.compare(query, look_alikes), stages.compare(query, following)


def table(title: str, strengths: Sequence[float], curves: np.ndarray) -> None:
    print(f"\n{title}, positives by strength\n")
    print(f"| {'perturbation':18s} | {' | '.join(f'{strength:5.2f}' for strength in strengths)} |")
    print(f"|{'-' * 20}|{'|'.join(['------:'] * len(strengths))}|")
    for name, curve in zip(PERTURBATIONS, curves, strict=True):
        print(f"| {name:18s} | {' | '.join(f'{value:5.3f}' for value in curve)} |")


def negatives(title: str, groups: dict[str, np.ndarray]) -> None:
    print(f"\n{title}, negatives\n")
    print(f"| {'negatives':18s} | pairs |  mean | 95th percentile | mean of worst 5 % |")
    print(f"|{'-' * 20}|------:|------:|----------------:|------------------:|")
    for name, values in groups.items():
        limit = np.percentile(values, 95)
        worst = values[values >= limit].mean()
        print(f"| {name:18s} | {values.size:5d} | {values.mean():5.3f} | {limit:15.3f} | {worst:17.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mllm", default="builtin")
    parser.add_argument("--objects", type=int, default=24, help="at least 2")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1])
    arguments = parser.parse_args()
    if arguments.objects < 2:
        parser.error("--objects: at least 2, so that there are other objects")
    strengths, start = arguments.strengths, time.perf_counter()
    stages = Stages(load_mllm(arguments.mllm, device="cpu", dtype="float32"))
    torch.set_num_threads(1)  # the cores are filled by objects
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        cases = draw_cases(arguments.objects, pool)
        queries = list(pool.map(stages.see, [case.query for case in cases]))
        measured = list(pool.map(partial(measure, stages, cases, queries, strengths), range(len(cases))))
    print(f"{arguments.mllm}: {len(cases)} objects, {time.perf_counter() - start:.0f} s")
    curves, alike, others = zip(*measured, strict=True)
    look_alikes, unrelated = np.concatenate(alike, axis=1), np.concatenate(others, axis=1)
    for i, title in enumerate(('Probability of "same"', "Similarity of descriptors")):
        table(title, strengths, np.mean(curves, axis=0)[i])
        both = np.concatenate([look_alikes[i], unrelated[i]])
        negatives(title, {"look-alikes": look_alikes[i], "other objects": unrelated[i], "all": both})


if __name__ == "__main__":
    main()
