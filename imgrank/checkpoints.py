"""Find the files of a model in the Hugging Face layout, in a folder or on the hub, and say which weights they are.

Only JSON, text and safetensors files are asked for, so no code of a model ever runs. This module knows no
architecture and loads no weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from imgrank.errors import MissingModelError, SettingsError, UnknownModelError

Config = Mapping[str, Any]  # a JSON object

HUB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")

ADAPTER_CONFIG = "adapter_config.json"  # of a PEFT adapter, which is the difference to a base model

_JSON_LIMIT = 16 * 2**20  # bytes; the largest known config or shard index is below 1 MiB
_HEADER_LIMIT = 100_000_000  # bytes of JSON before the tensors, as safetensors itself has it
_BLOCKS, _BLOCK = 64, 4096  # of each weight file: how many places are read, and bytes at each
_INDEX = "model.safetensors.index.json"
_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    _INDEX,
    "model-*-of-*.safetensors",
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A complete checkpoint on this machine.

    Attributes:
        name: as the user gave it.
        path: the folder where the files lie.
        revision: the commit hash for a hub id; for a folder `digest_of`.
        config: what config.json says.
        image_processor: how photos become pixel values: preprocessor_config.json, or the image part of
            processor_config.json; empty where it need not be there.
        processor: what processor_config.json says, such as how many tokens stand for an image; empty where there is
            no such file.
        numbers: how many numbers (not bytes) the weights are, as the headers of their files have it.
    """

    name: str
    path: Path
    revision: str
    config: Config
    image_processor: Config
    processor: Config
    numbers: int


def find_checkpoint(
    name: str,
    revision: str | None = None,
    *,
    accept: Callable[[Config], object] = lambda config: None,
    extra: Sequence[str] = (),
    preprocessor: bool = True,
) -> Checkpoint:
    """Find a checkpoint, downloading it where it is a hub id that is not in the cache.

    Args:
        name: a folder, or a hub id "organization/name".
        revision: branch, tag or commit of a hub id; None: its main branch.
        accept: is called with config.json before any weights are downloaded, and raises where the model is of no use.
        extra: patterns of further files to download, beside the configuration and the weights.
        preprocessor: whether it must say how photos become pixel values; timm's say so in config.json.

    Raises:
        SettingsError: a revision of a folder.
        MissingModelError: no such model, no network, or a file is missing or unreadable; the message names it.
    """
    folder, commit = locate(name, revision)
    return open_checkpoint(name, folder, commit, accept=accept, extra=extra, preprocessor=preprocessor)


def locate(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """Find where the configuration of a model or of an adapter lies; nothing else needs to be there yet.

    Returns:
        The folder, and the commit hash where it belongs to a hub id, else None.

    Raises:
        SettingsError, MissingModelError: as `find_checkpoint`.
    """
    if is_folder(name):
        if revision is not None:
            raise SettingsError(f"{name!r} is a folder, which has no revision {revision!r}; leave the revision out")
        return Path(name).expanduser(), None
    if not HUB_ID.fullmatch(name):
        raise UnknownModelError(name, "there is no such folder, and ids on the Hugging Face hub are ORGANIZATION/NAME")
    folder = fetch(name, revision, ["config.json", ADAPTER_CONFIG])
    return folder, folder.name  # the cache names a snapshot's folder after its commit


def open_checkpoint(
    name: str,
    folder: Path,
    commit: str | None,
    *,
    accept: Callable[[Config], object] = lambda config: None,
    extra: Sequence[str] = (),
    preprocessor: bool = True,
) -> Checkpoint:
    """Complete what `locate` found, and check it; see `find_checkpoint` for the other arguments.

    Raises:
        MissingModelError: a file is missing or unreadable, or it is an adapter and no whole model.
    """
    if (folder / ADAPTER_CONFIG).exists():
        # With its adapter library installed, transformers would load the adapter unasked; without, leave it out.
        raise MissingModelError(
            name,
            f"{folder / ADAPTER_CONFIG} makes it an adapter, and a whole model is needed here; "
            "merge it into its base model, or move that file away if the weights are whole",
        )
    config = read_json(name, folder / "config.json")
    accept(config)
    if commit is not None:
        folder = fetch(name, commit, [*_FILES, *extra])
    weights = _weight_files(name, folder)
    numbers = sum(count_numbers(name, path) for path in weights)
    return Checkpoint(
        name,
        folder,
        digest_of(folder, weights) if commit is None else commit,
        config,
        read_image_processor(name, folder) if preprocessor else {},
        read_processor(name, folder),
        numbers,
    )


def is_folder(name: str) -> bool:
    """Tell whether a model's name is a folder on this machine; a folder goes before a hub id of the same name."""
    with suppress(RuntimeError):  # ~ of somebody without a home
        return name != "" and Path(name).expanduser().is_dir()
    return False


def digest_of(folder: Path, weights: Sequence[Path]) -> str:
    """Digest the identity of a folder's weights without reading them whole.

    BLAKE2b over config.json and, for each weight file, its name, its size and 64 blocks of 4 KiB spread evenly from
    its first byte to its last. The header alone would not do: two fine-tuned copies of one architecture have equal
    headers. Weights that differ in a few places only may still get equal digests.
    """
    return digest_of_files(folder / "config.json", weights)


def digest_of_files(config: Path, weights: Sequence[Path]) -> str:
    """Digest a configuration file whole and weight files in places; see `digest_of`."""
    digest = hashlib.blake2b(config.read_bytes(), digest_size=16)
    for path in sorted(weights):
        size = path.stat().st_size
        digest.update(f"\n{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(max(0, size - _BLOCK) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return f"blake2b-{digest.hexdigest()}"


def read_json(name: str, path: Path) -> Config:
    """Read a JSON object of a model's folder.

    Args:
        name: of the model, for messages.
        path: the file.

    Raises:
        MissingModelError: the file is missing, cannot be read, is unreasonably large or holds something else.
    """
    try:
        size = path.stat().st_size
        if size > _JSON_LIMIT:
            raise MissingModelError(name, f"{path} has {size} bytes, too many for a {path.name}; download it again")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise lacks(name, path) from None
    except OSError as error:
        raise MissingModelError(name, f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise MissingModelError(name, f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise MissingModelError(name, f"{path} is not a JSON object; download it again")
    return value


def lacks(name: str, path: Path) -> MissingModelError:
    """Return the error of a model whose folder has no file at `path`."""
    return MissingModelError(name, f"{path.parent} lacks {path.name}; copy it from where the model was published")


def read_processor(name: str, folder: Path) -> Config:
    """Return what processor_config.json says, which not every model has.

    Raises:
        MissingModelError: it cannot be read.
    """
    path = folder / "processor_config.json"
    return read_json(name, path) if path.exists() else {}


def read_image_processor(name: str, folder: Path) -> Config:
    """Return how photos become pixel values.

    Raises:
        MissingModelError: the file is missing or cannot be read.
    """
    # No fallback to a family's usual values: the resolution differs between checkpoints of one family, and a wrong
    # one gives descriptors that look right and rank badly.
    if not (folder / "preprocessor_config.json").exists() and (folder / "processor_config.json").exists():
        # Where a whole processor was saved by transformers 5, the image part lies inside this file.
        part = read_processor(name, folder).get("image_processor")
        if isinstance(part, dict):
            return part
    return read_json(name, folder / "preprocessor_config.json")


def _weight_files(name: str, folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if (folder / _INDEX).is_file():
        shards = read_json(name, folder / _INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise MissingModelError(name, f"{folder / _INDEX} names no weight files; download it again")
        # A shard is a bare file name: nothing outside the folder is opened.
        paths = [folder / file for file in sorted({Path(str(shard)).name for shard in shards.values()})]
        for path in paths:
            if not path.is_file():
                raise MissingModelError(name, f"{folder} lacks {path.name}, which {_INDEX} names; download it")
        return paths
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    instead = f" ({pickled[0]} is not read: such files can run code)" if pickled else ""
    raise MissingModelError(
        name, f"{folder} lacks model.safetensors{instead}; take a revision that has it, or convert the weights"
    )


def count_numbers(name: str, path: Path) -> int:
    """Return how many numbers a safetensors file holds, having checked that it is as long as its header says.

    Raises:
        MissingModelError: it is cut short, is something else or cannot be read.
    """
    what = f"its weights cannot be loaded: {path}"
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            header = file.read(length) if length <= min(size, _HEADER_LIMIT) else b""
    except OSError as error:
        raise MissingModelError(name, f"{what} cannot be read: {error.strerror or error}") from error
    if start.startswith(b"version "):
        raise MissingModelError(name, f"{what} is a Git LFS pointer to them; run `git lfs pull` in its folder")
    try:
        tensors = [tensor for key, tensor in json.loads(header).items() if key != "__metadata__"]
        end = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        numbers: int = sum(math.prod(tensor["shape"]) for tensor in tensors)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise MissingModelError(name, f"{what} is not a safetensors file, or cut short; download it again") from error
    if size != end:
        raise MissingModelError(name, f"{what} has {size} bytes, but its header says {end}; download it again")
    return numbers


def fetch(name: str, revision: str | None, files: Sequence[str]) -> Path:
    """Return the folder in the hub client's cache that holds files of a hub id, downloading those it lacks.

    Args:
        name: the hub id.
        revision: branch, tag or commit; None: the main branch.
        files: patterns; those that match nothing are no error.

    Raises:
        MissingModelError: the hub has no such model or revision, or neither network nor cache has it.
    """
    # huggingface_hub belongs to transformers; it is imported here so that a folder never waits for it.
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    get = partial(snapshot_download, name, revision=revision, allow_patterns=list(files))
    try:
        with _no_bars_in_pipes():
            return Path(get())
    except GatedRepoError as error:
        reason = "its owner asks for a login: accept the terms on its page, then run `hf auth login`"
        raise MissingModelError(name, reason) from error
    except RevisionNotFoundError as error:
        raise MissingModelError(name, f"the hub has no revision {revision!r} of it") from error
    except RepositoryNotFoundError as error:
        reason = "the hub has no such model, or not for you (`hf auth login`), and there is no such folder"
        raise UnknownModelError(name, reason) from error
    except (OSError, ValueError, RuntimeError, _network_error()) as error:
        # Some releases of the hub client (1.x) ask the hub what files a known commit has, though all are in the cache.
        with suppress(OSError, ValueError):
            return Path(get(local_files_only=True))
        if constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE forbids looking further; unset it"
        else:
            why = f"the hub cannot be reached ({type(error).__name__}); go online once"
        reason = (
            f"there is no such folder, it is not in the cache, and {why}, "
            f"or run `hf download {name} --local-dir DIR` elsewhere and give DIR"
        )
        raise UnknownModelError(name, reason) from error


def _network_error() -> type[Exception]:
    """Return the base of the errors that the hub client's HTTP library raises, which has changed its name."""
    from huggingface_hub.errors import HfHubHTTPError

    own: type[Exception] = HfHubHTTPError
    return next((base for base in own.__mro__ if base.__name__ == "HTTPError" and issubclass(base, Exception)), own)


@contextmanager
def _no_bars_in_pipes() -> Iterator[None]:
    """Draw no download bar where standard error is not a terminal, and leave the setting as it was."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    # Where the environment decides, the client's functions only warn that they cannot.
    asked = "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ
    if asked or are_progress_bars_disabled() or sys.stderr.isatty():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
