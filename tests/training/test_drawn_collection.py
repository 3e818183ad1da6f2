"""The drawn collection: files, ground truth, and the same bytes from the same arguments."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from imgrank.errors import InputError
from imgrank.training.collection import draw_collection

SMALL = {"seed": 3, "objects": 3, "views": 2, "distractors": 5, "queries": 2}


def digests(files):
    paths = [*files.images, *files.queries, files.qrels]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return draw_collection(tmp_path_factory.mktemp("drawn"), **SMALL)


def test_the_files_are_those_that_were_asked_for(files):
    expected = [f"distractor-{j:03d}.jpg" for j in range(5)]
    expected += [f"object-{i:02d}-view-{v}.jpg" for i in range(3) for v in range(2)]
    assert [path.name for path in files.images] == expected
    assert sorted(files.photos.iterdir()) == list(files.images)
    assert [path.name for path in files.queries] == ["query-00.jpg", "query-01.jpg"]
    assert files.photos not in files.queries[0].parents  # indexing the photos must not take in the queries
    for path in (*files.images, *files.queries):
        with Image.open(path) as image:
            assert image.format == "JPEG"
            assert image.mode == "RGB"
            assert np.asarray(image).std() > 5


def test_qrels_name_all_views_of_the_object_of_each_query(files):
    rows = [line.split("\t") for line in files.qrels.read_text().splitlines()]
    assert rows == [
        [f"query-{i:02d}.jpg", "0", f"object-{i:02d}-view-{v}.jpg", "1"] for i in range(2) for v in range(2)
    ]


def test_equal_arguments_give_equal_bytes_whatever_the_threads(files, tmp_path):
    assert digests(draw_collection(tmp_path, **SMALL, workers=3)) == digests(files)


def test_another_seed_gives_other_photos(files, tmp_path):
    other = digests(draw_collection(tmp_path, **{**SMALL, "seed": 4}))
    same = digests(files)
    assert all(other[name] != same[name] for name in same if name.endswith(".jpg"))


@pytest.mark.parametrize(
    "change", [{"queries": 4}, {"objects": 0}, {"views": 0}, {"distractors": -1}, {"seed": -1}, {"workers": 0}]
)
def test_numbers_that_make_no_collection_are_refused(change, tmp_path):
    with pytest.raises(InputError):
        draw_collection(tmp_path / "new", **{**SMALL, **change})
    assert not (tmp_path / "new").exists()
