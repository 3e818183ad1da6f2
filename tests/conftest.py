"""A drawn collection and bundles of it, made once for the whole run; and the command line as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgrank.bundle import probe
from imgrank.training.collection import CollectionFiles, draw_collection
from tests.processes import Forks, fresh

Run = Callable[..., subprocess.CompletedProcess[bytes]]


_forks = Forks()


def run_imgrank(
    *arguments: object,
    cwd: str | os.PathLike[str] | None = None,
    env: dict[str, str] | None = None,
    input: bytes = b"",
    new_interpreter: bool = False,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own, with stdout and stderr apart."""
    command = [os.fsdecode(argument) if isinstance(argument, bytes) else str(argument) for argument in arguments]
    environment = dict(os.environ if env is None else env)
    run = fresh if new_interpreter or not _forks.can_run(environment) else _forks.run
    return run(command, Path.cwd() if cwd is None else Path(cwd), environment, input)


@pytest.fixture(scope="session", autouse=True)
def forks() -> Iterator[Forks]:
    yield _forks
    _forks.close()


@pytest.fixture(scope="session")
def _known_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("known")


@pytest.fixture(autouse=True)
def _no_scores_of_other_tests(
    _known_bundles: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(cache))
    # Nor the settings of whoever runs the tests; a folder that is there, since browsers and shells write into it.
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path_factory.mktemp("config")))
    # Which files have been parsed is true in every test: bundles that several of them read need one child.
    (cache / "imgrank").mkdir(mode=0o700)
    (cache / "imgrank" / "parsed-bundles").symlink_to(_known_bundles)


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
    probe.remember(folder / "db.h5")  # saves each test the child that looks at a file of unknown origin
    return folder
