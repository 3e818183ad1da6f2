"""Global descriptors from the vision towers of transformers: DINOv2, DINOv3, CLIP, SigLIP, SigLIP 2.

It joins what others know: `imgrank.checkpoints` finds the files, `imgrank.pretrained` loads them, `families` says what
the model is, `preprocess` makes its input and `pooling` its output. It knows no file of photos and no bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgrank.arrays import Pixels
from imgrank.checkpoints import Checkpoint, find_checkpoint
from imgrank.config import MAX_SCALE, MIN_SCALE, MOST_SCALES, EncoderSettings
from imgrank.devices import torch_dtype
from imgrank.encode.base import JSON
from imgrank.encode.families import Family, Inputs, family_of, side_of
from imgrank.encode.preprocess import FixedSize, Patches, read_preprocessor
from imgrank.encode.torch_encoder import TorchEncoder, prepare
from imgrank.errors import SettingsError
from imgrank.pretrained import load_model, reading

_SIDE_LIMIT = 4096  # pixels; attention over more patches than that gives fits no device
_TRAINING_ONLY = ("mask_token",)  # left out of some checkpoints
_GEM_P = 3.0  # where nothing else is asked for

Steps = FixedSize | Patches


class HuggingFaceEncoder(TorchEncoder):
    """A vision tower with its preprocessing and pooling, behind the `Encoder` protocol.

    Args:
        settings: `model` is a folder or a hub id; `pooling` auto is the family's own; `image_size` replaces the
            checkpoint's resolution by a square of that side (for SigLIP 2 NaFlex: by as many patches as it has);
            `scales` are factors of that side, rounded to whole patches.
        device: for `pick_device`.
        batch_size: photos per batch, at least 1; None: what suits the device, halved when memory runs out.

    Raises:
        SettingsError: an unknown kind of model, or a setting it cannot follow.
        MissingModelError: the checkpoint is not found or incomplete.
        MissingDeviceError: the device does not exist, or cannot hold the weights.
    """

    def __init__(self, settings: EncoderSettings, *, device: str = "auto", batch_size: int | None = None) -> None:
        super().__init__(settings, device=device, batch_size=batch_size)
        name = settings.model
        found = find_checkpoint(name, settings.revision, accept=lambda config: family_of(name, config))
        self._family = family_of(name, found.config)
        self._pooling = self._family.pooling(name, settings.pooling)
        self._gem_p = _gem_power(self._pooling, settings.gem_p)
        steps = read_preprocessor(name, found.image_processor, self._family.processor)
        model_class = _model_class(self._family.class_for(self._pooling))
        config = _vision_config(model_class, found, self._family, self._pooling)
        steps = _at_size(name, self._family, config, steps, settings.image_size)
        self._steps = _at_scales(name, steps, self._family.stride_of(config), settings.scales)
        # At its own size, positions are taken as they are.
        flag = self._family.positions == "flag"
        self._interpolate = [flag and (settings.image_size is not None or one != steps) for one in self._steps]
        self._model = load_model(
            model_class, found, device=self._device, dtype=self._dtype, optional=_TRAINING_ONLY, config=config
        )
        self._config = config
        self._dim = _dim_of(config, projected=self._pooling == "head" and self._family.headless_class is not None)
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
        """Family, pooling, number type and every step of the preprocessing."""
        several = [steps.to_json() for steps in self._steps]
        return {
            "family": self._family.title,
            "pooling": self._pooling,
            "dtype": self._dtype,
            "preprocess": several[0],
            **({"gem_p": self._gem_p} if self._pooling == "gem" else {}),
            **({"scales": several} if len(several) > 1 else {}),
        }

    @property
    def longer_side(self) -> int:
        """Pixels to which the longer side of a photo may be reduced while it is decoded."""
        return max(steps.decode_side for steps in self._steps)

    @property
    def _power(self) -> float:
        return self._gem_p if self._pooling == "gem" else 1.0

    def _scales(self) -> Sequence[Callable[[Sequence[Pixels]], Tensor]]:
        pairs = zip(self._steps, self._interpolate, strict=True)
        return [partial(self._rows_at, steps, interpolate) for steps, interpolate in pairs]

    def _rows_at(self, steps: Steps, interpolate: bool, images: Sequence[Pixels]) -> Tensor:
        inputs = self._prepare(steps, images)
        options = {"interpolate_pos_encoding": True} if interpolate else {}
        with torch.inference_mode():
            output = self._model(**inputs, **options)
            mask = inputs.get("pixel_attention_mask")
            return self._family.pool(output, self._pooling, self._config, mask, gem_p=self._gem_p)

    def _prepare(self, steps: Steps, images: Sequence[Pixels]) -> Inputs:
        prepared: list[Any] = prepare(images, steps)
        dtype = torch_dtype(self._dtype)
        if isinstance(steps, FixedSize):
            pixels = torch.from_numpy(np.stack(prepared))  # (n, 3, height, width) float32
            return {"pixel_values": pixels.to(self._device, dtype)}
        shapes = torch.tensor([shape for _, shape in prepared], dtype=torch.int64)  # (n, 2): rows, columns
        patches = torch.from_numpy(np.stack([values for values, _ in prepared]))  # (n, most, patch * patch * 3)
        mask = torch.arange(patches.shape[1]) < shapes.prod(dim=1, keepdim=True)  # (n, most)
        return {
            "pixel_values": patches.to(self._device, dtype),
            "pixel_attention_mask": mask.to(self._device, torch.int32),
            "spatial_shapes": shapes.to(self._device),
        }


def _model_class(name: str) -> Any:
    import transformers  # here, so that a checkpoint that is not found is told without waiting for it

    return getattr(transformers, name)


def _vision_config(model_class: Any, found: Checkpoint, family: Family, pooling: str) -> Any:
    with reading(found, "its config.json"):
        config = model_class.config_class.from_pretrained(found.path, local_files_only=True)
    family.configure(config, found.config, pooling, found.name)
    return config


def _gem_power(pooling: str, wanted: float | None) -> float:
    if wanted is None:
        return _GEM_P
    if pooling != "gem":
        raise SettingsError(f"gem_p is the exponent of the pooling gem, and here it is {pooling}; use --pooling gem")
    if not 1 <= wanted <= 100:
        raise SettingsError(f"the exponent of gem goes from 1, the mean, to 100, nearly the maximum; not {wanted:g}")
    return wanted


def _at_size(name: str, family: Family, config: Any, steps: Steps, side: int | None) -> Steps:
    """Return the steps for the resolution asked for, having checked that the model takes it."""
    stride = family.stride_of(config)
    if isinstance(steps, Patches) and steps.patch != stride:
        raise SettingsError(
            f"model {name!r}: patches of {steps.patch} pixels in preprocessor_config.json, {stride} in config.json"
        )
    if side is not None:
        if not stride <= side <= _SIDE_LIMIT or side % stride:
            nearest = min(max(stride, round(side / stride) * stride), _SIDE_LIMIT // stride * stride)
            raise SettingsError(
                f"model {name!r}: an image size of {side} does not divide into its patches of {stride} pixels; "
                f"use {nearest}"
            )
        return steps.with_side(side)
    if isinstance(steps, FixedSize) and family.positions == "flag":
        trained = side_of(config.image_size)
        if steps.size != (trained, trained):
            raise SettingsError(
                f"model {name!r}: preprocessor_config.json makes {steps.size[1]} x {steps.size[0]} pixels, the "
                f"model was trained on {trained} x {trained}; use --image-size {trained // stride * stride}"
            )
    return steps


def _at_scales(name: str, steps: Steps, stride: int, scales: tuple[float, ...] | None) -> list[Steps]:
    """Return the steps for each scale, in their order.

    Raises:
        SettingsError: no such factors, a side that is too small or too large, or the same side twice.
    """
    if scales is None:
        return [steps]
    if not 1 <= len(scales) <= MOST_SCALES or not all(MIN_SCALE <= scale <= MAX_SCALE for scale in scales):
        raise SettingsError(f"scales are 1 to {MOST_SCALES} numbers from {MIN_SCALE:g} to {MAX_SCALE:g}, not {scales}")
    base = steps.side
    sides = [base if scale == 1 else round(base * scale / stride) * stride for scale in scales]
    for scale, side in zip(scales, sides, strict=True):
        if not stride <= side <= _SIDE_LIMIT:
            raise SettingsError(
                f"model {name!r}: the scale {scale:g} of {base} pixels is {base * scale:.0f}, and sides go from "
                f"{stride} to {_SIDE_LIMIT}; use others"
            )
    if len(set(sides)) < len(sides):
        raise SettingsError(
            f"model {name!r}: scales {', '.join(f'{scale:g}' for scale in scales)} of {base} pixels are sides of "
            f"{', '.join(map(str, sides))} pixels in whole patches; take scales that differ more"
        )
    return [steps if side == base else steps.with_side(side) for side in sides]


def _dim_of(config: Any, *, projected: bool) -> int:
    if projected:
        return int(config.projection_dim)
    stages = getattr(config, "hidden_sizes", None)
    return int(stages[-1]) if stages else int(config.hidden_size)
