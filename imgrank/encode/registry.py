"""From the name of an encoder to the encoder.

A table of strings: the module of an encoder is imported when it is asked for, so that the built-in one never loads
torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from imgrank.checkpoints import HUB_ID, is_folder, read_json
from imgrank.config import EncoderSettings
from imgrank.encode.base import Encoder
from imgrank.encode.catalogue import KNOWN, is_timm_config
from imgrank.errors import InputError, SettingsError, UnknownModelError
from imgrank.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from imgrank.local.projection import Projection

BUILTIN = "builtin"
ENCODERS: Mapping[str, str] = {BUILTIN: "imgrank.encode.builtin:BuiltinEncoder"}
HUGGING_FACE = "imgrank.encode.huggingface:HuggingFaceEncoder"
TIMM = "imgrank.encode.timm:TimmEncoder"


def load_encoder(
    settings: EncoderSettings,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    projection: Projection | None = None,
    alike: Iterable[str] = (),
) -> Encoder:
    """Load the encoder that the settings name.

    Args:
        settings: `model` is "builtin", a folder, or a Hugging Face id "organization/name".
        device: for `imgrank.devices.pick_device`; the built-in encoder always runs on the CPU.
        batch_size: photos per batch; None: the encoder's own choice. The built-in encoder has a fixed one.
        projection: where the settings ask for one that is not the encoder's own; None gives the vectors to fit one on.
        alike: names that may have been meant where there is no such model, beside those of the catalogue.

    Raises:
        SettingsError: no such encoder (the message names close ones), or a setting it cannot follow.
        InputError: the projection takes vectors of another length.
        MissingModelError: the model is not on this machine and cannot be fetched (the message names close ones), or its
            folder lacks files.
        MissingDeviceError: the device does not exist or is too small.
    """
    name = settings.model
    _check_projection(settings)
    if name in ENCODERS:
        _refuse_unused(settings)
        # A projection may have been learned on the raw vectors or, elsewhere, on descriptors; its length tells.
        own = next(one.dim for one in KNOWN if one.name == BUILTIN)
        on_descriptors = projection is not None and len(projection.mean) == own
        encoder: Encoder = _class(ENCODERS[name])(raw=settings.projection != "default" and not on_descriptors)
    else:
        names = (*(one.name for one in KNOWN), *alike)
        _check_name(name, names)
        try:
            place = TIMM if _is_of_timm(name) else HUGGING_FACE
            encoder = _class(place)(settings, device=device, batch_size=batch_size)
        except UnknownModelError as error:
            raise error.among(names) from error
    if projection is None:
        return encoder
    from imgrank.encode.projected import ProjectedEncoder

    if len(projection.mean) != encoder.dim:
        raise InputError(
            f"the projection {settings.projection} takes vectors of {len(projection.mean)} numbers, and those of "
            f"{name} have {encoder.dim}; it was learned for another encoder"
        )
    return ProjectedEncoder(encoder, projection)


def _is_of_timm(name: str) -> bool:
    """Tell whether timm runs a model: a folder says so in its config.json, a hub id by its organization."""
    if not is_folder(name):
        return name.startswith("timm/")
    return is_timm_config(read_json(name, Path(name).expanduser() / "config.json"))


def _class(place: str) -> type:
    module, _, name = place.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def _check_projection(settings: EncoderSettings) -> None:
    dim, whitening = settings.projection_dim, settings.whitening
    if settings.projection == "default" and (dim is not None or whitening is not None):
        raise SettingsError(
            "a projection's length and whitening are for one that is learned: --projection collection, or a file"
        )
    if dim is not None and dim < 1:
        raise SettingsError(f"a projection has at least 1 number, not {dim}")
    if whitening is not None and not 0 <= whitening <= 1:
        raise SettingsError(f"whitening goes from 0, none, to 1, whole; not {whitening}")


def _refuse_unused(settings: EncoderSettings) -> None:
    """Refuse what the built-in encoder would silently leave out."""
    usual = EncoderSettings(model=settings.model)
    for key in ("revision", "pooling", "gem_p", "image_size", "scales"):
        if getattr(settings, key) != getattr(usual, key):
            raise SettingsError(
                f"the {settings.model} encoder has no {key} to set; leave it out, or name another model"
            )
    if settings.dtype not in ("auto", "float32"):
        raise SettingsError(f"the {settings.model} encoder computes in float32, not {settings.dtype}")


def _check_name(name: str, names: Sequence[str]) -> None:
    if is_folder(name) or HUB_ID.fullmatch(name):
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UnknownModelError(name, "there is no such folder").among(names)
    close = nearest(name, names)
    hint = f"; close: {', '.join(close)}" if close else ""
    raise SettingsError(
        f"no encoder {name!r}{hint}; possible: {', '.join(ENCODERS)}, a Hugging Face id such as {KNOWN[1].name}, "
        "or a folder with config.json, preprocessor_config.json and model.safetensors"
    )
