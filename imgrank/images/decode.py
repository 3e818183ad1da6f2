"""One photo file to pixels: upright 8-bit sRGB, reduced on the way where that is asked for.

Whatever a file holds, the outcome is a photo or an `ImageError` whose code is one of the status names. Of animations
and documents of several pages the first one counts. Knows nothing of other photos, bundles and models.
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from imgrank.arrays import Pixels
from imgrank.config import DecodeSettings, ThumbnailSettings
from imgrank.errors import ImageError, ImgrankError
from imgrank.images.budget import Budget
from imgrank.images.colour import flatten, to_srgb
from imgrank.images.content import read_content
from imgrank.images.directories import claims_too_much
from imgrank.images.formats import FORMATS, HEAD, canvas_size, open_image, png_essentials, sniff
from imgrank.images.limits import byte_limit
from imgrank.images.resize import fitted_size
from imgrank.images.scan import display, printable
from imgrank.images.thumbnails import make_thumbnail
from imgrank.records import NO_DIGEST, ImageRecord, Thumbnail, status_of

# A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves this many times the asked size. Measured on 2,700-pixel
# photos reduced to 336, 480 and 756: at least 45 dB from the result of a full decode, in 0.2 to 0.5 of its time
# (1.0: 33 dB at worst; 2.0: 46 dB, up to 2.5 times slower).
_DRAFT_MARGIN = 1.5

# Of all threads together. Decoding and reducing takes 2 to 20 bytes a pixel, most for JPEG 2000 and WebP; photos of
# phones are far too small for any thread to wait.
_PIXELS = Budget(200e6)
_FILES = Budget(1 << 30)  # bytes; a thread that waits for pixels holds its file already, and never the other way round

_ORIENTATION = 0x0112  # EXIF 2.3, 4.6.4: where row 0 and column 0 of the stored pixels belong
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAX_RAW_EXIF = 1 << 17  # characters; twice what EXIF in a JPEG segment takes
_SWAPS_SIDES = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo.

    Attributes:
        pixels: (h, w, 3) uint8 sRGB, upright, contiguous and writable; h and w may be below height and width.
        width: pixels of the full-size photo, upright.
        height: likewise.
    """

    pixels: Pixels
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class LoadedPhoto:
    """What became of one file: a record always, and either a photo or the error that says why there is none."""

    record: ImageRecord
    photo: Photo | None
    error: ImageError | None
    thumbnail: Thumbnail | None = None  # of a photo, where one was asked for


def decode(path: bytes | str | Path, settings: DecodeSettings, *, longer_side: int | None = None) -> Photo:
    """Read and decode one photo file.

    Args:
        path: the file.
        settings: the size limit.
        longer_side: pixels; the photo is reduced to it (Lanczos), never enlarged. None keeps the full size.

    Raises:
        ImageError: the photo cannot be used; `.code` is a status name, `.path` the path as messages show it.
        SettingsError: `longer_side` below 1 or an unusable limit.
    """
    loaded = read_photo(path, settings, longer_side)
    if loaded.photo is None:
        assert loaded.error is not None  # a LoadedPhoto has one or the other
        raise loaded.error
    return loaded.photo


def read_photo(
    path: bytes | str | Path,
    settings: DecodeSettings,
    longer_side: int | None = None,
    thumbnail: ThumbnailSettings | None = None,
) -> LoadedPhoto:
    """Read a file once, for its record, its digest and its pixels; a photo that cannot be used does not raise.

    Args:
        path: the file; the record keeps it as given, as bytes.
        settings: the size limit.
        longer_side: as in `decode`.
        thumbnail: what small picture is made of it beside; the photo is the same with and without.

    Raises:
        SettingsError: `longer_side` below 1 or an unusable limit.
    """
    raw = os.fsencode(path)
    with _FILES.hold(_size(raw)):
        return _read(raw, settings, longer_side, thumbnail)


def _size(path: bytes) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - pathlib has no bytes paths
    except (OSError, ValueError):  # reading it will say why
        return 0


def _read(
    raw: bytes, settings: DecodeSettings, longer_side: int | None, thumbnail: ThumbnailSettings | None
) -> LoadedPhoto:
    name = display(raw)
    try:
        content = read_content(raw, name, byte_limit(settings), lambda block: sniff(block[:HEAD]) is not None)
    except ImageError as error:
        return LoadedPhoto(ImageRecord(raw, 0, 0, NO_DIGEST, 0, 0, status_of(error.code)), None, _detached(error))
    photo: Photo | None = None
    small: Thumbnail | None = None
    failure: ImageError | None = None
    try:
        if content.data is None:
            raise ImageError(
                name,
                "too-large",
                f"{content.size / 1e6:.0f} MB are more than any photo of {settings.max_megapixels:g} megapixels "
                "needs; raise the limit with --max-megapixels",
            )
        photo = decode_bytes(content.data, name, settings, longer_side)
        if thumbnail is not None:
            small = _thumbnail(photo, content.data, name, settings, thumbnail)
    except ImageError as error:
        photo, failure = None, _detached(error)
    record = ImageRecord(
        path=raw,
        size=content.size,
        mtime_ns=content.mtime_ns,
        digest=content.digest,
        width=photo.width if photo else 0,
        height=photo.height if photo else 0,
        status=status_of(failure.code if failure else "ok"),
    )
    return LoadedPhoto(record, photo, failure, small)


def _thumbnail(
    photo: Photo, data: bytes, name: str, settings: DecodeSettings, thumbnail: ThumbnailSettings
) -> Thumbnail:
    pixels = photo.pixels
    if max(pixels.shape[:2]) < min(thumbnail.longer_side, max(photo.width, photo.height)):
        pixels = decode_bytes(data, name, settings, thumbnail.longer_side).pixels  # what was decoded is too small
    return make_thumbnail(pixels, thumbnail)


def decode_bytes(
    data: bytes, name: bytes | str | Path, settings: DecodeSettings, longer_side: int | None = None
) -> Photo:
    """Decode one photo that is in memory.

    Args:
        data: the whole file.
        name: what messages call it.
        settings: the size limit, checked before pixels are decoded.
        longer_side: as in `decode`.

    Raises:
        ImageError: the photo cannot be used; `.code` is a status name.
        SettingsError: `longer_side` below 1 or an unusable limit.
    """
    shown = display(os.fsencode(name))
    if not data:
        raise ImageError(shown, "not-an-image", "empty file")
    kind = sniff(data[:HEAD])
    if kind is None:
        raise ImageError(shown, "not-an-image", f"not a photo; known formats: {', '.join(FORMATS)}")
    try:
        try:
            return _decoded(data, kind, shown, settings, longer_side)
        except (ImgrankError, MemoryError):
            raise
        except Exception:
            essentials = png_essentials(data) if kind == "PNG" else data
            if essentials == data:
                raise
            return _decoded(essentials, kind, shown, settings, longer_side)
    except ImgrankError:
        raise
    except Exception as error:  # decoders raise what they like on damaged data, from struct.error to KeyError
        raise _image_error(error, kind, shown) from error


def _decoded(data: bytes, kind: str, name: str, settings: DecodeSettings, longer_side: int | None) -> Photo:
    with ExitStack() as held:
        if (canvas := canvas_size(data, kind)) is not None:  # allocated by opening
            held.enter_context(_PIXELS.hold(canvas[0] * canvas[1]))
        opened = open_image(data, kind, name, settings)
        full_size, box = opened.size, None
        if longer_side is not None:
            wanted = fitted_size(*full_size, longer_side)
            if kind == "JPEG" and wanted != full_size:
                # The reduced decode rounds sides up; the box says which part of it is the photo, to a fraction of a
                # pixel.
                drafted = opened.draft(None, (_margin(wanted[0]), _margin(wanted[1])))
                box = None if drafted is None else drafted[1]
        if canvas is None:
            # Progressive JPEGs are kept as a whole until the last scan, however small they are shown.
            width, height = full_size if "progressive" in opened.info else opened.size
            held.enter_context(_PIXELS.hold(width * height))
        opened.load()
        if box is None:
            full_size = opened.size  # readers that turn the photo themselves may know better once they have decoded it
        turn = _orientation(opened)  # after load: PNG may have it behind the pixels
        image = flatten(opened)
        if longer_side is not None:
            wanted = fitted_size(*full_size, longer_side)
            if image.size != wanted:
                image = image.resize(wanted, Image.Resampling.LANCZOS, box=box)
        image = to_srgb(image, opened.info.get("icc_profile"))
        if turn in _TURNS:
            image = image.transpose(_TURNS[turn])
        width, height = reversed(full_size) if turn in _SWAPS_SIDES else full_size
        return Photo(np.array(image), width, height)


def _margin(side: int) -> int:
    return math.ceil(side * _DRAFT_MARGIN)


def _orientation(image: ImageFile) -> int:
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and claims_too_much(exif):
        return 1
    if len(image.info.get("Raw profile type exif", "")) > _MAX_RAW_EXIF:  # old PNG: EXIF as text
        return 1
    try:
        turn = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - EXIF comes from anywhere, and damaged EXIF may not cost the photo
        return 1
    return turn if isinstance(turn, int) else 1


def _image_error(error: Exception, kind: str, name: str) -> ImageError:
    detail = printable(str(error)) or type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in detail:
        return ImageError(
            name,
            "out-of-memory",
            "not enough memory to decode it; use fewer workers, or a lower --max-megapixels to skip such photos",
        )
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(name, "too-large", f"Pillow refuses this {kind} file: {detail}")
    return ImageError(
        name, "truncated", f"{kind} data that end early or are damaged ({detail}); copy or export it again"
    )


def _detached(error: ImageError) -> ImageError:
    """Drop the tracebacks: they would keep the file's bytes and half-decoded pixels alive for as long as the error."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
