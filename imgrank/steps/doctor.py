"""`doctor`: is what this machine, this device and this model compute what they should?

Scores a few drawn photos along the fast road and along the model's published one, and compares.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from imgrank.arrays import Floats
from imgrank.config import RerankSettings
from imgrank.devices import available_devices, device_name, dtype_reason, free_memory, pick_device, pick_dtype
from imgrank.progress import SILENT, Reporter
from imgrank.steps.features import VisualSource, default_token_settings

_PACKAGES = ("imgrank", "torch", "transformers", "numpy", "h5py", "hnswlib", "opencv-python-headless", "peft")
_SIZES = ((480, 640), (640, 480), (300, 500), (512, 512), (200, 620))  # (height, width); the first is the query
# How far two roads to one logit difference may be apart. Weights of half precision round every layer's output: a
# bfloat16 number near 16 has a step of 0.125.
TOLERANCES = {"float32": 1e-4, "float16": 0.1, "bfloat16": 0.5}
_GPU_FLOAT32 = 1e-3  # kernels of a GPU sum in another order for every shape
_STORED = 0.1  # what rounding tokens for the cache may add


@dataclass(frozen=True)
class Check:
    """Two roads to the same numbers.

    Attributes:
        name: what was compared.
        difference: the largest, in the logit.
        allowed: for this number type.
    """

    name: str
    difference: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Tell whether the difference is as small as it must be; NaN is not."""
        return self.difference <= self.allowed


@dataclass
class Examination:
    """What was found: facts by name, in the order they are told, and checks."""

    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Tell whether every check passed."""
        return all(check.passed for check in self.checks)


def examine(
    mllm: str | None = None, *, device: str = "auto", dtype: str = "auto", reporter: Reporter = SILENT
) -> Examination:
    """Look at this machine, and at a model on it where one is named.

    Args:
        mllm: model id or folder; None looks at the machine alone.
        device: as for a search.
        dtype: as for a search.
        reporter: shows the checks as they run.

    Raises:
        MissingModelError, MissingDeviceError, SettingsError: the model cannot be loaded, or its prompt not be written.
        ImgrankError: the model gives numbers that are not finite.
    """
    device = pick_device(device)
    wanted, dtype = dtype, pick_dtype(device, dtype)
    found = Examination(machine(device, dtype) | {"dtype_reason": dtype_reason(device, wanted)})
    if mllm is not None:
        _examine_model(found, mllm, device, dtype, reporter)
    return found


def machine(device: str = "auto", dtype: str = "auto") -> dict[str, Any]:
    """Return what numbers of this machine depend on: versions of libraries, the device, threads; as JSON."""
    device = pick_device(device)
    dtype = pick_dtype(device, dtype)
    import torch

    facts: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = None
    facts["devices"] = available_devices()
    facts["device"] = device
    facts["device_name"] = device_name(device)
    facts["threads"] = torch.get_num_threads()
    facts["dtype"] = dtype
    facts["attention"] = _attention(device)
    facts["free_memory"] = free_memory(device)
    return facts


def _attention(device: str) -> str:
    if not device.startswith("cuda"):
        return "sdpa"  # there is no other; the module that tries takes seconds to load
    from imgrank.mllm.packed import attention_kernel

    return attention_kernel(device)


def _examine_model(found: Examination, name: str, device: str, dtype: str, reporter: Reporter) -> None:
    from imgrank.mllm.registry import load_mllm
    from imgrank.rerank.packing import PairScorer
    from imgrank.steps.second_stage import choose_prompt
    from imgrank.training.photos import draw_photo

    model = load_mllm(name, device=device, dtype=dtype)
    prompt, answers = choose_prompt(model, RerankSettings(), None)
    scorer = PairScorer(model, prompt, answers)
    settings = replace(default_token_settings(model), reduce="", store="float16")
    source = VisualSource(model, settings)
    photos = [draw_photo(seed, size) for seed, size in enumerate(_SIZES)]
    allowed = _GPU_FLOAT32 if dtype == "float32" and device != "cpu" else TOLERANCES[dtype]
    with reporter.bar(5, "doctor", "check") as advance:
        tokens = [source.of_query(photo) for photo in photos]
        advance(1)
        query, candidates = tokens[0], tokens[1:]
        packed = scorer.score(query, candidates)
        advance(1)
        sizes = {"longer_side": settings.longer_side, "max_tokens": settings.max_tokens}
        plain = [scorer.score_plainly(photos[0], photo, **sizes) for photo in photos[1:]]
        found.checks.append(Check("packed, as the plain forward on pixels", _apart(packed, plain), allowed))
        advance(1)
        single = [scorer.score(query, [candidate])[0] for candidate in candidates]
        found.checks.append(Check("packed, as one candidate at a time", _apart(packed, single), allowed))
        started = time.perf_counter()
        backwards = scorer.score(query, candidates[::-1])[::-1]
        seconds = time.perf_counter() - started
        found.checks.append(Check("in any order", _apart(packed, backwards), allowed))
        advance(1)
        stored = [source.of_tokens(source.to_tokens(photo)) for photo in photos[1:]]
        kept = scorer.score(query, stored)
        found.checks.append(Check("from tokens kept in float16", _apart(packed, kept), allowed + _STORED))
        advance(1)
    found.facts |= {
        "model": model.name,
        "revision": model.revision,
        "family": model.family,
        "prompt": prompt.name,
        "answers": list(answers.grades),
        "tokens_of_a_photo": [len(image) for image in tokens],
        "chunk_tokens": scorer.chunk_tokens,
        "seconds_per_pair": round(seconds / len(candidates), 4),
        "logits": [round(float(logit), 4) for logit in packed],
        "free_memory": free_memory(device),
    }


def _apart(one: Floats, other: Iterable[float]) -> float:
    return float(np.abs(one - np.asarray(list(other), dtype=np.float32)).max())
