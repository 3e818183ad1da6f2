"""Commands that the tests fork are those that a user starts."""

import os
from pathlib import Path

import pytest

from tests.processes import CUDA, fresh


@pytest.mark.skipif(CUDA, reason="CUDA does not survive a fork")
def test_the_commands_of_tests_are_forked(forks):
    import cv2  # noqa: F401
    import torch._inductor.config  # noqa: F401

    assert forks.can_run(dict(os.environ))  # else every command would import torch anew, and nobody would notice


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "HF_HUB_CACHE", "OMP_NUM_THREADS", "PYTHONPATH", "LC_ALL", "HOME"])
def test_variables_that_libraries_read_early_take_a_fresh_interpreter(forks, name):
    assert not forks.can_run({**os.environ, name: "other"})


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--help"], b""),
        (["serch"], b""),
        (["info", "caf\udce9 \n.h5"], b""),
        (["search", "db.h5", "queries/query-00.jpg"], b""),
        (
            ["search", "db.h5", "-", "-k", "2", "--format", "paths", "-0"],
            b"queries/query-00.jpg\nqueries/query-01.jpg\n",
        ),
        (["rerank", "db.h5", "--top", "7"], b"{}\n" * 50_000),
    ],
)
def test_a_fork_does_what_a_fresh_interpreter_does(forks, collection: Path, arguments: list[str], given: bytes):
    runs = [run(arguments, collection, dict(os.environ), given) for run in (fresh, forks.run)]
    one, other = ((run.returncode, run.stdout, run.stderr) for run in runs)
    assert one == other


def test_a_fork_has_the_end_and_the_folder_of_its_own(forks, collection: Path):
    environment = dict(os.environ)
    before = Path.cwd()
    assert [
        forks.run(["info", "db.h5"], folder, environment, b"").returncode for folder in (collection, before, collection)
    ] == [0, 4, 0]
    assert Path.cwd() == before
