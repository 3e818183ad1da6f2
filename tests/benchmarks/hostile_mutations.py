"""Valid photos in ten forms, and the ways in which `hostile_photos.py` damages their files; all from one generator."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image, ImageCms, features

from imgrank.arrays import Pixels

ORIENTATION = 0x0112
SUFFIX = {
    "jpeg": "jpg",
    "progressive": "jpg",
    "png": "png",
    "gif": "gif",
    "bmp": "bmp",
    "tiff": "tif",
    "webp": "webp",
    "avif": "avif",
    "ppm": "ppm",
    "jpeg2000": "jp2",
}
FORMATS = tuple(name for name in SUFFIX if name != "avif" or features.check("avif"))


def encode(pixels: Pixels, form: str, random: Random) -> bytes:
    """Encode (h, w, 3) uint8 as a valid file of one of FORMATS, with EXIF and a colour profile where it has them."""
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[ORIENTATION] = random.randint(1, 8)
    exif[0x010F], exif[0x9003] = "Maker", "2024:01:01 00:00:00"
    extra = {"exif": exif.tobytes(), "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    if form in ("gif", "bmp") and random.random() < 0.5:
        image = image.quantize(random.choice([2, 16, 256]))
    if form == "png":
        image = image.convert(random.choice(["RGB", "L", "P", "RGBA", "I;16" if random.random() < 0.3 else "LA"]))
    name, options = {
        "jpeg": ("JPEG", extra | {"quality": random.randint(30, 95)}),
        "progressive": ("JPEG", extra | {"progressive": True}),
        "png": ("PNG", extra),
        "gif": ("GIF", {"save_all": random.random() < 0.5, "append_images": [image.rotate(90)] * 2}),
        "bmp": ("BMP", {}),
        "tiff": (
            "TIFF",
            {
                "compression": random.choice(
                    ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "tiff_deflate"]
                ),
                "exif": exif,
            },
        ),
        "webp": ("WEBP", extra | {"lossless": random.random() < 0.5}),
        "avif": ("AVIF", {"exif": extra["exif"], "speed": 10}),
        "ppm": ("PPM", {}),
        "jpeg2000": ("JPEG2000", {"quality_layers": [20], "no_jp2": random.random() < 0.3}),
    }[form]
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def bit_flips(data: bytearray, random: Random, other: bytes) -> None:
    # Half of them fall into the header, where they do most harm.
    for _ in range(random.choice([1, 1, 2, 8, 64])):
        place = random.randrange(min(len(data), 256) if random.random() < 0.5 else len(data))
        data[place] ^= 1 << random.randrange(8)


def truncation(data: bytearray, random: Random, other: bytes) -> None:
    del data[random.randrange(len(data)) :]


def spliced_header(data: bytearray, random: Random, other: bytes) -> None:
    length = random.choice([4, 12, 32, 64, 200])
    data[:length] = other[:length]


def spliced_tail(data: bytearray, random: Random, other: bytes) -> None:
    data[len(data) // 2 :] = other[len(other) // 2 :]


def wrong_dimensions(data: bytearray, random: Random, other: bytes) -> None:
    """Overwrite what looks like the width or the height, in either byte order and width, near the start."""
    sides = random.choice([(0, 0), (65535, 65535), (0xFFFFFFFF, 1), (20_000, 9_000), (1, 0x7FFFFFFF), (65535, 2)])
    image = Image.open(io.BytesIO(bytes(data)))
    for true, wrong in zip(image.size, sides, strict=True):
        for layout in ("<H", ">H", "<I", ">I"):
            pattern = struct.pack(layout, true)
            at = data.find(pattern, 4, 700)
            if at >= 0 and random.random() < 0.7:
                data[at : at + len(pattern)] = struct.pack(layout, wrong & (0xFFFF if layout[1] == "H" else 0xFFFFFFFF))
    if data[:1] == b"P":
        data[:] = data.replace(b"%d %d" % image.size, b"%d %d" % sides, 1)


def swapped_blocks(data: bytearray, random: Random, other: bytes) -> None:
    size = random.choice([4, 16, 128, 512])
    first, second = (random.randrange(max(1, len(data) - size)) for _ in range(2))
    data[first : first + size], data[second : second + size] = data[second : second + size], data[first : first + size]


def zero_run(data: bytearray, random: Random, other: bytes) -> None:
    at, size = random.randrange(len(data)), random.choice([4, 64, 1024, 8192])
    data[at : at + size] = bytes(len(data[at : at + size]))


def duplicated_chunk(data: bytearray, random: Random, other: bytes) -> None:
    at, size = random.randrange(len(data)), random.choice([8, 100, 1000])
    data[at:at] = data[at : at + size] * random.choice([1, 2, 50])


def exif_rubbish(data: bytearray, random: Random, other: bytes) -> None:
    """Put hostile EXIF where the file has EXIF, else bytes of it anywhere."""
    rubbish = random.choice(
        [
            directory([(ORIENTATION, 3, 1, random.choice([0, 9, 255, 65535]))]),
            directory([(ORIENTATION, 3, 1, 6)], following=8),  # the next directory is this one
            directory([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8)]),  # and so are the nested ones
            directory([(ORIENTATION, 2, 0xFFFFFFFF, 8)]),
            directory([(0x010F, 2, 60_000, 0), (ORIENTATION, 12, 1, 8)]),
            b"II*\0\xff\xff\xff\xff",
            b"MM\0*" + random.randbytes(60),
        ]
    )
    at = data.find(b"II*\0", 8)
    if at < 0:
        at = data.find(b"MM\0*", 8)
    if at < 0:
        at = random.randrange(len(data))
    data[at : at + len(rubbish)] = rubbish


def directory(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """Return a little-endian TIFF header and directory of (tag, type, count, value or offset)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", following)


def trailing_rubbish(data: bytearray, random: Random, other: bytes) -> None:
    data += random.choice([other, bytes(100_000), random.randbytes(5000)])


Mutation = Callable[[bytearray, Random, bytes], None]
MUTATIONS: tuple[Mutation, ...] = (
    bit_flips,
    truncation,
    spliced_header,
    spliced_tail,
    wrong_dimensions,
    swapped_blocks,
    zero_run,
    duplicated_chunk,
    exif_rubbish,
    trailing_rubbish,
)


def mutant(photos: list[Pixels], form: str, random: Random) -> tuple[str, bytes]:
    """Return the name of a mutation and the damaged bytes of a photo of a form."""
    data = bytearray(encode(shrunk(random.choice(photos), random), form, random))
    other = encode(shrunk(random.choice(photos), random), random.choice(FORMATS), random)
    mutation = random.choice(MUTATIONS)
    mutation(data, random, other)
    if random.random() < 0.2:
        bit_flips(data, random, other) if data else None
    return mutation.__name__, bytes(data)


def shrunk(pixels: Pixels, random: Random) -> Pixels:
    """Return a photo with a random longer side of 40 to 240 pixels."""
    image = Image.fromarray(pixels)
    side = random.randint(40, 240)
    image.thumbnail((side, side))
    return np.array(image)
