"""Small pictures: their size and turn, that making them leaves the photo as it is, and what is refused as one."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrank.config import DecodeSettings, ThumbnailSettings
from imgrank.errors import ImageError
from imgrank.images.decode import read_photo
from imgrank.images.thumbnails import check_thumbnail, make_thumbnail
from imgrank.records import Thumbnail


def photo(path: Path, width: int, height: int, **save) -> Path:
    """Red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 250
    Image.fromarray(pixels).save(path, **save)
    return path


def opened(thumbnail: Thumbnail) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(thumbnail.data)).convert("RGB"))


def jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (9, 99, 200)).save(stream, "JPEG")
    return stream.getvalue()


# Decoded for the encoder at 50 pixels: a smaller thumbnail comes from that, a larger one from the file.
@pytest.mark.parametrize(("side", "expected"), [(40, (40, 20)), (100, (100, 50)), (500, (400, 200))])
def test_a_thumbnail_has_its_size_whatever_the_encoder_sees(tmp_path: Path, side: int, expected: tuple[int, int]):
    path = photo(tmp_path / "a.png", 400, 200)
    loaded = read_photo(path, DecodeSettings(), 50, ThumbnailSettings(longer_side=side))
    assert (loaded.thumbnail.width, loaded.thumbnail.height) == expected
    pixels = opened(loaded.thumbnail)
    assert pixels.shape[1::-1] == expected
    assert pixels[5, 5, 0] > 200
    assert pixels[5, -5, 2] > 200
    check_thumbnail(loaded.thumbnail, "a")
    without = read_photo(path, DecodeSettings(), 50)
    np.testing.assert_array_equal(loaded.photo.pixels, without.photo.pixels)
    assert (without.thumbnail, without.record) == (None, loaded.record)


def test_a_thumbnail_is_upright_and_says_nothing_else(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored left column is the top row
    path = photo(tmp_path / "a.jpg", 400, 200, exif=exif, quality=95)
    thumbnail = read_photo(path, DecodeSettings(), 300, ThumbnailSettings(longer_side=100)).thumbnail
    assert (thumbnail.width, thumbnail.height) == (50, 100)
    pixels = opened(thumbnail)
    assert pixels[5, 25, 0] > 200
    assert pixels[-5, 25, 2] > 200
    assert not Image.open(io.BytesIO(thumbnail.data)).getexif()


def test_a_photo_that_cannot_be_read_has_none(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(jpeg(300, 300)[:200])
    loaded = read_photo(tmp_path / "a.jpg", DecodeSettings(), None, ThumbnailSettings())
    assert (loaded.photo, loaded.thumbnail) == (None, None)


REFUSED = {
    "no picture": Thumbnail(b"<script>alert(1)</script>", 4, 4),
    "nothing": Thumbnail(b"", 4, 4),
    "SVG": Thumbnail(b"<svg xmlns='http://www.w3.org/2000/svg'/>", 4, 4),
    "cut": Thumbnail(jpeg(4, 4)[:60], 4, 4),
    "another size": Thumbnail(jpeg(8, 4), 4, 4),
    "a bomb": Thumbnail(
        jpeg(4, 4).replace(b"\x00\x11\x08\x00\x04\x00\x04", b"\x00\x11\x08\xff\xff\xff\xff"), 65535, 65535
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_thumbnail_is_refused_by_its_header(name: str):
    with pytest.raises(ImageError):
        check_thumbnail(REFUSED[name], "x")


def test_another_format_is_refused():
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    with pytest.raises(ImageError, match="no JPEG"):
        check_thumbnail(Thumbnail(stream.getvalue(), 4, 4), "x")


def test_a_small_photo_is_not_enlarged():
    thumbnail = make_thumbnail(np.zeros((3, 5, 3), np.uint8), ThumbnailSettings())
    assert (thumbnail.width, thumbnail.height) == (5, 3)
