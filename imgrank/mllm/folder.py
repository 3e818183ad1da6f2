"""The folder of a model on disk: where it is, whether it is complete, which weights it holds, how it chats.

Knows the file names of the Hugging Face layout, no architecture. Only JSON, text and safetensors files are fetched
and read, so no code of a model ever runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgrank.errors import MissingModelError, SettingsError

_WANTED = ["*.json", "*.jinja", "merges.txt", "*.safetensors"]
_INDEX = "model.safetensors.index.json"
_MAX_JSON_BYTES = 64 * 2**20
_PIECES, _PIECE_BYTES = 64, 4096  # what the digest reads of a weight file

Config = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class ModelFolder:
    """A complete model on this machine.

    Attributes:
        name: as the user named it.
        path: where its files are.
        revision: the commit hash of a downloaded model, else a digest of the folder (`folder_digest`).
        config: what config.json says.
        image_processor: what preprocessor_config.json, or the image part of processor_config.json, says.
        chat_template: the template that older models keep apart from the tokenizer; None: the tokenizer has it.
    """

    name: str
    path: Path
    revision: str
    config: Config
    image_processor: Config
    chat_template: str | None


def open_model_folder(
    model: str, revision: str | None = None, *, accept: Callable[[Config], object] = lambda config: None
) -> ModelFolder:
    """Find a model by folder or Hugging Face id (downloading it where it is not in the cache), and check its files.

    Args:
        model: a folder, or an id like "Qwen/Qwen3-VL-2B-Instruct".
        revision: branch, tag or commit of an id; a folder has none.
        accept: called with config.json before any weights are downloaded; raises where the model is of no use.

    Raises:
        SettingsError: a revision for a folder.
        MissingModelError: no such folder, the id cannot be fetched, or a file is missing; the message names it.
    """
    path = Path(model).expanduser()
    if model and path.is_dir():
        if revision is not None:
            raise SettingsError(f"{model!r} is a folder and has no revision {revision!r}; leave the revision out")
        config = _read_json(model, path / "config.json")
        accept(config)
        return _checked(model, path, None, config)
    if not model or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise MissingModelError(model, "there is no such folder")
    path = _fetch(model, revision, ["config.json"])
    config = _read_json(model, path / "config.json")
    accept(config)
    commit = path.name  # the hub's cache names a snapshot after its commit
    return _checked(model, _fetch(model, commit, _WANTED), commit, config)


def folder_digest(path: Path, weights: list[Path]) -> str:
    """Return a name for the weights in a folder that changes when they do, without reading all of them.

    BLAKE2b over the bytes of config.json, then of each weight file its name, size and 64 pieces of 4 KiB spread
    evenly from start to end: two fine-tuned models of one architecture have the same header but differ nearly
    everywhere else.
    """
    digest = hashlib.blake2b((path / "config.json").read_bytes(), digest_size=16)
    for file in sorted(weights):
        size = file.stat().st_size
        digest.update(f"\n{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            for piece in range(_PIECES):
                stream.seek(max(0, size - _PIECE_BYTES) * piece // (_PIECES - 1))
                digest.update(stream.read(_PIECE_BYTES))
    return f"blake2b-{digest.hexdigest()}"


def _checked(model: str, path: Path, commit: str | None, config: Config) -> ModelFolder:
    weights = _weight_files(model, path)
    if not (path / "tokenizer.json").exists() and not (path / "vocab.json").exists():
        raise MissingModelError(model, f"{path} lacks tokenizer.json; copy it from where the model was published")
    return ModelFolder(
        model,
        path,
        commit or folder_digest(path, weights),
        config,
        _image_processor(model, path),
        _chat_template(model, path),
    )


def _weight_files(model: str, path: Path) -> list[Path]:
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    if (path / _INDEX).is_file():
        shards = _read_json(model, path / _INDEX).get("weight_map")
        # Bare names: an index must not point outside the folder.
        names = sorted({Path(str(shard)).name for shard in shards.values()}) if isinstance(shards, dict) else []
        for name in names:
            if not (path / name).is_file():
                raise MissingModelError(model, f"{path} lacks {name}, a part of the weights; download it")
        if names:
            return [path / name for name in names]
    pickled = " (pickled weights are not read: they can run code)" if any(path.glob("*.bin")) else ""
    raise MissingModelError(model, f"{path} lacks model.safetensors{pickled}")


def _image_processor(model: str, path: Path) -> Config:
    if not (path / "preprocessor_config.json").exists() and (path / "processor_config.json").exists():
        # transformers 5 saves a whole processor in one file.
        part = _read_json(model, path / "processor_config.json").get("image_processor")
        if isinstance(part, dict):
            return part
    return _read_json(model, path / "preprocessor_config.json")


def _chat_template(model: str, path: Path) -> str | None:
    if (path / "chat_template.jinja").exists() or not (path / "chat_template.json").exists():
        return None
    template = _read_json(model, path / "chat_template.json").get("chat_template")
    return template if isinstance(template, str) else None


def _read_json(model: str, file: Path) -> Config:
    try:
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise MissingModelError(model, f"{file} is too large for a JSON file; download it again")
        values = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise MissingModelError(
            model, f"{file.parent} lacks {file.name}; copy it from where the model was published"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise MissingModelError(model, f"{file} cannot be read ({error}); download it again") from error
    if not isinstance(values, dict):
        raise MissingModelError(model, f"{file} is not a JSON object; download it again")
    return values


def _fetch(model: str, revision: str | None, files: list[str]) -> Path:
    # huggingface_hub comes with transformers; a local folder never waits for it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    # The HTTP library under the hub client changes its name between releases; its base error is in the hub's own.
    network = next(
        (base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError" and issubclass(base, Exception)),
        HfHubHTTPError,
    )
    try:
        with _bars_on_terminals_only():
            return Path(snapshot_download(model, revision=revision, allow_patterns=files))
    except GatedRepoError as error:
        raise MissingModelError(
            model, "its owner asks for a login: accept the terms on its page, then run `hf auth login`"
        ) from error
    except (OSError, ValueError, RuntimeError, network) as error:
        # Some releases of the hub client ask the network for a known commit even when it is in the cache.
        with suppress(OSError, ValueError):
            return Path(snapshot_download(model, revision=revision, local_files_only=True))
        raise MissingModelError(
            model,
            f"there is no such folder, and it cannot be had from the Hugging Face hub ({type(error).__name__}); "
            f"check the name and the network, or run `hf download {model} --local-dir DIR` elsewhere and give DIR",
        ) from error


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    # Where the environment decides, the hub's functions only warn that they cannot.
    if "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ or are_progress_bars_disabled() or sys.stderr.isatty():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
