"""`kill -9` at random moments of every command that writes.

    python tests/benchmarks/kills.py [--kills 200] [--seed 0] [--folder DIR]

A command is started, killed after a random part of the time it takes, and started again, up to four times; then it is
left to end. After each kill: `check` finds no error, and no photo, descriptor or token that was committed is lost or
changed. In the end: the hits are those of a run that was not disturbed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.reliability_common import COMMAND, clean, draw, hits, must, photos_of, tokens_of

CHAIN = 4  # kills before a run is left to end


@dataclass
class Case:
    """One command: what it starts from, and the file it writes."""

    name: str
    arguments: list[str]
    start: str | None  # bundle that is there before
    target: str = "db.h5"
    kills: int = 0
    inside: int = 0  # kills that found the command at work and the bundle changed or half made
    late: int = 0  # runs that ended before they were killed
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    expected: bytes = b""


def main() -> None:
    """Run all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        draw(folder, objects=15, distractors=30)
        cases = prepare(folder)
        rng = random.Random(chosen.seed)
        each = -(-chosen.kills // len(cases))
        for case in cases:
            while case.kills < each:
                chain(folder, case, rng)
    print(f"{'command':16}{'takes s':>9}{'kills':>7}{'at work':>9}{'ended first':>13}{'faults':>8}")
    for case in cases:
        print(f"{case.name:16}{case.seconds:9.2f}{case.kills:7}{case.inside:9}{case.late:13}{len(case.failures):8}")
    print(f"{'all':16}{'':9}{sum(case.kills for case in cases):7}")
    for case in cases:
        for failure in case.failures:
            print(f"FAULT {case.name}: {failure}")
    raise SystemExit(any(case.failures for case in cases))


def prepare(folder: Path) -> list[Case]:
    """Make the bundles that commands start from, and run each once undisturbed."""
    must("embed", "photos", "-o", "embedded.h5", cwd=folder)
    shutil.copy(folder / "embedded.h5", folder / "indexed.h5")
    must("index", "indexed.h5", "--threads", 1, cwd=folder)
    must("index", "more", "-o", "more.h5", "--threads", 1, cwd=folder)
    shutil.copy(folder / "indexed.h5", folder / "thinned.h5")
    must("remove", "thinned.h5", "photos/distractor-*", cwd=folder)
    cases = [
        Case("embed", ["embed", "photos", "-o", "db.h5"], None),
        Case("index", ["index", "db.h5", "--threads", "1"], "embedded.h5"),
        Case("add", ["add", "db.h5", "more"], "indexed.h5"),
        Case("cache-tokens", ["cache-tokens", "db.h5", "--recipe", "resize:256 | divprune:48 | pq:24"], "indexed.h5"),
        Case("overwrite", ["cache-tokens", "db.h5", "--cache", "local", "--overwrite"], "indexed.h5"),
        Case("compact", ["compact", "db.h5"], "thinned.h5"),
        Case("merge", ["merge", "indexed.h5", "more.h5", "-o", "db.h5", "--force"], None),
    ]
    for case in cases:
        reset(folder, case)
        started = time.monotonic()
        must(*case.arguments, cwd=folder)
        case.seconds = time.monotonic() - started
        case.expected = result(folder, case)
    return cases


def reset(folder: Path, case: Case) -> None:
    """Put the bundle back that a command starts from."""
    for path in folder.glob(f"{case.target}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if case.start is not None:
        shutil.copy(folder / case.start, folder / case.target)


def result(folder: Path, case: Case) -> bytes:
    """Return what can be found in the end."""
    options = ["--exact"] if case.name == "embed" else ["--rerank", 5]
    return hits(folder / case.target, *options)


def chain(folder: Path, case: Case, rng: random.Random) -> None:
    """Kill a command several times in a row, then let it end."""
    reset(folder, case)
    target = folder / case.target
    kept = state(target)
    for _ in range(CHAIN):
        before = target.stat().st_mtime_ns if target.exists() else None
        with subprocess.Popen([*COMMAND, *case.arguments], cwd=folder, stderr=subprocess.DEVNULL) as child:
            try:
                child.wait(rng.uniform(0.05, 1.05) * case.seconds)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                child.wait()
        if child.returncode == 0:
            case.late += 1
            break
        case.kills += 1
        case.inside += (target.stat().st_mtime_ns if target.exists() else None) != before or any(
            folder.glob(f"{case.target}.*")
        )
        if not target.exists():
            if kept is not None:
                case.failures.append("the bundle is gone")
                return
            continue
        if errors := clean(target):
            case.failures.append(f"check finds {errors}")
            return
        now = state(target)
        if kept is not None and now is not None and (lost := difference(kept, now)):
            case.failures.append(lost)
            return
        kept = now
    must(*case.arguments, cwd=folder)
    if result(folder, case) != case.expected:
        case.failures.append("other hits in the end than those of a run that was not disturbed")


State = tuple[dict[str, str], dict[str, dict[str, str]]]


def state(bundle: Path) -> State | None:
    """Return digests of what a bundle holds; None where there is none."""
    return (photos_of(bundle), tokens_of(bundle)) if bundle.exists() else None


def difference(before: State, after: State) -> str:
    """Say what is lost or changed; empty where nothing is."""
    for path, digest in before[0].items():
        if after[0].get(path) != digest:
            return f"{path} is lost or changed"
    for name, tokens in before[1].items():
        if name not in after[1]:
            return f"cache {name} is lost"
        for path, digest in tokens.items():
            if after[1][name].get(path) != digest:
                return f"tokens of {path} in {name} are lost or changed"
    return ""


if __name__ == "__main__":
    main()
