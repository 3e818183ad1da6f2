"""Weights and tokenizer of a multimodal language model; knows no architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers

from imgrank.errors import MissingModelError
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.lora import merge_adapter
from imgrank.mllm.packed import ATTENTION, register
from imgrank.pretrained import in_a_line, load_model, quiet

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)


def load_weights(model_class: Any, folder: ModelFolder, *, device: str, dtype: str) -> Any:
    """Load a transformers model in evaluation mode, in `dtype`, on `device`, ready for packed suffixes.

    Raises:
        MissingModelError, MissingDeviceError: see `imgrank.pretrained.load_model`, and `imgrank.mllm.lora` for a
            folder with an adapter.
    """
    register()
    network = load_model(
        model_class,
        folder,
        device=device,
        dtype=dtype,
        attn_implementation={"": "sdpa", "text_config": ATTENTION},
    )
    return network if folder.adapter is None else merge_adapter(network, folder.adapter, device=device)


def load_tokenizer(folder: ModelFolder) -> Any:
    """Load the tokenizer of the folder.

    Raises:
        MissingModelError: it cannot be read.
    """
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(
                folder.tokenizer, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the tokenizers library raises the base class itself
        raise MissingModelError(
            folder.name, f"its tokenizer cannot be loaded: {_culprit(folder.tokenizer, error)}; download it again"
        ) from error


def _culprit(folder: Path, error: Exception) -> str:
    """Say which file is damaged where that can be told, for the libraries do not."""
    for file in _TOKENIZER_FILES:
        try:
            content = json.loads((folder / file).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as damage:
            return f"{folder / file} is not JSON ({damage})"
        if not isinstance(content, dict):
            return f"{folder / file} is not a JSON object"
    return f"{folder} ({in_a_line(error)})"
