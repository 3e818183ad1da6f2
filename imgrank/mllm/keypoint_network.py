"""The network of the built-in model: local features as visual tokens, read by a small decoder.

A photo's keypoints (RootSIFT, colours, place, size, angle) pass a connector and become visual tokens; a Qwen3 decoder
of transformers reads those of both photos and answers with "0" or "1". Like Gemma 3, it reads each photo both ways.
Where a keypoint lies is in its vector. Rotary positions only tell the photos apart: all tokens of a photo stand at one
position, the next photo STEP further, and every dimension turns by as many radians. That is about half a turn, so a
head looks into its own photo or into the other one by the sign of its projections.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, Qwen3Config, Qwen3Model

from imgrank.arrays import Floats, unit_rows
from imgrank.local.keypoints import COLOUR_POINTS, Keypoints

MODEL_TYPE = "imgrank_keypoints"
VERSION = 1  # of what the numbers of a keypoint and the positions mean: weights of another one answer nonsense
STEP = 3  # rotary positions from a photo to what follows it; half a turn is 3.14
ROPE_THETA = 1.0  # all dimensions turn alike
DESCRIPTOR, COLOURS, PLACE = 128, 3 * COLOUR_POINTS, 4
INPUTS = DESCRIPTOR + COLOURS + PLACE
FREQUENCIES = (0.5, 1.0, 2.0, 4.0)  # of x and y, cycles in the photo's longer side
_SIZE_FREQUENCIES = (0.06, 0.12)  # cycles in an octave of the keypoint's size
_HARMONICS = (1.0, 2.0)  # of the keypoint's angle
PHASES = 2 * len(FREQUENCIES) + len(_SIZE_FREQUENCIES) + len(_HARMONICS)
GEOMETRY = 2 * PHASES + 3  # cosines, sines, and x, y and size as they are
_COLOUR_MEAN, _COLOUR_SPREAD = (128.0, 128.0, 128.0), (64.0, 16.0, 16.0)  # L, a, b


class KeypointConfig(PretrainedConfig):  # type: ignore[misc]  # transformers is not typed
    """Shape of the network.

    Attributes:
        text_config: of the decoder.
        image_token_id: stands for a photo in token ids.
        connector_size: width of the connector's hidden layer.
        version: which `VERSION` the weights were made for; 0: the file does not say.
    """

    model_type = MODEL_TYPE
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": Qwen3Config}

    def __init__(
        self,
        text_config: Any = None,
        image_token_id: int = 0,
        connector_size: int = 256,
        version: int = 0,
        **kwargs: Any,
    ) -> None:
        values = {} if text_config is None else text_config
        self.text_config = Qwen3Config(**values) if isinstance(values, dict) else values
        self.image_token_id = image_token_id
        self.connector_size = connector_size
        self.version = version
        super().__init__(**kwargs)


class Connector(nn.Module):
    """From (..., INPUTS) numbers of keypoints to (..., hidden) visual tokens."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        features = DESCRIPTOR + COLOURS + GEOMETRY
        self.straight = nn.Linear(features, hidden)
        self.up = nn.Linear(features, width)
        self.down = nn.Linear(width, hidden)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the visual tokens."""
        descriptor, colours, place = inputs.split([DESCRIPTOR, COLOURS, PLACE], dim=-1)
        # Phases of several turns need the precision of their places, whatever number type the weights have.
        features = torch.cat([descriptor, colours, geometry(place)], dim=-1).to(self.straight.weight.dtype)
        found: torch.Tensor = self.straight(features) + self.down(nn.functional.silu(self.up(features)))
        return found


def geometry(place: torch.Tensor) -> torch.Tensor:
    """Return (..., GEOMETRY) numbers of places (..., 4): x and y from the middle, octaves of size, radians."""
    across = place.new_tensor(FREQUENCIES) * (2 * torch.pi)
    sizes = place.new_tensor(_SIZE_FREQUENCIES) * (2 * torch.pi)
    turns = place.new_tensor(_HARMONICS)
    phases = torch.cat(
        [place[..., :1] * across, place[..., 1:2] * across, place[..., 2:3] * sizes, place[..., 3:] * turns], dim=-1
    )
    return torch.cat([phases.cos(), phases.sin(), place[..., :2], place[..., 2:3] / 4], dim=-1)


def inputs_of(keypoints: Keypoints, rows: Any = slice(None)) -> Floats:
    """Return the (n, INPUTS) float32 numbers of chosen keypoints that the connector reads."""
    places = keypoints.places[rows]
    colours = (keypoints.colours[rows].reshape(-1, COLOUR_POINTS, 3).astype(np.float32) - _COLOUR_MEAN) / _COLOUR_SPREAD
    width, height = keypoints.extent
    place = np.stack(
        [
            places[:, 0] - width / 2,
            places[:, 1] - height / 2,
            np.log2(np.maximum(places[:, 2], 1e-4)) + 5,
            np.deg2rad(places[:, 3]),
        ],
        axis=1,
    )
    descriptors = unit_rows(keypoints.root_sift[rows]) * np.float32(np.sqrt(DESCRIPTOR))
    numbers = [descriptors, colours.reshape(-1, COLOURS), place]
    return np.concatenate([part.astype(np.float32) for part in numbers], axis=1)


class _Body(nn.Module):
    """The parts under the name that adapters expect them at."""

    def __init__(self, config: KeypointConfig) -> None:
        super().__init__()
        self.connector = Connector(config.text_config.hidden_size, config.connector_size)
        self.language_model = Qwen3Model(config.text_config)


class KeypointNetwork(PreTrainedModel):  # type: ignore[misc]  # transformers is not typed
    """Connector, decoder and output layer."""

    config_class = KeypointConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: KeypointConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.model = _Body(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the vectors of the text's tokens."""
        embeddings: nn.Module = self.model.language_model.embed_tokens
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        """Return the output layer."""
        return self.lm_head

    @torch.inference_mode()
    def connect(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (n, hidden) visual tokens of (n, INPUTS) keypoints."""
        tokens: torch.Tensor = self.model.connector(inputs)
        return tokens

    def forward(self, input_ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Run a whole prompt as it was trained, without a cache.

        Args:
            input_ids: (1, length) int64, with as many image tokens in a row as a photo has keypoints.
            features: (all keypoints, INPUTS).

        Returns:
            (1, length, vocabulary) logits.
        """
        visual = input_ids[0] == self.config.image_token_id
        decoder = self.model.language_model
        rows = decoder.embed_tokens(input_ids)
        rows[0, visual] = self.connect(features)
        before = torch.cat([visual.new_zeros(1), visual[:-1]])
        after = torch.cat([visual[1:], visual.new_zeros(1)])
        photo = torch.where(visual, (visual & ~before).cumsum(0) - 1, -1)
        ends = (visual & ~after).long()
        index = torch.arange(len(visual), device=visual.device)
        seen = (index <= index[:, None]) | ((photo == photo[:, None]) & visual)
        mask = torch.zeros(seen.shape, dtype=rows.dtype, device=rows.device).masked_fill(~seen, -torch.inf)
        states = decoder(
            inputs_embeds=rows,
            attention_mask=mask[None, None],
            position_ids=STEP * (ends.cumsum(0) - ends)[None],
            use_cache=False,
        ).last_hidden_state
        logits: torch.Tensor = self.lm_head(states)
        return logits
