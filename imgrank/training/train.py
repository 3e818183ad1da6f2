"""The recipe of the built-in model: from drawn subjects on disk to a model folder.

    python -m imgrank.training WORK -o FOLDER

Draws what is missing in WORK, trains, keeps a checkpoint every few minutes, and goes on there when it is started again.
Every batch follows from the seed and the number of its step, so a run that was cut ends as one that was not (up to
the rounding of another number of threads).
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from imgrank.arrays import Floats, unit_rows
from imgrank.encode.builtin import BuiltinEncoder
from imgrank.errors import SettingsError
from imgrank.mllm.keypoint_network import KeypointNetwork
from imgrank.training.corpus import Photos
from imgrank.training.matcher import LossWeights, Matcher, Shape, losses, new_network
from imgrank.training.muon import Muon
from imgrank.training.pairs import OTHER, TWIN, Groups, GroupSettings, Sampler
from imgrank.training.shortened import shortened
from imgrank.training.subjects import SIBLING, VARIANT
from imgrank.training.vocabulary import principal_directions

DESCRIPTOR_PART = 80  # numbers of a token in which the descriptor starts
_NEAREST = 60  # photos of other subjects that negatives are taken from
_HELD_OUT = 0.04  # share of the subjects that only measure
_SIFT_SAMPLE = 120_000
_CHECKPOINT_SECONDS = 400
_LOG_EVERY = 50  # steps
_EMA = 0.999
_AHEAD = 8  # batches drawn ahead


@dataclass(frozen=True)
class Stage:
    """A stretch of the training.

    Attributes:
        steps: of the optimizer.
        tokens: keypoints of a photo; candidates keep all, half or a third of them in turn, those that DivPrune keeps.
        groups: of a batch.
        hardship: see `GroupSettings`.
    """

    steps: int
    tokens: int
    groups: int
    hardship: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, beside the drawn subjects."""

    shape: Shape = field(default_factory=Shape)
    stages: tuple[Stage, ...] = (Stage(720, 128, 16), Stage(560, 192, 10, 1.0), Stage(1000, 384, 5, 1.0))
    learning_rate: float = 1e-3
    warm_up: int = 100
    weight_decay: float = 0.02
    muon: bool = True
    weights: LossWeights = field(default_factory=LossWeights)
    seed: int = 0

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_of(self, step: int) -> Stage:
        """Return the stage that a step belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: a warm-up, then half a cosine to a fiftieth."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        part = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, part))))

    def groups_of(self, step: int) -> GroupSettings:
        """Return how the groups of a step are drawn."""
        stage = self.stage_of(step)
        return GroupSettings(tokens=stage.tokens, candidate_tokens=stage.tokens, hardship=stage.hardship)

    def kept(self, step: int) -> int:
        """Return the tokens that a candidate keeps in a step."""
        return self.stage_of(step).tokens // (1, 2, 1, 3)[step % 4]


def mine(photos: Photos, encoder: BuiltinEncoder | None = None) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the (n, up to _NEAREST) nearest photos of other subjects, and the (n, dim) descriptors of all photos."""
    encoder = encoder or BuiltinEncoder()
    descriptors = np.stack([encoder.aggregate(keypoints) for keypoints in photos.keypoints])
    others = len(photos) - int(np.unique(photos.subject, return_counts=True)[1].max())
    count = min(_NEAREST, others)
    nearest = np.zeros((len(photos), count), dtype=np.int64)
    for start in range(0, len(photos), 1024):
        rows = slice(start, start + 1024)
        similar = descriptors[rows] @ descriptors.T
        similar[photos.subject[rows, None] == photos.subject] = -np.inf
        nearest[rows] = np.argsort(-similar, axis=1, kind="stable")[:, :count]
    return nearest, descriptors


def descriptor_basis(photos: Photos, seed: int) -> tuple[Floats, Floats]:
    """Return the mean of unit RootSIFT vectors and their half-whitened principal directions."""
    rng = np.random.default_rng([0x51F7, seed])
    each = max(1, _SIFT_SAMPLE // max(1, len(photos)))
    rows = [one.root_sift[rng.integers(0, len(one), each)] for one in photos.keypoints if len(one)]
    sift = unit_rows(np.concatenate(rows))
    mean, basis = principal_directions(sift, DESCRIPTOR_PART)
    projected = (sift - mean) @ basis
    basis = basis / np.sqrt(projected.std(axis=0))
    return mean, (basis / ((sift - mean) @ basis).std()).astype(np.float32)


class Training:
    """One run: the model, its optimizer, and where it is kept.

    Args:
        folder: of checkpoints and `log.jsonl`.
        learn: photos to learn from.
        hold: photos that only measure.
        recipe: what to do.
        device: "cpu" or "cuda".
        compile: compile the layers: minutes at the start, twice the speed later.
    """

    def __init__(
        self, folder: Path, learn: Photos, hold: Photos, recipe: Recipe, *, device: str = "cpu", compile: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.recipe, self.device = folder, recipe, device
        self._sampler = Sampler(learn, mine(learn)[0])
        self._measured = Sampler(hold, mine(hold)[0])
        mean, basis = descriptor_basis(learn, recipe.seed)
        self.matcher = Matcher(new_network(recipe.shape, mean, basis, recipe.seed)).to(device)
        self.average = {name: value.detach().clone() for name, value in self.matcher.state_dict().items()}
        self._optimizers = _optimizers(self.matcher, recipe)
        self.step = 0
        self._whole = True  # False while a step has changed some of the weights
        self._resume()
        if compile:
            self.matcher.compile_layers()

    def run(self, *, minutes: float | None = None, note: Callable[[str], None] = print) -> bool:
        """Train to the end of the recipe or for some minutes; return whether the end was reached."""
        try:
            self._run(minutes, note)
        except KeyboardInterrupt:
            if self._whole:
                self._keep()
                note(f"interrupted after step {self.step}")
            raise
        return self.step >= self.recipe.steps

    def _run(self, minutes: float | None, note: Callable[[str], None]) -> None:
        start = saved = time.monotonic()
        seen: list[tuple[dict[str, torch.Tensor], Groups]] = []
        for drawn in self._batches():
            groups = shortened(self.matcher.network.model.connector, drawn, self.recipe.kept(self.step))
            self._whole = False
            seen.append((self._learn(groups), groups))
            self.step += 1
            self._whole = True
            now = time.monotonic()
            if self.step % _LOG_EVERY == 0:
                note(self._log({"step": self.step, "seconds": round(now - start), **_summary(seen)}))
                seen = []
            late = minutes is not None and now - start > 60 * minutes
            if late or now - saved > _CHECKPOINT_SECONDS or self.step == self.recipe.steps:
                self._keep()
                note(self._log({"step": self.step, "held_out": self.measure()}))
                saved = time.monotonic()
            if late:
                break

    def measure(self, batches: int = 4) -> dict[str, float]:
        """Return what the averaged weights reach on held-out subjects, without augmentation."""
        stage = self.recipe.stage_of(self.step - 1)
        settings = GroupSettings(tokens=stage.tokens, candidate_tokens=stage.tokens, choice_noise=0.0, augment=False)
        current = {name: value.detach().clone() for name, value in self.matcher.state_dict().items()}
        self.matcher.load_state_dict(self.average)
        seen = []
        try:
            for number in range(batches):
                groups = self._measured.draw(np.random.default_rng([0x3EA5, number]), stage.groups, settings)
                with torch.no_grad(), self._autocast():
                    seen.append((losses(self.matcher, groups, self.recipe.weights, self.device)[1], groups))
        finally:
            self.matcher.load_state_dict(current)
        return _summary(seen)

    def network(self) -> KeypointNetwork:
        """Return the network with averaged weights, on the CPU."""
        self.matcher.load_state_dict(self.average)
        return self.matcher.network.cpu().eval()

    def _learn(self, groups: Groups) -> dict[str, torch.Tensor]:
        for optimizer in self._optimizers:
            for part in optimizer.param_groups:
                part["lr"] = self.recipe.rate(self.step)
        with self._autocast():
            loss, parts = losses(self.matcher, groups, self.recipe.weights, self.device)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {self.step} is {loss.item()}; go on with a smaller rate")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.matcher.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(_EMA, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.matcher.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        return parts

    def _autocast(self) -> Any:
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16)

    def _batches(self) -> Iterator[Groups]:
        """Draw the batches from the present step on, ahead of their use."""

        def draw(step: int) -> Groups:
            rng = np.random.default_rng([0xBA7C, self.recipe.seed, step])
            return self._sampler.draw(rng, self.recipe.stage_of(step).groups, self.recipe.groups_of(step))

        with ThreadPoolExecutor(1) as pool:
            steps = iter(range(self.step, self.recipe.steps))
            ahead = deque(pool.submit(draw, step) for step in islice(steps, _AHEAD))
            try:
                while ahead:
                    yield ahead.popleft().result()
                    ahead.extend(pool.submit(draw, step) for step in islice(steps, 1))
            finally:
                pool.shutdown(cancel_futures=True)

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _keep(self) -> None:
        state = {
            "recipe": json.dumps(asdict(self.recipe)),
            "step": self.step,
            "matcher": self.matcher.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        part = self._path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self._path)

    def _resume(self) -> None:
        if not self._path.exists():
            return
        state = torch.load(self._path, map_location=self.device, weights_only=True)
        if json.loads(state["recipe"]) != json.loads(json.dumps(asdict(self.recipe))):
            raise SettingsError(
                f"{self._path} was made by another recipe ({state['recipe']}); take another folder, or delete it "
                "to begin anew"
            )
        self.matcher.load_state_dict(state["matcher"])
        self.average = state["average"]
        for optimizer, held in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        self.step = state["step"]

    def _log(self, record: dict[str, Any]) -> str:
        line = json.dumps(record)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")
        return line


def _optimizers(matcher: Matcher, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the layers and AdamW for all else."""
    layers = {id(value) for value in matcher.network.model.language_model.layers.parameters() if value.ndim == 2}
    if not recipe.muon:
        layers = set()
    rest = [value for value in matcher.parameters() if id(value) not in layers]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
    ]
    if layers:
        matrices = [value for value in matcher.parameters() if id(value) in layers]
        found.append(Muon(matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay))
    return found


def split(photos: Photos) -> tuple[Photos, Photos]:
    """Split photos by subject into those to learn from and those to measure on."""
    subjects = np.unique(photos.subject)
    held = photos.subject >= subjects[-max(2, round(len(subjects) * _HELD_OUT))]
    return photos.take(np.flatnonzero(~held)), photos.take(np.flatnonzero(held))


def _summary(seen: list[tuple[dict[str, torch.Tensor], Groups]]) -> dict[str, float]:
    """Return means of the losses, the accuracy, and the AUC against each kind of negative."""
    found = {
        name: float(np.mean([float(parts[name]) for parts, _ in seen])) for name in ("pair", "order", "inlier", "match")
    }
    logits = np.concatenate([parts["logits"].float().cpu().numpy().ravel() for parts, _ in seen])
    kind = np.concatenate([groups.kind.ravel() for _, groups in seen])
    found["accuracy"] = float(((logits > 0) == (kind == 0)).mean())
    for name, number in (("sibling", SIBLING), ("variant", VARIANT), ("other", OTHER), ("twin", TWIN)):
        if (kind == 0).any() and (kind == number).any():
            found[f"auc_{name}"] = _auc(logits[kind == 0], logits[kind == number])
    return {name: round(value, 4) for name, value in found.items()}


def _auc(positive: Floats, negative: Floats) -> float:
    """Return the share of pairs of a positive and a negative that are in order."""
    order = np.sort(negative)
    below, upto = np.searchsorted(order, positive, "left"), np.searchsorted(order, positive, "right")
    return float((below + upto).mean() / 2 / len(negative))
