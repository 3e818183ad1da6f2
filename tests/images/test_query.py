from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrank.config import DecodeSettings
from imgrank.errors import ImageError
from imgrank.images.query import read_query

SETTINGS = DecodeSettings()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """80 x 60 pixels, stored lying on its side (EXIF orientation 6), without loss."""
    upright = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    stored = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "photo.png", exif=exif)
    np.save(tmp_path / "upright.npy", upright)
    return tmp_path / "photo.png"


def test_a_part_is_cut_from_the_upright_photo_at_full_size(photo: Path) -> None:
    upright = np.load(photo.parent / "upright.npy")
    part = read_query(str(photo).encode() + b"#xywh=10,20,30,15", SETTINGS, 30)
    np.testing.assert_array_equal(part.pixels, upright[20:35, 10:40])
    smaller = read_query(str(photo).encode() + b"#xywh=10,20,30,15", SETTINGS, 10)
    assert smaller.pixels.shape == (5, 10, 3)


def test_digests_tell_parts_apart_and_know_the_photo(photo: Path) -> None:
    name = str(photo).encode()
    whole, one, other = (read_query(name + part, SETTINGS, 40) for part in (b"", b"#xywh=0,0,9,9", b"#xywh=0,0,9,8"))
    assert whole.digest == whole.photo_digest == one.photo_digest == other.photo_digest
    assert len({whole.digest, one.digest, other.digest}) == 3


def test_a_part_beside_the_photo_is_an_error(photo: Path) -> None:
    with pytest.raises(ImageError, match="80 x 60 pixels") as raised:
        read_query(str(photo).encode() + b"#xywh=80,0,9,9", SETTINGS, 40)
    assert raised.value.code == "unreadable"
