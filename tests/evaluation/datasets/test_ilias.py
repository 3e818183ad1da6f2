"""ILIAS, in the layout of its download script, with judgements worked out by hand."""

import gzip
from pathlib import Path

import pytest

from imgrank.boxes import Box
from imgrank.errors import InputError, SettingsError
from imgrank.evaluation.datasets.base import Dataset
from imgrank.evaluation.datasets.registry import read_dataset
from imgrank.results import Hit, Ranking
from imgrank.steps.evaluate import evaluate

QUERIES = """bold_flep_001/query/Q001_01.jpg,product
bold_bimp_000/query/Q000_00.jpg,toy
bold_flep_001/query/Q001_00.jpg,product
"""
POSITIVES = """bold_bimp_000/pos/P000_00.jpg,0.0688,18
bold_flep_001/pos/P001_00.jpg,0.25,3
bold_bimp_000/pos/P000_01.jpg,0.5,33
bold_bimp_000/pos/P000_02.jpg,1.0,0
bold_bimp_000/pos/P000_03.jpg,0.001,140
"""
KEYS = ["0f0902d93f44f128eeb571c6282df69", "a" * 32, "b" * 32]
BIMP, FLEP = b"ilias_core/bold_bimp_000/", b"ilias_core/bold_flep_001/"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ids = tmp_path / "image_ids"
    ids.mkdir()
    (ids / "image_query_ids.txt").write_text(QUERIES)
    (ids / "positive_ids.txt").write_text(POSITIVES)
    (ids / "text_query_ids.txt").write_text("bold_bimp_000/query/T000.txt\nbold_flep_001/query/T001.txt\n")
    (ids / "mini_ilias_yfcc100m_ids.txt").write_text("\n".join(KEYS[:2]))
    with gzip.open(ids / "distractor_ids.txt.gz", "wt") as file:
        file.writelines(f"yfcc100m-00000{number % 2}.tar/{key}\n" for number, key in enumerate(KEYS))
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_is_right_for_a_query_are_the_positives_of_its_object(folder: Path) -> None:
    found = read_dataset("ilias", folder)
    bimp = {BIMP + b"pos/P000_0%d.jpg" % number for number in range(4)}
    assert found.protocol == "ilias"
    assert [task.name for task in found.tasks] == [""]
    assert found.tasks[0].qrels == {
        FLEP + b"query/Q001_01.jpg": {FLEP + b"pos/P001_00.jpg": 1},
        BIMP + b"query/Q000_00.jpg": dict.fromkeys(bimp, 1),
        FLEP + b"query/Q001_00.jpg": {FLEP + b"pos/P001_00.jpg": 1},
    }
    assert found.database is not None
    assert set(found.database) == bimp | {FLEP + b"pos/P001_00.jpg"}
    assert found.strays == set(found.queries)
    query = BIMP + b"query/Q000_00.jpg"
    assert {photo[-6:-4]: value for (asked, photo), value in found.values["scale"].items() if asked == query} == {
        b"00": 0.0688,
        b"01": 0.5,
        b"02": 1.0,
        b"03": 0.001,
    }
    assert found.values["clutter"][query, BIMP + b"pos/P000_03.jpg"] == 140
    assert len(found.values["clutter"]) == len(found.values["scale"]) == 6  # 4 + 1 + 1 pairs
    assert found.boxes == {}


def test_boxes_are_around_all_parts_and_begin_inside_the_photo(folder: Path) -> None:
    write(folder, "ilias_core/bold_bimp_000/query/Q000_00_bbox.txt", "10 20 30 40\n")
    write(folder, "ilias_core/bold_bimp_000/pos/P000_01_bbox.txt", "-3 5 10 10\n\n100 2 20 4\n")
    found = read_dataset("ilias", folder)
    query = BIMP + b"query/Q000_00.jpg"
    assert found.boxes == {
        (query, query): Box(10, 20, 30, 40),
        (query, BIMP + b"pos/P000_01.jpg"): Box(0, 2, 120, 13),
    }


@pytest.mark.parametrize(
    "text", ["1 2 3\n", "1 2 3 x\n", "1 2 0 5\n", "-9 2 9 5\n", "1 2 nan 5\n", "1 2 inf 5\n", "\n"]
)
def test_a_damaged_box_is_named(folder: Path, text: str) -> None:
    write(folder, "ilias_core/bold_bimp_000/pos/P000_01_bbox.txt", text)
    with pytest.raises(InputError, match=r"P000_01_bbox\.txt.*a box of ILIAS"):
        read_dataset("ilias", folder)


def names(found: Dataset) -> set[bytes]:
    assert found.database is not None
    assert len(set(found.database)) == len(found.database)
    return {name for name in found.database if not name.startswith(b"ilias_core/")}


def test_distractors(folder: Path) -> None:
    a, b, c = (key.encode() for key in KEYS)
    assert names(read_dataset("ilias", folder)) == set()
    assert names(read_dataset("ilias", folder, "mini")) == {b"yfcc100m/%b.jpg" % a, b"yfcc100m/%b.jpg" % b}
    assert names(read_dataset("ilias", folder, "100m")) == {
        b"yfcc100m/yfcc100m-000000/%b.jpg" % a,
        b"yfcc100m/yfcc100m-000001/%b.jpg" % b,
        b"yfcc100m/yfcc100m-000000/%b.jpg" % c,
    }
    assert read_dataset("ilias", folder, "rest").database is None
    with pytest.raises(SettingsError, match="mini, 100m, rest"):
        read_dataset("ilias", folder, "5m")


def test_distractors_without_a_shard_are_looked_up_in_the_folders(folder: Path) -> None:
    write(folder, f"yfcc100m/yfcc100m-000007/{KEYS[1]}.jpg", "")
    write(folder, f"yfcc100m/yfcc100m-000007/{KEYS[2]}.jpg", "")
    write(folder, "yfcc100m/checksums.txt", "")
    a, b, _ = (key.encode() for key in KEYS)
    assert names(read_dataset("ilias", folder, "mini")) == {
        b"yfcc100m/%b.jpg" % a,
        b"yfcc100m/yfcc100m-000007/%b.jpg" % b,
    }


def test_distractors_in_mixed_lines(folder: Path) -> None:
    a, b, c = (key.encode() for key in KEYS)
    text = b"%b\r\n\r\n yfcc100m-000000.tar/%b \n%b,rest of the line\n" % (a, b, c)
    (folder / "image_ids/mini_ilias_yfcc100m_ids.txt").write_bytes(text)
    assert names(read_dataset("ilias", folder, "mini")) == {
        b"yfcc100m/%b.jpg" % a,
        b"yfcc100m/yfcc100m-000000/%b.jpg" % b,
        b"yfcc100m/%b.jpg" % c,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{KEYS[0]}\n{KEYS[1]}\n{KEYS[0]}\n", "each distractor once.*0f09"),
        (f"{KEYS[0]}\nmug_final/1.JPG,17836\n", "line 2: expected a distractor of ILIAS.*mug_final"),
        ("bold_bimp_000/pos/P000_00.jpg,0.1,2\n", "line 1.*looks like a list of ILIAS"),
        ("../x.tar/abc\n", "line 1"),
        ("..tar/abc\n", "line 1"),
        ("", "lines of a distractor"),
        ("<!DOCTYPE html>\n<html>404</html>\n", "a web page"),
    ],
)
def test_damaged_lists_of_distractors_are_named(folder: Path, text: str, message: str) -> None:
    (folder / "image_ids/mini_ilias_yfcc100m_ids.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_dataset("ilias", folder, "mini")


def test_a_cut_archive_is_named(folder: Path) -> None:
    path = folder / "image_ids/distractor_ids.txt.gz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"distractor_ids\.txt\.gz cannot be read"):
        read_dataset("ilias", folder, "100m")
    path.write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"distractor_ids\.txt\.gz cannot be read"):
        read_dataset("ilias", folder, "100m")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("image_query_ids", QUERIES + QUERIES[:31] + "\n", "line 4: expected each query once"),
        ("image_query_ids", "bold_bimp_000/pos/P000_00.jpg,x\n", "line 1: expected a query of ILIAS"),
        ("image_query_ids", "\nbold_bimp_000/query/T000.txt\n", "line 2: expected a query of ILIAS"),
        ("image_query_ids", "../query/Q000_00.jpg\n", "line 1"),
        ("image_query_ids", " \n", "lines of a query of ILIAS"),
        ("image_query_ids", "image_id class_id super_class_id path\n", "looks like a list of Stanford Online Products"),
        ("image_query_ids", "bold_snag_005/query/Q005_00.jpg,x\n", "no positive of the object of .*Q005_00"),
        ("image_query_ids", "x" * 70_000, "line 1"),
        ("image_query_ids", "\x89HDF\r\n\0\n", "looks like binary"),
        ("positive_ids", "bold_bimp_000/pos/P000_00.jpg\n", "line 1: expected a positive of ILIAS"),
        ("positive_ids", "bold_bimp_000/pos/P000_00.jpg,0.5\n", "line 1: expected a positive of ILIAS"),
        ("positive_ids", "bold_bimp_000/pos/P000_00.jpg,0.5,2,1\n", "line 1"),
        ("positive_ids", "bold_bimp_000/pos/P000_00.jpg,0.5,2.5\n", "line 1"),
        ("positive_ids", "bold_bimp_000/pos/P000_00.jpg,nan,2\n", "line 1"),
        ("positive_ids", "bold_bimp_000/pos/P000_00.jpg,-1,2\n", "line 1"),
        ("positive_ids", POSITIVES + POSITIVES[:39], "line 6: expected each positive once"),
        ("positive_ids", "", "lines of a positive of ILIAS"),
        ("positive_ids", "588193613533#####AHC#####http://a#####http://b#####x\n", "looks like a list of Product1M"),
    ],
)
def test_damaged_lists_are_named_with_file_and_line(folder: Path, file: str, text: str, message: str) -> None:
    (folder / f"image_ids/{file}.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message) as error:
        read_dataset("ilias", folder)
    assert "_ids.txt" in str(error.value)


def test_a_missing_file_is_named_and_so_is_a_missing_folder(folder: Path) -> None:
    (folder / "image_ids/positive_ids.txt").unlink()
    with pytest.raises(InputError, match=r"positive_ids\.txt: there is no such file; expected a positive of ILIAS"):
        read_dataset("ilias", folder)
    with pytest.raises(InputError, match="there is no such folder; ILIAS needs image_ids/image_query_ids"):
        read_dataset("ilias", folder / "nowhere")


def test_ids_without_an_ending_are_photos_too(folder: Path) -> None:
    for name in ("image_query_ids.txt", "positive_ids.txt"):
        path = folder / "image_ids" / name
        path.write_text(path.read_text().replace(".jpg", ""))
    assert set(read_dataset("ilias", folder).queries) == {
        FLEP + b"query/Q001_01.jpg",
        BIMP + b"query/Q000_00.jpg",
        FLEP + b"query/Q001_00.jpg",
    }


def ranking(query: bytes, scores: dict[bytes, float]) -> Ranking:
    hits = (Hit(query, rank, rank, path, score, score) for rank, (path, score) in enumerate(scores.items(), 1))
    return Ranking(query, tuple(hits))


def test_the_score_by_hand(folder: Path) -> None:
    """Of the first 3 hits for Q000_00, which 4 photos are right for, two are right, one of them tied with a wrong one.

    scikit-learn's average precision of these 3: at 0.9, precision 1 and recall 1/2; at 0.5, precision 2/3 and recall 1;
    1 * 1/2 + 2/3 * 1/2 = 5/6. Times found / min(k, positives) = 2/3: 5/9. The other right ones come too late.
    """
    qrels = read_dataset("ilias", folder, "mini").tasks[0].qrels
    wrong = b"yfcc100m/%b.jpg" % KEYS[0].encode()
    query, other, third = BIMP + b"query/Q000_00.jpg", FLEP + b"query/Q001_00.jpg", FLEP + b"query/Q001_01.jpg"
    right = [BIMP + b"pos/P000_0%d.jpg" % number for number in range(4)]
    rankings = [
        ranking(query, {right[0]: 0.9, wrong: 0.5, right[1]: 0.5, right[2]: 0.4, right[3]: 0.3}),
        ranking(other, {wrong: 0.7, FLEP + b"pos/P001_00.jpg": 0.6}),
    ]
    found = evaluate(rankings, qrels, ["ILIAS-AP@3", "ILIAS-AP@1000"])
    assert found.missing == [third]
    by_query = dict(zip(found.values, found.column("ILIAS-AP@3"), strict=True))
    assert by_query == pytest.approx({query: 5 / 9, other: 1 / 2, third: 0.0}, abs=1e-12)
    # All 5: steps at 0.9 (1 of 1), 0.5 (2 of 3), 0.4 (3 of 4), 0.3 (4 of 5), each a quarter of the recall.
    assert found.column("ILIAS-AP@1000")[list(found.values).index(query)] == pytest.approx(
        (1 + 2 / 3 + 3 / 4 + 4 / 5) / 4, abs=1e-12
    )
