"""A drawn collection and bundles of it, made once for the whole run; and the command line as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imgrank.training.collection import CollectionFiles, draw_collection

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def run_imgrank(*arguments: object, **options) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own, with stdout and stderr apart."""
    options.setdefault("capture_output", True)
    if "input" not in options and "stdin" not in options:
        options["stdin"] = subprocess.DEVNULL
    command = [sys.executable, "-m", "imgrank", *[a if isinstance(a, bytes) else str(a) for a in arguments]]
    return subprocess.run(command, check=False, timeout=300, **options)


@pytest.fixture(autouse=True)
def _no_scores_of_other_tests(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")  # nor the settings of whoever runs the tests


@pytest.fixture(scope="session")
def imgrank() -> Run:
    return run_imgrank


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of small language models by family, made when first asked for; read only."""
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            from tests.tiny_mllms import save_tiny_mllm

            made[family] = save_tiny_mllm(tmp_path_factory.mktemp("models") / family, family)
        return made[family]

    return of


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> CollectionFiles:
    """Five objects, three photos of each, five distractors, two queries; read only."""
    folder = tmp_path_factory.mktemp("drawn")
    return draw_collection(folder, seed=3, objects=5, views=3, distractors=5, queries=2)


@pytest.fixture(scope="session")
def _indexed(drawn: CollectionFiles) -> Path:
    bundle = drawn.photos.parent / "db.h5"
    done = run_imgrank("index", drawn.photos, "-o", bundle, "--threads", 1)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    return bundle


@pytest.fixture
def collection(_indexed: Path, tmp_path: Path) -> Path:
    """A folder of the test's own: `photos/`, `queries/`, `qrels.tsv` and the indexed `db.h5`; the working directory."""
    folder = tmp_path / "collection"
    # Hard links keep size and modification time, so that the bundle knows its photos.
    shutil.copytree(_indexed.parent, folder, copy_function=os.link)
    (folder / "db.h5").unlink()
    shutil.copy2(_indexed, folder / "db.h5")
    return folder
