"""The vision towers of transformers that are known here: what each is called, where its tokens are, how it pools.

A new family is one entry of `FAMILIES` and, where its input or output differs, one small function. This module loads
no weights and imports no transformers: it tells `huggingface` what to load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from imgrank.encode import pooling
from imgrank.errors import SettingsError

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Family:
    """One kind of vision tower.

    Attributes:
        title: its name in prose.
        model_class: class of transformers that holds the vision tower alone.
        processor: class of transformers that prepares its photos, where the checkpoint does not say.
        own_pooling: what `auto` means: "cls", or "head" for the tower's trained output.
        has_cls: whether the first token is a summary of the photo.
        positions: how it takes photos of another size than it was trained on: "any" by itself, "flag" when asked
            to interpolate its position embeddings.
        stride: name of the configuration's value that divides the photo's sides, or the number itself.
        headless_class: class without the head, for the other poolings; None: the same class.
    """

    title: str
    model_class: str
    processor: str
    own_pooling: Literal["cls", "head"]
    has_cls: bool
    positions: Literal["any", "flag"]
    stride: str | int = "patch_size"
    headless_class: str | None = None

    def pooling(self, model: str, wanted: str) -> str:
        """Return the pooling to use: "head", "cls", "mean" or "gem".

        Raises:
            SettingsError: `cls` of a tower without such a token.
        """
        if wanted == "auto":
            return self.own_pooling
        if wanted == "cls" and not self.has_cls:
            raise SettingsError(f"model {model!r}: {self.title} has no CLS token; use --pooling auto, mean or gem")
        return wanted

    def class_for(self, chosen_pooling: str) -> str:
        """Return the name of the transformers class to load for a pooling that `pooling` returned."""
        if chosen_pooling != "head" and self.headless_class is not None:
            return self.headless_class
        return self.model_class

    def configure(self, config: Any, whole: Mapping[str, Any], chosen_pooling: str, model: str) -> None:
        """Adapt the vision tower's configuration to what is wanted of it.

        Args:
            config: of the vision tower; changed in place.
            whole: config.json.
            chosen_pooling: from `pooling`.
            model: its name, for messages.

        Raises:
            SettingsError: the pooling needs a head that this checkpoint has not.
        """
        if self.processor in ("SiglipImageProcessor", "Siglip2ImageProcessor"):
            if chosen_pooling == "head" and not config.vision_use_head:
                raise SettingsError(f"model {model!r}: its pooling head is switched off; use --pooling mean or gem")
            config.vision_use_head = chosen_pooling == "head"
        elif self.headless_class is not None and isinstance(whole.get("projection_dim"), int):
            # Some CLIP checkpoints give the size of the projection only beside the vision tower's own values.
            config.projection_dim = whole["projection_dim"]

    def stride_of(self, config: Any) -> int:
        """Return the pixels per token along one side."""
        if isinstance(self.stride, int):
            return self.stride
        return side_of(getattr(config, self.stride))

    def pool(
        self, output: Any, chosen_pooling: str, config: Any, mask: Tensor | None = None, *, gem_p: float = 3.0
    ) -> Tensor:
        """Turn a model's output into one vector per photo.

        Args:
            output: what the transformers model returned.
            chosen_pooling: from `pooling`.
            config: of the vision tower.
            mask: (n, tokens), 1 where a token is a patch; None: no padding.
            gem_p: exponent of the pooling "gem".

        Returns:
            (n, dim) float32, not normalised.
        """
        if chosen_pooling == "head":
            embeds = output.image_embeds if self.headless_class is not None else output.pooler_output
            return embeds.float()  # type: ignore[no-any-return]
        tokens = output.last_hidden_state  # (n, summary + registers + patches, dim)
        if chosen_pooling == "cls":
            # The tower's own summary where it has one: for CLIP it went through one more layer norm than the token.
            summary = getattr(output, "pooler_output", None)
            return pooling.cls_token(tokens) if summary is None else summary.float()
        # Registers hold what the model notes for itself (Darcet et al. 2024, arXiv:2309.16588), not places.
        registers = int(getattr(config, "num_register_tokens", 0))
        patches = tokens[:, int(self.has_cls) + registers :]
        return pooling.gem(patches, mask, p=gem_p) if chosen_pooling == "gem" else pooling.mean(patches, mask)


_DINOV3 = "DINOv3ViTImageProcessor"
_DINOV2 = Family("DINOv2", "Dinov2Model", "BitImageProcessor", "cls", True, "any")
_CLIP = Family(
    "CLIP",
    "CLIPVisionModelWithProjection",
    "CLIPImageProcessor",
    "head",
    True,
    "flag",
    headless_class="CLIPVisionModel",
)
_SIGLIP = Family("SigLIP", "SiglipVisionModel", "SiglipImageProcessor", "head", False, "flag")
_NAFLEX = Family("SigLIP 2 NaFlex", "Siglip2VisionModel", "Siglip2ImageProcessor", "head", False, "any")

# By `model_type` of config.json. SigLIP 2 checkpoints of one fixed resolution say "siglip".
FAMILIES: Mapping[str, Family] = {
    "dinov2": _DINOV2,
    "dinov2_with_registers": Family(
        "DINOv2 with registers", "Dinov2WithRegistersModel", "BitImageProcessor", "cls", True, "any"
    ),
    "dinov3_vit": Family("DINOv3", "DINOv3ViTModel", _DINOV3, "cls", True, "any"),
    # Four stages, each halving the sides after a first convolution of stride 4: 4 * 2 * 2 * 2.
    "dinov3_convnext": Family("DINOv3 ConvNeXt", "DINOv3ConvNextModel", _DINOV3, "cls", True, "any", stride=32),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "siglip2": _NAFLEX,
    "siglip2_vision_model": _NAFLEX,
}


def family_of(model: str, config: Mapping[str, Any]) -> Family:
    """Return the family that config.json names.

    Raises:
        SettingsError: none of those known here; the message lists them.
    """
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        titles = ", ".join(dict.fromkeys(one.title for one in FAMILIES.values()))
        raise SettingsError(
            f"model {model!r} is of type {kind!r}, which gives no descriptors here; supported: {titles}"
        )
    return family


def side_of(value: int | Sequence[int]) -> int:
    """Return the larger side of what configurations give as one number or as (height, width)."""
    return value if isinstance(value, int) else max(value)
