"""Global descriptors from the vision towers of transformers: DINOv2, DINOv3, CLIP, SigLIP, SigLIP 2.

It joins what others know: `imgrank.checkpoints` finds the files, `imgrank.pretrained` loads them, `families` says what
the model is, `preprocess` makes its input and `pooling` its output. It knows no file of photos and no bundle.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgrank.arrays import Floats, Pixels, unit_rows
from imgrank.checkpoints import Checkpoint, find_checkpoint
from imgrank.config import EncoderSettings
from imgrank.devices import is_out_of_memory, pick_device, pick_dtype, torch_dtype
from imgrank.encode.base import JSON, Encoded
from imgrank.encode.families import Family, Inputs, family_of, side_of
from imgrank.encode.pooling import is_finite
from imgrank.encode.preprocess import FixedSize, Patches, read_preprocessor
from imgrank.errors import MissingDeviceError, MissingModelError, SettingsError
from imgrank.images.resize import check_pixels
from imgrank.pretrained import load_model, reading

_log = logging.getLogger(__name__)

# Photos per batch before anything is known: enough to keep the device busy, few enough for the usual towers.
_BATCH = {"cpu": 8, "mps": 16, "cuda": 64}
_SIDE_LIMIT = 4096  # pixels; attention over more patches than that gives fits no device
_PREPARE_THREADS = 8
_TRAINING_ONLY = ("mask_token",)  # left out of some checkpoints


class HuggingFaceEncoder:
    """A vision tower with its preprocessing and pooling, behind the `Encoder` protocol.

    Args:
        settings: `model` is a folder or a hub id; `pooling` auto is the family's own; `image_size` replaces the
            checkpoint's resolution by a square of that side (for SigLIP 2 NaFlex: by as many patches as it has).
        device: for `pick_device`.
        batch_size: photos per batch, at least 1; None: what suits the device, halved when memory runs out.

    Raises:
        SettingsError: an unknown kind of model, or a setting it cannot follow.
        MissingModelError: the checkpoint is not found or incomplete.
        MissingDeviceError: the device does not exist, or cannot hold the weights.
    """

    def __init__(self, settings: EncoderSettings, *, device: str = "auto", batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise SettingsError(f"a batch holds at least 1 photo, not {batch_size}")
        self._device = pick_device(device)
        self._dtype = pick_dtype(self._device, settings.dtype)
        name = settings.model
        found = find_checkpoint(name, settings.revision, accept=lambda config: family_of(name, config))
        self._family = family_of(name, found.config)
        self._pooling = self._family.pooling(name, settings.pooling)
        self._steps = read_preprocessor(name, found.image_processor, self._family.processor)
        model_class = _model_class(self._family.class_for(self._pooling))
        config = _vision_config(model_class, found, self._family, self._pooling)
        self._steps = _at_size(name, self._family, config, self._steps, settings.image_size)
        self._interpolate = self._family.positions == "flag" and settings.image_size is not None
        self._model = load_model(
            model_class, found, device=self._device, dtype=self._dtype, optional=_TRAINING_ONLY, config=config
        )
        self._config = config
        self._dim = _dim_of(config, projected=self._pooling == "head" and self._family.headless_class is not None)
        self._batch_size = batch_size or _BATCH[self._device.split(":")[0]]
        self._name, self._revision = name, found.revision

    @property
    def name(self) -> str:
        """The model as the user named it."""
        return self._name

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
        return {
            "family": self._family.title,
            "pooling": self._pooling,
            "dtype": self._dtype,
            "preprocess": self._steps.to_json(),
        }

    @property
    def longer_side(self) -> int:
        """Pixels to which the longer side of a photo may be reduced while it is decoded."""
        return self._steps.decode_side

    @property
    def batch_size(self) -> int:
        """Photos per batch; halved each time that memory ran out."""
        return self._batch_size

    def encode(self, images: Sequence[Pixels]) -> Encoded:
        """Compute the descriptors of any number of photos, `batch_size` at a time.

        Args:
            images: n photos, each (height, width, 3) uint8 sRGB.

        Returns:
            (n, dim) unit rows, without local features.

        Raises:
            InputError: an array is not a photo.
            SettingsError: half-precision values overflowed; the message names the remedy.
            MissingModelError: the weights give NaN or infinite values in float32 too.
            MissingDeviceError: one photo alone does not fit into memory.
        """
        for position, photo in enumerate(images):
            check_pixels(photo, f"photo {position} of the batch")
        parts: list[Floats] = []
        done = 0
        while done < len(images):
            part = self._try(images[done : done + self._batch_size])
            if part is None:
                self._halve(min(self._batch_size, len(images) - done))
                continue
            parts.append(part)
            done += len(part)
        rows = np.concatenate(parts) if parts else np.empty((0, self._dim), dtype=np.float32)
        return Encoded(unit_rows(rows))

    def _try(self, images: Sequence[Pixels]) -> Floats | None:
        """Return (n, dim) float32 not normalised, or None where memory ran out.

        The exception ends here, and with it the frames that hold the batch's tensors: only then can memory be freed.
        """
        try:
            rows = self._forward(self._prepare(images))
            finite = is_finite(rows)
            if not bool(finite.all()):
                raise self._overflow(int((~finite).sum()))
            return rows.cpu().numpy()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve(self, size: int) -> None:
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()
        if size == 1:
            advice = "use a smaller --image-size or a smaller model, or --device cpu"
            raise MissingDeviceError(self._device, f"one photo does not fit into its memory; {advice}")
        self._batch_size = size // 2
        _log.warning(
            "%s: a batch of %d photos does not fit into memory, going on with %d (set --batch-size to start there)",
            self._device,
            size,
            self._batch_size,
        )

    def _overflow(self, count: int) -> SettingsError | MissingModelError:
        what = f"{count} photo{'s' if count > 1 else ''} of a batch gave NaN or infinite values"
        if self._dtype != "float32":
            return SettingsError(f"model {self._name!r} in {self._dtype}: {what}; use --dtype float32")
        return MissingModelError(self._name, f"{what} in float32 too, so its weights are damaged; download it again")

    def _prepare(self, images: Sequence[Pixels]) -> Inputs:
        # Threads, because Pillow's resizing lets other threads run. map keeps the order.
        workers = min(_PREPARE_THREADS, os.cpu_count() or 1, len(images))
        with ThreadPoolExecutor(workers) as pool:
            prepared: list[Any] = list(pool.map(self._steps, images))
        dtype = torch_dtype(self._dtype)
        if isinstance(self._steps, FixedSize):
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

    def _forward(self, inputs: Inputs) -> Tensor:
        options = {"interpolate_pos_encoding": True} if self._interpolate else {}
        with torch.inference_mode():
            output = self._model(**inputs, **options)
            mask = inputs.get("pixel_attention_mask")
            return self._family.pool(output, self._pooling, self._config, mask)


def _model_class(name: str) -> Any:
    import transformers  # here, so that a checkpoint that is not found is told without waiting for it

    return getattr(transformers, name)


def _vision_config(model_class: Any, found: Checkpoint, family: Family, pooling: str) -> Any:
    with reading(found, "its config.json"):
        config = model_class.config_class.from_pretrained(found.path, local_files_only=True)
    family.configure(config, found.config, pooling, found.name)
    return config


def _at_size(
    name: str, family: Family, config: Any, steps: FixedSize | Patches, side: int | None
) -> FixedSize | Patches:
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


def _dim_of(config: Any, *, projected: bool) -> int:
    if projected:
        return int(config.projection_dim)
    stages = getattr(config, "hidden_sizes", None)
    return int(stages[-1]) if stages else int(config.hidden_size)
