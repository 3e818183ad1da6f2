"""Which format a photo's bytes are in, and opening them as an image of checked size, with nothing decoded yet.

The format is told by the content, never by the name, and Pillow's reader classes are called directly: `Image.open`
would try every format that Pillow knows, and would apply a process-wide pixel limit beside the one that is asked for.
Knows nothing of pixels.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)
from PIL.ImageFile import ImageFile

from imgrank.config import DecodeSettings
from imgrank.errors import ImageError
from imgrank.images.directories import claims_too_much
from imgrank.images.limits import check_opened, check_size, check_stream
from imgrank.images.quiet import silence_tiff

HEAD = 4096  # bytes that are enough to tell the format

_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]"), "TIFF"),
    (re.compile(rb"RIFF....WEBPVP8[ LX]", re.DOTALL), "WebP"),
    # Two letters alone would take many texts for photos, so the size of the header's second part is asked for too.
    (re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), "BMP"),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"P[1-6][\s#]+\d"), "PPM"),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_PNG_ESSENTIAL = frozenset(b"IHDR PLTE tRNS eXIf IDAT IEND".split())
_COMMENT = re.compile(rb"#[^\r\n]*[\r\n]?")  # of PPM
FORMATS = (*(name for _, name in _SIGNATURES), "AVIF", "HEIC")


def sniff(head: bytes) -> str | None:
    """Return which of FORMATS the first HEAD bytes of a file are the start of, or None."""
    for signature, name in _SIGNATURES:
        if signature.match(head):
            return name
    if head[4:8] == b"ftyp":
        # ISO/IEC 14496-12: size, "ftyp", the major brand, a version, then compatible brands. A major brand that
        # only names the container ("mif1") leaves the coding to the compatible ones.
        end = min(int.from_bytes(head[:4]), len(head))
        brands = {head[8:12]} | {head[at : at + 4] for at in range(16, end - 3, 4)}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    return None


def open_image(data: bytes, kind: str, name: str, settings: DecodeSettings) -> ImageFile:
    """Open a photo in memory: its header is read and its size is checked, its pixels are not decoded.

    Args:
        data: the whole file.
        kind: what `sniff` said.
        name: the path as messages show it.
        settings: the limit.

    Raises:
        ImageError: "too-large" or "no-decoder".
        Exception: whatever Pillow's reader raises on damaged data.
    """
    # GIF and WebP readers allocate their canvas while opening.
    if (size := canvas_size(data, kind)) is not None:
        check_size(size, name, settings)
    check_stream(data, kind, name)
    image = _opener(kind, name)(data)
    check_opened(image, kind, name, settings)
    return image


def png_essentials(data: bytes) -> bytes:
    """Return a PNG file without the chunks that its pixels, transparency and orientation do not need.

    One damaged, oversized or hostile text or colour profile makes Pillow refuse the whole file.
    """
    kept, at = [data[:8]], 8
    while at < len(data):
        # Length, type, content, CRC-32 (PNG specification, third edition, 5.3).
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] in _PNG_ESSENTIAL:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def canvas_size(data: bytes, kind: str) -> tuple[int, int] | None:
    """Read (width, height) of a GIF's screen or a WebP's canvas out of the header, where it is complete."""
    if kind == "GIF" and len(data) >= 10:
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if kind == "WebP" and len(data) >= 30:
        if data[12:16] == b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        if data[12:16] == b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _opener(kind: str, name: str) -> Callable[[bytes], ImageFile]:
    """Return the function that opens bytes of a format.

    Raises:
        ImageError: "no-decoder".
    """
    if kind == "HEIC":
        return _heic_opener(name)
    available = {
        "AVIF": AvifImagePlugin.SUPPORTED,
        "WebP": WebPImagePlugin.SUPPORTED,
        "JPEG 2000": features.check_codec("jpg_2000"),
    }
    if not available.get(kind, True):
        raise ImageError(
            name,
            "no-decoder",
            f"this build of Pillow has no {kind} decoder; run: pip install --force-reinstall pillow",
        )
    if kind == "WebP":
        return lambda data: WebPImagePlugin.WebPImageFile(_ShortFirstRead(data))
    if kind == "TIFF":
        silence_tiff()
    if kind == "PPM":
        return lambda data: PpmImagePlugin.PpmImageFile(io.BytesIO(_without_comments(data)))
    readers: dict[str, Callable[[io.BytesIO], ImageFile]] = {
        "JPEG": _JpegImageFile,
        "PNG": PngImagePlugin.PngImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "TIFF": _TiffImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
        "AVIF": AvifImagePlugin.AvifImageFile,
    }
    return lambda data: readers[kind](io.BytesIO(data))


def _heic_opener(name: str) -> Callable[[bytes], ImageFile]:
    try:
        from pillow_heif import HeifImageFile  # only its class: nothing is registered with Pillow
    except ImportError as error:
        raise ImageError(name, "no-decoder", "HEIC needs pillow-heif; run: pip install 'imgrank[heic]'") from error

    def open_heic(data: bytes) -> ImageFile:
        image: ImageFile = HeifImageFile(io.BytesIO(data))
        return image

    return open_heic


def _without_comments(data: bytes) -> bytes:
    """Drop the comments of a PPM file whose pixels are text.

    Pillow drops them, too, but copies up to a megabyte for each.
    """
    if data[1:2] not in (b"1", b"2", b"3") or b"#" not in data:
        return data
    stream, kept = io.BytesIO(data), bytearray()
    kept += stream.read(2)
    while lines := stream.readlines(1 << 20):  # not all at once: each comment costs the search an object
        kept += _COMMENT.sub(b"", b"".join(lines))
    return bytes(kept)


class _ShortFirstRead(io.BytesIO):
    """Bytes whose first read gives too few for Pillow's WebP reader to apply its process-wide pixel limit.

    Streams may return less than they are asked for; the reader then goes on without its own look at the size,
    which `canvas_size` has checked.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(16 if self.tell() == 0 and size == 30 else size)


class _JpegImageFile(JpegImagePlugin.JpegImageFile):
    """Pillow's JPEG reader, which looks into EXIF while opening, kept from hostile EXIF."""

    def getexif(self) -> Image.Exif:
        return Image.Exif() if claims_too_much(self.info.get("exif", b"")) else super().getexif()


class _TiffImageFile(TiffImagePlugin.TiffImageFile):
    """Pillow's TIFF reader without its process-wide pixel limit: the image memory is there before it asks."""

    def load_prepare(self) -> None:
        if self._im is None:
            self.im = Image.new(self.mode, self._tile_size, None).im
        super().load_prepare()
