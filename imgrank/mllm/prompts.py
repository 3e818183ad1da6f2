"""What the model is asked about a pair of photos.

The order of the built-in prompts is query, candidate, question, as in arXiv:2604.13268, or question, query, candidate;
the words are ours and suit both. They are short on purpose: the text after the candidate is run once for each
candidate. Models that were tuned to re-rank have prompts of their own, in `profiles`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from imgrank.config import PromptLayout, Task
from imgrank.errors import SettingsError
from imgrank.mllm.answers import Answers, read_text
from imgrank.mllm.base import VisionLanguageModel

QUERY, CANDIDATE, REPLY = "{query}", "{candidate}", "{reply}"
_MAX_PROMPT_BYTES = 64 * 2**10

_QUESTIONS: Mapping[Task, str] = {
    "object": (
        "The first photo shows one particular object. Does the second photo show this very same object, not just one "
        "that looks like it? It may be smaller or larger, partly hidden, or among other things."
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
    "category": (
        "The first photo shows an object. Does the second photo show an object of the same category? It need not be "
        "the very same one. It may be smaller or larger, partly hidden, or among other things."
    ),
}
_TWO = "Reply with one {kind} only: {positive} if it does, {negative} if it does not."
_GRADED = (
    "Reply with one {kind} only, by how sure that is: {negative} if it surely does not, {positive} if it surely does, "
    "or {between}."
)
_EXAMPLE = QUERY + CANDIDATE + "Do both photos show the same door? Reply {positive} or {negative}."


@dataclass(frozen=True)
class Prompt:
    """A question about two photos.

    Attributes:
        name: the task, or the file it was read from.
        text: the user's turn, with "{query}" and "{candidate}" once each where the photos go; "{positive}" and
            "{negative}" stand for the answers, "{between}" for those between them, "{kind}" for "digit" or "word",
            and "{reply}" for a sentence that asks for one of them. All else, white space too, is what the model reads.
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
                    f"{slot} is there {self.text.count(slot)} times; for example: {_EXAMPLE}"
                )

    def messages(self, answers: Answers) -> list[dict[str, Any]]:
        """Return the prompt as chat messages."""
        content: list[dict[str, str]] = []
        for piece in self._pieces():
            if piece in (QUERY, CANDIDATE):
                content.append({"type": "image"})
            elif piece:
                text = piece.replace(REPLY, _GRADED if answers.graded else _TWO)
                content.append({"type": "text", "text": answers.fill(text)})
        system = [] if self.system is None else [{"role": "system", "content": _text(self.system)}]
        return [*system, {"role": "user", "content": content}]

    @property
    def query_first(self) -> bool:
        """Whether the query's photo stands before the candidate's; the engine is fast only then."""
        return self.text.index(QUERY) < self.text.index(CANDIDATE)

    def swapped(self) -> Prompt:
        """Return the prompt with the roles exchanged: the query's photo stands where the candidate's stood."""
        exchanged = {QUERY: CANDIDATE, CANDIDATE: QUERY}
        return replace(self, text="".join(exchanged.get(piece, piece) for piece in self._pieces()))

    def _pieces(self) -> list[str]:
        first, second = (QUERY, CANDIDATE) if self.query_first else (CANDIDATE, QUERY)
        before, _, rest = self.text.partition(first)
        between, _, after = rest.partition(second)
        return [before, first, between, second, after]


def _text(words: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": words}]


def prompt_for(task: Task, layout: PromptLayout = "images-first") -> Prompt:
    """Return the built-in prompt of a task.

    Args:
        task: what is to be the same.
        layout: "images-first": query, candidate, question, as in the paper. "instruction-first": question, query,
            candidate, so that all text is shared and a candidate costs its visual tokens and the end of the turn.

    Raises:
        SettingsError: no such task or layout.
    """
    check_task(task)
    if layout not in get_args(PromptLayout):
        raise SettingsError(f"no prompt layout {layout!r}; known: {', '.join(get_args(PromptLayout))}")
    photos, question = QUERY + CANDIDATE, f"{_QUESTIONS[task]} {REPLY}"
    if layout == "instruction-first":
        return Prompt(task, question + photos)
    return Prompt(task, photos + question)


def check_task(task: str) -> None:
    """Refuse a task that no prompt is known for.

    Raises:
        SettingsError: no such task.
    """
    if task not in get_args(Task):
        raise SettingsError(f"no task {task!r}; known: {', '.join(get_args(Task))}")


def read_prompt(path: Path) -> Prompt:
    """Read a prompt from a UTF-8 text file with the slots {query} and {candidate}.

    Raises:
        SettingsError: the file cannot be read, is too long, or lacks a slot.
    """
    return Prompt(str(path), read_text(path, "prompt file", _MAX_PROMPT_BYTES).strip())


@dataclass(frozen=True)
class Rendered:
    """A prompt in token ids: text, image, text, image, text.

    Attributes:
        before: up to the first image.
        between: from the first image to the second.
        after: from the second image to where the answer begins.
        query_first: whether the first image is the query's.
        answer_ids: tokens of the answers, by grade: "surely not the same" first, "surely the same" last.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    query_first: bool
    answer_ids: tuple[int, ...]


def render(prompt: Prompt, answers: Answers, model: VisionLanguageModel) -> Rendered:
    """Write a prompt in a model's chat format, and look up the answers where they would come.

    Raises:
        SettingsError: the chat format has no place for images, the prompt's text holds image placeholders of its
            own, or an answer is not a single token there.
    """
    text = model.chat(prompt.messages(answers))
    ids, answer_ids = answers.tokens(text, model)
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
        answer_ids,
    )
