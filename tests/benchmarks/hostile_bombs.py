"""Files of a few bytes to a few megabytes that claim gigapixels, or that unpack to them; for `hostile_photos.py`."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hostile_mutations import directory
from PIL import Image, features

SIDE = 14_000  # 196 megapixels: just within the default limit of 200


def bombs(folder: Path) -> None:
    """Write each bomb as a file of the folder, named after what it does."""
    folder.mkdir()
    for source in (_png, _jpeg, _gif, _webp, _tiff, _other, _avif):
        for name, data in source():
            (folder / name).write_bytes(data)
    with open(folder / "trailing-1GiB-of-zeros.jpg", "wb") as file:
        file.write(_encoded(Image.new("RGB", (64, 48), "red"), "JPEG"))
        file.truncate(1 << 30)  # sparse: nothing on the disk
    with open(folder / "3GB-of-zeros.png", "wb") as file:
        file.truncate(3_000_000_000)


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _zeros(count: int, tail: bytes = b"") -> bytes:
    """Return the zlib stream of `count` zero bytes, without packing each."""
    packer = zlib.compressobj(9)
    block = 1 << 20
    head = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    middle = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)  # the same for each further block
    check = zlib.adler32(b"")
    for _ in range(count // block):
        check = zlib.adler32(bytes(block), check)
    check = zlib.adler32(bytes(count % block), check)
    last = zlib.compressobj(9, wbits=-15)
    end = last.compress(bytes(count % block)) + last.flush()
    return (head + middle * (count // block - 1) if count >= block else b"\x78\xda") + end + struct.pack(">I", check)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png_file(width: int, height: int, depth: int, colour: int, packed: bytes, *before: bytes, lace: int = 0) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, lace))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _png() -> Iterator[tuple[str, bytes]]:
    yield "png-gigapixels.png", _png_file(30_000, 30_000, 8, 2, _zeros(30_000 * 90_001))
    yield "png-196-megapixels.png", _png_file(SIDE, SIDE, 8, 6, _zeros(SIDE * (4 * SIDE + 1)))
    yield "png-196-megapixels-16-bit.png", _png_file(SIDE, SIDE, 16, 0, _zeros(SIDE * (2 * SIDE + 1)))
    yield "png-196-megapixels-interlaced.png", _png_file(SIDE, SIDE, 1, 0, _zeros(50_000_000), lace=1)
    small = _zeros(64 * 193)
    yield "png-stream-of-4GB.png", _png_file(64, 64, 8, 2, _zeros(4_000_000_000))
    text = b"key\0\0" + _zeros(1_000_000_000)
    yield "png-text-of-1GB.png", _png_file(64, 64, 8, 2, small, _chunk(b"zTXt", text))
    international = b"key\0\1\0\0\0" + _zeros(1_000_000_000)
    yield "png-iTXt-of-1GB.png", _png_file(64, 64, 8, 2, small, _chunk(b"iTXt", international))
    profile = b"icc\0\0" + _zeros(1_000_000_000)
    yield "png-profile-of-1GB.png", _png_file(64, 64, 8, 2, small, _chunk(b"iCCP", profile))
    yield "png-100000-texts.png", _png_file(64, 64, 8, 2, small, _chunk(b"zTXt", b"k\0\0" + _zeros(9000)) * 100_000)
    yield "png-exif-directory.png", _png_file(64, 64, 8, 2, small, _chunk(b"eXIf", _directory_bomb()))


def _directory_bomb() -> bytes:
    """Return EXIF whose 65,535 entries each claim all of its 0.8 MB."""
    size = 12 * 65_535
    return directory([(tag, 7, size, 8) for tag in range(65_535)])


def _jpeg() -> Iterator[tuple[str, bytes]]:
    small = _encoded(Image.new("RGB", (64, 48), "red"), "JPEG")
    at = small.index(b"\xff\xc0") + 5
    yield "jpeg-65500-a-side.jpg", small[:at] + struct.pack(">HH", 65_500, 65_500) + small[at + 4 :]
    yield "jpeg-claims-196-megapixels.jpg", small[:at] + struct.pack(">HH", SIDE, SIDE) + small[at + 4 :]
    large = _encoded(Image.new("L", (SIDE, SIDE), 128), "JPEG", progressive=True)
    yield "jpeg-196-megapixels-progressive.jpg", large
    # The last scan again and again: each walks over all the 3 million blocks.
    last, end = large.rindex(b"\xff\xda"), len(large) - 2
    yield "jpeg-2000-scans.jpg", large[:end] + large[last:end] * 2000 + large[end:]
    exif = b"Exif\0\0" + _directory_bomb()
    parts = [exif[:65_000], *(b"Exif\0\0" + exif[i : i + 65_000] for i in range(65_000, len(exif), 65_000))]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
    plain = small[:2] + small[small.index(b"\xff\xdb") :]  # without a JFIF density, Pillow looks into EXIF for one
    yield "jpeg-exif-directory.jpg", plain[:2] + segments + plain[2:]
    yield "jpeg-50000-segments.jpg", small[:2] + b"\xff\xed\x00\x10Photoshop 3.0\0" * 50_000 + small[2:]


def _gif() -> Iterator[tuple[str, bytes]]:
    frames = [Image.new("P", (64, 64), shade) for shade in range(200)]
    many = _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:] * 30, optimize=False)
    yield "gif-thousands-of-frames.gif", many
    small = _encoded(Image.new("P", (64, 64), 1), "GIF")
    yield "gif-giant-canvas.gif", small[:6] + struct.pack("<HH", 65_535, 65_535) + small[10:]
    yield "gif-196-megapixels-canvas.gif", small[:6] + struct.pack("<HH", SIDE, SIDE) + small[10:]
    at = small.rindex(b"\x2c\0\0\0\0") + 5
    yield "gif-giant-frame.gif", small[:at] + struct.pack("<HH", 60_000, 60_000) + small[at + 4 :]


def _vp8l(width: int, height: int) -> bytes:
    """Return a lossless WebP image of one colour: five codes of one symbol each, so no bit for any pixel."""
    bits, value = 0, 0
    for number, length in ((0x2F, 8), (width - 1, 14), (height - 1, 14), (0, 1), (0, 3), (0, 1), (0, 1), (0, 1)):
        value |= number << bits
        bits += length
    for _ in range(5):  # simple code, one symbol, which has one bit
        value |= 0b0001 << bits
        bits += 4
    content = value.to_bytes((bits + 7) // 8 + 8, "little")
    return b"VP8L" + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp() -> Iterator[tuple[str, bytes]]:
    yield "webp-268-megapixels.webp", _riff(_vp8l(16_384, 16_384))
    yield "webp-196-megapixels.webp", _riff(_vp8l(SIDE, SIDE))

    def extended(flags: int, width: int, height: int) -> bytes:
        sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        return b"VP8X" + struct.pack("<II", 10, flags) + sides

    def frame(image: bytes, width: int, height: int) -> bytes:
        place = bytes(6) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3] + b"\x10\0\0\0"
        return b"ANMF" + struct.pack("<I", len(place) + len(image)) + place + image

    animation = b"ANIM" + struct.pack("<I", 6) + bytes(6)
    yield "webp-giant-canvas.webp", _riff(extended(2, 65_535, 65_535), animation, frame(_vp8l(8, 8), 8, 8))
    yield (
        "webp-196-megapixels-20000-frames.webp",
        _riff(extended(2, SIDE, SIDE), animation, *[frame(_vp8l(8, 8), 8, 8)] * 20_000),
    )
    yield (
        "webp-3000-large-frames.webp",
        _riff(extended(2, 4000, 4000), animation, *[frame(_vp8l(4000, 4000), 4000, 4000)] * 3000),
    )
    exif = b"EXIF" + struct.pack("<I", len(_directory_bomb())) + _directory_bomb()
    yield "webp-exif-directory.webp", _riff(extended(8, 64, 64), _vp8l(64, 64), exif)


def _tiff_file(entries: dict[int, tuple[int, int]], content: bytes, following: int = 0) -> bytes:
    """Return a TIFF of one directory: tag -> (type, one value), with the content after it, at the value -1."""
    size = 8 + 2 + 12 * len(entries) + 4
    rows = [(tag, kind, 1, size if value == -1 else value) for tag, (kind, value) in sorted(entries.items())]
    return directory(rows, following) + content


def _tiff_grey(width: int, height: int, packing: int, content: bytes, **changed: tuple[int, int]) -> bytes:
    entries = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, packing), 262: (3, 1), 273: (4, -1)}
    entries |= {277: (3, 1), 278: (4, height), 279: (4, len(content))}
    entries |= {int(tag[1:]): value for tag, value in changed.items()}
    return _tiff_file(entries, content)


def _tiff() -> Iterator[tuple[str, bytes]]:
    yield "tiff-gigapixels.tif", _tiff_grey(60_000, 60_000, 8, _zeros(3_600_000_000))
    yield "tiff-196-megapixels.tif", _tiff_grey(SIDE, SIDE, 8, _zeros(SIDE * SIDE))
    floating = {"t258": (3, 32), "t339": (3, 3)}
    yield "tiff-196-megapixels-float.tif", _tiff_grey(SIDE, SIDE, 8, _zeros(4 * SIDE * SIDE), **floating)
    # One tile of 1.6 gigapixels for a photo of one pixel.
    tile = {256: (4, 1), 257: (4, 1), 258: (3, 8), 259: (3, 8), 262: (3, 1), 277: (3, 1)}
    packed = _zeros(40_000 * 40_000)
    tile |= {322: (4, 40_000), 323: (4, 40_000), 324: (4, -1), 325: (4, len(packed))}
    yield "tiff-tile-of-1600-megapixels.tif", _tiff_file(tile, packed)
    yield "tiff-directory.tif", _directory_bomb()
    yield "tiff-65535-samples.tif", _tiff_grey(64, 64, 1, bytes(4096), t277=(3, 65_535))
    loop = _tiff_grey(64, 64, 1, bytes(4096))
    end = 8 + 2 + 12 * 9
    yield "tiff-directory-is-its-own-next.tif", loop[:end] + struct.pack("<I", 8) + loop[end + 4 :]
    pages = [Image.new("L", (32, 32), shade) for shade in range(100)]
    yield "tiff-3000-pages.tif", _encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:] * 30)
    huge = b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + struct.pack("<Q", 1 << 60) + bytes(1000)
    yield "tiff-big-with-2-to-60-entries.tif", huge


def _other() -> Iterator[tuple[str, bytes]]:
    def bmp(width: int, height: int, packing: int, content: bytes) -> bytes:
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, packing, len(content), 0, 0, 256, 0)
        return b"BM" + struct.pack("<IHHI", 1078 + len(content), 0, 0, 1078) + header + bytes(1024) + content

    yield "bmp-2-to-31-pixels.bmp", bmp(0x7FFFFFFF, 1, 0, bytes(100))
    yield "bmp-claims-196-megapixels.bmp", bmp(SIDE, SIDE, 0, bytes(100))
    yield "bmp-rle-end-of-line.bmp", bmp(SIDE * SIDE, 1, 1, b"\1\0\0\0")
    yield "bmp-rle-delta.bmp", bmp(SIDE * SIDE, 1, 1, b"\0\2\xff\xff" * 100)
    yield "ppm-10-to-12-pixels.ppm", b"P5 1000000 1000000 255 "
    yield "ppm-claims-196-megapixels.ppm", b"P6 %d %d 255 " % (SIDE, SIDE) + bytes(100)
    yield "ppm-endless-comment.ppm", b"P3 64 64 255 " + b"# " + b"x" * 20_000_000
    yield "ppm-many-comments.ppm", b"P3 64 64 255 " + b"#\n" * 5_000_000
    yield "ppm-number-without-end.ppm", b"P3 " + b"9" * 5_000_000
    small = _encoded(Image.fromarray(np.zeros((64, 64, 3), np.uint8)), "JPEG2000", tile_size=(64, 64))
    at, box = small.index(b"\xff\x51"), small.index(b"ihdr")

    def jp2(side: int, tile: int) -> bytes:
        data = bytearray(small)
        data[box + 4 : box + 12] = struct.pack(">II", side, side)
        data[at + 6 : at + 14], data[at + 22 : at + 30] = struct.pack(">II", side, side), struct.pack(">II", tile, tile)
        return bytes(data)

    yield "jp2-60000-a-side.jp2", jp2(60_000, 60_000)
    yield "jp2-claims-196-megapixels.jp2", jp2(SIDE, SIDE)
    yield "jp2-40000-tiles.jp2", jp2(200, 1)
    codestream = bytearray(jp2(SIDE, SIDE))
    codestream[box + 4 : box + 12] = struct.pack(">II", 64, 64)
    yield "jp2-box-says-64-stream-196-megapixels.jp2", bytes(codestream)


def _avif() -> Iterator[tuple[str, bytes]]:
    if not features.check("avif"):
        return
    large = _encoded(Image.new("RGB", (8000, 8000), "red"), "AVIF", speed=10)
    yield "avif-64-megapixels.avif", large
    at = large.index(b"ispe") + 8
    yield "avif-65535-a-side.avif", large[:at] + struct.pack(">II", 65_535, 65_535) + large[at + 8 :]
    yield "avif-box-says-16-stream-64-megapixels.avif", large[:at] + struct.pack(">II", 16, 16) + large[at + 8 :]
    frames = [Image.new("RGB", (512, 512), (shade, 0, 0)) for shade in range(200)]
    moving = _encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:], speed=10)
    yield "avif-200-frames.avif", moving
