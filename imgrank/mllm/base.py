"""What every multimodal language model looks like to the rest of imgrank.

This module knows no model family. Visual tokens are numpy arrays, so that the cache and the model stay apart; the
sequences that enter the language model are torch tensors. A new family is one file with a class that has the
members of `VisionLanguageModel`, and one line in `registry`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Pixels
from imgrank.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The visual tokens of one photo, all of them or those that pruning kept.

    A token's index in the sequence of all tokens of its photo follows from its place: (tile x rows + row) x columns +
    column. Families that mix text with the tiles' tokens lay them out again from tile, row and column.

    Attributes:
        vectors: (n, levels, hidden) float32 or float16. Level 0 is what the language model receives in place of the
            image placeholder; further levels are added to the hidden states after its first layers (DeepStack,
            arXiv:2406.04334).
        positions: (n, 3) uint16, (tile, row, column) of each token before pruning, in the order of the sequence; row
            and column are those in its tile.
        grid: (rows, columns) of one tile before pruning. Photos that are not cut have one tile.
        tiles: (rows, columns) of tiles the photo was cut into. Where it was cut into more than one, a last tile shows
            the whole photo.

    Raises:
        InputError: the shapes or types do not fit together, or a position lies outside the grid.
    """

    vectors: npt.NDArray[np.floating[Any]]
    positions: npt.NDArray[np.uint16]
    grid: tuple[int, int]
    tiles: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 3 or self.vectors.dtype not in (np.float32, np.float16):
            raise InputError(
                "visual tokens must be (n, levels, hidden) float32 or float16, "
                f"not {self.vectors.shape} {self.vectors.dtype}"
            )
        if self.positions.shape != (len(self.vectors), 3) or self.positions.dtype != np.uint16:
            raise InputError(
                f"positions of {len(self.vectors)} visual tokens must be ({len(self.vectors)}, 3) uint16, "
                f"not {self.positions.shape} {self.positions.dtype}"
            )
        if len(self.positions) and (self.positions >= np.asarray([self.tile_count, *self.grid])).any():
            raise InputError(
                f"a visual token lies outside its grid of {self.grid[0]} x {self.grid[1]} in {self.tile_count} tiles"
            )

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def tile_count(self) -> int:
        """Tiles of the photo, the one that shows the whole of it included."""
        count = self.tiles[0] * self.tiles[1]
        return count + 1 if count > 1 else 1

    @property
    def full_length(self) -> int:
        """Tokens before pruning."""
        return self.tile_count * self.grid[0] * self.grid[1]

    @property
    def index(self) -> npt.NDArray[np.int64]:
        """(n,) int64, the place of each token in the sequence of all tokens of its photo."""
        tile, row, column = self.positions.astype(np.int64).T
        index: npt.NDArray[np.int64] = (tile * self.grid[0] + row) * self.grid[1] + column
        return index

    def take(self, kept: npt.ArrayLike) -> VisualTokens:
        """Return the tokens at `kept` (indices or a mask), at their true positions in the same grid."""
        kept = np.asarray(kept)
        return VisualTokens(self.vectors[kept], self.positions[kept], self.grid, self.tiles)


def full_positions(tiles: int, rows: int, columns: int) -> npt.NDArray[np.uint16]:
    """Return (tiles * rows * columns, 3) uint16: (tile, row, column) of every token in the order of the sequence."""
    return np.indices((tiles, rows, columns), dtype=np.uint16).reshape(3, -1).T.copy()


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of the sequence that enters the language model: text, an image, or several of them joined.

    Attributes:
        inputs: (length, hidden), the model's dtype and device.
        visual: (length,) bool, True where a row is a visual token.
        deepstack: (levels - 1, visual rows, hidden); levels - 1 is 0 for models without DeepStack.
        positions: (axes, length) int64 position ids, counted from the start of the segment. One axis for plain
            rotary positions, three (time, row, column) for M-RoPE.
        span: by how much the segment moves the position of what follows it. Pruning does not change it.
    """

    inputs: torch.Tensor
    visual: torch.Tensor
    deepstack: torch.Tensor
    positions: torch.Tensor
    span: int

    def __len__(self) -> int:
        return len(self.inputs)


class Prefix(Protocol):
    """The state of the language model after the part of a prompt that all candidates share."""

    @property
    def length(self) -> int:
        """Tokens in the prefix."""
        ...


class VisionLanguageModel(Protocol):
    """A photo encoder and a language model, loaded and ready on one device.

    The first group of members is for the cache, the second for prompts, the third for the scoring engine.
    """

    @property
    def name(self) -> str:
        """As the user named it: a Hugging Face id or a folder."""
        ...

    @property
    def revision(self) -> str:
        """Which weights: a commit hash, or a digest of a local folder. Tokens of two revisions do not mix."""
        ...

    @property
    def family(self) -> str:
        """The architecture, as `model_type` in config.json names it."""
        ...

    @property
    def hidden(self) -> int:
        """Length of a token vector."""
        ...

    @property
    def levels(self) -> int:
        """Vectors per visual token: 1, and one more for each DeepStack level."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything else that decides the visual tokens, as JSON values."""
        ...

    @property
    def device(self) -> str:
        """Where the weights are."""
        ...

    @property
    def dtype(self) -> str:
        """The type the weights compute in: "float32", "float16" or "bfloat16"."""
        ...

    @property
    def encoding_threads(self) -> int:
        """From how many threads `encode` is worth calling at once; 1 where one call fills the device."""
        ...

    def encode(self, images: Sequence[Pixels], *, longer_side: int, max_tokens: int) -> list[VisualTokens]:
        """Compute the visual tokens of each photo, one photo at a time, so that the others never change them.

        Args:
            images: photos, each (height, width, 3) uint8 sRGB after the EXIF turn; the sizes may differ.
            longer_side: pixels to which the longer side is reduced.
            max_tokens: at most so many tokens for one photo.

        Raises:
            InputError: a photo has another shape or type.
            ImgrankError: the model gave NaN or infinite values.
            SettingsError: `longer_side` or `max_tokens` is below 1.
        """
        ...

    def decode_side(self, longer_side: int) -> int:
        """Return to which longer side a photo may be reduced beforehand without a loss to the model, in pixels."""
        ...

    @property
    def on_grid(self) -> bool:
        """Whether visual tokens are cells of a grid that covers the photo; else they are keypoints of any place."""
        ...

    def regions(self, tokens: VisualTokens, size: tuple[int, int], photo: Pixels | None) -> Floats | None:
        """Return which part of a photo each visual token stands for, those that were left out included.

        Args:
            tokens: of the photo; only their grid and tiles are looked at.
            size: (height, width) of the photo; only its proportions matter.
            photo: its pixels, of a longer side of `decode_side`, where they are at hand.

        Returns:
            (full_length, 4) float32 in the order of the sequence: left, top, width and height as shares of the photo's
            width and height; None where that is not known without the photo.
        """
        ...

    @property
    def image_token(self) -> int:
        """Id of the placeholder that stands for one image in what `tokenize` returns."""
        ...

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Write messages in the model's chat format, up to and including the header of the answer.

        Args:
            messages: [{"role", "content": [{"type": "text", "text"} or {"type": "image"}]}].

        Returns:
            text with exactly one image placeholder per image, wrapped as the family wraps an image.
        """
        ...

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of text that may hold special tokens; nothing is added at its ends."""
        ...

    def text_segment(self, ids: Sequence[int]) -> Segment:
        """Return text as the language model receives it."""
        ...

    def image_segment(self, tokens: VisualTokens) -> Segment:
        """Return the visual tokens of one image as the language model receives them."""
        ...

    def prefill(self, segment: Segment) -> Prefix:
        """Run what all candidates share, once."""
        ...

    def last_hidden(self, prefix: Prefix, suffixes: Sequence[Segment]) -> torch.Tensor:
        """Run several suffixes, each as if it alone followed the prefix; the prefix stays as it was.

        Returns:
            (suffixes, hidden), the hidden state that would predict the token after each suffix.
        """
        ...

    def end_attention(self, prefix: Prefix, suffix: Segment) -> torch.Tensor:
        """Run one suffix, and tell what its last row, which predicts the answer, attends to.

        Returns:
            (layers, heads, prefix + suffix) float32 weights; layers without attention are left out.
        """
        ...

    def answer_logits(self, hidden: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        """Return the (n, ids) float32 logits of a few tokens for (n, hidden) states."""
        ...

    def compile_layers(self) -> None:
        """Compile what can be: the first passes take up to minutes, and later ones less on a GPU."""
        ...

    @property
    def row_bytes(self) -> int:
        """Memory that one packed token takes while it passes the layers, in bytes; an upper estimate."""
        ...

    @property
    def kernel(self) -> str:
        """How packed attention is computed on this device: "sdpa" or "flex"."""
        ...

    def plain_logits(
        self, ids: Sequence[int], images: Sequence[Pixels], answers: Sequence[int], *, longer_side: int, max_tokens: int
    ) -> torch.Tensor:
        """Run the model as it was published, on the token ids and pixels of one prompt: slow, the measure of the rest.

        Args:
            ids: the whole prompt, with one placeholder for each image.
            images: in the order of the placeholders.
            answers: ids of the tokens whose logits are wanted.
            longer_side: as for `encode`.
            max_tokens: as for `encode`.

        Returns:
            (answers,) float32 logits of the token after the prompt.
        """
        ...
