"""Where objects are, and how large they are: files of boxes and values, masks, and what is assumed without them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrank.boxes import Box
from imgrank.errors import InputError
from imgrank.evaluation.datasets.base import Dataset, Task
from imgrank.local.features import DIM, LocalFeatures
from imgrank.steps.studies.annotations import read_boxes, read_values
from imgrank.steps.studies.objects import Objects
from imgrank.steps.studies.values import matched_extent

QRELS = {b"q.jpg": {b"photos/a.jpg": 1, b"b.jpg": 2, b"junk.jpg": -1}}


def dataset(**fields) -> Dataset:
    return Dataset("t", Path(), "trec", None, (Task("", QRELS),), **fields)


def text(folder: Path, content: str) -> Path:
    (folder / "file.tsv").write_text(content)
    return folder / "file.tsv"


def test_a_file_of_boxes_has_one_for_all_queries_or_for_each(tmp_path: Path) -> None:
    file = text(tmp_path, "photos/a.jpg\t10\t20\t30\t40\n\nq.jpg\tphotos/a.jpg\t0\t0\t5\t5\nb.jpg 1.5 2 3 3.2\n")
    objects = Objects(dataset(boxes={(b"q.jpg", b"b.jpg"): Box(7, 7, 7, 7)}), boxes=file)
    assert objects.box(b"q.jpg", b"photos/a.jpg", 100, 100) == (Box(0, 0, 5, 5), "box of the file")
    assert objects.box(b"other.jpg", b"photos/a.jpg", 100, 100) == (Box(10, 20, 30, 40), "box of the file")
    # 1.5 to 4.5 touches the pixels 1 to 4; 2 to 5.2 those from 2 to 5.
    assert objects.box(b"q.jpg", b"b.jpg", 100, 100) == (Box(1, 2, 4, 4), "box of the file")
    assert objects.box(b"q.jpg", b"c.jpg", 100, 100) is None


def test_boxes_of_the_data_set_are_cut_to_the_photo() -> None:
    objects = Objects(dataset(boxes={(b"q.jpg", b"b.jpg"): Box(80, 10, 40, 20)}))
    assert objects.box(b"q.jpg", b"b.jpg", 100, 100) == (Box(80, 10, 20, 20), "box of the data set")
    with pytest.raises(InputError, match=r"reaches out of b\.jpg, which has 50 x 100"):
        objects.box(b"q.jpg", b"b.jpg", 50, 100)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("b.jpg\t0\t0\t10\n", r"line 1: expected `photo left top width height`.*4 columns"),
        ("x.jpg\t0\t0\t5\t5\nb.jpg\t0\t0\t10\t0\n", r"line 2: the box 0,0,10,0 of b\.jpg is empty"),
        ("\nb.jpg\t-1\t0\t10\t5\n", "line 2: .* begins beside the photo"),
        ("b.jpg\t0\tx\t10\t5\n", "line 1: x is not a number"),
        ("b.jpg\t0\tnan\t10\t5\n", "line 1: nan is not a number"),
        ("b.jpg\t0\t0\t9\t5\nb.jpg\t0\t0\t9\t6\n", r"line 2: b\.jpg comes twice"),
        ("\n", "holds no line"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_boxes(text(tmp_path, lines))


def test_a_box_may_reach_out_of_its_photo_by_a_pixel_and_no_more(tmp_path: Path) -> None:
    objects = Objects(dataset(), boxes=text(tmp_path, "x.jpg 1 1 2 2\nb.jpg 90 0 11 100\n"))
    assert objects.box(b"q.jpg", b"b.jpg", 100, 100) == (Box(90, 0, 10, 100), "box of the file")
    with pytest.raises(InputError, match=r"line 2: the box 90,0,11,100 reaches out of b\.jpg, which has 99 x 100"):
        objects.box(b"q.jpg", b"b.jpg", 99, 100)


def test_a_file_of_other_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of its 2 lines is of a relevant photo; it has junk\.jpg"):
        Objects(dataset(), boxes=text(tmp_path, "junk.jpg 1 1 2 2\nother.jpg b.jpg 1 1 2 2\n"))


def test_values_are_numbers(tmp_path: Path) -> None:
    assert read_values(text(tmp_path, "b.jpg\t0.5\nq.jpg\tb.jpg\t1e-2\n")) == {
        (None, b"b.jpg"): 0.5,
        (b"q.jpg", b"b.jpg"): 0.01,
    }
    with pytest.raises(InputError, match="line 1: inf is not a number"):
        read_values(text(tmp_path, "b.jpg\tinf\n"))


def test_regions_are_those_of_the_reduced_photo(tmp_path: Path) -> None:
    objects = Objects(dataset(), boxes=text(tmp_path, "b.jpg 11 20 30 41\nphotos/a.jpg 1 0 399 200\n"))
    # At half the size, 11 to 41 touches the pixels 5 to 20, and 20 to 61 those from 10 to 30.
    found = objects.located(b"q.jpg", b"b.jpg", (400, 200), (100, 200))
    assert (found.region, found.source, found.whole) == ((5, 10, 21, 31), "box of the file", False)
    assert objects.located(b"q.jpg", b"photos/a.jpg", (400, 200), (100, 200)).whole
    # Nobody says where: sides of sqrt(1/2), 141 and 71 pixels, with margins of 29 and 15.
    middle = objects.located(b"q.jpg", b"c.jpg", (400, 200), (100, 200))
    assert (middle.region, middle.source, middle.whole) == ((29, 15, 171, 85), "middle half", False)


def test_masks_go_before_boxes(tmp_path: Path) -> None:
    marked = np.zeros((100, 200), dtype=np.uint8)
    marked[20:40, 100:160] = 1  # as dark as labels are: the number of the object
    (tmp_path / "photos").mkdir()
    Image.fromarray(marked).save(tmp_path / "photos" / "a.png")
    Image.fromarray(np.full((10, 20), 255, dtype=np.uint8)).save(tmp_path / "b.png")
    objects = Objects(dataset(), boxes=text(tmp_path, "b.jpg 0 0 1 1\n"), masks=tmp_path)
    found = objects.located(b"q.jpg", b"photos/a.jpg", (400, 200), (50, 100))
    expected = np.zeros((50, 100), dtype=bool)
    expected[10:20, 50:80] = True
    np.testing.assert_array_equal(found.region, expected)
    assert found.source == "mask"
    assert not found.whole
    assert objects.located(b"q.jpg", b"deeper/b.jpg", (400, 200), (50, 100)).whole  # found by its last name
    with pytest.raises(InputError, match=r"a\.png has 200 x 100 pixels, its photo photos/a\.jpg 300 x 200"):
        objects.located(b"q.jpg", b"photos/a.jpg", (300, 200), (50, 100))
    Image.fromarray(np.zeros((10, 20), dtype=np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b\.png is all black"):
        objects.located(b"q.jpg", b"b.jpg", (400, 200), (50, 100))


def test_the_extent_of_an_object_is_the_box_of_its_matches() -> None:
    rng = np.random.default_rng(0)
    descriptors = rng.integers(0, 256, (12, DIM), dtype=np.uint8)
    places = np.array([[x, y] for y in (0.2, 0.4, 0.6) for x in (0.1, 0.3, 0.4, 0.5)], dtype=np.float32)

    def features(rows: np.ndarray, descriptors: np.ndarray) -> LocalFeatures:
        constant = np.full((len(rows), 1), 0.05, dtype=np.float32)
        return LocalFeatures(descriptors, np.hstack([rows, constant, 0 * constant]))

    query = features(places, descriptors)
    others = rng.integers(0, 256, (4, DIM), dtype=np.uint8)
    around = np.array([[0.9, 0.1], [0.9, 0.7], [0.02, 0.3], [0.3, 0.3]], dtype=np.float32)  # the last one is inside
    photo = features(np.vstack([places, around]), np.vstack([descriptors, others]))
    area, outside = matched_extent(query, photo)
    assert area == pytest.approx(0.4 * 0.4)
    assert outside == pytest.approx(3 / 16)
    few = features(places[:7], descriptors[:7])
    assert matched_extent(few, photo) is None
