"""The picture of a pair: marks lie where boxes say, whatever the names are."""

import re

import numpy as np
import pytest
from PIL import Image, ImageFont

from imgrank.report.pair_page import pair_page
from imgrank.report.pair_sheet import WIDTH, Area, Side, font_width, pair_sheet, shortened

GREEN, BLUE = (20, 200, 40), (30, 60, 220)
TEXTS = {"heading": "Rank 1", "method": "How.", "numbers": [("score", "0.5")]}


def flat(colour: tuple[int, int, int], width: int = 300, height: int = 200) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def side(colour=GREEN, **more) -> Side:
    return Side("photo.jpg", (300, 200), flat(colour), **more)


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)


QUARTERS = boxes((0, 0, 0.5, 0.5), (0.5, 0, 0.5, 0.5), (0, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5))


def at(sheet: Image.Image, area: Area, x: float, y: float) -> tuple[int, ...]:
    pixel = sheet.getpixel((area.left + round(x * area.width), area.top + round(y * area.height)))
    assert isinstance(pixel, tuple)
    return pixel


def test_left_out_cells_are_dimmed_and_kept_ones_are_not():
    kept, rest = QUARTERS[[0, 3]], QUARTERS[[1, 2]]
    found = pair_sheet(side(BLUE), side(boxes=kept, left_out=rest), [], **TEXTS)
    area = found.candidate[0]
    assert (area.width, area.height) == (620, 413)
    assert found.image.width == WIDTH >= 1200
    for x, y, whole in ((0.25, 0.25, True), (0.75, 0.75, True), (0.75, 0.25, False), (0.25, 0.75, False)):
        pixel = at(found.image, area, x, y)
        assert (pixel == GREEN) == whole
        assert whole or min(pixel) > 150  # nearly paper
    # Cells touch: just left and right of the middle.
    assert at(found.image, area, 0.49, 0.1)[0] < 100 < at(found.image, area, 0.51, 0.1)[0]
    assert at(found.image, found.query[0], 0.5, 0.5) == BLUE


def test_a_line_joins_the_middles_of_its_boxes():
    plain = pair_sheet(side(boxes=QUARTERS), side(BLUE, boxes=QUARTERS), [], **TEXTS)
    drawn = pair_sheet(side(boxes=QUARTERS), side(BLUE, boxes=QUARTERS), [(1, 2)], **TEXTS)
    changed = (np.asarray(plain.image) != np.asarray(drawn.image)).any(axis=2)
    query, candidate = drawn.query[0], drawn.candidate[0]
    assert query.centre(QUARTERS[1]) == (query.left + 0.75 * query.width, query.top + 0.25 * query.height)
    for area, place, other in ((query, 1, 2), (candidate, 2, 1)):
        x, y = area.centre(QUARTERS[place])
        assert changed[round(y), round(x)]
        x, y = area.centre(QUARTERS[other])
        assert not changed[round(y), round(x)]
    x = (query.centre(QUARTERS[1])[0] + candidate.centre(QUARTERS[2])[0]) / 2
    y = (query.centre(QUARTERS[1])[1] + candidate.centre(QUARTERS[2])[1]) / 2
    assert changed[round(y), round(x)]


def test_tiles_of_the_whole_photo_are_drawn_in_a_copy():
    whole = np.array([False, True])
    one = boxes((0, 0, 0.5, 1), (0, 0, 1, 1))
    rest = boxes((0.5, 0, 0.5, 1), (0, 0, 1, 1))
    found = pair_sheet(
        side(boxes=one, inset=whole),
        side(boxes=one[:1], left_out=rest, inset=whole[:1], left_out_inset=whole),
        [],
        **TEXTS,
    )
    area, copy = found.candidate
    assert copy is not None
    assert found.query[1] is not None
    assert copy.top > area.top + area.height
    assert at(found.image, area, 0.25, 0.5) == GREEN
    assert min(at(found.image, area, 0.75, 0.5)) > 150
    assert min(at(found.image, copy, 0.25, 0.5)) > 150  # all of it was left out
    assert at(found.image, found.query[1], 0.25, 0.5) == GREEN


def test_attention_colours_the_hottest_most():
    found = pair_sheet(side(), side(boxes=QUARTERS, heat=np.array([0, 0.1, 0.2, 0.4], np.float32)), [], **TEXTS)
    reds = [at(found.image, found.candidate[0], x, y)[0] for x, y in ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75))]
    hottest = at(found.image, found.candidate[0], 0.75, 0.75)
    assert reds == sorted(reds)
    assert reds[0] == GREEN[0]
    assert hottest[0] > reds[-1]
    assert hottest[0] > 200 > hottest[1]


def test_keypoints_are_dots_and_matched_ones_green():
    dots = boxes((0.25, 0.5, 0, 0), (0.75, 0.5, 0, 0))
    found = pair_sheet(side(), side(BLUE, boxes=dots, cells=False, matched=np.array([True, False])), [], **TEXTS)
    matched, other = (at(found.image, found.candidate[0], x, 0.5) for x in (0.25, 0.75))
    assert matched[1] > 150 > max(matched[0], matched[2])
    assert min(other) > 200
    assert at(found.image, found.candidate[0], 0.5, 0.5) == BLUE


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1)])
def test_no_photo_and_odd_proportions(size: tuple[int, int]):
    gone = Side("gone", size, None, boxes((0, 0, 1, 1)), boxes((0, 0, 0.5, 0.5)), means=True)
    unknown = Side("unknown", size, None)
    found = pair_sheet(gone, unknown, [(0, 0)], **TEXTS, notes=["a note " * 60])
    assert found.image.width == WIDTH
    assert found.image.height < 1200


HOSTILE = "<script>alert('&\"')</script>" + "x" * 300 + "\u4f60\u2028"


def test_long_and_hostile_names_stay_inside():
    query, candidate = (Side(HOSTILE, (3, 2), flat(GREEN)) for _ in range(2))
    found = pair_sheet(query, candidate, [], heading=HOSTILE, method=HOSTILE, numbers=[(HOSTILE[:30], HOSTILE)])
    # Nothing is drawn into the margin on the right.
    edge = np.asarray(found.image)[:, -15:]
    assert (edge == edge[0, 0]).all()


def test_a_line_is_shortened_in_its_middle():
    font = ImageFont.load_default(size=16)
    text = "photos/" + "long" * 50 + "/name.jpg"
    short = shortened(text, font, 200)
    assert font_width(font, short) <= 200
    assert short.startswith("photos/")
    assert short.endswith("name.jpg")
    assert "..." in short
    assert shortened("short", font, 200) == "short"
    assert len(shortened("y" * 100_000, font, 200)) < 60


def test_a_page_escapes_names_and_holds_its_picture():
    picture = Image.new("RGB", (4, 4), GREEN)
    page = pair_page(picture, title=HOSTILE, numbers=[(HOSTILE, HOSTILE)], notes=[HOSTILE]).decode()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 5
    assert re.search(r'<img src="data:image/png;base64,[A-Za-z0-9+/=]+" ', page)
    assert "http" not in page.replace("http-equiv", "")
