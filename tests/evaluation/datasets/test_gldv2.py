"""Google Landmarks v2 on a small fixture of the published layout, judged by hand."""

from pathlib import Path

import pytest

from imgrank.errors import InputError
from imgrank.evaluation.datasets.registry import read_dataset
from imgrank.evaluation.measures import PROTOCOLS
from imgrank.results import Hit, Ranking
from imgrank.steps.evaluate import evaluate

INDEX = [f"{number:016x}" for number in (0x1000, 0x2000, 0x3000, 0x4000)]
TEST = [f"abc{number:013x}" for number in range(4)]
SOLUTION = (
    "id,images,Usage\n"
    f"{TEST[0]},{INDEX[0]} {INDEX[2]},Public\n"
    f"{TEST[1]},None,Ignored\n"
    f"{TEST[2]},{INDEX[3]},Private\n"
    f"{TEST[3]},{INDEX[1]} {INDEX[2]} {INDEX[3]},Private\n"
)


def photo(name: str) -> bytes:
    return f"index/{name[0]}/{name[1]}/{name[2]}/{name}.jpg".encode()


def query(place: int) -> bytes:
    return f"test/a/b/c/{TEST[place]}.jpg".encode()


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "index.csv", "\n".join(["id", *INDEX]))
    return write(tmp_path, "retrieval_solution_v2.1.csv", SOLUTION)


QRELS = {
    "public": {query(0): {photo(INDEX[0]): 1, photo(INDEX[2]): 1}},
    "private": {
        query(2): {photo(INDEX[3]): 1},
        query(3): {photo(INDEX[1]): 1, photo(INDEX[2]): 1, photo(INDEX[3]): 1},
    },
}


def test_tasks_photos_and_queries(folder: Path) -> None:
    data = read_dataset("gldv2", folder)
    assert data.database == tuple(map(photo, INDEX))
    assert {task.name: task.qrels for task in data.tasks} == QRELS
    assert data.strays == {query(place) for place in range(4)}
    assert photo(INDEX[0]) == b"index/0/0/0/0000000000001000.jpg"


def test_values_by_hand(folder: Path) -> None:
    data = read_dataset("gldv2", folder)
    hits = tuple(
        Hit(query(3), rank, rank, photo(INDEX[place]), -float(rank), 0) for rank, place in enumerate((0, 1, 3), 1)
    )
    result = evaluate([Ranking(query(3), hits)], data.tasks[1].qrels, PROTOCOLS[data.protocol].measures)
    # Right at 2 and 3, of three: (1/2 + 2/3) / 3. A query without a ranking counts as 0, as in the published code.
    assert result.summary()["AP@100"]["mean"] == pytest.approx((7 / 18) / 2)


@pytest.mark.parametrize("place", ["ground_truth", "metadata", "test"])
def test_files_may_lie_as_they_are_downloaded(tmp_path: Path, place: str) -> None:
    write(tmp_path, f"{place}/retrieval_solution_v2.1.csv", SOLUTION.replace("\n", "\r\n"))
    rows = "".join(f'"{name}",{number}\n' for number, name in enumerate(INDEX))
    write(tmp_path, "metadata/index_image_to_landmark.csv", "id,landmark_id\n" + rows)
    data = read_dataset("gldv2", tmp_path)
    assert data.database == tuple(map(photo, INDEX))
    assert {task.name: task.qrels for task in data.tasks} == QRELS


def test_without_a_list_the_folder_is_walked(folder: Path) -> None:
    (folder / "index.csv").unlink()
    with pytest.raises(InputError, match="index: there is no such folder"):
        read_dataset("gldv2", folder)
    for name in (*INDEX[1:], "fff0000000000000"):
        write(folder, photo(name).decode(), "")
    for other in ("index/images_000.tar", "index/0/0/0/._x.jpg", "index/md5/x.txt"):
        write(folder, other, "")
    # The first one is right for a query and lies nowhere: it is still of the data set.
    assert read_dataset("gldv2", folder).database == (*map(photo, INDEX), photo("fff0000000000000"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no query of Public or Private"),
        ("id,landmarks,Usage\n", "begins with 'id,landmarks,Usage'"),
        (SOLUTION.replace("Ignored", "Secret"), r"line 3: Usage 'Secret'"),
        (SOLUTION.replace(INDEX[3], "xyz"), "line 4: 'xyz' is no id"),
        (SOLUTION + f"{TEST[0]},{INDEX[0]},Public\n", "line 6: query .* is there twice"),
        (SOLUTION + f"{TEST[0][:-1]}f,,Public\n", "line 6: no photo is right"),
        (SOLUTION + "abc", "line 6: 1 columns"),
        (SOLUTION.replace(INDEX[3], "f" * 16), "lacks 1 of the 4 right photos, such as index/f/f/f"),
        (SOLUTION.split("\n")[0], "no query of Public or Private"),
    ],
)
def test_damaged_and_other_solutions_are_named(folder: Path, text: str, message: str) -> None:
    write(folder, "retrieval_solution_v2.1.csv", text)
    with pytest.raises(InputError, match=message):
        read_dataset("gldv2", folder)


def test_damaged_lists_are_named(folder: Path) -> None:
    write(folder, "index.csv", f"id\n{INDEX[0]}\n{INDEX[0]}\n")
    with pytest.raises(InputError, match="names a photo twice"):
        read_dataset("gldv2", folder)
    write(folder, "index.csv", f"id,url,landmark_id\n{INDEX[0]},x,1\n")  # train.csv
    with pytest.raises(InputError, match="instead of id"):
        read_dataset("gldv2", folder)
    (folder / "retrieval_solution_v2.1.csv").unlink()
    with pytest.raises(InputError, match=r"retrieval_solution_v2\.1\.csv: there is no such file; Google Landmarks v2"):
        read_dataset("gldv2", folder)
