"""`imgrank calibrate` and what `search` and `rerank` then say, through the command line."""

import json
from pathlib import Path

import pytest

from imgrank.steps.cache_tokens import cache_tokens

pytest.importorskip("sklearn")


@pytest.fixture
def qrels(collection: Path) -> Path:
    """Two views of each object ask for the others."""
    names = sorted(path.name for path in (collection / "photos").glob("object-*"))
    lines = [
        f"photos/{query}\t0\tphotos/{other}\t1\n"
        for query in names
        for other in names
        if other != query and other[:9] == query[:9] and "view-2" not in query
    ]
    path = collection / "judged.tsv"
    path.write_text("".join(lines))
    return path


def records(raw: bytes) -> list[dict]:
    return [json.loads(line) for line in raw.splitlines()]


def test_geometric_from_judgements_to_hits(imgrank, collection: Path, qrels: Path):
    def run(*arguments, code: int = 0, **options):
        done = imgrank(*arguments, cwd=collection, **options)
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
        return done

    search = ["search", "db.h5", "queries/query-00.jpg", "-k", 8, "--rerank", 5]
    plain = records(run(*search).stdout)
    with qrels.open("a") as file:
        file.write("gone.jpg\t0\tphotos/object-00-view-0.jpg\t1\n")
    done = run("calibrate", "db.h5", "--qrels", qrels, "--top", 6, "--folds", 3, "--plot", "r.svg", code=7)
    assert b"skipped (missing) gone.jpg" in done.stderr
    text = done.stdout.decode()
    assert text.startswith("geometric-")
    assert "isotonic, from the score of 60 pairs of 10 queries" in text
    assert "before: the score as it is" in text
    assert "0.90 to 1.00" in text
    assert "calibration error" in (collection / "r.svg").read_text()
    assert b"next: imgrank search db.h5 QUERY.jpg --rerank 6" in done.stderr
    name = text.split(":")[0]

    found = run(*search)
    hits = records(found.stdout)
    assert [{key: value for key, value in hit.items() if key != "calibrated"} for hit in hits] == plain
    assert [0 <= hit["calibrated"] <= 1 for hit in hits[:5]] == [True] * 5
    assert not any("calibrated" in hit for hit in hits[5:])
    # `rerank` takes none of it over, and says the same.
    again = run("rerank", "db.h5", "--top", 5, input=found.stdout)
    assert again.stdout == found.stdout
    other = records(run("rerank", "db.h5", "--top", 5, "--scorer", "maxsim", input=found.stdout).stdout)
    assert not any("calibrated" in hit for hit in other)
    tsv = [line.split(b"\t") for line in run(*search, "--format", "tsv").stdout.splitlines()]
    assert tsv[0][-1] == b"calibrated"
    assert [float(line[-1]) for line in tsv[1:6]] == [hit["calibrated"] for hit in hits[:5]]
    assert [line[-1] for line in tsv[6:]] == [b""] * 3
    table = run(*search, "--format", "table").stdout.decode()
    assert f"{hits[0]['calibrated']:.4f}" in table

    assert name in run("info", "db.h5").stdout.decode()
    assert name in run("calibrate", "db.h5", "--list").stdout.decode()
    (held,) = records(run("calibrate", "db.h5", "--list", "--json").stdout)
    assert (held["name"], held["pairs"]) == (name, 60)
    run("calibrate", "db.h5", "--remove", name)
    assert run(*search).stdout == b"".join(json.dumps(hit).encode() + b"\n" for hit in plain)
    assert run("calibrate", "db.h5", "--list", "--json").stdout == b""


def test_the_builtin_language_model(imgrank, collection: Path, qrels: Path):
    cache_tokens(collection / "db.h5")
    arguments = ["--qrels", qrels, "--mllm", "builtin", "--top", 5, "--method", "logistic", "--json"]
    done = imgrank("calibrate", "db.h5", *arguments, cwd=collection)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["scorer"], report["evidence"], report["method"]) == ("mllm", "logit", "logistic")
    assert (report["model"], report["asked"]) == ("builtin", "object")
    assert report["pairs"] == sum(one["count"] for one in report["after"]["bins"]) == 50
    assert 0 <= report["after"]["ece"] < 0.5
    done = imgrank(
        "search", "db.h5", "queries/query-00.jpg", "-k", 3, "--rerank", 3, "--mllm", "builtin", cwd=collection
    )
    hits = records(done.stdout)
    order = sorted(hits, key=lambda hit: hit["logit"])
    assert [hit["calibrated"] for hit in order] == sorted(hit["calibrated"] for hit in hits)
    assert list(hits[0])[-3:] == ["probability", "logit", "calibrated"]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ([], 2, b"give one of --qrels FILE, --list and --remove NAME"),
        (["--list", "--remove", "x"], 2, b"give one of"),
        (["--remove", "x"], 5, b"no calibration 'x'; there is: none"),
        (["--qrels", "few.tsv"], 5, b"wants 10 of either"),
        (["--qrels", "empty.tsv"], 5, b"no relevance judgements"),
        (["--qrels", "judged.tsv", "--plot", "r.gif"], 2, b"must end in"),
        (["--qrels", "judged.tsv", "--scorer", "mllm"], 2, b"needs a model"),
        (["--qrels", "gone.tsv", "--strict"], 5, b"gone.jpg"),
        (["--qrels", "judged.tsv", "--folds", "1"], 2, b"--folds"),
        (["--qrels", "judged.tsv", "--top-only", "1"], 2, b"No such option"),
    ],
)
def test_what_cannot_be_done_is_told(imgrank, collection: Path, qrels: Path, arguments, code, reason):
    (collection / "few.tsv").write_text("photos/object-00-view-0.jpg\tphotos/object-00-view-1.jpg\n")
    (collection / "gone.tsv").write_text("gone.jpg\tphotos/object-00-view-1.jpg\n")
    (collection / "empty.tsv").write_text("")
    before = (collection / "db.h5").read_bytes()
    run = imgrank("calibrate", "db.h5", *arguments, cwd=collection)
    assert run.returncode == code, run.stderr
    assert reason in run.stderr
    assert b"Traceback" not in run.stderr
    assert run.stdout == b""
    assert (collection / "db.h5").read_bytes() == before
