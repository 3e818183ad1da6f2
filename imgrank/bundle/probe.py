"""Files of unknown origin are parsed in a child process first, with limits on its time and memory.

The HDF5 library trusts its input: a file made or damaged so can crash it, or keep it busy for ever. Here that ends a
child. A file that the child has parsed is remembered by its place, size and time, as is one that imgrank itself has
just written, so that the next opening costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from imgrank.errors import DamagedBundleError
from imgrank.user_cache import user_cache

CPU_SECONDS = 8  # a bundle of a million photos is parsed in a fiftieth of a second
WALL_SECONDS = 60  # for slow disks
MEMORY = 4 * 2**30  # bytes of address space
_KEPT = 4096  # files that are remembered
_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from imgrank.bundle.probe import child; child()"


def require_parsable(path: Path) -> None:
    """Return if a file can be parsed by HDF5 without harm to this process; other faults of it are not looked for.

    Raises:
        DamagedBundleError: it crashes the HDF5 library, or keeps it busy beyond the limits.
    """
    known = _note_of(path)
    if known is None or _is_noted(*known):
        return
    command = [sys.executable, "-I", "-c", _CHILD, json.dumps(sys.path), os.fspath(path)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=WALL_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            reason = f"the HDF5 library was still busy with it after {CPU_SECONDS} s"
        else:
            reason = f"the HDF5 library crashed on it (signal {-done.returncode})" if done.returncode < 0 else ""
    except subprocess.TimeoutExpired:
        reason = f"the HDF5 library was still busy with it after {WALL_SECONDS} s"
    if reason:
        raise DamagedBundleError(path, "HDF5 structure", f"{reason}; restore a copy")
    _take_note(*known)


def remember(path: Path) -> None:
    """Take note that this process has just written a file."""
    known = _note_of(path)
    if known is not None:
        _take_note(*known)


def child() -> None:
    """Parse the file named by the last argument, and end with 0 if this process is still there."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # not on macOS
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from imgrank.bundle.file import parse

    with contextlib.suppress(Exception):  # the caller will find the same
        parse(Path(sys.argv[-1])).close()


def _note_of(path: Path) -> tuple[Path, str] | None:
    """Return the file in which a note of `path` is kept, and what it says when the bundle is as it was."""
    try:
        found = path.stat()
    except OSError:
        return None
    name = f"{found.st_dev:x}-{found.st_ino:x}"
    return user_cache() / "parsed-bundles" / name, f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _is_noted(note: Path, text: str) -> bool:
    try:
        return note.read_text() == text
    except (OSError, ValueError):
        return False


def _take_note(note: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # a note that cannot be kept costs the next opening a child
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_new = not note.exists()
        with tempfile.NamedTemporaryFile("w", dir=note.parent, delete=False) as file:
            file.write(text)
        Path(file.name).replace(note)
        if is_new:
            _forget_old(note.parent)


def _forget_old(folder: Path) -> None:
    with os.scandir(folder) as listing:
        notes = [entry.path for entry in listing]
    if len(notes) > _KEPT:
        for path in sorted(notes, key=os.path.getmtime)[: _KEPT // 4]:
            Path(path).unlink(missing_ok=True)
