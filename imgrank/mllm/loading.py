"""Weights and tokenizer of a multimodal language model; knows no architecture."""

from __future__ import annotations

import importlib.util
from typing import Any

import transformers

from imgrank.errors import MissingModelError
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.packed import ATTENTION, register
from imgrank.pretrained import load_model, quiet


def load_weights(model_class: Any, folder: ModelFolder, *, device: str, dtype: str) -> Any:
    """Load a transformers model in evaluation mode, in `dtype`, on `device`, ready for packed suffixes.

    Raises:
        MissingModelError, MissingDeviceError: see `imgrank.pretrained.load_model`.
    """
    register()
    # Straight onto the device only with accelerate, which transformers asks for; else by way of the CPU.
    direct = device != "cpu" and importlib.util.find_spec("accelerate") is not None
    options: dict[str, Any] = {"device_map": {"": device}} if direct else {}
    return load_model(
        model_class,
        folder,
        device=device,
        dtype=dtype,
        attn_implementation={"": "sdpa", "text_config": ATTENTION},
        **options,
    )


def load_tokenizer(folder: ModelFolder) -> Any:
    """Load the tokenizer of the folder.

    Raises:
        MissingModelError: it cannot be read.
    """
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(
                folder.path, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the tokenizers library raises the base class itself
        raise MissingModelError(folder.name, f"its tokenizer cannot be loaded from {folder.path}: {error}") from error
