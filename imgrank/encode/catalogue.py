"""Known encoders: what they are called, how large they are, what they may be used for.

Facts only, from the configuration files and pages of the checkpoints (read up to 2026-10); these weights were not run
here, encoders are tested on small random models of the same architecture. Any other checkpoint of a family does as
well. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imgrank.config import BUILTIN
from imgrank.errors import SettingsError


@dataclass(frozen=True)
class KnownEncoder:
    """A published checkpoint, or the encoder that comes with imgrank.

    Attributes:
        name: id on the Hugging Face hub, or "builtin".
        family: `model_type` in its config.json; "builtin" for the built-in one, "timm" for those of timm.
        parameters: numbers in its weight files, the text tower included where there is one.
        dim: length of a descriptor.
        image_size: pixels per side of what it sees; None: any size.
        licence: SPDX name, or the name its publisher gives it.
        gated: whether the hub asks for a login and for consent to the licence.
        note: what one should know beside that.
    """

    name: str
    family: str
    parameters: int
    dim: int
    image_size: int | None
    licence: str = "Apache-2.0"
    gated: bool = False
    note: str = ""

    @property
    def download_bytes(self) -> int:
        """Size of the weight files, which are float32."""
        return 0 if self.name == BUILTIN else 4 * self.parameters


TITLES: Mapping[str, str] = {  # by `model_type` of config.json
    "dinov2": "DINOv2",
    "dinov2_with_registers": "DINOv2 with registers",
    "dinov3_vit": "DINOv3",
    "dinov3_convnext": "DINOv3 ConvNeXt",
    "clip": "CLIP",
    "clip_vision_model": "CLIP",
    "siglip": "SigLIP",
    "siglip_vision_model": "SigLIP",
    "siglip2": "SigLIP 2 NaFlex",
    "siglip2_vision_model": "SigLIP 2 NaFlex",
}
TIMM = "timm"  # the family of all models of timm, whose config.json has an architecture and no `model_type`

_K = 10**5  # a tenth of a million
_DINOV3 = "DINOv3"

KNOWN: tuple[KnownEncoder, ...] = (
    KnownEncoder(BUILTIN, BUILTIN, 0, 1024, None, note="the default: no download, runs on any CPU"),
    KnownEncoder("facebook/dinov2-base", "dinov2", 866 * _K, 768, 224),
    KnownEncoder("facebook/dinov2-large", "dinov2", 3044 * _K, 1024, 224),
    KnownEncoder("facebook/dinov2-with-registers-base", "dinov2_with_registers", 866 * _K, 768, 224),
    KnownEncoder("facebook/dinov3-vitb16-pretrain-lvd1689m", "dinov3_vit", 857 * _K, 768, 224, _DINOV3, True),
    KnownEncoder("facebook/dinov3-vitl16-pretrain-lvd1689m", "dinov3_vit", 3031 * _K, 1024, 224, _DINOV3, True),
    KnownEncoder(
        "facebook/dinov3-convnext-base-pretrain-lvd1689m", "dinov3_convnext", 876 * _K, 1024, 224, _DINOV3, True
    ),
    KnownEncoder("google/siglip-large-patch16-384", "siglip", 6525 * _K, 1024, 384),
    KnownEncoder("google/siglip-so400m-patch14-384", "siglip", 8780 * _K, 1152, 384),
    KnownEncoder("google/siglip2-base-patch16-384", "siglip", 3755 * _K, 768, 384),
    KnownEncoder("google/siglip2-so400m-patch14-384", "siglip", 11360 * _K, 1152, 384),
    KnownEncoder("google/siglip2-base-patch16-naflex", "siglip2", 3752 * _K, 768, None),
    KnownEncoder(
        "timm/vit_pe_core_large_patch14_336.fb", TIMM, 3172 * _K, 1024, 336,
        note="PE-Core-L/14; needs timm and torchvision: pip install 'imgrank[timm]'",
    ),
    KnownEncoder(
        "openai/clip-vit-large-patch14", "clip", 4276 * _K, 768, 224, "MIT",
        note="the licence is that of the project's repository; its page on the hub names none",
    ),
)  # fmt: skip


def known(name: str) -> KnownEncoder | None:
    """Return what is known of a hub id or "builtin"; None: it is not listed."""
    return next((one for one in KNOWN if one.name == name), None)


def is_timm_config(config: Mapping[str, Any]) -> bool:
    """Tell whether config.json is that of a model of timm."""
    return "model_type" not in config and "architecture" in config and "pretrained_cfg" in config


def dim_and_size(model: str, config: Mapping[str, Any]) -> tuple[int, int | None]:
    """Read the length of a descriptor, and the pixels per side of what the model sees, from config.json.

    Args:
        model: its name, for messages.
        config: what config.json says; `model_type` is one of `TITLES`.

    Returns:
        the length with the family's own pooling; None for the size where the model takes any.

    Raises:
        SettingsError: a number is unusable.
    """
    family = TIMM if is_timm_config(config) else str(config.get("model_type"))
    part = config.get("vision_config")
    vision = part if isinstance(part, dict) else config
    try:
        if family == TIMM:
            vision = {"image_size": config["pretrained_cfg"]["input_size"][1:]}
            dim = int(config["num_features"])
        elif family == "dinov3_convnext":
            dim = int(vision.get("hidden_sizes", (96, 192, 384, 768))[-1])
        elif family.startswith("clip"):
            dim = int(config.get("projection_dim") or 512)
        else:
            dim = int(vision.get("hidden_size", 384 if family == "dinov3_vit" else 768))
        size = vision.get("image_size", 224)
        side = None if family.startswith("siglip2") else int(max(size) if isinstance(size, list | tuple) else size)
    except (TypeError, ValueError, LookupError) as error:
        raise SettingsError(f"model {model!r}: its config.json is unusable: {error!r}") from error
    if dim < 1 or (side is not None and side < 1):
        raise SettingsError(f"model {model!r}: its config.json is unusable: a size is not positive")
    return dim, side
