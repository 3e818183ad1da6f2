"""Published data sets through the command line, on photos laid out as they are published."""

import json
import pickle
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def oxford(_indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ox/` with ten photos and two queries, `revisitop1m/` with three, and a photo that is of neither."""
    folder = tmp_path_factory.mktemp("oxford")
    photos = sorted((_indexed.parent / "photos").glob("*.jpg"))
    views = [path for path in photos if "object" in path.name]
    others = [path for path in photos if "object" not in path.name]
    (folder / "ox" / "jpg").mkdir(parents=True)
    (folder / "revisitop1m" / "jpg").mkdir(parents=True)
    queries, database = [views[0], views[3]], [*views[1:3], *views[4:6], *views[6:12]]
    for path in (*queries, *database, others[0]):
        shutil.copy(path, folder / "ox" / "jpg")
    for path in others[1:4]:
        shutil.copy(path, folder / "revisitop1m" / "jpg")
    (folder / "revisitop1m" / "revisitop1m.txt").write_text("".join(f"{path.name}\n" for path in others[1:4]))
    truth = {
        "imlist": [path.stem for path in database],
        "qimlist": [path.stem for path in queries],
        # Of the second query, one photo is right and one is junk in `easy`; both are right in `medium`.
        "gnd": [
            {"bbx": [0.0, 0.0, 10_000.0, 10_000.0], "easy": [0, 1], "hard": [], "junk": [4]},
            {"bbx": [10.0, 10.0, 200.0, 150.0], "easy": [2], "hard": [3], "junk": []},
        ],
    }
    (folder / "ox" / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth, protocol=2))
    return folder


@pytest.fixture(scope="module")
def run(oxford: Path):
    from tests.conftest import run_imgrank

    def of(*arguments: object, code: int = 0, **options: object) -> tuple[str, str]:
        done = run_imgrank(*arguments, cwd=oxford, **options)
        assert done.returncode == code, done.stderr.decode()
        assert b"Traceback" not in done.stderr
        return done.stdout.decode(), done.stderr.decode()

    run_imgrank("index", "ox/jpg", "-o", "ox.h5", cwd=oxford)
    run_imgrank("index", "revisitop1m/jpg", "-o", "1m.h5", cwd=oxford)
    return of


OXFORD = ("--dataset", "roxford5k", "--data", "ox")


def revisited_by_hand(ranked: list[str], right: set[str], junk: set[str]) -> float:
    ranked = [name for name in ranked if name not in junk]
    total, found = 0.0, 0
    for rank, name in enumerate(ranked):
        if name in right:
            before = 1.0 if rank == 0 else found / rank
            total += (before + (found + 1) / (rank + 1)) / 2
            found += 1
    return total / len(right)


def test_a_data_set_is_searched_and_measured_as_published(run, oxford: Path) -> None:
    report = json.loads(run("eval", "ox.h5", "1m.h5", *OXFORD, "--distractors", "1m", "--json", "--per-query",
                            "--save-run", "saved.jsonl")[0])  # fmt: skip
    assert list(report["tasks"]) == ["easy", "medium", "hard"]
    hits = [json.loads(line) for line in (oxford / "saved.jsonl").read_text().splitlines()]
    ranked: dict[str, list[str]] = {}
    for hit in hits:
        ranked.setdefault(hit["query"], []).append(hit["path"])
    # Ten photos and three distractors; neither a query nor the photo that is of no list.
    assert {len(names) for names in ranked.values()} == {13}
    truth = pickle.loads((oxford / "ox" / "gnd_roxford5k.pkl").read_bytes())
    names = [f"jpg/{stem}.jpg" for stem in truth["imlist"]]
    for query, one in zip(sorted(ranked), truth["gnd"], strict=True):
        lists = {kind: {names[place] for place in one[kind]} for kind in ("easy", "hard", "junk")}
        tasks = {
            "easy": (lists["easy"], lists["junk"] | lists["hard"]),
            "medium": (lists["easy"] | lists["hard"], lists["junk"]),
            "hard": (lists["hard"], lists["junk"] | lists["easy"]),
        }
        for task, (right, junk) in tasks.items():
            values = report["tasks"][task]["per_query"]
            if right:
                by_hand = revisited_by_hand(ranked[query], right, junk)
                assert values[query]["revisited-AP"] == pytest.approx(by_hand, abs=1e-9)
            else:
                assert query not in values
    # The same from a run, and from what `search` prints for the queries that `dataset` lists.
    again = json.loads(run("eval", "--run", "saved.jsonl", *OXFORD, "--distractors", "1m", "--json", "--per-query")[0])
    assert again["tasks"] == report["tasks"]
    queries, _ = run("dataset", "roxford5k", "--data", "ox", "--list", "queries")
    lines, _ = run("search", "ox.h5", "-", "-k", 20, input=queries.encode())
    rest = (*OXFORD, "--distractors", "rest", "--json", "--per-query")
    piped = json.loads(run("eval", "--run", "-", *rest, input=lines.encode())[0])
    assert piped["tasks"] == json.loads(run("eval", "ox.h5", *rest)[0])["tasks"]


def test_photos_that_are_not_of_the_data_set_are_left_out_and_counted(run) -> None:
    out, said = run("eval", "ox.h5", *OXFORD)
    assert "3 photos of the bundles are not of ROxford5k and are not ranked" in said
    assert out.split()[0] == "easy"
    assert "hard\n" in out
    table, _ = run("eval", "ox.h5", *OXFORD, "--per-query", "-q")
    assert table.splitlines()[0].split("\t")[:3] == ["task", "query", "revisited-AP"]
    _, said = run("eval", "ox.h5", *OXFORD, "--distractors", "rest")
    assert "not ranked" in said  # the two queries alone
    assert "2 photos" in said


def test_missing_photos_are_counted_and_listed(run, oxford: Path) -> None:
    whole = json.loads(run("eval", "ox.h5", *OXFORD, "--json")[0])
    _, said = run("eval", "ox.h5", *OXFORD, "--distractors", "1m", code=5)
    assert "3 photos of ROxford5k + 1M are not in ox.h5" in said
    assert "--allow-missing" in said
    out, said = run("eval", "ox.h5", *OXFORD, "--distractors", "1m", "--allow-missing", "--json")
    assert json.loads(out)["tasks"] == whole["tasks"]
    assert "they count as not found" in said
    counts = json.loads(run("dataset", "roxford5k", "--data", "ox", "--json")[0])
    assert (counts["photos"], counts["queries"], counts["missing"]) == (10, 2, 0)
    assert counts["tasks"][1] == {
        "name": "medium", "queries": 2, "with_positives": 2, "positives": 4, "wrong": 0, "junk": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("eval ox.h5", 2, "give judgements"),
        ("eval ox.h5 --dataset roxford5k", 2, "--data FOLDER"),
        ("eval ox.h5 --dataset roxford6k --data ox", 2, "there are roxford5k"),
        ("eval ox.h5 --dataset roxford5k --data nowhere", 5, "there is no such folder"),
        ("eval ox.h5 --dataset rparis6k --data ox", 5, "gnd_rparis6k"),
        ("eval ox.h5 --dataset roxford5k --data ox --distractors 2m", 2, "there are 1m, rest"),
        ("eval ox.h5 --qrels q.tsv --distractors 1m", 2, "goes with --dataset"),
        ("eval 1m.h5 --dataset roxford5k --data ox", 5, "none of the photos of ROxford5k"),
        ("eval ox.h5 --qrels absent.tsv", 5, "1 relevant photos are not in ox.h5"),
        ("eval ox.h5 --qrels wrong.tsv", 5, "no query with a relevant photo"),
        ("study lambda ox.h5 --qrels wrong.tsv -o never", 5, "no query with a relevant photo"),
        ("eval --run unknown.jsonl --dataset roxford5k --data ox", 5, "are no photos of ROxford5k"),
        ("eval --run twice.jsonl --dataset roxford5k --data ox", 5, "the same photo twice"),
        ("eval ox.h5 --dataset roxford5k --data hostile", 5, "posix.system"),
        ("dataset roxford5k --data ox --list qrels", 2, "easy, medium, hard"),
    ],
)
def test_what_cannot_be_measured_is_said(run, oxford: Path, line: str, code: int, said: str) -> None:
    photo = next((oxford / "ox" / "jpg").glob("*.jpg")).name
    truth = pickle.loads((oxford / "ox" / "gnd_roxford5k.pkl").read_bytes())
    query, stem = truth["qimlist"][1], truth["imlist"][0]
    (oxford / "q.tsv").write_text(f"{photo}\t{photo}\n")
    (oxford / "wrong.tsv").write_text(f"ox/jpg/{photo}\t0\tox/jpg/{stem}.jpg\t0\n")
    (oxford / "absent.tsv").write_text(f"ox/jpg/{photo}\tox/jpg/absent.jpg\nox/jpg/{photo}\tox/jpg/{stem}.jpg\n")
    name = f"jpg/{query}.jpg#xywh=10,10,190,140"
    for file, paths in (("unknown", ["ox/jpg/else.jpg"]), ("twice", [f"jpg/{stem}.jpg"] * 2)):
        hits = [
            {
                "schema_version": 1,
                "query": name,
                "rank": rank,
                "id": rank,
                "path": path,
                "score": 1.0,
                "similarity": 1.0,
            }
            for rank, path in enumerate(paths, 1)
        ]
        (oxford / f"{file}.jsonl").write_text("".join(json.dumps(hit) + "\n" for hit in hits))
    (oxford / "hostile").mkdir(exist_ok=True)
    (oxford / "hostile" / "gnd_roxford5k.pkl").write_bytes(b"cposix\nsystem\n(S'touch harm'\ntR.")
    out, err = run(*line.split(), code=code)
    assert said in err
    assert out == ""
    assert not (oxford / "harm").exists()
    assert not (oxford / "never").exists()


def test_what_dataset_lists_can_be_indexed_and_judged(run, oxford: Path) -> None:
    photos, _ = run("dataset", "roxford5k", "--data", "ox", "--list", "photos", "-0")
    assert len(photos.split("\0")) == 11
    run("index", "-", "-0", "-o", "listed.h5", input=photos.encode())
    qrels, _ = run("dataset", "roxford5k", "--data", "ox", "--list", "qrels", "--task", "medium")
    assert sorted(line.split("\t")[3] for line in qrels.splitlines()) == ["-1", "1", "1", "1", "1"]
    (oxford / "medium.tsv").write_text(qrels)
    own = json.loads(run("eval", "listed.h5", "--qrels", "medium.tsv", "--protocol", "revisited", "--json")[0])
    published = json.loads(run("eval", "ox.h5", *OXFORD, "--json")[0])["tasks"]["medium"]
    assert own["measures"] == published["measures"]
    assert "roxford5k: ROxford5k" in run("dataset")[0]


def test_bundles_may_lie_anywhere(run, oxford: Path, tmp_path: Path) -> None:
    # Their roots are then the folders of the photos, and a name of the data set leads into one by `..`.
    (tmp_path / "link").symlink_to(oxford)
    for folder, bundle in (("ox/jpg", "ox.h5"), ("revisitop1m/jpg", "1m.h5")):
        run("index", oxford / folder, "-o", tmp_path / bundle)
    options = ("--dataset", "roxford5k", "--distractors", "1m", "--json")
    bundles = (tmp_path / "ox.h5", tmp_path / "1m.h5")
    far = json.loads(run("eval", *bundles, "--data", tmp_path / "link" / "ox", *options)[0])
    assert far == json.loads(run("eval", "ox.h5", "1m.h5", "--data", "ox", *options)[0])
