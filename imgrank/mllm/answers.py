"""The two answers whose logits are compared, and their token ids.

Knows nothing of photos. The logit difference z_positive - z_negative is the evidence that the pair is a match;
its sigmoid is the probability, given that the answer is one of the two (Nogueira et al., arXiv:2003.06713).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imgrank.errors import SettingsError
from imgrank.mllm.base import VisionLanguageModel

_MAX_FILE_BYTES = 4 * 2**10
_LINES = {"same": "positive", "different": "negative"}  # word before the colon -> field


@dataclass(frozen=True)
class Answers:
    """The words that mean "not the same" and "the same"; each must be one token."""

    negative: str = "0"
    positive: str = "1"

    def __post_init__(self) -> None:
        if not self.negative or not self.positive or self.negative == self.positive:
            raise SettingsError(f"the two answers must be different words, not {self.negative!r} and {self.positive!r}")

    @property
    def kind(self) -> str:
        """What a reply is to be: "digit" where both answers are one, else "word"."""
        digits = all(len(answer) == 1 and answer.isdecimal() for answer in (self.negative, self.positive))
        return "digit" if digits else "word"

    def fill(self, text: str) -> str:
        """Put the answers into a prompt's text at {positive} and {negative}, and their kind at {kind}."""
        return re.sub(r"\{(positive|negative|kind)\}", lambda slot: str(getattr(self, slot[1])), text)

    def tokens(self, text: str, model: VisionLanguageModel) -> tuple[list[int], tuple[int, int]]:
        """Return the ids of a prompt up to where the answers part, and the ids of the negative and positive answer.

        After a header that ends in a colon ("Assistant:") a reply begins with a space. What the two replies then have
        in common, such as a token for that space before a digit, belongs to the prompt.

        Raises:
            SettingsError: an answer takes several tokens, or merges with the end of the text.
        """
        space = " " if text.endswith(":") else ""
        before = model.tokenize(text)
        negative = _reply(text, before, space, self.negative, model)
        positive = _reply(text, before, space, self.positive, model)
        shared = list(before)
        if space and min(len(negative), len(positive)) > 1 and negative[0] == positive[0]:
            shared.append(negative[0])
            negative, positive = negative[1:], positive[1:]
        for answer, ids in ((self.negative, negative), (self.positive, positive)):
            if len(ids) != 1:
                raise SettingsError(
                    f"answer {answer!r} is {len(ids)} tokens for {model.name}, and must be one: its probability is "
                    f"read from one position{_other_spellings(text + space, shared, answer, model)}"
                )
        return shared, (negative[0], positive[0])


# With a capital, as models begin a reply: the smaller spelling would get what is left of the probability.
NAMED_ANSWERS: Mapping[str, Answers] = {"digits": Answers(), "yes-no": Answers("No", "Yes")}


def answers_for(text: str) -> Answers:
    """Return the answers that the command line names: "digits", "yes-no" or a file for `read_answers`.

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
        raise SettingsError(f"no answers {text!r}: known are {' and '.join(NAMED_ANSWERS)}, and there is no such file")
    return read_answers(path)


def read_answers(path: Path) -> Answers:
    """Read a UTF-8 text file with the lines "same: WORD" and "different: WORD", in any order.

    Raises:
        SettingsError: the file cannot be read or is too long, a line is something else, or an answer is missing.
    """
    words: dict[str, str] = {}
    for number, line in enumerate(read_text(path, "answers file", _MAX_FILE_BYTES).splitlines(), start=1):
        if not line.strip():
            continue
        key, colon, word = (part.strip() for part in line.partition(":"))
        where = f"answers file {path}, line {number}"
        if key not in _LINES or not colon or not word:
            raise SettingsError(f"{where}: must be 'same: WORD' or 'different: WORD', not {line.strip()!r}")
        if _LINES[key] in words:
            raise SettingsError(f"{where}: a second {key!r} answer; there is one of each")
        words[_LINES[key]] = word
    for key, field in _LINES.items():
        if field not in words:
            raise SettingsError(f"answers file {path}: lacks the line '{key}: WORD'")
    if words["positive"] == words["negative"]:
        raise SettingsError(f"answers file {path}: both answers are {words['positive']!r}, and must differ")
    return Answers(**words)


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
