"""A stand-in for a tokenizer, for models that are measured and not asked: it counts tokens about as a real one does.

A word is one token, and so is every digit, mark and line end; which number a token has means nothing. Knows the
special tokens that adapters look for, and no vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from imgrank.errors import SettingsError

_PIECES = re.compile(r"<[^<>\s]+>|\d|\n+| ?[^\W\d_]+| ?[^\w\s]|.", re.DOTALL)
_IMAGE = "<image>"


class StandInTokenizer:
    """The members of a transformers tokenizer that the adapters use.

    Args:
        model: its name, for messages.
        config: of the whole transformers model.

    Raises:
        SettingsError: the image placeholder lies outside the vocabulary.
    """

    chat_template = None

    def __init__(self, model: str, config: Any) -> None:
        self._size = int(config.get_text_config().vocab_size)
        special = {_IMAGE: config.image_token_id}
        begin, end = getattr(config, "boi_token_index", None), getattr(config, "eoi_token_index", None)
        if begin is not None and end is not None:
            # The template of such a family writes the first of the tokens around an image; its processor the rest.
            special |= {"<begin>": begin, "<end>": end}
        self._image = "<begin>" if "<begin>" in special else _IMAGE
        if getattr(config, "vision_start_token_id", None) is not None:
            self._image = f"<|vision_start|>{_IMAGE}<|vision_end|>"
        if min(special.values()) < 0 or max(special.values()) >= self._size:
            raise SettingsError(f"model {model!r}: its image tokens lie outside its vocabulary of {self._size} tokens")
        self._ids: dict[str, int] = special
        self._texts = {number: text for text, number in special.items()}
        self._next = 0

    def __call__(self, text: str, *, add_special_tokens: bool = False) -> dict[str, list[int]]:
        """Return token ids, as a transformers tokenizer does."""
        return {"input_ids": [self.convert_tokens_to_ids(piece) for piece in _PIECES.findall(text)]}

    def convert_tokens_to_ids(self, token: str) -> int:
        """Return the number of a token; new ones are numbered as they come, and from 0 again after the last."""
        if token not in self._ids:
            while self._next in self._texts and len(self._texts) < self._size:
                self._next = (self._next + 1) % self._size
            self._texts.setdefault(self._next, token)
            self._ids[token] = self._next
            self._next = (self._next + 1) % self._size
        return self._ids[token]

    def convert_ids_to_tokens(self, number: int) -> str | None:
        """Return the text of a number that has been given to a token."""
        return self._texts.get(number)

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """Write messages with a header and an end for each, and the header of the answer."""
        turns = [f"<|im_start|>{turn['role']}\n{self._content(turn['content'])}<|im_end|>\n" for turn in messages]
        return "".join(turns) + "<|im_start|>assistant\n"

    def _content(self, parts: Sequence[Mapping[str, Any]]) -> str:
        return "".join(self._image if part["type"] == "image" else part["text"] for part in parts)
