"""From the name of an encoder to the encoder.

A table of strings: the module of an encoder is imported when it is asked for, so that the built-in one never loads
torch.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from imgrank.checkpoints import HUB_ID, is_folder
from imgrank.config import EncoderSettings
from imgrank.encode.base import Encoder
from imgrank.errors import MissingModelError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgrank.local.projection import Projection

BUILTIN = "builtin"
ENCODERS: Mapping[str, str] = {BUILTIN: "imgrank.encode.builtin:BuiltinEncoder"}
HUGGING_FACE = "imgrank.encode.huggingface:HuggingFaceEncoder"

# Only for messages: any other id of these families does as well.
WELL_KNOWN = (
    "facebook/dinov2-base",
    "facebook/dinov2-with-registers-base",
    "facebook/dinov3-vitb16-pretrain-lvd1689m",
    "facebook/dinov3-convnext-base-pretrain-lvd1689m",
    "google/siglip-so400m-patch14-384",
    "google/siglip2-base-patch16-384",
    "google/siglip2-base-patch16-naflex",
    "openai/clip-vit-large-patch14",
)


def load_encoder(
    settings: EncoderSettings,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    projection: Projection | None = None,
) -> Encoder:
    """Load the encoder that the settings name.

    Args:
        settings: `model` is "builtin", a folder, or a Hugging Face id "organization/name".
        device: for `imgrank.devices.pick_device`; the built-in encoder always runs on the CPU.
        batch_size: photos per batch; None: the encoder's own choice. The built-in encoder has a fixed one.
        projection: of a collection, where the settings ask for one; None gives the vectors to fit one on.

    Raises:
        SettingsError: no such encoder (the message names close ones), or a setting it cannot follow.
        MissingModelError: the model is not on this machine and cannot be fetched, or its folder lacks files.
        MissingDeviceError: the device does not exist or is too small.
    """
    name = settings.model
    if name in ENCODERS:
        _refuse_unused(settings)
        encoder: Encoder = _class(ENCODERS[name])(raw=settings.projection == "collection")
    else:
        _check_name(name)
        encoder = _class(HUGGING_FACE)(settings, device=device, batch_size=batch_size)
    if projection is None:
        return encoder
    from imgrank.encode.projected import ProjectedEncoder

    return ProjectedEncoder(encoder, projection)


def _class(place: str) -> type:
    module, _, name = place.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def _refuse_unused(settings: EncoderSettings) -> None:
    """Refuse what the built-in encoder would silently leave out."""
    usual = EncoderSettings(model=settings.model)
    for key in ("revision", "pooling", "image_size"):
        if getattr(settings, key) != getattr(usual, key):
            raise SettingsError(
                f"the {settings.model} encoder has no {key} to set; leave it out, or name another model"
            )
    if settings.dtype not in ("auto", "float32"):
        raise SettingsError(f"the {settings.model} encoder computes in float32, not {settings.dtype}")


def _check_name(name: str) -> None:
    if is_folder(name) or HUB_ID.fullmatch(name):
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise MissingModelError(name, "there is no such folder")
    known = (*ENCODERS, *WELL_KNOWN)
    lowered = name.lower()
    close = [one for one in known if lowered and (lowered in one or one.partition("/")[2] == lowered)]
    if not close:
        short = {one.rpartition("/")[2]: one for one in known}
        close = [short[hit] for hit in difflib.get_close_matches(lowered, short, n=3, cutoff=0.6)]
    hint = f"; close: {', '.join(close[:3])}" if close else ""
    raise SettingsError(
        f"no encoder {name!r}{hint}; possible: {', '.join(ENCODERS)}, a Hugging Face id such as {WELL_KNOWN[0]}, "
        "or a folder with config.json, preprocessor_config.json and model.safetensors"
    )
