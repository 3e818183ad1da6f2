"""Files of unknown origin are parsed in a child first; those that are known cost nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from imgrank.bundle import file, probe
from imgrank.errors import DamagedBundleError
from imgrank.user_cache import user_cache


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "db.h5"
    with file.Writer(path):
        file.create(path, root=b".")
    return path


@pytest.fixture
def children(monkeypatch) -> list[list[str]]:
    """Commands of the children that are started."""
    started: list[list[str]] = []
    real = subprocess.run

    def run(command, **options):
        started.append(command)
        return real(command, **options)

    monkeypatch.setattr(probe.subprocess, "run", run)
    return started


def test_a_file_that_was_written_here_starts_no_child(bundle, children):
    file.read(bundle).close()
    with file.Writer(bundle) as writer, writer.transaction() as h5:
        h5["images"].attrs["next-id"] = np.uint64(7)
    file.read(bundle).close()
    assert children == []


def test_a_copy_starts_one_child_and_is_known_then(bundle, children, tmp_path):
    copy = tmp_path / "copy.h5"
    shutil.copy(bundle, copy)
    for _ in range(3):
        file.read(copy).close()
    assert len(children) == 1
    os.utime(copy, ns=(1, 1))  # somebody touched it: it may be another one
    file.read(copy).close()
    assert len(children) == 2


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "crashed on it .signal 6"),
        ("import ctypes; ctypes.string_at(0)", "crashed on it .signal 11"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "still busy with it after 8 s"),
        ("import time; time.sleep(60)", "still busy with it after 1 s"),
    ],
)
def test_what_ends_a_child_is_a_damaged_bundle(bundle, monkeypatch, tmp_path, code, reason):
    copy = tmp_path / "copy.h5"
    shutil.copy(bundle, copy)
    monkeypatch.setattr(probe, "_CHILD", code)
    monkeypatch.setattr(probe, "WALL_SECONDS", 1)
    for _ in range(2):  # it is not remembered as one that can be parsed
        with pytest.raises(DamagedBundleError, match=reason):
            file.read(copy)


def test_the_child_has_limits(bundle, monkeypatch, tmp_path):
    copy = tmp_path / "copy.h5"
    shutil.copy(bundle, copy)
    seen = tmp_path / "limits"
    code = (
        "import json, resource, sys; sys.path[:] = json.loads(sys.argv[1])\n"
        "from imgrank.bundle import file, probe\n"
        f"file.parse = lambda path: open({str(seen)!r}, 'w').write(repr([resource.getrlimit(kind)[0] for kind in "
        "(resource.RLIMIT_CPU, resource.RLIMIT_AS)]))\n"
        "probe.child()"
    )
    monkeypatch.setattr(probe, "_CHILD", code)
    file.read(copy).close()
    assert seen.read_text() == repr([probe.CPU_SECONDS, probe.MEMORY])


def test_the_child_does_not_import_from_the_working_directory(bundle, monkeypatch, tmp_path):
    copy = tmp_path / "copy.h5"
    shutil.copy(bundle, copy)
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    (tmp_path / "h5py.py").write_text("import os; os.abort()")
    monkeypatch.chdir(tmp_path)
    file.read(copy).close()


def test_a_cache_that_cannot_be_written_costs_a_child_each_time(bundle, children, monkeypatch, tmp_path):
    copy = tmp_path / "copy.h5"
    shutil.copy(bundle, copy)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    file.read(copy).close()
    file.read(copy).close()
    assert len(children) == 2


def test_old_notes_are_forgotten(bundle, monkeypatch):
    monkeypatch.setattr(probe, "_KEPT", 8)
    folder = user_cache() / "parsed-bundles"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(20):
        (folder / f"old-{number}").write_text("")
        os.utime(folder / f"old-{number}", (number, number))
    found = bundle.stat()
    (folder / f"{found.st_dev:x}-{found.st_ino:x}").unlink()
    probe.remember(bundle)
    left = sorted(path.name for path in folder.iterdir())
    assert "old-0" not in left
    assert "old-19" in left
    assert f"{found.st_dev:x}-{found.st_ino:x}" in left
