"""From the pixels of a photo to the input of a vision tower, as preprocessor_config.json describes it.

transformers' own image processors need torchvision for some families (DINOv3) and differ between their two backends;
this module reads the same file and resizes with Pillow's filters on 8-bit values, as the Pillow backend does. So for
DINOv3, whose own processor resizes floating-point values, ours differs by the rounding to 8 bits. It knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from imgrank.arrays import Floats, Pixels
from imgrank.encode.base import JSON
from imgrank.errors import SettingsError
from imgrank.images.resize import center_crop, normalize, resize

_CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_CROPPED = {"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224, "resample": 3}
_SQUARE = {"size": {"height": 224, "width": 224}, "do_center_crop": False}

# What each processor does where its file is silent: the defaults of the transformers class of that name.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "CLIPImageProcessor": {**_CROPPED, **_CLIP},
    "BitImageProcessor": {**_CROPPED, **_CLIP},
    "SiglipImageProcessor": {**_SQUARE, **_HALF, "resample": 3},
    "DINOv3ViTImageProcessor": {**_SQUARE, **_IMAGENET, "resample": 2},
    "Siglip2ImageProcessor": {**_HALF, "resample": 2, "patch_size": 16, "max_num_patches": 256},
}
_SIDE_LIMIT = 4096  # pixels of a model's input; keeps a wrong file from asking for terabytes
_ASPECT_LIMIT = 32  # a longer photo loses its ends before it is resized: they would be cropped away anyway
_NAFLEX_SCALE_LIMIT = 100  # enlargement of a tiny photo, as in transformers


@dataclass(frozen=True)
class FixedSize:
    """Every photo becomes one array of the same size.

    Attributes:
        resize_to: (height, width), or one number: the shorter side, keeping the proportions.
        crop_to: (height, width) cut from the centre after resizing; None: nothing is cut.
        resample: Pillow's number of the filter (2 bilinear, 3 bicubic).
        mean, std, scale: a pixel value v becomes (v * scale - mean) / std, per channel.
    """

    resize_to: tuple[int, int] | int
    crop_to: tuple[int, int] | None
    resample: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result."""
        if self.crop_to is not None:
            return self.crop_to
        if isinstance(self.resize_to, int):  # `read_fixed_size` lets none of these pass
            raise SettingsError("resizing the shorter side without a crop gives photos of different sizes")
        return self.resize_to

    @property
    def side(self) -> int:
        """Longer side of the result."""
        return max(self.size)

    @property
    def decode_side(self) -> int:
        """Longer side to which a photo may be reduced beforehand: four times what the model sees.

        Reducing twice changes the pixel values by a fraction of one grey level, and a photo up to four times as long
        as wide still has at least the model's resolution.
        """
        resized = self.resize_to if isinstance(self.resize_to, int) else max(self.resize_to)
        return 4 * max(resized, *self.size)

    def with_side(self, side: int) -> FixedSize:
        """Return the same steps for a square input of `side` pixels; the part that is cropped away stays the same."""
        if isinstance(self.resize_to, int) and self.crop_to is not None:
            shorter = round(self.resize_to * side / min(self.crop_to))
            return replace(self, resize_to=max(side, shorter), crop_to=(side, side))
        return replace(self, resize_to=(side, side), crop_to=None if self.crop_to is None else (side, side))

    def __call__(self, photo: Pixels) -> Floats:
        """Prepare one photo.

        Args:
            photo: (height, width, 3) uint8.

        Returns:
            (3, *size) float32.
        """
        height, width = photo.shape[:2]
        if isinstance(self.resize_to, tuple):
            target = self.resize_to
        else:
            if max(height, width) > _ASPECT_LIMIT * min(height, width):
                # Without this a strip of 1 x 60,000 pixels would be enlarged to gigabytes.
                longest = _ASPECT_LIMIT * min(height, width)
                photo = center_crop(photo, min(height, longest), min(width, longest))
                height, width = photo.shape[:2]
            target = _keeping_proportions(height, width, self.resize_to)
        resized = resize(photo, *target, self.resample)
        if self.crop_to is not None:
            resized = center_crop(resized, *self.crop_to)
        return normalize(resized, self.mean, self.std, self.scale)

    def to_json(self) -> dict[str, JSON]:
        """Return the steps as plain JSON values."""
        return {
            "resize": self.resize_to if isinstance(self.resize_to, int) else list(self.resize_to),
            "crop": None if self.crop_to is None else list(self.crop_to),
            "resample": self.resample,
            "mean": list(self.mean),
            "std": list(self.std),
            "scale": self.scale,
        }


@dataclass(frozen=True)
class Patches:
    """SigLIP 2 NaFlex: as many whole patches as fit, keeping the proportions (arXiv:2502.14786, section 2.4.2).

    Attributes:
        patch: side of a patch in pixels.
        most: patches of one photo; fewer are padded with zeros to this number.
        resample, mean, std, scale: as in `FixedSize`.
    """

    patch: int
    most: int
    resample: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float

    @property
    def side(self) -> int:
        """Side of a square with as many patches, in whole patches."""
        return self.patch * math.isqrt(self.most)

    @property
    def decode_side(self) -> int:
        """Longer side to which a photo may be reduced beforehand: four times the side of a square input."""
        return 4 * self.patch * math.ceil(math.sqrt(self.most))

    def with_side(self, side: int) -> Patches:
        """Return the same steps for as many patches as a square of `side` pixels has."""
        return replace(self, most=(side // self.patch) ** 2)

    def __call__(self, photo: Pixels) -> tuple[Floats, tuple[int, int]]:
        """Cut one photo into patches.

        Args:
            photo: (height, width, 3) uint8.

        Returns:
            (most, patch * patch * 3) float32, the photo's patches row by row and then zeros; its (rows, columns).
        """
        height, width = photo.shape[:2]
        rows, columns = naflex_grid(height, width, self.patch, self.most)
        resized = resize(photo, rows * self.patch, columns * self.patch, self.resample)
        values = normalize(resized, self.mean, self.std, self.scale)
        # (3, rows, patch, columns, patch) -> (rows, columns, patch, patch, 3): the channel varies fastest.
        cut = values.reshape(3, rows, self.patch, columns, self.patch).transpose(1, 3, 2, 4, 0)
        padded = np.zeros((self.most, self.patch * self.patch * 3), dtype=np.float32)
        padded[: rows * columns] = cut.reshape(rows * columns, -1)
        return padded, (rows, columns)

    def to_json(self) -> dict[str, JSON]:
        """Return the steps as plain JSON values."""
        return {
            "patch": self.patch,
            "max_patches": self.most,
            "resample": self.resample,
            "mean": list(self.mean),
            "std": list(self.std),
            "scale": self.scale,
        }


def naflex_grid(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """Return (rows, columns) of the largest grid of at most `most` patches that a scaled photo fills.

    A photo scaled by s needs ceil(height * s / patch) rows and ceil(width * s / patch) columns. Both are steps, so the
    largest s with few enough patches is a multiple of patch / height or of patch / width, and whole numbers find it
    exactly; transformers bisects to 1e-5 instead, which can miss a step that is nearer than that.

    Args:
        height: of the photo, in pixels, at least 1.
        width: of the photo, in pixels, at least 1.
        patch: side of a patch in pixels.
        most: largest number of patches, at least 1.
    """
    rows, columns = _ceil(height * _NAFLEX_SCALE_LIMIT, patch), _ceil(width * _NAFLEX_SCALE_LIMIT, patch)
    if rows * columns <= most:
        return rows, columns
    most_rows = _most_along(height, height, width, most)
    most_columns = _most_along(width, height, width, most)
    # The larger of two scales, most_rows * patch / height and most_columns * patch / width.
    if most_rows * width >= most_columns * height:
        return most_rows, _ceil(width * most_rows, height)
    return _ceil(height * most_columns, width), most_columns


def _most_along(side: int, height: int, width: int, most: int) -> int:
    """Return how many patches can lie along `side`, one of the two, so that the whole grid has at most `most`."""
    low, high = 0, most
    while low < high:  # bisection: more patches along one side never make the grid smaller
        count = (low + high + 1) // 2
        if _ceil(height * count, side) * _ceil(width * count, side) <= most:
            low = count
        else:
            high = count - 1
    return low


def _ceil(above: int, below: int) -> int:
    return -(-above // below)


def read_preprocessor(model: str, values: Mapping[str, Any], usual: str) -> FixedSize | Patches:
    """Read what preprocessor_config.json says.

    Args:
        model: its name, for messages.
        values: the JSON object.
        usual: the processor class of the model's family, where the file names none.

    Raises:
        SettingsError: a processor, a step or a value that is not understood; nothing is guessed.
    """
    name = str(values.get("image_processor_type") or values.get("feature_extractor_type") or usual)
    kind = name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if kind not in _DEFAULTS:
        known = ", ".join(sorted(_DEFAULTS))
        raise SettingsError(f"model {model!r}: photos are prepared by {name}, which is not known; known: {known}")
    if (kind == "Siglip2ImageProcessor") != (usual == "Siglip2ImageProcessor"):
        raise SettingsError(f"model {model!r}: preprocessor_config.json names {name}, its family uses {usual}")
    read = _Reader(model, {**_DEFAULTS[kind], **{key: value for key, value in values.items() if value is not None}})
    if not read.flag("do_resize", True):
        raise read.wrong("do_resize", "photos of different sizes do not fit into one batch")
    if read.flag("do_pad", False):
        raise read.wrong("do_pad", "padding is not supported")
    plain = not read.flag("do_normalize", True)
    resample = read.whole("resample", 0, 5)
    scale = read.positive("rescale_factor", 1 / 255) if read.flag("do_rescale", True) else 1.0
    mean = (0.0, 0.0, 0.0) if plain else read.channels("image_mean", least=-math.inf)
    std = (1.0, 1.0, 1.0) if plain else read.channels("image_std", least=1e-6)
    if kind == "Siglip2ImageProcessor":
        patch, most = read.whole("patch_size", 1, 64), read.whole("max_num_patches", 1, 65536)
        return Patches(patch, most, resample, mean, std, scale)
    crop_to = read.square("crop_size") if read.flag("do_center_crop", False) else None
    resize_to = read.size("size", square=kind == "DINOv3ViTImageProcessor")
    if crop_to is not None:
        smallest = (resize_to, resize_to) if isinstance(resize_to, int) else resize_to
        if crop_to[0] > smallest[0] or crop_to[1] > smallest[1]:
            raise read.wrong("crop_size", "larger than what the photo is resized to")
    elif isinstance(resize_to, int):
        raise read.wrong("size", "without a centre crop, photos of different proportions do not fit into one batch")
    return FixedSize(resize_to, crop_to, resample, mean, std, scale)


class _Reader:
    """Typed access to the values of one file, whose errors name the file's key."""

    def __init__(self, model: str, values: Mapping[str, Any]) -> None:
        self._model, self._values = model, values

    def wrong(self, key: str, why: str) -> SettingsError:
        value = self._values.get(key)
        return SettingsError(f"model {self._model!r}: preprocessor_config.json: {key} = {value!r}: {why}")

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "expected true or false")
        return value

    def whole(self, key: str, least: int, most: int) -> int:
        return self._whole(key, self._values.get(key), least, most)

    def _whole(self, key: str, value: object, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key, f"expected a whole number from {least} to {most}")
        return value

    def _number(self, key: str, value: object, least: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "expected a number")
        if not math.isfinite(value) or value < least:
            raise self.wrong(key, f"expected a finite number of at least {least}")
        return float(value)

    def positive(self, key: str, default: float) -> float:
        return self._number(key, self._values.get(key, default), 1e-12)

    def channels(self, key: str, least: float) -> tuple[float, float, float]:
        value = self._values.get(key)
        if not isinstance(value, list | tuple) or len(value) != 3:
            raise self.wrong(key, "expected three numbers, one per channel")
        red, green, blue = (self._number(key, one, least) for one in value)
        return red, green, blue

    def square(self, key: str) -> tuple[int, int]:
        size = self.size(key, square=True)
        if isinstance(size, int):
            raise self.wrong(key, "expected height and width")
        return size

    def size(self, key: str, *, square: bool) -> tuple[int, int] | int:
        value = self._values.get(key)
        if isinstance(value, Mapping):
            given = {name for name, number in value.items() if number is not None}
            if given == {"shortest_edge"}:
                return self._whole(key, value["shortest_edge"], 1, _SIDE_LIMIT)
            if given == {"height", "width"}:
                height = self._whole(key, value["height"], 1, _SIDE_LIMIT)
                return height, self._whole(key, value["width"], 1, _SIDE_LIMIT)
            raise self.wrong(key, "expected shortest_edge, or height and width")
        # A single number, in files from before 2023: the shorter side for some classes, a square for the others.
        side = self._whole(key, value, 1, _SIDE_LIMIT)
        return (side, side) if square else side


def _keeping_proportions(height: int, width: int, shorter: int) -> tuple[int, int]:
    # The longer side is rounded down, as transformers does.
    if height <= width:
        return shorter, int(shorter * width / height)
    return int(shorter * height / width), shorter
