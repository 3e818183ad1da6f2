"""The checkpoint of a multimodal language model: beside its weights a tokenizer, and how it chats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imgrank.checkpoints import Checkpoint, Config, find_checkpoint, lacks, read_json

_EXTRA = ["*.json", "*.jinja", "merges.txt"]  # of the tokenizer: several files, whose names differ by release


@dataclass(frozen=True, eq=False)
class ModelFolder(Checkpoint):
    """A checkpoint with a tokenizer.

    Attributes:
        chat_template: the template that older models keep apart from the tokenizer; None: the tokenizer has it.
    """

    chat_template: str | None


def open_model_folder(
    model: str, revision: str | None = None, *, accept: Callable[[Config], object] = lambda config: None
) -> ModelFolder:
    """Find a model by folder or hub id; see `find_checkpoint` for the arguments.

    Raises:
        SettingsError: a revision of a folder.
        MissingModelError: no such model, no network, or a file is missing or unreadable; the message names it.
    """
    found = find_checkpoint(model, revision, accept=accept, extra=_EXTRA)
    if not (found.path / "tokenizer.json").exists() and not (found.path / "vocab.json").exists():
        raise lacks(model, found.path / "tokenizer.json")
    return ModelFolder(**vars(found), chat_template=_chat_template(model, found.path))


def _chat_template(model: str, folder: Path) -> str | None:
    if (folder / "chat_template.jinja").exists() or not (folder / "chat_template.json").exists():
        return None
    template = read_json(model, folder / "chat_template.json").get("chat_template")
    return template if isinstance(template, str) else None
