"""What is misspelt is answered with what may have been meant."""

import shutil
from pathlib import Path

import pytest

from imgrank.mllm.folder import BUILTIN_FOLDER


@pytest.mark.parametrize(
    ("arguments", "code", "meant"),
    [
        (["search", "db.h5", "q.jpg", "--rernk", "3"], 2, "--rerank"),
        (["search", "db.h5", "q.jpg", "--format", "jsnl"], 2, "Did you mean jsonl?"),
        (["search", "db.h5", "q.jpg", "--scorer", "geometry"], 2, "Did you mean geometric?"),
        (["export", "tokens", "db.h5", "-o", "x", "--dtype", "float23"], 2, "Did you mean float32?"),
        (["search", "db.h5", "queries/query-00.jpg", "--rerank", "2", "--cache", "locl"], 4, "(there is: local)"),
        (["search", "db.h5", "queries/query-00.jpg", "--encoder", "dinov2-bas"], 2, "close: facebook/dinov2-base"),
        (
            ["search", "db.h5", "queries/query-00.jpg", "--rerank", "2", "--mllm", "Qwen/Qwen3-VL-8B-Instrct"],
            3,
            "did you mean Qwen/Qwen3-VL-8B-Instruct",
        ),
        (["models", "facebook/dinov2-bse"], 3, "did you mean facebook/dinov2-base"),
    ],
)
def test_the_nearest_is_named(
    imgrank, collection: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, meant: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = imgrank(*arguments, cwd=collection)
    assert (done.returncode, done.stdout) == (code, b""), done.stderr
    assert meant in done.stderr.decode()


def test_the_model_of_the_bundle_is_among_what_may_have_been_meant(
    imgrank, collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = collection / "my-own-model"
    shutil.copytree(BUILTIN_FOLDER, folder)
    for photo in sorted((collection / "photos").iterdir())[2:]:
        photo.unlink()
    command = ["index", "photos", "-o", "new.h5", "--cache-tokens", "--mllm", folder]
    made = imgrank(*command, cwd=collection)
    assert made.returncode == 0, made.stderr.decode()
    held = str(folder.resolve())
    done = imgrank("search", "new.h5", "queries", "--rerank", "2", "--mllm", held[:-1] + "x", cwd=collection)
    assert done.returncode == 3
    assert f"did you mean {held}" in done.stderr.decode()
