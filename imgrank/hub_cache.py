"""What of a model is on this machine already: a look into the Hugging Face cache that opens no connection.

It knows the layout of the cache (`models--ORGANIZATION--NAME/refs`, `snapshots/COMMIT`) and which files a checkpoint
consists of; it reads no weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from imgrank.checkpoints import HUB_ID

TOKENIZER = ("tokenizer.json", "vocab.json")  # either of these

_COMMIT = re.compile(r"[0-9A-Za-z]{1,64}")
_INDEX = "model.safetensors.index.json"
_PREPROCESSOR = ("preprocessor_config.json", "processor_config.json")


def snapshot(name: str) -> Path | None:
    """Return the folder that holds the main branch of a hub id in the cache, complete or not; None: there is none."""
    if not HUB_ID.fullmatch(name):
        return None
    from huggingface_hub import constants  # it alone knows what the environment says of the cache's place

    repository = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    folder = repository / "snapshots" / commit
    return folder if _COMMIT.fullmatch(commit) and folder.is_dir() else None


def is_complete(folder: Path, *either: Sequence[str]) -> bool:
    """Tell whether a folder holds a whole checkpoint: configuration, preprocessing and every weight file.

    Args:
        folder: in the Hugging Face layout.
        either: further files; of each group one must be there.
    """
    groups = (("config.json",), *(() if _is_of_timm(folder) else (_PREPROCESSOR,)), *either)
    return all(any((folder / file).is_file() for file in group) for group in groups) and _has_weights(folder)


def in_cache(name: str, *either: Sequence[str]) -> bool:
    """Tell whether a hub id can be loaded without a network; see `is_complete` for `either`."""
    folder = snapshot(name)
    return folder is not None and is_complete(folder, *either)


def _is_of_timm(folder: Path) -> bool:
    """Tell whether config.json describes the preprocessing as well, as timm's do."""
    try:
        return "pretrained_cfg" in json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError, TypeError):
        return False


def _has_weights(folder: Path) -> bool:
    if (folder / "model.safetensors").is_file():
        return True
    try:
        shards = json.loads((folder / _INDEX).read_bytes())["weight_map"].values()
        return bool(shards) and all((folder / Path(str(shard)).name).is_file() for shard in shards)
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return False
