"""The two answers whose logits are compared, and their token ids.

Knows nothing of photos. The logit difference z_positive - z_negative is the evidence that the pair is a match;
its sigmoid is the probability, given that the answer is one of the two (Nogueira et al., arXiv:2003.06713).
"""

from __future__ import annotations

from dataclasses import dataclass

from imgrank.errors import SettingsError
from imgrank.mllm.base import VisionLanguageModel


@dataclass(frozen=True)
class Answers:
    """The words that mean "not the same" and "the same"; each must be one token."""

    negative: str = "0"
    positive: str = "1"

    def __post_init__(self) -> None:
        if not self.negative or not self.positive or self.negative == self.positive:
            raise SettingsError(f"the two answers must be different words, not {self.negative!r} and {self.positive!r}")

    def fill(self, text: str) -> str:
        """Put the answers into a prompt's text at {positive} and {negative}."""
        return text.replace("{positive}", self.positive).replace("{negative}", self.negative)

    def token_ids(self, text: str, model: VisionLanguageModel) -> tuple[int, int]:
        """Return the ids of the negative and the positive answer, as the tokens that would follow `text`.

        Raises:
            SettingsError: an answer takes several tokens, or merges with the end of the text.
        """
        return _following_token(text, self.negative, model), _following_token(text, self.positive, model)


def _following_token(text: str, answer: str, model: VisionLanguageModel) -> int:
    before = model.tokenize(text)
    after = model.tokenize(text + answer)
    if after[: len(before)] != before:
        raise SettingsError(f"answer {answer!r} merges with the text before it in the tokenizer of {model.name}")
    if len(after) != len(before) + 1:
        raise SettingsError(
            f"answer {answer!r} is {len(after) - len(before)} tokens for {model.name}, and must be one: "
            "its probability is read from one position"
        )
    return after[-1]
