"""Find the files of a Hugging Face checkpoint, in a folder or on the hub, and say which weights they are.

Only JSON and safetensors files are asked for, so no code of a checkpoint ever runs. This module knows no model family.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgrank.errors import MissingModelError, SettingsError

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")

_JSON_LIMIT = 16 * 2**20  # bytes; the largest known config or shard index is below 1 MiB
_BLOCKS, _BLOCK = 64, 4096  # of each weight file: how many places are read, and bytes at each
_FILES = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A complete checkpoint on this machine.

    Attributes:
        name: as the user gave it.
        folder: where the files lie.
        revision: the commit hash for a hub id; for a folder `digest_of`.
        config: what config.json says.
        preprocessor: how photos become pixel values, as preprocessor_config.json says.
    """

    name: str
    folder: Path
    revision: str
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]


def find_checkpoint(
    name: str, revision: str | None = None, *, accept: Callable[[Mapping[str, Any]], object] = lambda config: None
) -> Checkpoint:
    """Find a checkpoint, downloading it where it is a hub id that is not in the cache.

    Args:
        name: a folder, or a hub id "organization/name".
        revision: branch, tag or commit of a hub id; None: its main branch.
        accept: is called with config.json before any weights are downloaded, and raises where the model is of no use.

    Raises:
        SettingsError: a revision of a folder.
        MissingModelError: no such model, no network, or a file is missing or unreadable; the message names it.
    """
    if is_folder(name):
        folder = Path(name).expanduser()
        if revision is not None:
            raise SettingsError(f"{name!r} is a folder, which has no revision {revision!r}; leave the revision out")
        config = _read_json(name, folder, "config.json")
        accept(config)
        weights = _weight_files(name, folder)
        return Checkpoint(name, folder, digest_of(folder, weights), config, _preprocessor(name, folder))
    folder = _from_hub(name, revision, ["config.json"])
    config = _read_json(name, folder, "config.json")
    accept(config)
    folder = _from_hub(name, folder.name, _FILES)  # the cache names a snapshot's folder after its commit
    _weight_files(name, folder)
    return Checkpoint(name, folder, folder.name, config, _preprocessor(name, folder))


def is_folder(name: str) -> bool:
    """Tell whether a model's name is a folder on this machine; a folder goes before a hub id of the same name."""
    return name != "" and Path(name).expanduser().is_dir()


def digest_of(folder: Path, weights: list[Path]) -> str:
    """Digest the identity of a folder's weights without reading them whole.

    BLAKE2b over config.json and, for each weight file, its name, its size and 64 blocks of 4 KiB spread evenly from
    its first byte to its last. The header alone would not do: two fine-tuned copies of one architecture have equal
    headers. Weights that differ in a few places only may still get equal digests.
    """
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=16)
    for path in sorted(weights):
        size = path.stat().st_size
        digest.update(f"\n{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(max(0, size - _BLOCK) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return f"blake2b-{digest.hexdigest()}"


def _read_json(name: str, folder: Path, file: str) -> Mapping[str, Any]:
    path = folder / file
    try:
        size = path.stat().st_size
        if size > _JSON_LIMIT:
            raise MissingModelError(name, f"{path} has {size} bytes, too many for a {file}; download it again")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MissingModelError(name, f"{folder} lacks {file}; copy it from where the model was published") from None
    except OSError as error:
        raise MissingModelError(name, f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise MissingModelError(name, f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise MissingModelError(name, f"{path} is not a JSON object; download it again")
    return value


def _preprocessor(name: str, folder: Path) -> Mapping[str, Any]:
    # No fallback to a family's usual values: the resolution differs between checkpoints of one family, and a wrong
    # one gives descriptors that look right and rank badly.
    if not (folder / "preprocessor_config.json").exists() and (folder / "processor_config.json").exists():
        # Where a whole processor was saved by transformers 5, the image part lies inside this file.
        inner = _read_json(name, folder, "processor_config.json").get("image_processor")
        if isinstance(inner, dict):
            return inner
    return _read_json(name, folder, "preprocessor_config.json")


def _weight_files(name: str, folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    index = "model.safetensors.index.json"
    if (folder / index).exists():
        shards = _read_json(name, folder, index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise MissingModelError(name, f"{folder / index} names no weight files; download it again")
        # A shard is a bare file name: nothing outside the folder is opened.
        paths = [folder / Path(str(shard)).name for shard in sorted(set(map(str, shards.values())))]
        for path in paths:
            if not path.exists():
                raise MissingModelError(name, f"{folder} lacks {path.name}, which {index} names; download it")
        return paths
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    instead = f" ({pickled[0]} is not read: such files can run code)" if pickled else ""
    raise MissingModelError(
        name, f"{folder} lacks model.safetensors{instead}; take a revision that has it, or convert the weights"
    )


def _from_hub(name: str, revision: str | None, files: list[str]) -> Path:
    # huggingface_hub belongs to transformers; it is imported here so that a folder never waits for it.
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        with _no_bars_in_pipes():
            return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except GatedRepoError as error:
        reason = "its owner asks for a login: accept the terms on its page, then run `hf auth login`"
        raise MissingModelError(name, reason) from error
    except RevisionNotFoundError as error:
        raise MissingModelError(name, f"the hub has no revision {revision!r} of it") from error
    except RepositoryNotFoundError as error:
        reason = "the hub has no such model, or not for you (`hf auth login`), and there is no such folder"
        raise MissingModelError(name, reason) from error
    except (OSError, ValueError, RuntimeError, _network_error()) as error:
        if constants.HF_HUB_OFFLINE:
            why = "it is not in the cache, and HF_HUB_OFFLINE forbids looking further; unset it"
        else:
            why = f"it is not in the cache, and the hub cannot be reached ({type(error).__name__}); go online once"
        reason = f"{why}, or give a folder that holds config.json, preprocessor_config.json and model.safetensors"
        raise MissingModelError(name, reason) from error


def _network_error() -> type[Exception]:
    """Return the base of the errors that the hub client's HTTP library raises, which has changed its name."""
    from huggingface_hub.errors import HfHubHTTPError

    for base in HfHubHTTPError.__mro__:
        if base.__name__ == "HTTPError" and issubclass(base, Exception):
            return base
    return HfHubHTTPError


@contextmanager
def _no_bars_in_pipes() -> Iterator[None]:
    """Draw no download bar where standard error is not a terminal, and leave the setting as it was."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    asked = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") is not None
    if asked or are_progress_bars_disabled() or sys.stderr.isatty():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
