"""Commands that the tests fork are those that a user starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import CUDA, fresh


@pytest.mark.skipif(CUDA, reason="CUDA does not survive a fork")
def test_the_commands_of_tests_are_forked():
    # Else every command would import torch anew, and nobody would notice. In a process of its own, so that it does not
    # depend on what other tests have imported.
    code = """
import os
from tests.processes import Forks
forks = Forks()
import cv2, torch._inductor.config
try:
    import sklearn.linear_model
except ImportError:
    pass
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "OPENBLAS_NUM_THREADS": "1", "XDG_CACHE_HOME": "/elsewhere"}
os.environ["_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"] = "140492290051104"  # once something was compiled
assert forks.can_run(dict(os.environ))
os.environ["OMP_PLACES"] = "cores"
assert not forks.can_run(dict(os.environ))
"""
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)


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
