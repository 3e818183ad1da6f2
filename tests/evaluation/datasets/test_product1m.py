"""Product1M, in the published lists, with judgements worked out by hand."""

from pathlib import Path

import pytest

from imgrank.errors import InputError
from imgrank.evaluation.datasets.registry import read_dataset

GALLERY, TEST, DEV = (f"product1m_{name}_ossurl_v2.txt" for name in ("gallery", "test", "dev"))


def item(number: str, labels: str, title: str = "韩国AHC黄金水") -> str:
    return f"{number}#####{title}#####https://img.alicdn.com/{number}.jpg#####http://oss/images/{number}.jpg#####{labels}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    gallery = [
        item("101", "AHC 黄金水"),
        item("102", "AHC 黄金眼霜"),
        item("103", "AHC 黄金水#;#AHC 黄金眼霜"),  # only the first label counts
        item("104", "none asks for it"),
    ]
    test = [
        item("201", "AHC 黄金眼霜#;#AHC 黄金水#;#AHC 黄金眼霜", "a #####title##### of its own"),
        item("202", "AHC 黄金水"),
        item("203", "not in the gallery"),
        item("101", "AHC 黄金水"),  # in the gallery, too
    ]
    (tmp_path / GALLERY).write_text("".join(gallery))
    (tmp_path / TEST).write_text("".join(test))
    return tmp_path


def right(*numbers: int) -> dict[bytes, int]:
    return {b"images/%d.jpg" % number: 1 for number in numbers}


def test_right_are_the_photos_whose_first_label_the_query_has(folder: Path) -> None:
    found = read_dataset("product1m", folder)
    assert found.protocol == "top100"
    assert found.database == tuple(right(101, 102, 103, 104))
    assert {task.name: task.qrels for task in found.tasks} == {
        "test": {
            b"images/201.jpg": right(101, 102, 103),
            b"images/202.jpg": right(101, 103),
            b"images/203.jpg": {},
            b"images/101.jpg": right(103),
        }
    }
    assert found.strays == set(right(201, 202, 203))


def test_the_development_queries_are_a_task_where_they_are(folder: Path) -> None:
    (folder / DEV).write_text(item("301", "AHC 黄金水"))
    found = read_dataset("product1m", folder)
    assert [task.name for task in found.tasks] == ["test", "dev"]
    assert found.tasks[1].qrels == {b"images/301.jpg": right(101, 103)}
    assert b"images/301.jpg" in found.strays


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            GALLERY,
            item("101", "a") + "101#####title#####http://x\n",
            f"{GALLERY}, line 2: expected a list of Product1M",
        ),
        (GALLERY, item("101", "a") + item("101", "b"), "line 2: expected each photo once"),
        (GALLERY, item("101", "a#;# "), "line 1"),
        (GALLERY, item("../101", "a"), "line 1"),
        (GALLERY, "mug_final/261995659406_0.JPG,17836\n", "looks like a list `path,class` of ELViS"),
        (GALLERY, "", "expected a list of Product1M"),
        (TEST, "image_id class_id super_class_id path\n", f"{TEST}, line 1.*Stanford Online Products"),
        (TEST, item("201", "of another shop"), "have no label in common"),
    ],
)
def test_damaged_lists_are_named(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=message):
        read_dataset("product1m", folder)


def test_the_same_photo_with_the_same_labels_may_stand_twice(folder: Path) -> None:
    (folder / TEST).write_text(item("201", "AHC 黄金水") * 2)
    assert read_dataset("product1m", folder).tasks[0].qrels == {b"images/201.jpg": right(101, 103)}


@pytest.mark.parametrize("file", [GALLERY, TEST])
def test_a_missing_list_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"{file}: there is no such file"):
        read_dataset("product1m", folder)
