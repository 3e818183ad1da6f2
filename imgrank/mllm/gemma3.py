"""Gemma 3 (arXiv:2503.19786): photos of one fixed size, and images whose tokens see each other both ways.

Every photo becomes a square (896 pixels), goes through a SigLIP tower and is averaged to 256 tokens. The decoder mixes
layers that see everything with layers that see a sliding window; in both, the tokens of one image attend to each
other, earlier and later ones. Pan-and-scan, which adds crops of a photo, is off here as it is in the released
checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch

from imgrank.arrays import Pixels
from imgrank.devices import torch_dtype
from imgrank.errors import MissingModelError, SettingsError
from imgrank.images.resize import RESAMPLING, check_pixels, normalize, resize
from imgrank.mllm.adapter import CachedPrefix, DecoderAdapter
from imgrank.mllm.base import Segment, VisualTokens, full_positions
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.packed import Layout, RowFacts, image_numbers, layout_of


class Gemma3(DecoderAdapter):
    """Adapter of `Gemma3ForConditionalGeneration`.

    The tower takes one size only. So `longer_side` saves no tokens, and photos are decoded large enough for the tower
    whatever it is. `max_tokens` cannot be below the tokens of one image; pruning is the way to fewer.
    """

    family = "gemma3"
    model_class = "Gemma3ForConditionalGeneration"

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        super().__init__(folder, network, tokenizer, device=device, dtype=dtype)
        _refuse_variants(self.name, network.config)
        self._input = input_settings(folder, network.config)
        # What the chat template writes for an image, and what the processor makes of it.
        begin, end = (self._special(id_) for id_ in (network.config.boi_token_index, network.config.eoi_token_index))
        self._written = begin
        self._wrapped = f"\n\n{begin}{tokenizer.convert_ids_to_tokens(self.image_token)}{end}\n\n"

    def _special(self, id_: int | None) -> str:
        token: str | None = None if id_ is None else self._tokenizer.convert_ids_to_tokens(id_)
        if token is None or self.tokenize(token) != [id_]:
            raise MissingModelError(self.name, f"its tokenizer does not know token {id_}, which wraps images")
        return token

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the visual tokens, beside the weights."""
        numbers = self._input
        return {
            "family": self.family,
            "dtype": self.dtype,
            "image_side": numbers.side,
            "token_side": numbers.side // numbers.grid,
            "mean": list(numbers.mean),
            "std": list(numbers.std),
            "scale": numbers.scale,
            "resample": numbers.resample,
        }

    def _wrap_images(self, text: str) -> str:
        return text.replace(self._written, self._wrapped)

    # Visual tokens

    def _encode(self, image: Pixels, longer_side: int, max_tokens: int) -> VisualTokens:
        pixels = self._pixels(image, longer_side, max_tokens)
        vectors = self._checked(self._network.get_image_features(pixels[None]).pooler_output[0])  # (n, hidden)
        grid = (self._input.grid, self._input.grid)
        return VisualTokens(vectors[:, None], full_positions(1, *grid), grid)

    def decode_side(self, longer_side: int) -> int:
        """Return half as much again as the square's side: photos up to 3:2 are then not enlarged, only reduced."""
        return max(longer_side, 3 * self._input.side // 2)

    def _pixels(self, image: Pixels, longer_side: int, max_tokens: int) -> torch.Tensor:
        """Return (3, side, side), whatever the proportions of the photo: so the model was trained."""
        numbers = self._input
        if longer_side < 1:
            raise SettingsError(f"longer side ({longer_side} pixels) must be at least 1")
        if max_tokens < numbers.tokens:
            raise SettingsError(
                f"{self.name} makes {numbers.tokens} visual tokens of every photo, more than the {max_tokens} allowed; "
                f"allow at least {numbers.tokens} (--max-tokens) and keep fewer of them by pruning (--prune)"
            )
        check_pixels(image)
        resized = resize(image, numbers.side, numbers.side, numbers.resample)
        pixels = torch.from_numpy(normalize(resized, numbers.mean, numbers.std, numbers.scale))
        return pixels.to(self.device, torch_dtype(self.dtype))

    # Scoring

    def _layout(self, prefix: CachedPrefix | None, suffixes: Sequence[Segment]) -> Layout:
        """Say what each row may attend to: the query's image, too, is seen both ways."""
        shared = [] if prefix is None else [prefix.segment]
        start = sum(segment.span for segment in shared)
        positions = [segment.positions[0] for segment in shared] + [s.positions[0] + start for s in suffixes]
        facts = RowFacts(torch.cat(positions), image_numbers([*shared, *suffixes]), self._text_config.sliding_window)
        return layout_of(sum(map(len, shared)), [len(suffix) for suffix in suffixes], self.device, facts, self.kernel)

    def _plain_inputs(
        self, images: Sequence[Pixels], longer_side: int, max_tokens: int
    ) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        pixels = torch.stack([self._pixels(image, longer_side, max_tokens) for image in images])
        return {"pixel_values": pixels}, [[self.image_token] * self._input.tokens] * len(images)

    def _plain_forward(self, ids: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        # The kinds of the tokens tell transformers which see each other both ways.
        return super()._plain_forward(ids, inputs | {"token_type_ids": (ids == self.image_token).long()})


@dataclass(frozen=True)
class InputSettings:
    """Numbers of the vision tower's input.

    Attributes:
        side: pixels of the square that every photo becomes.
        grid: tokens per side of it.
        mean, std, scale: a pixel value v becomes (v * scale - mean) / std, per channel.
        resample: Pillow's number of the filter (2 bilinear).
    """

    side: int
    grid: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    resample: int

    @property
    def tokens(self) -> int:
        """Visual tokens of a photo."""
        return self.grid**2


def input_settings(folder: ModelFolder, config: Any) -> InputSettings:
    """Take the numbers of the vision tower's input from a folder's image processor and its config.

    Raises:
        SettingsError: a number is missing or unusable, or photos are to be prepared in another way.
    """
    values, vision, tokens = folder.image_processor, config.vision_config, config.mm_tokens_per_image
    where = f"model {folder.name!r}: preprocessor_config.json"
    if values.get("do_pan_and_scan"):
        raise SettingsError(f"{where} asks for pan-and-scan, which is not supported; set do_pan_and_scan to false")
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if values.get(step) is False:
            raise SettingsError(f"{where} leaves out a step ({step}), which is not supported for gemma3")
    try:
        size = int(values["size"]["height"]), int(values["size"]["width"])
        numbers = InputSettings(
            side=int(vision.image_size),
            grid=isqrt(int(tokens)),
            mean=tuple(float(value) for value in values["image_mean"]),
            std=tuple(float(value) for value in values["image_std"]),
            scale=float(values.get("rescale_factor", 1 / 255)),
            resample=int(values.get("resample", RESAMPLING["bilinear"])),
        )
        patches = numbers.side // int(vision.patch_size)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise SettingsError(f"{where} or config.json is unusable: {error!r}") from error
    if len(numbers.mean) != 3 or len(numbers.std) != 3 or min(numbers.std) <= 0 or numbers.scale <= 0:
        raise SettingsError(f"{where} must hold 3 means, 3 standard deviations above 0 and a factor above 0")
    if size != (numbers.side, numbers.side):
        raise SettingsError(f"{where} has photos of {size}, but the vision tower takes {numbers.side} x {numbers.side}")
    if numbers.grid < 1 or numbers.tokens != tokens or patches < 1 or patches % numbers.grid:
        raise SettingsError(
            f"model {folder.name!r}: {tokens} tokens are no square grid that divides the {patches} x {patches} patches"
        )
    return numbers


def _refuse_variants(name: str, config: Any) -> None:
    """Refuse what the architecture allows and no released checkpoint has.

    Raises:
        SettingsError: names it.
    """
    text, vision = config.text_config, config.vision_config
    kinds, window = set(getattr(text, "layer_types", None) or ()), getattr(text, "sliding_window", None)
    odd = {
        f"a vision tower of type {vision.model_type!r}": vision.model_type != "siglip_vision_model",
        f"a language model of type {text.model_type!r}": text.model_type != "gemma3_text",
        "soft-capped attention": getattr(text, "attn_logit_softcapping", None) is not None,
        "soft-capped logits": getattr(text, "final_logit_softcapping", None) is not None,
        "text that is read both ways": bool(getattr(text, "use_bidirectional_attention", None)),
        "sliding layers without a window": "sliding_attention" in kinds and not (window or 0) > 0,
    }
    found = [what for what, is_so in odd.items() if is_so]
    if found:
        raise SettingsError(f"model {name!r}: gemma3 with {' and '.join(found)} is not supported")
