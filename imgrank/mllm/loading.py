"""Weights and tokenizer of a model folder, through transformers, quietly and safely.

Safetensors only, no code from the folder, no silent random weights. Knows no architecture.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transformers
from safetensors import SafetensorError

from imgrank.devices import is_out_of_memory, torch_dtype
from imgrank.errors import MissingDeviceError, MissingModelError
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.packed import ATTENTION, register


def load_weights(model_class: Any, folder: ModelFolder, *, device: str, dtype: str) -> Any:
    """Load a transformers model in evaluation mode, in `dtype`, on `device`.

    Raises:
        MissingModelError: a tensor is missing or has another shape (transformers would fill it with random numbers),
            or the folder cannot be read.
        MissingDeviceError: the weights do not fit.
    """
    # Straight onto the device only with accelerate, which transformers asks for; else by way of the CPU.
    register()
    direct = device != "cpu" and importlib.util.find_spec("accelerate") is not None
    try:
        with _quiet():
            model, report = model_class.from_pretrained(
                folder.path,
                dtype=torch_dtype(dtype),
                attn_implementation={"": "sdpa", "text_config": ATTENTION},
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **({"device_map": {"": device}} if direct else {}),
            )
        missing = sorted(str(key) for key in report["missing_keys"])
        if missing:
            raise MissingModelError(
                folder.name, f"{folder.path} lacks {len(missing)} tensors, the first is {missing[0]}"
            )
        return model.to(device).eval()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise MissingDeviceError(
                device, f"too little memory for {folder.name}; try a smaller model or --dtype bfloat16"
            ) from error
        raise MissingModelError(folder.name, f"the weights do not fit its config.json: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise MissingModelError(folder.name, f"cannot be loaded from {folder.path}: {error}") from error


def load_tokenizer(folder: ModelFolder) -> Any:
    """Load the tokenizer of the folder.

    Raises:
        MissingModelError: it cannot be read.
    """
    try:
        with _quiet():
            return transformers.AutoTokenizer.from_pretrained(
                folder.path, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the tokenizers library raises the base class itself
        raise MissingModelError(folder.name, f"its tokenizer cannot be loaded from {folder.path}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars and reports off standard error; the caller's settings come back afterwards."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
