"""Any image that Pillow decodes to 8-bit sRGB: deep grey, palettes, transparency, ink and colour profiles.

Two steps, because reducing a photo comes between them: `flatten` gives 8-bit grey, RGB or CMYK without transparency,
`to_srgb` applies the colour profile. Knows nothing of files and sizes.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 << 20  # larger colour profiles are ignored
_BAND = 1 << 20  # pixels converted at a time
_CACHED_TRANSFORMS = 8  # per thread
_PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # image mode -> colour space of a fitting profile
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF 6.0 tags
_Convert = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
_local = threading.local()


def flatten(image: Image.Image) -> Image.Image:
    """Return a decoded image in mode L, RGB or CMYK, 8 bits a channel, without transparency.

    16-bit values keep their high byte, grey and colour alike. Transparent parts show white, as on a page.
    32-bit grey has no agreed range: values within 0..1 (floating point), 0..255 or 0..65535 are taken as that range,
    anything else is stretched from its smallest to its largest value.
    """
    if image.mode.startswith(("I", "F")):
        return _grey_8bit(image)
    if _has_transparency(image):
        return _over_white(image)
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "LAB":  # Pillow itself does not convert it
        transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return _applied(transform, image)
    return image.convert("RGB")


def to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Convert a flattened image to sRGB.

    Args:
        image: mode L, RGB or CMYK.
        profile: the photo's ICC profile as bytes, or None. One that is damaged, oversized or made for another
            colour space is ignored: a photo is never lost for its profile.

    Returns:
        Mode RGB. Perceptual intent. A profile that calls itself sRGB is not applied, to save time.
    """
    if isinstance(profile, bytes) and 0 < len(profile) <= MAX_PROFILE_BYTES:
        transform = _transform(profile, image.mode)
        if transform is not None:
            return _applied(transform, image)
    return image.convert("RGB")


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = Image.new("RGB", image.size)
    transform.apply(image, converted)
    return converted


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    # Per thread: Little CMS does not promise that one transform may run in two threads at once.
    cache: dict[tuple[bytes, str], ImageCms.ImageCmsTransform | None]
    cache = _local.__dict__.setdefault("transforms", {})
    key = (profile, mode)
    if key not in cache:
        if len(cache) >= _CACHED_TRANSFORMS:
            cache.clear()
        cache[key] = _build_transform(profile, mode)
    return cache[key]


def _build_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        fits = opened.profile.xcolor_space.strip() == _PROFILE_SPACES.get(mode)
        if not fits or (opened.profile.profile_description or "").startswith("sRGB"):
            return None
        return ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # noqa: BLE001 - profiles come from anywhere, and none may cost the photo
        return None


def _has_transparency(image: Image.Image) -> bool:
    key = image.info.get("transparency")
    if image.mode in ("RGB", "L") and key is not None:
        # A transparent colour given with 16 bits cannot be found again among 8-bit pixels.
        values = key if isinstance(key, tuple) else (key,)
        return all(isinstance(value, int) and value <= 255 for value in values)
    return image.has_transparency_data


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGBa":
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    page = Image.new("RGB", image.size, (255, 255, 255))
    page.paste(image, mask=image.getchannel("A"))
    return page


def _grey_8bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)  # (height, width)
    tags: Any = getattr(image, "tag_v2", {})
    convert: _Convert
    if image.mode.startswith("I;16"):
        convert = partial(_high_byte, depth=12 if tags.get(_BITS_PER_SAMPLE) == (12,) else 16)
    elif image.format != "TIFF" and image.mode == "I":
        convert = partial(_high_byte, depth=16)  # PNG and PPM: 16 bits in a wider type
    else:
        convert = _grey_of_unknown_range(values)
    grey = np.empty(values.shape, dtype=np.uint8)
    for rows in _bands(values):
        grey[rows] = convert(values[rows])
    if tags.get(_PHOTOMETRIC) == 0:  # TIFF's WhiteIsZero, which Pillow applies to 8-bit grey only
        np.subtract(255, grey, out=grey)
    return Image.fromarray(grey)


def _high_byte(part: npt.NDArray[Any], depth: int) -> npt.NDArray[Any]:
    return part.clip(0, (1 << depth) - 1) >> (depth - 8)


def _bands(values: npt.NDArray[Any]) -> Iterator[slice]:
    """Yield slices of rows, so that what is computed in a wider type never takes much memory beside the image."""
    height, width = values.shape
    step = max(1, _BAND // max(1, width))
    for start in range(0, height, step):
        yield slice(start, start + step)


def _grey_of_unknown_range(values: npt.NDArray[Any]) -> _Convert:
    """Return what brings parts of the values to 0..255, by the range of all of them."""
    low, high = math.inf, -math.inf
    for rows in _bands(values):
        finite = values[rows][np.isfinite(values[rows])]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        return np.zeros_like
    tops = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    if low >= 0 and high <= tops[-1]:
        low, high = 0.0, next(top for top in tops if high <= top)

    def convert(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
        wide = part.astype(np.float64)  # float32 differences could overflow
        np.nan_to_num(wide, copy=False, nan=low, posinf=high, neginf=low)
        wide -= low
        wide *= 255 / (high - low) if high > low else 0.0
        return np.rint(wide)

    return convert
