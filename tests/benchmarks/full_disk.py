"""A disk that fills up at ten points of every command that writes.

    python tests/benchmarks/full_disk.py [--points 10] [--folder DIR]

The limit is RLIMIT_FSIZE: a write beyond it fails, as on a full disk, wherever the command is. It is set between the
size that a command starts from and the size that it ends with. After a failure: the command has said so, with a code
and without a traceback; `check` finds no error; every photo, descriptor and token that was there is as it was; and with
room again the same command ends well.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.kills import difference, state
from tests.benchmarks.reliability_common import COMMAND, clean, draw, must

RECIPE = "resize:256 | divprune:48 | pq:24"


def main() -> None:
    """Fill the disk for each command and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    faults: list[str] = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        cases = prepare(folder)
        print(f"{'command':16}{'from KiB':>10}{'to KiB':>10}{'failed':>8}{'ended':>7}{'faults':>8}")
        for case, (start, arguments) in cases.items():
            reset(folder, start)
            first = (folder / "db.h5").stat().st_size if start else 0
            must(*arguments, cwd=folder)
            last = largest(folder)
            failed = ended = 0
            before_faults = len(faults)
            for point in range(chosen.points):
                # A command that writes a whole new file starts from nothing.
                lowest = first if last > first else 0
                limit = int(lowest + (last - lowest) * (point + 0.5) / chosen.points)
                code, found = attempt(folder, start, arguments, limit)
                failed, ended = failed + (code != 0), ended + (code == 0)
                faults += [f"{case}, {limit} bytes: {fault}" for fault in found]
            print(f"{case:16}{first / 1024:10.0f}{last / 1024:10.0f}{failed:8}{ended:7}{len(faults) - before_faults:8}")
    for fault in faults:
        print("FAULT", fault)
    raise SystemExit(bool(faults))


def prepare(folder: Path) -> dict[str, tuple[str | None, list[str]]]:
    """Make what commands start from; returns, for each, the bundle it starts from and its arguments."""
    draw(folder, objects=10, distractors=20)
    must("embed", "photos", "-o", "embedded.h5", cwd=folder)
    shutil.copy(folder / "embedded.h5", folder / "indexed.h5")
    must("index", "indexed.h5", "--threads", 1, cwd=folder)
    must("index", "more", "-o", "more.h5", "--threads", 1, cwd=folder)
    must("export", "descriptors", "indexed.h5", "-o", "d.npy", cwd=folder)
    shutil.copy(folder / "indexed.h5", folder / "cached.h5")
    must("cache-tokens", "cached.h5", "--recipe", "resize:256 | divprune:48 | int8", cwd=folder)
    shutil.copy(folder / "cached.h5", folder / "thinned.h5")
    must("remove", "thinned.h5", "photos/distractor-*", cwd=folder)
    import h5py

    shutil.copy(folder / "indexed.h5", folder / "damaged.h5")
    with h5py.File(folder / "damaged.h5", "r+") as root:
        root["descriptors/crc32"][3] = 0
    paths = folder / "paths.txt"
    paths.write_text("".join(line.split("\t")[1] + "\n" for line in (folder / "d.tsv").read_text().splitlines()[1:]))
    return {
        "embed": (None, ["embed", "photos", "-o", "db.h5"]),
        "index": ("embedded.h5", ["index", "db.h5", "--threads", "1"]),
        "add": ("indexed.h5", ["add", "db.h5", "more"]),
        "cache-tokens": ("indexed.h5", ["cache-tokens", "db.h5", "--recipe", RECIPE]),
        "overwrite": ("indexed.h5", ["cache-tokens", "db.h5", "--cache", "local", "--overwrite"]),
        "requantize": ("cached.h5", ["requantize", "db.h5", "--recipe", "pq:24"]),
        "remove": ("indexed.h5", ["remove", "db.h5", "photos/distractor-*"]),
        "compact": ("thinned.h5", ["compact", "db.h5"]),
        "merge": ("thinned.h5", ["merge", "indexed.h5", "more.h5", "-o", "db.h5", "--force"]),
        "split": ("indexed.h5", ["split", "db.h5", "--shards", "2", "--force"]),
        "import": (None, ["import", "d.npy", "--paths", "paths.txt", "-o", "db.h5"]),
        "repair": ("damaged.h5", ["check", "db.h5", "--repair", "--no-photos"]),
    }


def reset(folder: Path, start: str | None) -> None:
    """Put the bundle back that a command starts from."""
    for path in folder.glob("db*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if start is not None:
        shutil.copy(folder / start, folder / "db.h5")


def largest(folder: Path) -> int:
    """Return the size of the largest file that a command made."""
    return max(path.stat().st_size for path in folder.glob("db*") if path.is_file())


def attempt(folder: Path, start: str | None, arguments: list[str], limit: int) -> tuple[int, list[str]]:
    """Run a command with little room; returns its code and what is wrong."""
    reset(folder, start)
    bundle = folder / "db.h5"
    damaged = start == "damaged.h5"
    before = None if damaged else state(bundle)

    def narrow() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def run(before: Callable[[], None] | None) -> subprocess.CompletedProcess[bytes]:
        options = {"cwd": folder, "capture_output": True, "stdin": subprocess.DEVNULL, "preexec_fn": before}
        return subprocess.run([*COMMAND, *arguments], check=False, **options)

    done = run(narrow)
    faults = []
    if done.returncode not in (0, 1, 5):
        faults.append(f"ends with {done.returncode}: {done.stderr[-300:]!r}")
    if b"Traceback" in done.stderr:
        faults.append(f"traceback: {done.stderr[-300:]!r}")
    if done.returncode == 0:
        return 0, faults
    if not (b"large" in done.stderr or b"space" in done.stderr or b"free" in done.stderr):
        faults.append(f"does not say why: {done.stderr[-300:]!r}")
    if bundle.exists() and not damaged:
        if errors := clean(bundle):
            return done.returncode, [*faults, f"check finds {errors}"]
        now = state(bundle)
        if before is not None and now is not None and arguments[0] != "remove" and (lost := difference(before, now)):
            faults.append(lost)
    elif before is not None and not damaged:
        faults.append("the bundle is gone")
    again = run(None)
    if again.returncode != 0:
        faults.append(f"with room again: {again.returncode}: {again.stderr[-300:]!r}")
    elif (folder / "db.h5").exists() and (errors := clean(bundle)):
        faults.append(f"with room again, check finds {errors}")
    return done.returncode, faults


if __name__ == "__main__":
    main()
