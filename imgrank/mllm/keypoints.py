"""The built-in model and those trained like it: visual tokens are local features, read by a small Qwen3 decoder.

Photos of any size; keypoints are found at the size they were found at in training, whatever `longer_side` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
import torch

from imgrank.arrays import Floats, Pixels
from imgrank.errors import MissingModelError, SettingsError
from imgrank.images.resize import check_pixels
from imgrank.local.keypoints import LocalSettings, available_threads, chosen, detect
from imgrank.mllm.adapter import CachedPrefix, DecoderAdapter
from imgrank.mllm.base import Segment, VisualTokens, full_positions
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.keypoint_network import INPUTS, MODEL_TYPE, STEP, VERSION, KeypointNetwork, inputs_of
from imgrank.mllm.loading import load_tokenizer, load_weights
from imgrank.mllm.packed import Layout, RowFacts, image_numbers, layout_of

MOST_TOKENS = 512  # of a photo; the built-in model was trained on up to so many


class KeypointPairs(DecoderAdapter):
    """Keypoints through a connector, and a decoder that reads each photo both ways."""

    family = MODEL_TYPE

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        super().__init__(folder, network, tokenizer, device=device, dtype=dtype)
        found = network.config.version
        if found != VERSION:
            raise MissingModelError(
                self.name,
                f"its weights are of version {found}, this imgrank runs version {VERSION}; train it again, or install "
                "the imgrank that it was made for",
            )
        self._local = LocalSettings()
        held = dict(folder.image_processor)
        if held != json.loads(self._local.to_json()):
            raise MissingModelError(
                self.name,
                f"its preprocessor_config.json asks for local features of other settings ({held}) than this imgrank "
                f"finds ({self._local.to_json()}); train it again, or install the imgrank that it was made for",
            )

    @classmethod
    def load(cls, folder: ModelFolder, *, device: str, dtype: str) -> Self:
        """Load a model of this family; see `DecoderAdapter.load`."""
        network = load_weights(KeypointNetwork, folder, device=device, dtype=dtype)
        return cls(folder, network, load_tokenizer(folder), device=device, dtype=dtype)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the visual tokens, beside the weights."""
        return {"family": self.family, "dtype": self.dtype, "local": json.loads(self._local.to_json())}

    def decode_side(self, longer_side: int) -> int:
        """Return the side at which keypoints are found."""
        return self._local.longer_side

    # Visual tokens

    @property
    def encoding_threads(self) -> int:
        """One for each core, as OpenCV finds keypoints in one thread for the most part."""
        return available_threads()

    def _encode(self, image: Pixels, longer_side: int, max_tokens: int) -> VisualTokens:
        inputs = torch.from_numpy(self._inputs(image, longer_side, max_tokens)).to(self.device)
        vectors = self._checked(self._network.connect(inputs))
        # Keypoints lie on no grid: they are a row, the strongest first.
        return VisualTokens(vectors[:, None], full_positions(1, 1, len(vectors)), (1, len(vectors)))

    def _inputs(self, image: Pixels, longer_side: int, max_tokens: int) -> Any:
        """Return (n, INPUTS) float32; a photo without any keypoint gets one that is all zeros."""
        if min(longer_side, max_tokens) < 1:
            raise SettingsError(f"longer side {longer_side} and max tokens {max_tokens} must both be at least 1")
        check_pixels(image)
        keypoints = detect(image, self._local)
        if not len(keypoints):
            return np.zeros((1, INPUTS), dtype=np.float32)
        return inputs_of(keypoints, chosen(keypoints, min(max_tokens, MOST_TOKENS)))

    @property
    def on_grid(self) -> bool:
        """Whether visual tokens are cells of a grid: they are keypoints."""
        return False

    def regions(self, tokens: VisualTokens, size: tuple[int, int], photo: Pixels | None) -> Floats | None:
        """Return the squares around keypoints, which only the photo tells."""
        keypoints = None if photo is None else detect(photo, self._local)
        if keypoints is None or len(keypoints) < tokens.full_length:
            return None
        places = keypoints.places[chosen(keypoints, tokens.full_length)].astype(np.float64)
        extent = np.array(keypoints.extent)
        corners, sides = (places[:, :2] - places[:, 2:3] / 2) / extent, places[:, 2:3] / extent
        return np.concatenate([corners, sides], axis=1).astype(np.float32)

    def text_segment(self, ids: Sequence[int]) -> Segment:
        """Return text; it moves no position."""
        segment = super().text_segment(ids)
        return Segment(segment.inputs, segment.visual, segment.deepstack, torch.zeros_like(segment.positions), 0)

    def image_segment(self, tokens: VisualTokens) -> Segment:
        """Return a photo's tokens; they share a position, for their places are in the vectors."""
        positions = torch.zeros(self.axes, len(tokens), dtype=torch.long, device=self.device)
        return self._visual_segment(tokens, positions, STEP)

    # Scoring

    def _layout(self, prefix: CachedPrefix | None, suffixes: Sequence[Segment]) -> Layout:
        shared = [] if prefix is None else [prefix.segment]
        segments = [*shared, *suffixes]
        positions = torch.cat([segment.positions[0] for segment in segments])
        facts = RowFacts(positions, image_numbers(segments), None)
        return layout_of(sum(map(len, shared)), [len(suffix) for suffix in suffixes], self.device, facts, self.kernel)

    def _plain_inputs(
        self, images: Sequence[Pixels], longer_side: int, max_tokens: int
    ) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        inputs = [torch.from_numpy(self._inputs(image, longer_side, max_tokens)) for image in images]
        return {"features": torch.cat(inputs).to(self.device)}, [[self.image_token] * len(one) for one in inputs]

    def _plain_forward(self, ids: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return cast(torch.Tensor, self._network(input_ids=ids, **inputs))
