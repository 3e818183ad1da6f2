"""What the Qwen-VL models share: a vision tower with a free grid, M-RoPE positions, a plain causal decoder.

Sources: Qwen2-VL, arXiv:2409.12191 (M-RoPE: text advances the three axes together, an image token stands at
(start, start + row, start + column)); Qwen2.5-VL, arXiv:2502.13923.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
import transformers

from imgrank.arrays import Pixels
from imgrank.devices import torch_dtype
from imgrank.errors import ImgrankError, MissingModelError, SettingsError
from imgrank.mllm.base import Prefix, Segment, VisualTokens
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.loading import load_tokenizer, load_weights
from imgrank.mllm.packed import Layout, layout_of
from imgrank.mllm.preprocess import PatchSettings, check_pixels, patches, token_grid
from imgrank.mllm.segments import follow, side_by_side


@dataclass(frozen=True, eq=False)
class CachedPrefix:
    """Keys and values of a prefix, and the position at which what follows it begins."""

    cache: Any  # transformers.DynamicCache
    length: int
    span: int

    def fork(self) -> Any:
        """Return a cache that starts from the prefix; what is added to it leaves the prefix alone.

        The layers share the prefix's tensors: a layer grows by concatenation into new ones. So a forward pass that
        dies half way, for want of memory, leaves nothing to crop.
        """
        fork = copy.copy(self.cache)
        fork.layers = [copy.copy(layer) for layer in self.cache.layers]
        return fork


class QwenVL:
    """Base of the Qwen-VL adapters; see `imgrank.mllm.base.VisionLanguageModel` for what the members mean."""

    family: ClassVar[str]
    model_class: ClassVar[str]  # name in transformers

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        self.name, self.revision = folder.name, folder.revision
        self.device, self.dtype = device, dtype
        self._network, self._tokenizer = network, tokenizer
        self._template = folder.chat_template
        self._patches = patch_settings(folder, network.config.vision_config)
        self.image_token: int = network.config.image_token_id
        self.hidden: int = network.config.text_config.hidden_size
        self._check()

    @classmethod
    def load(cls, folder: ModelFolder, *, device: str, dtype: str) -> Self:
        """Load the model of a folder whose `model_type` is this family's.

        Raises:
            MissingModelError, MissingDeviceError: see `imgrank.mllm.loading`.
            SettingsError: the model uses a variant of its architecture that is not supported.
        """
        network = load_weights(getattr(transformers, cls.model_class), folder, device=device, dtype=dtype)
        return cls(folder, network, load_tokenizer(folder), device=device, dtype=dtype)

    def _check(self) -> None:
        placeholder = self._tokenizer.convert_ids_to_tokens(self.image_token)
        if placeholder is None or self.tokenize(placeholder) != [self.image_token]:
            raise MissingModelError(
                self.name, f"its tokenizer does not know the image placeholder, token {self.image_token}"
            )

    # Visual tokens

    @property
    def levels(self) -> int:
        """Vectors per visual token."""
        return 1

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the visual tokens, beside the weights and the resolution."""
        numbers = self._patches
        return {
            "family": self.family,
            "dtype": self.dtype,
            "token_side": numbers.token_side,
            "mean": list(numbers.mean),
            "std": list(numbers.std),
            "min_pixels": numbers.min_pixels,
        }

    @torch.inference_mode()
    def encode(self, images: Sequence[Pixels], *, longer_side: int, max_tokens: int) -> list[VisualTokens]:
        """Compute the visual tokens of each photo, one photo at a time."""
        return [self._encode(image, longer_side, max_tokens) for image in images]

    def _encode(self, image: Pixels, longer_side: int, max_tokens: int) -> VisualTokens:
        check_pixels(image)
        height, width = image.shape[:2]
        rows, columns = token_grid(
            height, width, longer_side=longer_side, max_tokens=max_tokens, settings=self._patches
        )
        pixels = patches(image, rows, columns, self._patches).to(self.device)
        merge = self._patches.merge
        grid = torch.tensor([[1, rows * merge, columns * merge]], device=self.device)
        vectors = self._vision(pixels, grid).float().cpu().numpy()  # (levels, n, hidden)
        if not np.isfinite(vectors).all():
            raise ImgrankError(f"{self.name} gave NaN or infinite visual tokens; {_precision_advice(self.dtype)}")
        positions = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1).astype(np.uint16)
        return VisualTokens(np.ascontiguousarray(vectors.swapaxes(0, 1)), positions, (rows, columns))

    def _vision(self, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Return (levels, n, hidden) for the patches of one image."""
        features = self._network.get_image_features(pixels, grid)
        return cast(torch.Tensor, features.pooler_output[0])[None]

    # Prompts

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Write messages in the chat format of the folder's template; it wraps images itself."""
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=False,
            )
        except (ValueError, TypeError) as error:
            raise MissingModelError(self.name, f"its chat template cannot be used: {error}") from error
        return cast(str, text)

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of text that may hold special tokens."""
        return cast(list[int], self._tokenizer(text, add_special_tokens=False)["input_ids"])

    # Scoring

    def text_segment(self, ids: Sequence[int]) -> Segment:
        """Return text: one step on all axes for each token."""
        rows = torch.tensor(ids, dtype=torch.long, device=self.device)
        with torch.inference_mode():
            inputs = self._network.get_input_embeddings()(rows)
        positions = torch.arange(len(ids), device=self.device).expand(3, -1)
        visual = torch.zeros(len(ids), dtype=torch.bool, device=self.device)
        return Segment(inputs, visual, inputs.new_zeros(self.levels - 1, 0, self.hidden), positions, len(ids))

    def image_segment(self, tokens: VisualTokens) -> Segment:
        """Return an image: its tokens stand at their place in the full grid, whichever of them are left."""
        vectors = torch.from_numpy(tokens.vectors).to(self.device, torch_dtype(self.dtype))
        cells = torch.from_numpy(tokens.positions.astype(np.int64)).to(self.device)
        positions = torch.stack([torch.zeros_like(cells[:, 0]), cells[:, 0], cells[:, 1]])
        visual = torch.ones(len(tokens), dtype=torch.bool, device=self.device)
        return Segment(vectors[:, 0], visual, vectors[:, 1:].transpose(0, 1).contiguous(), positions, max(tokens.grid))

    @torch.inference_mode()
    def prefill(self, segment: Segment) -> Prefix:
        """Run what all candidates share."""
        cache = transformers.DynamicCache()  # without a config: no layer may forget the start of the prefix
        self._decode(follow([segment]), cache, None)
        return CachedPrefix(cache, len(segment), segment.span)

    @torch.inference_mode()
    def last_hidden(self, prefix: Prefix, suffixes: Sequence[Segment]) -> torch.Tensor:
        """Run the suffixes of several candidates as one packed sequence."""
        if not isinstance(prefix, CachedPrefix):
            raise TypeError("this prefix was not made by this model")
        layout = layout_of(prefix.length, [len(suffix) for suffix in suffixes], self.device)
        return self._decode(side_by_side(suffixes, prefix.span), prefix.fork(), layout)[layout.ends]

    def _decode(self, segment: Segment, cache: Any, layout: Layout | None) -> torch.Tensor:
        """Run the language model; return its (length, hidden) final states. Without a layout: plain causal."""
        output = self._network.model.language_model(
            inputs_embeds=segment.inputs[None],
            position_ids=segment.positions[:, None],
            past_key_values=cache,
            use_cache=True,
            packed_layout=layout,
            **self._visual_arguments(segment),
        )
        return cast(torch.Tensor, output.last_hidden_state[0])

    def _visual_arguments(self, segment: Segment) -> dict[str, Any]:
        return {}

    @torch.inference_mode()
    def answer_logits(self, hidden: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        """Multiply by the answers' rows of the output matrix in float32: bfloat16 would make false ties."""
        rows: torch.Tensor = self._network.get_output_embeddings().weight[list(ids)].float()
        return hidden.float() @ rows.T


def patch_settings(folder: ModelFolder, vision: Any) -> PatchSettings:
    """Take the numbers of the vision tower's input from a folder's image processor and its config.

    Raises:
        SettingsError: a number is missing or unusable.
    """
    values = folder.image_processor
    size = values.get("size") or {}
    try:
        numbers = PatchSettings(
            patch=int(vision.patch_size),
            merge=int(vision.spatial_merge_size),
            frames=int(vision.temporal_patch_size),
            mean=_three(values["image_mean"]),
            std=_three(values["image_std"]),
            min_pixels=int(values.get("min_pixels") or size.get("shortest_edge") or 56 * 56),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"model {folder.name!r}: preprocessor_config.json is unusable: {error!r}") from error
    if min(numbers.patch, numbers.merge, numbers.frames, *numbers.std) <= 0:
        raise SettingsError(f"model {folder.name!r}: preprocessor_config.json holds a size that is not positive")
    return numbers


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _precision_advice(dtype: str) -> str:
    return "the photo or the weights are damaged" if dtype == "float32" else "try --dtype float32"
