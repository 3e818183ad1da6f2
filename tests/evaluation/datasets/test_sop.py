"""Stanford Online Products, in its own lists and in those of the 1k split, with judgements worked out by hand."""

from pathlib import Path

import pytest

from imgrank.errors import InputError
from imgrank.evaluation.datasets.registry import read_dataset
from imgrank.evaluation.measures import PROTOCOLS

HEADER = "image_id class_id super_class_id path\n"
TEST = (
    HEADER + "59552 11319 1 bicycle_final/1_0.JPG\n59553 11319 1 bicycle_final/1_1.JPG\n"
    "59554 11320 1 bicycle_final/2_0.JPG\n59555 11319 1 bicycle_final/1_2.JPG\n"
)
GALLERY = "mug_final/1_0.JPG,7\nmug_final/1_1.JPG,7\nmug_final/1_2.JPG,7,300,400\nsofa_final/2_0.JPG,8\n"


def test_each_photo_of_the_test_split_is_a_query_for_the_others_of_its_class(tmp_path: Path) -> None:
    (tmp_path / "Ebay_test.txt").write_text(TEST)
    found = read_dataset("sop", tmp_path)
    a, b, c, d = (b"bicycle_final/%b.JPG" % name for name in (b"1_0", b"1_1", b"2_0", b"1_2"))
    assert PROTOCOLS[found.protocol].measures[0] == "AP@100"
    assert found.database == (a, b, c, d)
    assert [task.qrels for task in found.tasks] == [{a: {b: 1, d: 1}, b: {a: 1, d: 1}, c: {}, d: {a: 1, b: 1}}]
    assert found.strays == frozenset()


def test_the_1k_split_ranks_its_gallery(tmp_path: Path) -> None:
    (tmp_path / "test_gallery.txt").write_text(GALLERY)
    (tmp_path / "test_query.txt").write_text("mug_final/1_1.JPG,7\nlamp_final/9_0.JPG,7\n")
    found = read_dataset("sop-1k", tmp_path)
    a, b, c, d = b"mug_final/1_0.JPG", b"mug_final/1_1.JPG", b"mug_final/1_2.JPG", b"sofa_final/2_0.JPG"
    assert found.database == (a, b, c, d)
    assert [task.qrels for task in found.tasks] == [{b: {a: 1, c: 1}, b"lamp_final/9_0.JPG": {a: 1, b: 1, c: 1}}]
    assert found.strays == {b"lamp_final/9_0.JPG"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1 5 1 bicycle_final/1_0.JPG\n", "line 2: class 5 is of the training split"),
        (TEST + "59556 11320 1\n", r"Ebay_test\.txt, line 6: expected a list of Stanford Online Products"),
        (TEST + "59556 x 1 a.JPG\n", "line 6"),
        (TEST + "59556 11320 1 ../a.JPG\n", "line 6"),
        (TEST + "59556 11320 1 bicycle_final/1_0.JPG\n", "line 6: expected each photo once"),
        (HEADER, "expected a list of Stanford Online Products"),
        (GALLERY, "looks like a list `path,class` of ELViS"),
        ('[{"id": 34, "path": "MET/34/0.jpg"}]', "looks like a database of The Met"),
    ],
)
def test_a_damaged_test_split_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "Ebay_test.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_dataset("sop", tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("test_query.txt", TEST, r"test_query\.txt, line 1.*looks like a list of Stanford Online Products"),
        ("test_query.txt", "mug_final/1_0.JPG\n", "line 1: expected a list `path,class`"),
        ("test_query.txt", "mug_final/1_0.JPG,seven\n", "line 1"),
        ("test_query.txt", "/mug_final/1_0.JPG,7\n", "line 1"),
        ("test_query.txt", "mug_final/1_0.JPG,8\n", "give mug_final/1_0.JPG two classes"),
        ("test_query.txt", "lamp_final/1_0.JPG,99\n", "have no class in common"),
        ("test_query.txt", "\n\n", "expected a list `path,class`"),
        ("test_gallery.txt", GALLERY + "mug_final/1_0.JPG,7\n", r"test_gallery\.txt, line 5: expected each photo once"),
    ],
)
def test_damaged_lists_of_the_1k_split_are_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / "test_gallery.txt").write_text(GALLERY)
    (tmp_path / "test_query.txt").write_text("mug_final/1_1.JPG,7\n")
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        read_dataset("sop-1k", tmp_path)


@pytest.mark.parametrize(("name", "file"), [("sop", "Ebay_test.txt"), ("sop-1k", "test_query.txt")])
def test_a_missing_list_is_named(tmp_path: Path, name: str, file: str) -> None:
    with pytest.raises(InputError, match=f"{file}: there is no such file"):
        read_dataset(name, tmp_path)
