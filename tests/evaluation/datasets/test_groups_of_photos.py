"""Holidays and UKBench, whose groups are in the names of the photos, on small fixtures judged by hand."""

from pathlib import Path

import numpy as np
import pytest

from imgrank.errors import InputError
from imgrank.evaluation.datasets.registry import read_dataset
from imgrank.evaluation.measures import PROTOCOLS
from imgrank.results import Hit, Ranking
from imgrank.steps.evaluate import evaluate

HOLIDAYS = ["100000", "100001", "100002", "100100", "100101", "149900", "149901", "149902", "149903"]


def touch(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def ranking(query: bytes, photos: list[bytes]) -> Ranking:
    return Ranking(query, tuple(Hit(query, rank, rank, photo, -float(rank), 0) for rank, photo in enumerate(photos, 1)))


def jpg(number: str) -> bytes:
    return f"jpg/{number}.jpg".encode()


@pytest.fixture
def holidays(tmp_path: Path) -> Path:
    return touch(tmp_path, [f"jpg/{number}.jpg" for number in HOLIDAYS])


def test_the_first_photo_of_a_group_is_the_query(holidays: Path) -> None:
    data = read_dataset("holidays", holidays)
    assert data.database == tuple(map(jpg, HOLIDAYS))
    (task,) = data.tasks
    assert task.qrels == {
        jpg("100000"): {jpg("100001"): 1, jpg("100002"): 1},
        jpg("100100"): {jpg("100101"): 1},
        jpg("149900"): {jpg("149901"): 1, jpg("149902"): 1, jpg("149903"): 1},
    }
    # The list of the evaluation package says the same, in any order, and goes before the folder.
    listed = [*HOLIDAYS[::-1], "149904"]
    (holidays / "holidays_images.dat").write_text("".join(f"{number}.jpg\n" for number in listed))
    data = read_dataset("holidays", holidays)
    assert data.database == tuple(map(jpg, listed))
    assert jpg("149904") in data.tasks[0].qrels[jpg("149900")]


def published_ap(query: bytes, photos: list[bytes], right: set[bytes]) -> float:
    """As the evaluation package counts: ranks from 0, those behind the query one less, then trapezoids."""
    shift, ranks = 0, []
    for rank, photo in enumerate(photos):
        if photo == query:
            shift = -1
        elif photo in right:
            ranks.append(rank + shift)
    total = 0.0
    for found, rank in enumerate(ranks):
        left = 1.0 if rank == 0 else found / rank
        total += (left + (found + 1) / (rank + 1)) / len(right) / 2
    return total


def test_holidays_is_measured_as_its_evaluation_package_does(holidays: Path) -> None:
    data = read_dataset("holidays", holidays)
    measures = PROTOCOLS[data.protocol].measures
    assert measures[0] == "revisited-AP"
    qrels = data.tasks[0].qrels
    order = [jpg(number) for number in ("100101", "100001", "100000", "149900", "100002")]
    found = evaluate([ranking(jpg("100000"), order)], qrels, measures).values[jpg("100000")]
    # Without the query, right at 2 and 4: (0/1 + 1/2) / 2 and (1/3 + 2/4) / 2, over two.
    assert found == pytest.approx((1 / 3, 0), abs=1e-12)
    rng = np.random.default_rng(3)
    for _ in range(50):
        rankings = [
            ranking(query, [jpg(HOLIDAYS[p]) for p in rng.permutation(9)[: rng.integers(1, 10)]]) for query in qrels
        ]
        found = evaluate(rankings, qrels, measures).column("revisited-AP")
        expected = [published_ap(one.query, [hit.path for hit in one.hits], set(qrels[one.query])) for one in rankings]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "jpg: there is no such folder; INRIA Holidays needs jpg/100000"),
        (["jpg/readme.txt"], "has no photos"),
        (["jpg/100001.jpg", "jpg/100002.jpg"], r"group of jpg/100000\.jpg has no query"),
        (["jpg/100000.jpg"], r"group of jpg/100000\.jpg has no other photo"),
        (["jpg/100000.jpg", "jpg/100001.jpg", "jpg/ukbench00000.jpg"], r"jpg/ukbench00000\.jpg is not called"),
    ],
)
def test_other_and_incomplete_folders_of_holidays_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_dataset("holidays", touch(tmp_path, names))


def test_a_damaged_list_of_holidays_is_named(holidays: Path) -> None:
    (holidays / "holidays_images.dat").write_text("100000.jpg\n100001.jpg\n100001.jpg\n")
    with pytest.raises(InputError, match=r"holidays_images\.dat names a photo twice"):
        read_dataset("holidays", holidays)


def uk(number: int) -> bytes:
    return f"full/ukbench{number:05}.jpg".encode()


@pytest.fixture
def ukbench(tmp_path: Path) -> Path:
    return touch(tmp_path, [uk(number).decode() for number in (*range(8), *range(10196, 10200))])


def test_every_photo_is_a_query_and_right_for_itself(ukbench: Path) -> None:
    data = read_dataset("ukbench", ukbench)
    assert data.database is not None
    assert len(data.database) == len(data.queries) == 12
    assert data.tasks[0].qrels[uk(5)] == {uk(4): 1, uk(5): 1, uk(6): 1, uk(7): 1}
    assert data.tasks[0].qrels[uk(10199)] == {uk(number): 1 for number in range(10196, 10200)}


def test_the_score_counts_right_photos_among_four(ukbench: Path) -> None:
    data = read_dataset("ukbench", ukbench)
    qrels = {query: judged for query, judged in data.tasks[0].qrels.items() if query in (uk(0), uk(4), uk(10197))}
    rankings = [
        ranking(uk(0), [uk(0), uk(1), uk(4), uk(2), uk(3)]),  # 3, itself counted
        ranking(uk(4), [uk(5), uk(6), uk(7), uk(4)]),  # 4
        ranking(uk(10197), [uk(0), uk(1), uk(10197)]),  # 1
    ]
    result = evaluate(rankings, qrels, PROTOCOLS[data.protocol].measures)
    assert result.column("N-S").tolist() == [3, 4, 1]
    assert result.summary()["N-S"]["mean"] == pytest.approx(8 / 3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "full: there is no such folder; UKBench needs full/ukbench00000"),
        (["full/readme.txt"], "has no photos"),
        (["full/ukbench00000.jpg", "full/ukbench00001.jpg", "full/ukbench00003.jpg"], r"ukbench00002\.jpg is missing"),
        (["full/100000.jpg"], r"full/100000\.jpg is not called"),
    ],
)
def test_other_and_incomplete_folders_of_ukbench_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_dataset("ukbench", touch(tmp_path, names))
