"""The answers whose logits are compared, and their token ids.

Knows nothing of photos, and nothing of how logits become a score (`imgrank.rerank.grades`). Two answers, "not the same"
and "the same", are the shortest of scales: more of them are grades of how sure a model is. Each is one token, because
all are read at one position; so there is no grade "10", which many tokenizers split, and of which "1" is the beginning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imgrank.errors import SettingsError
from imgrank.mllm.base import VisionLanguageModel

FEWEST, MOST = 2, 10  # answers
_MAX_FILE_BYTES = 4 * 2**10
_LINE = re.compile(r"(same|different|grade\s+([0-9]+))\s*:\s*(\S.*)")
_GRADES = {"different": 0, "same": 1}
_SLOT = re.compile(r"\{(positive|negative|between|kind)\}")


@dataclass(frozen=True, init=False)
class Answers:
    """What a model may say, from "surely not the same" to "surely the same"; each must be one token.

    Attributes:
        grades: 2 to 10 words; the place of a word is its grade.

    Raises:
        SettingsError: fewer or more words, an empty one, or one that comes twice.
    """

    grades: tuple[str, ...]

    def __init__(self, *grades: str) -> None:
        object.__setattr__(self, "grades", grades or ("0", "1"))
        if not FEWEST <= len(self.grades) <= MOST:
            raise SettingsError(f"there must be {FEWEST} to {MOST} answers, not {len(self.grades)}")
        if not all(self.grades) or len(set(self.grades)) < len(self.grades):
            raise SettingsError(f"the answers must be different words, not {' and '.join(map(repr, self.grades))}")

    @property
    def negative(self) -> str:
        """The answer of the lowest grade."""
        return self.grades[0]

    @property
    def positive(self) -> str:
        """The answer of the highest grade."""
        return self.grades[-1]

    @property
    def graded(self) -> bool:
        """Whether there is anything between the two."""
        return len(self.grades) > 2

    @property
    def kind(self) -> str:
        """What a reply is to be: "digit" where all answers are one, else "word"."""
        return "digit" if all(len(grade) == 1 and grade.isdecimal() for grade in self.grades) else "word"

    @property
    def between(self) -> str:
        """The answers between the lowest and the highest, as a prompt names them; "" where there are none."""
        middle = self.grades[1:-1]
        if middle and self.kind == "digit":
            digits = [int(grade) for grade in self.grades]
            if digits == list(range(digits[0], digits[-1] + 1)):
                return "a digit in between"
        return " or ".join(middle)

    def fill(self, text: str) -> str:
        """Put the answers into a prompt's text at {positive}, {negative} and {between}, and their kind at {kind}."""
        return _SLOT.sub(lambda slot: str(getattr(self, slot[1])), text)

    def tokens(self, text: str, model: VisionLanguageModel) -> tuple[list[int], tuple[int, ...]]:
        """Return the ids of a prompt up to where the answers part, and the ids of the answers, by grade.

        After a header that ends in a colon ("Assistant:") a reply begins with a space. What the replies then have
        in common, such as a token for that space before a digit, belongs to the prompt.

        Raises:
            SettingsError: an answer takes several tokens, merges with the end of the text, or is the token of another.
        """
        space = " " if text.endswith(":") else ""
        before = model.tokenize(text)
        replies = [_reply(text, before, space, answer, model) for answer in self.grades]
        shared = list(before)
        if space and min(map(len, replies)) > 1 and len({reply[0] for reply in replies}) == 1:
            shared.append(replies[0][0])
            replies = [reply[1:] for reply in replies]
        for answer, ids in zip(self.grades, replies, strict=True):
            if len(ids) != 1:
                raise SettingsError(
                    f"answer {answer!r} is {len(ids)} tokens for {model.name}, and must be one: its probability is "
                    f"read from one position{_other_spellings(text + space, shared, answer, model)}"
                )
        tokens = tuple(ids[0] for ids in replies)
        for place, token in enumerate(tokens):
            if token in tokens[:place]:
                same = self.grades[tokens.index(token)]
                raise SettingsError(f"answers {same!r} and {self.grades[place]!r} are the same token for {model.name}")
        return shared, tokens


NAMED_ANSWERS: Mapping[str, Answers] = {
    "digits": Answers(),
    "yes-no": Answers("No", "Yes"),  # with a capital, as models begin a reply: "yes" gets what is left
    "ternary": Answers("0", "1", "2"),
    "grades": Answers(*"0123456789"),  # all digits: the finest scale whose steps are single tokens of every family
}


def answers_for(text: str) -> Answers:
    """Return the answers that the command line names: a key of `NAMED_ANSWERS` or a file for `read_answers`.

    Raises:
        SettingsError: neither a known name nor a file of answers.
    """
    if text in NAMED_ANSWERS:
        return NAMED_ANSWERS[text]
    path = Path(text)
    try:
        exists = path.exists()
    except OSError:  # no file can have so long a name
        exists = False
    if not exists:
        raise SettingsError(f"no answers {text!r}: known are {', '.join(NAMED_ANSWERS)}, and there is no such file")
    return read_answers(path)


def read_answers(path: Path) -> Answers:
    """Read a UTF-8 text file with one answer on each line, in any order.

    Either "same: WORD" and "different: WORD", or "grade 0: WORD" (surely not the same), "grade 1: WORD" and so on to
    the highest (surely the same).

    Raises:
        SettingsError: the file cannot be read or is too long, a line is something else, or an answer is missing.
    """
    words: dict[int, str] = {}  # by grade
    graded: bool | None = None
    for number, line in enumerate(read_text(path, "answers file", _MAX_FILE_BYTES).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"answers file {path}, line {number}"
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise SettingsError(
                f"{where}: must be 'same: WORD', 'different: WORD' or 'grade NUMBER: WORD', not {line.strip()!r}"
            )
        key, digits, word = found.groups()
        if graded is not None and graded != (digits is not None):
            raise SettingsError(f"{where}: there are either 'same' and 'different' or grades, not both")
        graded = digits is not None
        grade = int(digits) if graded else _GRADES[key]
        if grade >= MOST:
            raise SettingsError(f"{where}: grades are 0 to {MOST - 1}, not {grade}")
        if grade in words:
            raise SettingsError(f"{where}: a second {key!r} answer; there is one of each")
        if word in words.values():
            raise SettingsError(f"{where}: a second answer {word!r}; the answers must be different words")
        words[grade] = word
    keys = [f"grade {grade}" for grade in range(MOST)] if graded else list(_GRADES)
    for grade in range(max(FEWEST, 1 + max(words, default=0))):
        if grade not in words:
            raise SettingsError(f"answers file {path}: lacks the line '{keys[grade]}: WORD'")
    return Answers(*(words[grade] for grade in sorted(words)))


def read_text(path: Path, what: str, limit: int) -> str:
    """Read a small UTF-8 text file, without a byte order mark.

    Args:
        path: the file.
        what: it is, for messages.
        limit: bytes it may have.

    Raises:
        SettingsError: it cannot be read, is longer, or is not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise SettingsError(f"{what} {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > limit:
        raise SettingsError(f"{what} {path}: longer than {limit} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{what} {path}: not UTF-8 text") from error


def _reply(text: str, before: list[int], space: str, answer: str, model: VisionLanguageModel) -> list[int]:
    """Return the tokens that a reply adds to a text."""
    after = model.tokenize(text + space + answer)
    if after[: len(before)] != before:
        raise SettingsError(f"answer {answer!r} merges with the text before it in the tokenizer of {model.name}")
    return after[len(before) :]


def _other_spellings(text: str, before: list[int], answer: str, model: VisionLanguageModel) -> str:
    spellings = dict.fromkeys((answer.lower(), answer.capitalize(), answer.upper(), f" {answer}"))
    single = [other for other in spellings if len(model.tokenize(text + other)) == len(before) + 1]
    return f"; spelled {' or '.join(map(repr, single))} it would be one" if single else ""
