"""Idefics3 (arXiv:2408.12637), SmolVLM and SmolVLM2 (arXiv:2504.05299): square tiles with text between them.

A photo is one tile, or several and a last one that shows the whole of it. Before each tile the language model reads
where it lies, after each row of tiles a line ends. That text is laid out here, from the tiles of a photo, so that
pruned tokens are missing from their tile and nothing else moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from imgrank.arrays import Pixels
from imgrank.devices import torch_dtype
from imgrank.errors import InputError, MissingModelError, SettingsError
from imgrank.images.resize import check_pixels
from imgrank.mllm.adapter import DecoderAdapter
from imgrank.mllm.base import Segment, VisualTokens, full_positions
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.idefics3_tiles import cut, patch_places, tile_grid, tile_settings


class Idefics3(DecoderAdapter):
    """Adapter of `Idefics3ForConditionalGeneration`.

    The tower takes tiles of one size only: 364 pixels (169 tokens) for Idefics3-8B, 384 (81) for SmolVLM and SmolVLM2
    of 2.2B parameters, 512 (64) for the smaller ones. `longer_side` chooses how many tiles fit along the longer side,
    rounded down: below two tiles a photo is a single tile, its proportions squeezed into the square, as it is at the
    default of 560 pixels; with 1024 pixels and tiles of 512 it is up to 2 x 2 tiles and the whole. `max_tokens` takes
    tiles away until they fit, and must leave one. Checkpoints that do not cut photos always take a single tile.
    """

    family = "idefics3"
    model_class = "Idefics3ForConditionalGeneration"

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        super().__init__(folder, network, tokenizer, device=device, dtype=dtype)
        if self._text_config.model_type != "llama":
            raise SettingsError(
                f"model {self.name!r}: {self.family} with a text model of the type {self._text_config.model_type!r} "
                "is not supported; llama is"
            )
        self._tiling = tile_settings(folder, network.config)
        table = network.config.vision_config.image_size // self._tiling.patch
        self._places = patch_places(self._tiling, table).to(device)
        self._image_text = cast(str, tokenizer.convert_ids_to_tokens(self.image_token))
        # Some tokenizers name these two; all published ones have the same words for them.
        self._edge_text: str = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        self._whole_text: str = getattr(tokenizer, "global_image_token", "<global-img>")
        self._expansions: dict[tuple[int, int], list[int]] = {}
        self._expansion((1, 1))  # a tokenizer that does not suit is refused now

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the visual tokens, beside the weights and the resolution."""
        numbers = self._tiling
        return {
            "family": self.family,
            "dtype": self.dtype,
            "tile_side": numbers.side,
            "token_rows": numbers.token_rows,
            "most_tiles": numbers.most,
            "resample": numbers.resample,
            "scale": numbers.scale,
            "mean": list(numbers.mean),
            "std": list(numbers.std),
        }

    @property
    def _decoder(self) -> Any:
        return self._network.model.text_model

    def _wrap_images(self, text: str) -> str:
        # However a photo is cut, this token is the first and the last of its text. Written into the prompt, it keeps
        # what depends on the tiles apart from the words around it, whatever a tokenizer does at such borders.
        return text.replace(self._image_text, self._edge_text + self._image_text + self._edge_text)

    def _expansion(self, tiles: tuple[int, int]) -> list[int]:
        """Return the ids of an image between its two edge tokens, with a placeholder for each visual token.

        The text is tokenized in one piece, one placeholder for each tile: the place of a tile may be one token of the
        vocabulary ("<row_1_col_1>", SmolVLM2) or plain text of several (Idefics3-8B), and two line ends may be one.

        Raises:
            MissingModelError: the tokenizer does not know the edge token, or loses a placeholder.
        """
        if tiles not in self._expansions:
            edge, image = self._edge_text, self._image_text
            lines = [
                "".join(f"{edge}<row_{row}_col_{column}>{image}" for column in range(1, tiles[1] + 1)) + "\n"
                for row in range(1, tiles[0] + 1)
            ]
            split = "".join(lines) + "\n" if tiles != (1, 1) else ""
            ids = self.tokenize(f"{split}{edge}{self._whole_text}{image}{edge}")
            count = tiles[0] * tiles[1] + 1 if split else 1
            known = self._tokenizer.convert_tokens_to_ids(edge)
            if (ids[0], ids[-1], ids.count(self.image_token)) != (known, known, count):
                raise MissingModelError(
                    self.name, f"its tokenizer does not know {edge!r} and {image!r}, which stand around images"
                )
            tile_tokens = self._tiling.token_rows**2
            repeats = (tile_tokens if token == self.image_token else 1 for token in ids[1:-1])
            self._expansions[tiles] = [
                token for token, times in zip(ids[1:-1], repeats, strict=True) for _ in range(times)
            ]
        return self._expansions[tiles]

    def image_segment(self, tokens: VisualTokens) -> Segment:
        """Return an image with the text between its tiles; each token stands at its place in the full sequence.

        Raises:
            InputError: the model makes no such tiles.
        """
        side, most = self._tiling.token_rows, self._tiling.most
        if tokens.grid != (side, side) or max(tokens.tiles) > most:
            raise InputError(
                f"visual tokens of {tokens.tiles[0]} x {tokens.tiles[1]} tiles of {tokens.grid[0]} x {tokens.grid[1]}, "
                f"but {self.name} makes at most {most} x {most} tiles of {side} x {side}: they are another model's"
            )
        ids = np.asarray(self._expansion(tokens.tiles))
        kept = ids != self.image_token
        kept[np.flatnonzero(~kept)[tokens.index]] = True
        text = self.text_segment(ids[kept].tolist())
        visual = torch.from_numpy(ids[kept] == self.image_token).to(self.device)
        inputs = text.inputs.clone()
        inputs[visual] = torch.from_numpy(tokens.vectors[:, 0]).to(self.device, inputs.dtype)
        positions = torch.from_numpy(np.flatnonzero(kept)).to(self.device)
        deepstack = inputs.new_zeros(0, len(tokens), self.hidden)
        return Segment(inputs, visual, deepstack, positions[None], len(ids))

    def _encode(self, image: Pixels, longer_side: int, max_tokens: int) -> VisualTokens:
        pixels, tiles = self._pixels(image, longer_side, max_tokens)
        vectors = self._vision(pixels).flatten(0, 1)[:, None]
        side = self._tiling.token_rows
        return VisualTokens(
            self._checked(vectors),
            full_positions(len(pixels), side, side),
            (side, side),
            tiles,
        )

    def _vision(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (tiles, tokens of a tile, hidden).

        The parts of the tower are called one by one. Called as a whole, it leaves out tiles whose pixels are all 0 once
        normalized, and in releases around 5.5 it rounds the places of patches to the weights' type, which misplaces
        some in bfloat16 and float16.
        """
        tower = self._network.model.vision_model
        patches = tower.embeddings.patch_embedding(pixels.to(torch_dtype(self.dtype))).flatten(2).transpose(1, 2)
        states = patches + tower.embeddings.position_embedding(self._places)
        states = tower.encoder(inputs_embeds=states, attention_mask=None).last_hidden_state
        return cast(torch.Tensor, self._network.model.connector(tower.post_layernorm(states)))

    def _pixels(self, image: Pixels, longer_side: int, max_tokens: int) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return the (tiles, 3, side, side) pixels of a photo, and the (rows, columns) it was cut into."""
        check_pixels(image)
        height, width = image.shape[:2]
        tiles = tile_grid(height, width, longer_side=longer_side, max_tokens=max_tokens, settings=self._tiling)
        return cut(image, tiles, self._tiling).to(self.device), tiles

    def _plain_inputs(
        self, images: Sequence[Pixels], longer_side: int, max_tokens: int
    ) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        pixels, tiles = zip(*(self._pixels(image, longer_side, max_tokens) for image in images), strict=True)
        return {"pixel_values": torch.cat(pixels)[None]}, [self._expansion(cutting) for cutting in tiles]


class SmolVLM(Idefics3):
    """Adapter of `SmolVLMForConditionalGeneration`, which is SmolVLM2; the first SmolVLM calls itself Idefics3."""

    family = "smolvlm"
    model_class = "SmolVLMForConditionalGeneration"
