"""What encoders that run in torch share: batches that shrink when memory runs out, and several scales of a photo.

It knows no library of models. A subclass says how photos become pixels and pixels become rows.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from imgrank.arrays import Floats, Pixels, unit_rows
from imgrank.config import EncoderSettings
from imgrank.devices import is_out_of_memory, pick_device, pick_dtype
from imgrank.encode.base import JSON, Encoded
from imgrank.encode.pooling import is_finite
from imgrank.errors import MissingDeviceError, MissingModelError, SettingsError
from imgrank.images.resize import check_pixels

Prepared = TypeVar("Prepared")

_log = logging.getLogger(__name__)

# Photos per batch before anything is known: enough to keep the device busy, few enough for the usual towers.
_BATCH = {"cpu": 8, "mps": 16, "cuda": 64}
_PREPARE_THREADS = 8


class TorchEncoder(ABC):
    """The `Encoder` protocol without a model.

    Args:
        settings: `model` is its name, `dtype` its number type.
        device: for `pick_device`.
        batch_size: photos per batch, at least 1; None: what suits the device, halved when memory runs out.

    Raises:
        SettingsError: a batch of no photos.
        MissingDeviceError: the device does not exist.
    """

    def __init__(self, settings: EncoderSettings, *, device: str, batch_size: int | None) -> None:
        if batch_size is not None and batch_size < 1:
            raise SettingsError(f"a batch holds at least 1 photo, not {batch_size}")
        self._name = settings.model
        self._device = pick_device(device)
        self._dtype = pick_dtype(self._device, settings.dtype)
        self._batch_size = batch_size or _BATCH[self._device.split(":")[0]]

    @property
    def name(self) -> str:
        """The model as the user named it."""
        return self._name

    @property
    @abstractmethod
    def revision(self) -> str:
        """The commit hash of a hub model, or a digest of a folder's weights."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of a descriptor."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, JSON]:
        """Everything else that decides the descriptors."""

    @property
    @abstractmethod
    def longer_side(self) -> int:
        """Pixels to which the longer side of a photo may be reduced while it is decoded."""

    @property
    def batch_size(self) -> int:
        """Photos per batch; halved each time that memory ran out."""
        return self._batch_size

    @abstractmethod
    def _scales(self) -> Sequence[Callable[[Sequence[Pixels]], Tensor]]:
        """Return, for each scale, what turns photos into (n, dim) float32 rows that are not normalised."""

    @property
    def _power(self) -> float:
        """Exponent of the mean of the scales' rows."""
        return 1.0

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
        rows = np.concatenate(parts) if parts else np.empty((0, self.dim), dtype=np.float32)
        return Encoded(unit_rows(rows))

    def _try(self, images: Sequence[Pixels]) -> Floats | None:
        """Return (n, dim) float32 not normalised, or None where memory ran out.

        The exception ends here, and with it the frames that hold the batch's tensors: only then can memory be freed.
        """
        try:
            scales = [self._rows(images, rows_of) for rows_of in self._scales()]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        return scales[0] if len(scales) == 1 else mean_of_scales(scales, self._power)

    def _rows(self, images: Sequence[Pixels], rows_of: Callable[[Sequence[Pixels]], Tensor]) -> Floats:
        rows = rows_of(images)
        finite = is_finite(rows)
        if not bool(finite.all()):
            raise self._overflow(int((~finite).sum()))
        return rows.cpu().numpy()

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


def prepare(images: Sequence[Pixels], steps: Callable[[Pixels], Prepared]) -> list[Prepared]:
    """Run the preprocessing of photos side by side; results keep their order."""
    # Threads, because Pillow's resizing lets other threads run.
    workers = min(_PREPARE_THREADS, os.cpu_count() or 1, len(images))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(steps, images))


def mean_of_scales(scales: Sequence[Floats], power: float) -> Floats:
    """Join the vectors that photos have at several scales.

    Args:
        scales: each (n, dim) float32; scaled to length 1 here, so that every scale counts the same.
        power: p of the generalised mean, (mean of x^p)^(1/p); values are above 0 where it is not 1.

    Returns:
        (n, dim) float32, not normalised.

    Source:
        Radenović, Tolias, Chum 2018, arXiv:1711.02512, section 5.2 and the published code: a mean over scales, with the
        power of the pooling where that is GeM.
    """
    stacked: Any = np.stack([unit_rows(rows) for rows in scales]).astype(np.float64)
    if power == 1:
        return stacked.mean(axis=0).astype(np.float32)  # type: ignore[no-any-return]
    return ((stacked**power).mean(axis=0) ** (1 / power)).astype(np.float32)  # type: ignore[no-any-return]
