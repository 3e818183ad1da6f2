"""The checkpoint of a multimodal language model: beside its weights a tokenizer, how it chats, perhaps an adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imgrank.checkpoints import (
    ADAPTER_CONFIG,
    Checkpoint,
    Config,
    find_checkpoint,
    lacks,
    locate,
    open_checkpoint,
    read_image_processor,
    read_json,
    read_processor,
)
from imgrank.config import BUILTIN
from imgrank.errors import MissingModelError, SettingsError
from imgrank.mllm.lora import Adapter, open_adapter

BUILTIN_FOLDER = Path(__file__).parent / "builtin"
_EXTRA = ["*.json", "*.jinja", "merges.txt"]  # of the tokenizer: several files, whose names differ by release
_TEMPLATE_LIMIT = 2**20  # characters; the longest known is below 20,000


@dataclass(frozen=True, eq=False)
class ModelFolder(Checkpoint):
    """A checkpoint with a tokenizer.

    Where it was given as an adapter, `path` and `config` are those of the base model, and `revision` covers both.

    Attributes:
        chat_template: how messages are written; None: no file of the folder says.
        tokenizer: the folder of the tokenizer: the adapter's where it has one, else `path`.
        adapter: to be merged into the weights.
    """

    chat_template: str | None
    tokenizer: Path
    adapter: Adapter | None


def open_model_folder(
    model: str, revision: str | None = None, *, accept: Callable[[Config], object] = lambda config: None
) -> ModelFolder:
    """Find a model by folder or hub id, or an adapter and its base model; see `find_checkpoint` for the arguments.

    Raises:
        SettingsError: a revision of a folder.
        MissingExtraError: it is an adapter, and peft is not installed.
        MissingModelError: no such model, no network, or a file is missing or unreadable; the message names it.
    """
    if model == BUILTIN:
        return _builtin(revision)
    folder, commit = locate(model, revision)
    if (folder / ADAPTER_CONFIG).exists():
        return _with_adapter(open_adapter(model, folder, commit, _EXTRA), accept)
    found = open_checkpoint(model, folder, commit, accept=_typed(model, accept), extra=_EXTRA)
    return ModelFolder(
        **vars(found), chat_template=_chat_template(model, found.path), tokenizer=_tokenizer(found), adapter=None
    )


def _builtin(revision: str | None) -> ModelFolder:
    if revision is not None:
        raise SettingsError(f"the built-in model has no revision {revision!r}; leave the revision out")
    try:
        found = open_checkpoint(BUILTIN, BUILTIN_FOLDER, None)
        return ModelFolder(
            **vars(found), chat_template=_chat_template(BUILTIN, found.path), tokenizer=_tokenizer(found), adapter=None
        )
    except MissingModelError as error:
        raise MissingModelError(BUILTIN, f"the installation is damaged; reinstall imgrank ({error})") from error


def _with_adapter(adapter: Adapter, accept: Callable[[Config], object]) -> ModelFolder:
    name, path = adapter.name, adapter.path
    try:
        base = find_checkpoint(adapter.base, adapter.base_revision, accept=_typed(adapter.base, accept), extra=_EXTRA)
        tokenizer = path if _has_tokenizer(path) else _tokenizer(base)
    except MissingModelError as error:
        raise MissingModelError(name, f"its base model is of no use: {error}") from error
    merged = dict(vars(base), name=name, revision=adapter.revision_on(base.revision))
    # Training may have prepared photos in its own way.
    if any((path / file).exists() for file in ("preprocessor_config.json", "processor_config.json")):
        merged |= {"image_processor": read_image_processor(name, path), "processor": read_processor(name, path)}
    template = _chat_template(name, path) or _chat_template(name, base.path)
    return ModelFolder(**merged, chat_template=template, tokenizer=tokenizer, adapter=adapter)


def _typed(model: str, accept: Callable[[Config], object]) -> Callable[[Config], object]:
    def check(config: Config) -> object:
        if not isinstance(config.get("model_type"), str):
            raise MissingModelError(
                model, "its config.json lacks model_type, the name of the architecture; download it again"
            )
        return accept(config)

    return check


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").exists() or (folder / "vocab.json").exists()


def _tokenizer(found: Checkpoint) -> Path:
    if not _has_tokenizer(found.path):
        raise lacks(found.name, found.path / "tokenizer.json")
    return found.path


def _chat_template(model: str, folder: Path) -> str | None:
    """Return the template for messages with images.

    A model may have two: one of the tokenizer, for text, and one of the processor, which knows images. The files are
    asked in the order in which transformers' processor and then its tokenizer ask them.
    """
    template = _only(model, folder / "processor_config.json") or _only(model, folder / "chat_template.json")
    if template is None and (folder / "chat_template.jinja").exists():
        template = _text(model, folder / "chat_template.jinja")
    return template or _only(model, folder / "tokenizer_config.json")


def _only(model: str, path: Path) -> str | None:
    """Return the template in a JSON file, or of several named ones the default."""
    template = read_json(model, path).get("chat_template") if path.exists() else None
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default", named)
    if template is None or isinstance(template, str):
        return template
    raise MissingModelError(model, f"{path} has no chat template called default, only others; put one there")


def _text(model: str, path: Path) -> str:
    try:
        if path.stat().st_size <= _TEMPLATE_LIMIT:
            return path.read_text(encoding="utf-8")
        reason = "is too long for a chat template"
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    except ValueError:
        reason = "is not UTF-8 text"
    raise MissingModelError(model, f"{path} {reason}; download it again")
