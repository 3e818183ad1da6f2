"""What the model is asked about a pair of photos.

The order of the built-in prompts is query, candidate, question, as in arXiv:2604.13268; the words are ours. They are
short on purpose: the text after the candidate is run once for each candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from imgrank.config import Task
from imgrank.errors import SettingsError
from imgrank.mllm.answers import Answers
from imgrank.mllm.base import VisionLanguageModel

QUERY, CANDIDATE = "{query}", "{candidate}"
_MAX_PROMPT_BYTES = 64 * 2**10

_QUESTIONS: Mapping[Task, str] = {
    "object": (
        "The first photo shows one particular object. Is this very same object, not just one that looks like it, "
        "somewhere in the second photo? It may be smaller or larger, partly hidden, or among other things."
    ),
    "landmark": (
        "The first photo shows a building, monument or place. Does the second photo show that same building, "
        "monument or place, or a part of it? Viewpoint, crop, season and light may differ."
    ),
    "artwork": (
        "The first photo shows a work of art. Does the second photo show that same work, not another one of its "
        "style, subject or artist? It may be framed, cropped, seen from the side or shown in a room."
    ),
    "product": (
        "The first photo shows a product. Does the second photo show the same product, the same brand, model and "
        "variant? Packaging may be turned, opened, partly hidden or among other goods."
    ),
}
_REPLY = " Reply with one digit only: {positive} if it does, {negative} if it does not."


@dataclass(frozen=True)
class Prompt:
    """A question about two photos.

    Attributes:
        name: the task, or the file it was read from.
        text: the user's turn, with "{query}" and "{candidate}" once each where the photos go; "{positive}" and
            "{negative}" stand for the answers.
        system: system message; None leaves the model's chat format its own.

    Raises:
        SettingsError: a slot for a photo is missing or comes twice.
    """

    name: str
    text: str
    system: str | None = None

    def __post_init__(self) -> None:
        for slot in (QUERY, CANDIDATE):
            if self.text.count(slot) != 1:
                raise SettingsError(
                    f"prompt {self.name!r} must hold {QUERY} and {CANDIDATE} once each, where the photos go; "
                    f"{slot} is there {self.text.count(slot)} times"
                )

    def messages(self, answers: Answers) -> list[dict[str, Any]]:
        """Return the prompt as chat messages."""
        content: list[dict[str, str]] = []
        for piece in self._pieces():
            if piece in (QUERY, CANDIDATE):
                content.append({"type": "image"})
            elif piece.strip():
                content.append({"type": "text", "text": answers.fill(piece)})
        system = [] if self.system is None else [{"role": "system", "content": _text(self.system)}]
        return [*system, {"role": "user", "content": content}]

    @property
    def query_first(self) -> bool:
        """Whether the query's photo stands before the candidate's; the engine is fast only then."""
        return self.text.index(QUERY) < self.text.index(CANDIDATE)

    def _pieces(self) -> list[str]:
        first, second = (QUERY, CANDIDATE) if self.query_first else (CANDIDATE, QUERY)
        before, _, rest = self.text.partition(first)
        between, _, after = rest.partition(second)
        return [before, first, between, second, after]


def _text(words: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": words}]


def prompt_for(task: Task) -> Prompt:
    """Return the built-in prompt of a task.

    Raises:
        SettingsError: no such task.
    """
    if task not in _QUESTIONS:
        raise SettingsError(f"no task {task!r}; known: {', '.join(get_args(Task))}")
    return Prompt(task, QUERY + CANDIDATE + _QUESTIONS[task] + _REPLY)


def read_prompt(path: Path) -> Prompt:
    """Read a prompt from a UTF-8 text file with the slots {query} and {candidate}.

    Raises:
        SettingsError: the file cannot be read, is too long, or lacks a slot.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_PROMPT_BYTES + 1)
        text = content.decode("utf-8-sig").strip()
    except OSError as error:
        raise SettingsError(f"prompt file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"prompt file {path}: not UTF-8 text") from error
    if len(content) > _MAX_PROMPT_BYTES:
        raise SettingsError(f"prompt file {path}: longer than {_MAX_PROMPT_BYTES} bytes")
    return Prompt(str(path), text)


@dataclass(frozen=True)
class Rendered:
    """A prompt in token ids: text, image, text, image, text.

    Attributes:
        before: up to the first image.
        between: from the first image to the second.
        after: from the second image to where the answer begins.
        query_first: whether the first image is the query's.
        answer_ids: token of the negative and of the positive answer.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    query_first: bool
    answer_ids: tuple[int, int]


def render(prompt: Prompt, answers: Answers, model: VisionLanguageModel) -> Rendered:
    """Write a prompt in a model's chat format, and look up the answers where they would come.

    Raises:
        SettingsError: the chat format has no place for images, the prompt's text holds image placeholders of its
            own, or an answer is not a single token there.
    """
    text = model.chat(prompt.messages(answers))
    ids = model.tokenize(text)
    places = [i for i, token in enumerate(ids) if token == model.image_token]
    if len(places) != 2:
        raise SettingsError(
            f"prompt {prompt.name!r} in the chat format of {model.name} has {len(places)} image placeholders, not 2; "
            "its text must not hold special tokens, and the model must be one for images"
        )
    first, second = places
    return Rendered(
        tuple(ids[:first]),
        tuple(ids[first + 1 : second]),
        tuple(ids[second + 1 :]),
        prompt.query_first,
        answers.token_ids(text, model),
    )
