import os
from pathlib import Path

import numpy as np
import pytest

from imgrank.boxes import Box, cut, split_name
from imgrank.errors import SettingsError


def test_a_name_with_a_fragment_means_a_part() -> None:
    assert split_name(b"a/b.jpg#xywh=1,2,30,40") == (b"a/b.jpg", Box(1, 2, 30, 40))
    assert split_name(b"b.jpg#xywh=pixel:1,2,30,40") == (b"b.jpg", Box(1, 2, 30, 40))
    assert split_name(Box(1, 2, 30, 40).of(b"\xff.jpg")) == (b"\xff.jpg", Box(1, 2, 30, 40))
    for whole in (b"b.jpg", b"b.jpg#xywh=1,2,3", b"b.jpg#xywh=1,2,0,4", b"b.jpg#xywh=1,2,3,4 ", b"#xywh=-1,2,3,4"):
        assert split_name(whole) == (whole, None)


def test_a_file_of_that_name_goes_first(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path / "b.jpg#xywh=1,2,3,4")
    assert split_name(name)[1] == Box(1, 2, 3, 4)
    Path(os.fsdecode(name)).touch()
    assert split_name(name) == (name, None)


def test_parsing_refuses_what_is_no_box() -> None:
    assert Box.parse("1, 2,30,40") == Box(1, 2, 30, 40)
    for text in ("", "1,2,3", "1,2,3,4,5", "1,2,3,x", "-1,2,3,4", "1,2,0,4", "1.5,2,3,4"):
        with pytest.raises(SettingsError):
            Box.parse(text)


def test_a_box_is_cut_at_the_edges_of_the_photo() -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(cut(pixels, Box(1, 2, 2, 1)), pixels[2:3, 1:3])
    np.testing.assert_array_equal(cut(pixels, Box(3, 2, 100, 100)), pixels[2:, 3:])
    assert cut(pixels, Box(5, 0, 1, 1)) is None
    assert cut(pixels, Box(0, 4, 1, 1)) is None
