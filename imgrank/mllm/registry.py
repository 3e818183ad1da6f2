"""Which architecture is served by which adapter, and the one function that loads a model.

The adapters are named as strings and imported on use, so that this list costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from imgrank.devices import pick_device, pick_dtype
from imgrank.errors import SettingsError, UnknownModelError
from imgrank.mllm.base import VisionLanguageModel
from imgrank.mllm.catalogue import KNOWN
from imgrank.mllm.folder import open_model_folder

ADAPTERS = {  # `model_type` of config.json -> module and class
    "gemma3": ("imgrank.mllm.gemma3", "Gemma3"),
    "imgrank_keypoints": ("imgrank.mllm.keypoints", "KeypointPairs"),
    "idefics3": ("imgrank.mllm.idefics3", "Idefics3"),
    "internvl": ("imgrank.mllm.internvl", "InternVL"),
    "llava_onevision": ("imgrank.mllm.llava_onevision", "LlavaOnevision"),
    "qwen2_5_vl": ("imgrank.mllm.qwen2_5_vl", "Qwen25VL"),
    "qwen2_vl": ("imgrank.mllm.qwen2_vl", "Qwen2VL"),
    "qwen3_5": ("imgrank.mllm.qwen3_5", "Qwen35"),
    "qwen3_5_moe": ("imgrank.mllm.qwen3_5", "Qwen35Moe"),
    "qwen3_vl": ("imgrank.mllm.qwen3_vl", "Qwen3VL"),
    "smolvlm": ("imgrank.mllm.idefics3", "SmolVLM"),
}


def load_mllm(
    model: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compile: bool = False,
    alike: Iterable[str] = (),
) -> VisionLanguageModel:
    """Load a multimodal language model, ready to encode photos and to score pairs.

    Args:
        model: a folder in the Hugging Face layout, or an id. Code that a model brings along is never run.
        revision: branch, tag or commit of an id.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "float16" or "bfloat16".
        compile: compile the language model before its first use: minutes, for a faster device later.
        alike: names that may have been meant where there is no such model, beside those of the catalogue.

    Raises:
        SettingsError: the architecture has no adapter (the message names those that have one), or a device or number
            type has no such name.
        MissingModelError: the folder or id is not there (the message names close ones), or lacks a file.
        MissingDeviceError: the device does not exist, or is too small for the weights.
    """
    device = pick_device(device)
    dtype = pick_dtype(device, dtype)
    try:
        folder = open_model_folder(model, revision, accept=lambda config: _adapter_of(model, config))
    except UnknownModelError as error:
        raise error.among((*(one.name for one in KNOWN), *alike)) from error
    module, name = _adapter_of(model, folder.config)
    adapter = getattr(importlib.import_module(module), name)
    loaded: VisionLanguageModel = adapter.load(folder, device=device, dtype=dtype)
    if compile:
        loaded.compile_layers()
    return loaded


def _adapter_of(model: str, config: Mapping[str, Any]) -> tuple[str, str]:
    family = config.get("model_type")
    if family not in ADAPTERS:
        raise SettingsError(
            f"model {model!r}: architecture {family!r} cannot score pairs of photos here; "
            f"supported: {', '.join(sorted(ADAPTERS))}"
        )
    return ADAPTERS[family]
