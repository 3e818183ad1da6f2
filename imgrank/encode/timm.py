"""Global descriptors from the models of timm, such as PE-Core, the first stage of arXiv:2604.13268.

timm needs torchvision, so these encoders run only where that can be installed. Weights are read from safetensors, and
the preprocessing is ours: only the network is timm's.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgrank.arrays import Pixels
from imgrank.checkpoints import Checkpoint, Config, find_checkpoint
from imgrank.config import EncoderSettings
from imgrank.devices import torch_dtype
from imgrank.encode.base import JSON
from imgrank.encode.preprocess import FixedSize
from imgrank.encode.torch_encoder import TorchEncoder, prepare
from imgrank.errors import MissingExtraError, MissingModelError, SettingsError
from imgrank.pretrained import few, reading

_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's numbers
_SIDE_LIMIT = 4096  # pixels
# What of timm's constructor may not be decided by a file: where weights come from.
_OURS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "num_classes")


class TimmEncoder(TorchEncoder):
    """A model of timm without its classifier, behind the `Encoder` protocol.

    The descriptor is what timm gives with `num_classes=0`: tokens pooled as the model was trained to, for PE-Core by
    its attention pooling, before the projection to the space of captions.

    Args:
        settings: `model` is a hub id "timm/NAME" or a folder with timm's config.json and model.safetensors;
            `image_size` replaces its resolution by a square of that side.
        device: for `pick_device`.
        batch_size: photos per batch, at least 1; None: what suits the device, halved when memory runs out.

    Raises:
        MissingExtraError: timm or torchvision is not installed.
        SettingsError: a setting it cannot follow, or a configuration that is unusable.
        MissingModelError: the checkpoint is not found or incomplete.
        MissingDeviceError: the device does not exist, or cannot hold the weights.
    """

    def __init__(self, settings: EncoderSettings, *, device: str = "auto", batch_size: int | None = None) -> None:
        super().__init__(settings, device=device, batch_size=batch_size)
        name = settings.model
        _refuse_unused(settings)
        library = _timm(name)
        found = find_checkpoint(
            name, settings.revision, accept=lambda config: _architecture(library, name, config), preprocessor=False
        )
        self._steps = read_steps(name, found.config)
        self._architecture = _architecture(library, name, found.config)
        with reading(found, "its weights", device=self._device):
            model = _load(library, found, self._architecture)
            if settings.image_size is not None:
                self._steps = self._steps.with_side(_resized(name, model, settings.image_size))
            self._model = model.eval().requires_grad_(False).to(self._device, torch_dtype(self._dtype))
        self._dim = int(getattr(model, "head_hidden_size", None) or model.num_features)
        self._revision = found.revision

    @property
    def revision(self) -> str:
        """The commit hash of a hub model, or a digest of a folder's weights."""
        return self._revision

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return self._dim

    @property
    def settings(self) -> Mapping[str, JSON]:
        """Architecture, number type and every step of the preprocessing."""
        return {"family": self._architecture, "dtype": self._dtype, "preprocess": self._steps.to_json()}

    @property
    def longer_side(self) -> int:
        """Pixels to which the longer side of a photo may be reduced while it is decoded."""
        return self._steps.decode_side

    def _scales(self) -> Sequence[Callable[[Sequence[Pixels]], Tensor]]:
        return [self._rows_of]

    def _rows_of(self, images: Sequence[Pixels]) -> Tensor:
        pixels = torch.from_numpy(np.stack(prepare(images, self._steps)))  # (n, 3, height, width) float32
        with torch.inference_mode():
            rows: Tensor = self._model(pixels.to(self._device, torch_dtype(self._dtype)))
        return rows.float()


def read_steps(name: str, config: Config) -> FixedSize:
    """Read the preprocessing that timm's config.json describes under `pretrained_cfg`.

    Source:
        timm.data.transforms_factory of timm 1.0: `crop_mode` center scales the shorter side to size / crop_pct and
        cuts the middle out; squash scales both sides. Where a margin is odd, our middle may lie a pixel beside
        torchvision's.

    Raises:
        SettingsError: a value is missing or unusable; the message names it.
    """
    part = config.get("pretrained_cfg")
    values: Mapping[str, Any] = part if isinstance(part, Mapping) else {}

    def wrong(key: str, why: str) -> SettingsError:
        return SettingsError(f"model {name!r}: config.json: pretrained_cfg.{key} = {values.get(key)!r}: {why}")

    def numbers(key: str, count: int, least: float) -> list[float]:
        given = values.get(key)
        listed: Sequence[Any] = given if isinstance(given, list | tuple) and len(given) == count else [None]
        if not all(isinstance(one, int | float) and math.isfinite(one) and one >= least for one in listed):
            raise wrong(key, f"expected {count} numbers")
        return [float(one) for one in listed]

    channels, height, width = numbers("input_size", 3, 1)
    if channels != 3 or height != width or not float(height).is_integer() or height > _SIDE_LIMIT:
        raise wrong("input_size", "expected [3, side, side]")
    crop = values.get("crop_pct", 0.875)
    if isinstance(crop, bool) or not isinstance(crop, int | float) or not 0.1 <= crop <= 1:
        raise wrong("crop_pct", "expected a number from 0.1 to 1")
    resample = _RESAMPLE.get(str(values.get("interpolation", "bicubic")))
    if resample is None:
        raise wrong("interpolation", f"known: {', '.join(_RESAMPLE)}")
    side, resized = int(height), math.floor(height / crop)
    mode = values.get("crop_mode", "center")
    if mode not in ("center", "squash"):
        raise wrong("crop_mode", "known: center, squash")
    return FixedSize(
        resize_to=resized if mode == "center" else (resized, resized),
        crop_to=(side, side),
        resample=resample,
        mean=_three(numbers("mean", 3, -math.inf)),
        std=_three(numbers("std", 3, 1e-6)),
        scale=1 / 255,
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _refuse_unused(settings: EncoderSettings) -> None:
    for key, why in (
        ("pooling", "pools as it was trained to"),
        ("gem_p", "pools as it was trained to"),
        ("scales", "takes photos of one size only"),
    ):
        if getattr(settings, key) not in ("auto", None):
            raise SettingsError(f"model {settings.model!r}: a model of timm {why}; leave {key} out")


def _timm(name: str) -> Any:
    """Import timm.

    Raises:
        MissingExtraError: it or torchvision is not there, or they do not fit each other.
    """
    purpose = f"the encoder {name!r}"
    if find_spec("timm") is None:
        raise MissingExtraError("timm (and torchvision, without which that does not run)", "timm", purpose)
    if find_spec("torchvision") is None:
        raise MissingExtraError("torchvision (timm does not run without it)", "timm", purpose)
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises either
        raise MissingExtraError(f"timm with a torchvision that fits this torch ({error})", "timm", purpose) from error


def _architecture(library: Any, name: str, config: Config) -> str:
    architecture = config.get("architecture")
    # Only names that timm has registered: its constructor would also take the address of a model to download.
    if not isinstance(architecture, str) or not library.is_model(architecture):
        raise SettingsError(
            f"model {name!r}: config.json names the architecture {architecture!r}, which timm {library.__version__} "
            "does not have; a later timm may"
        )
    return architecture


def _load(library: Any, found: Checkpoint, architecture: str) -> Any:
    """Make the network and fill it: every tensor must be there, and only the classifier's may be left over."""
    from safetensors.torch import load_file

    extra = found.config.get("model_args")
    arguments = {} if not isinstance(extra, Mapping) else {str(key): value for key, value in extra.items()}
    refused = sorted(set(arguments).intersection(_OURS))
    if refused:
        raise SettingsError(f"model {found.name!r}: config.json: model_args may not set {', '.join(refused)}")

    def create() -> Any:
        return library.create_model(architecture, pretrained=False, num_classes=0, **arguments)

    with suppress(NotImplementedError, RuntimeError), torch.device("meta"):
        wanted = sum(weights.numel() for weights in create().parameters())
        if wanted > 2 * found.numbers:
            raise MissingModelError(
                found.name,
                f"config.json asks for {wanted} weights, and there are only {found.numbers}; download it again",
            )
    model = create()
    weights = load_file(found.path / "model.safetensors")
    report = model.load_state_dict(weights, strict=False)
    if report.missing_keys:
        raise MissingModelError(
            found.name,
            f"its weights lack {len(report.missing_keys)} of the tensors that {architecture} needs: "
            f"{few(report.missing_keys)}",
        )
    part = found.config.get("pretrained_cfg")
    named = part.get("classifier") if isinstance(part, Mapping) else None
    heads = [f"{one}." for one in ([named] if isinstance(named, str) else named or ["head"])]
    others = [key for key in report.unexpected_keys if not key.startswith(tuple(heads))]
    if others:
        raise MissingModelError(
            found.name, f"its weights hold {len(others)} tensors that {architecture} does not know: {few(others)}"
        )
    return model


def _resized(name: str, model: Any, side: int) -> int:
    """Prepare a model for another resolution, and return it.

    Raises:
        SettingsError: the model does not take it.
    """
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    stride = int(patch[0]) if isinstance(patch, tuple | list) else 1
    if not stride <= side <= _SIDE_LIMIT or side % stride:
        nearest = min(max(stride, round(side / stride) * stride), _SIDE_LIMIT // stride * stride)
        raise SettingsError(
            f"model {name!r}: an image size of {side} does not divide into its patches of {stride} pixels; "
            f"use {nearest}"
        )
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(side, side))
    return side
