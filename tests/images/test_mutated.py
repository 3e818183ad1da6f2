"""Damaged files give a photo or an ImageError, whatever the decoder makes of them."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from imgrank.config import DecodeSettings
from imgrank.errors import ImageError
from imgrank.images.decode import Photo, decode_bytes
from imgrank.records import STATUS_NAMES


def valid(format, **options):
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    image = smooth.resize((40, 30), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    if format in ("JPEG", "PNG", "WEBP", "TIFF"):
        options["exif"] = exif
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


FILES = {
    "jpeg": valid("JPEG"),
    "progressive": valid("JPEG", progressive=True),
    "png": valid("PNG"),
    "webp": valid("WEBP"),
    "webp-lossless": valid("WEBP", lossless=True),
    "gif": valid("GIF"),
    "tiff": valid("TIFF"),
    "tiff-lzw": valid("TIFF", compression="tiff_lzw"),
    "bmp": valid("BMP"),
    "avif": valid("AVIF"),
    "ppm": valid("PPM"),
    "jpeg2000": valid("JPEG2000"),
}
SETTINGS = DecodeSettings(max_megapixels=1)


def check(data, longer_side):
    photo = error = None
    try:
        photo = decode_bytes(data, "mutated", SETTINGS, longer_side)
    except ImageError as raised:
        error = raised
    if error is not None:
        assert error.code in set(STATUS_NAMES) - {"ok", "removed", "missing", "unreadable"}
        assert str(error).isprintable()
        return
    assert isinstance(photo, Photo)
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.shape[2:] == (3,)
    assert photo.width * photo.height <= 1_000_000
    assert max(photo.pixels.shape[:2]) == min(max(photo.width, photo.height), longer_side or 1_000_000)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_bit_flips(name, data):
    content = bytearray(FILES[name])
    # Half of the flips fall into the header, where they do most harm.
    positions = st.one_of(st.integers(0, min(200, len(content)) * 8 - 1), st.integers(0, len(content) * 8 - 1))
    for position in data.draw(st.lists(positions, min_size=1, max_size=6)):
        content[position // 8] ^= 1 << position % 8
    check(bytes(content), data.draw(st.sampled_from([None, 16])))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_every_length(name):
    content = FILES[name]
    for length in range(0, len(content), max(1, len(content) // 60)):
        check(content[:length], None)


@pytest.mark.filterwarnings("ignore")
@hypothesis_settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.integers(4, 64), st.binary(max_size=300))
def test_a_right_start_with_wrong_content(name, keep, rest):
    check(FILES[name][:keep] + rest, None)
