"""What a photo may cost, told from its headers before anything is decoded.

`--max-megapixels` bounds pixels. The other limits here are about files of a few kilobytes that are within it and still
take minutes or gigabytes; no camera or program known to us writes such files. Knows nothing of pixels.
"""

from __future__ import annotations

import math
import re

from PIL import TiffImagePlugin
from PIL.ImageFile import ImageFile

from imgrank.config import DecodeSettings
from imgrank.errors import ImageError, SettingsError
from imgrank.images.directories import claims_too_much

# Pillow's tables for reducing a photo take 48 bytes for each pixel of a side, whatever the other side is.
MAX_SIDE = 1 << 20  # pixels
# Each scan of a JPEG walks over all its blocks, also where it holds nothing for them: 60 ms for 200 megapixels.
# Progressive files have about ten.
MAX_SCANS = 100
# Pillow unpacks run-length coded BMPs in Python: 0.15 s for a megapixel, from two bytes for each row.
MAX_RLE_PIXELS = 20_000_000
# OpenJPEG keeps about 12 kB for each tile of a JPEG 2000 photo, used or not.
FREE_TILES, MIN_TILE_PIXELS = 1024, 1024

_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd8-\xfe])")  # of a JPEG, but for stuffed bytes and restart markers
_SOS, _EOI = 0xDA, 0xD9
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF 6.0 tags


def check_size(size: tuple[int, int], name: str, settings: DecodeSettings) -> None:
    """Refuse more pixels than the limit, and sides that no photo has.

    Raises:
        ImageError: "too-large".
    """
    width, height = size
    limit = pixel_limit(settings)
    if limit is not None and width * height > limit:
        raise ImageError(
            name,
            "too-large",
            f"{width} x {height} pixels are {width * height / 1e6:.1f} megapixels, the limit is "
            f"{settings.max_megapixels:g}; raise it with --max-megapixels",
        )
    if max(width, height) > MAX_SIDE:
        raise ImageError(name, "too-large", f"{width} x {height} pixels: no side may be longer than {MAX_SIDE}")


def check_stream(data: bytes, kind: str, name: str) -> None:
    """Refuse what makes a decoder work or allocate beyond the number of pixels, before the file is opened.

    Args:
        data: the whole file.
        kind: the format, as `sniff` names it.
        name: the path as messages show it.

    Raises:
        ImageError: "too-large".
    """
    # Counting the two bytes is quick, and says too much only where they are not markers.
    if kind == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS and (scans := jpeg_scans(data)) > MAX_SCANS:
        raise ImageError(name, "too-large", f"{scans} JPEG scans, the limit is {MAX_SCANS}; export it again")
    if kind == "TIFF" and claims_too_much(data):
        raise ImageError(name, "too-large", "TIFF tags that claim more than the file holds; export it again")
    if kind == "JPEG 2000":
        tiles, pixels = jpeg2000_tiles(data)
        if tiles > FREE_TILES and tiles * MIN_TILE_PIXELS > pixels:
            raise ImageError(name, "too-large", f"{tiles} tiles for {pixels} pixels are too many; export it again")


def check_opened(image: ImageFile, kind: str, name: str, settings: DecodeSettings) -> None:
    """Refuse an opened image, not decoded yet, for its size or for what decoding takes beside its pixels.

    Raises:
        ImageError: "too-large".
    """
    check_size(image.size, name, settings)
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # One tile is unpacked as a whole, however little of it the photo covers.
        tile_width, tile_length = image.tag_v2.get(_TILE_WIDTH), image.tag_v2.get(_TILE_LENGTH)
        if isinstance(tile_width, int) and isinstance(tile_length, int):
            check_size((tile_width, tile_length), name, settings)
    packed = image.tile[0].codec_name if kind == "BMP" and image.tile else ""
    if packed == "bmp_rle" and width * height > MAX_RLE_PIXELS:
        raise ImageError(
            name,
            "too-large",
            f"{width * height / 1e6:.1f} megapixels of run-length coded BMP, the limit is {MAX_RLE_PIXELS / 1e6:g}; "
            "save it without compression",
        )


def jpeg_scans(data: bytes) -> int:
    """Return how many scans a JPEG file has up to the end of its first image."""
    scans, at = 0, 2
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            break
        scans += marker == _SOS
        at += int.from_bytes(data[at : at + 2])  # the segment: its length, which counts itself, and content
    return scans


def jpeg2000_tiles(data: bytes) -> tuple[int, int]:
    """Return how many tiles and pixels the codestream of a JPEG 2000 file has; zeros where it is not found.

    SIZ (ISO/IEC 15444-1, A.5.1): marker, length and profile, then width and height of the reference grid, the offset
    of the image in it, width and height of a tile, and the offset of the tiles; 32 bits each.
    """
    at = data.find(b"\xff\x4f\xff\x51")
    fields = [int.from_bytes(data[at + 8 + 4 * i : at + 12 + 4 * i]) for i in range(8)]
    right, bottom, left, top, width, height, tiles_left, tiles_top = fields
    if at < 0 or not width or not height:
        return 0, 0
    tiles = math.ceil((right - tiles_left) / width) * math.ceil((bottom - tiles_top) / height)
    return tiles, (right - left) * (bottom - top)


def pixel_limit(settings: DecodeSettings) -> float | None:
    """Return the largest allowed number of pixels, None for no limit.

    Raises:
        SettingsError: the setting is negative or not a number.
    """
    if math.isnan(settings.max_megapixels) or settings.max_megapixels < 0:
        raise SettingsError(f"--max-megapixels must be 0 (no limit) or more, not {settings.max_megapixels:g}")
    return settings.max_megapixels * 1e6 or None


def byte_limit(settings: DecodeSettings) -> int | None:
    """Return the size in bytes beyond which no photo within the pixel limit can lie, None for no limit.

    Twice the 8 bytes per pixel of uncompressed 16-bit RGBA, for pages and thumbnails beside the photo, and 64 MiB for
    everything that does not grow with it.
    """
    limit = pixel_limit(settings)
    return None if limit is None or math.isinf(limit) else int(16 * limit) + (64 << 20)
