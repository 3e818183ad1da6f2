"""The library's front door gives what the command line gives, and its page of documentation runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imgrank as package
from imgrank.errors import ImageError, InputError, SettingsError

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
QUERY = "queries/query-00.jpg"


def records(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def here(collection: Path, monkeypatch) -> Path:
    monkeypatch.chdir(collection)
    return collection


def test_importing_loads_nothing() -> None:
    code = "import sys, imgrank; dir(imgrank); print(*{'numpy', 'torch', 'h5py', 'click'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "\n"
    with pytest.raises(AttributeError):
        package.nothing  # noqa: B018
    assert {"open", "index_photos", "Database"} <= set(dir(package))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([QUERY, "-k", 4], {"query": QUERY, "k": 4}),
        ([QUERY, "-k", 4, "--rerank", 8, "--lambda", 0.3], {"query": QUERY, "k": 4, "rerank": 8, "lam": 0.3}),
        (["--id", 7, "--filter", "photos/object*"], {"query": 7, "filter": "photos/object*"}),
        (
            [QUERY, "--box", "9,9,150,150", "--min-score", 0.05],
            {"query": QUERY, "box": (9, 9, 150, 150), "min_score": 0.05},
        ),
        (["queries", "--fuse", "max", "-k", 3], {"query": [QUERY, "queries/query-01.jpg"], "fuse": "max", "k": 3}),
    ],
)
def test_it_finds_what_the_command_finds(imgrank, here: Path, arguments, options) -> None:
    run = imgrank("search", "db.h5", *arguments)
    assert run.returncode == 0, run.stderr.decode()
    with package.open("db.h5") as db:
        ranking = db.search(**options)
    assert [hit.to_dict() for hit in ranking] == records(run.stdout)
    assert len(ranking) == len(ranking.hits) > 0
    assert ranking[0].file == Path(os.fsdecode(ranking[0].path))


def test_pixels_are_a_query_without_a_name(here: Path) -> None:
    with Image.open(QUERY) as photo:
        photo.save("query.png")
    with package.open("db.h5") as db:
        by_name = db.search("query.png", k=5, rerank=6)
        by_pixels = db.search(np.asarray(Image.open("query.png").convert("RGB")), k=5, rerank=6)
        assert by_pixels.query == b""
        assert [(hit.id, hit.score) for hit in by_pixels] == [(hit.id, hit.score) for hit in by_name]
        with pytest.raises(InputError, match="the query"):
            db.search(np.zeros((4, 4), np.uint8))


def test_re_ranking_apart_is_re_ranking_at_once(here: Path) -> None:
    with package.open("db.h5") as db:
        assert db.rerank(db.search(QUERY, k=20), top=6) == db.search(QUERY, k=20, rerank=6)


def test_a_query_that_cannot_be_read_stands_in_its_place(here: Path) -> None:
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    with package.open("db.h5") as db:
        first, broken, last = db.search_many([QUERY, "broken.jpg", 3], k=1)
        assert isinstance(broken, ImageError)
        assert (first.query, len(last)) == (QUERY.encode(), 1)
        with pytest.raises(ImageError):
            db.search("broken.jpg")


def test_what_was_loaded_is_used_again(here: Path, monkeypatch) -> None:
    with package.open("db.h5") as db:
        db.search(QUERY, rerank=3)

        def forbidden(*arguments, **options):
            raise AssertionError("loaded again")

        for name in ("bundle_encoder.load_bundle_encoder", "shortlist.Shortlister", "rerank.Reranker"):
            monkeypatch.setattr(f"imgrank.steps.{name}", forbidden)
        db.search(QUERY, k=7, rerank=3, exclude_self=True)
        with pytest.raises(AssertionError):
            db.search(QUERY, filter="photos/*")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scorer": "mllm"}, "give rerank=K"),
        ({"exlude": "x"}, "did you mean exclude"),
        ({"rerank": 3, "top": 5}, "give rerank=K"),
        ({"query": [QUERY, QUERY]}, "search_many"),
        ({"query": 3, "box": (1, 2, 3, 4)}, "one photo file"),
        ({"box": (1, 2, 0, 4)}, "at least 1"),
    ],
)
def test_options_that_make_no_sense_are_said(here: Path, options, said) -> None:
    with package.open("db.h5") as db, pytest.raises(SettingsError, match=said):
        db.search(**{"query": QUERY, **options})


def test_photos_and_descriptors(here: Path) -> None:
    Path("photos/zz.jpg").write_bytes(b"no photo")
    with package.index_photos("photos", "db.h5") as db:
        photos = list(db.photos())
        assert (len(db), len(photos)) == (20, 21)
        assert [photo.status for photo in photos[-2:]] == ["ok", "not-an-image"]
        assert all(photo.file.is_file() for photo in photos)
        with Image.open(photos[0].file) as photo:
            assert photo.size == (photos[0].width, photos[0].height)
        ids, vectors = db.descriptors()
        assert ids.tolist() == [photo.id for photo in photos[:-1]]
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert db.info()[0]["images"] == {"ok": 20, "not-an-image": 1}


def test_the_page_runs(here: Path, capsys) -> None:
    for name in ("vase.jpg", "room.jpg", "front.jpg", "back.jpg"):
        shutil.copy(QUERY, name)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == 8
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert "ImageError nothing.jpg: no such file" in capsys.readouterr().out
