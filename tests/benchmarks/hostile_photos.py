"""Damaged photos and decompression bombs against the real commands: nothing may crash, hang, grow or go unnamed.

python tests/benchmarks/hostile_photos.py [--count 2000] [--seed 0] [--keep FOLDER]

Mutants lie among good photos in one folder. `imgrank index` must end with code 7, list every file in the bundle, name
every one that it leaves out exactly once on standard error, print nothing else there, and give the good photos the
descriptors that they have without the mutants. Then mutants are queries. Bombs are decoded one to a process, for
their time and memory, then indexed together. Ends with 1 after any violation.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import PIL
from hostile_bombs import bombs
from hostile_mutations import FORMATS, SUFFIX, encode, mutant
from PIL import features

from imgrank.bundle import file
from imgrank.records import OK, STATUS_NAMES
from imgrank.training.photos import draw_photo

DECODE_SECONDS = 60  # of one file; a machine that others use must not fail it
# Peak of the whole command: 200 megapixels at 20 bytes, a file of 1 GiB beside them, and the program itself.
MEMORY_MIB = 5120
ADDRESS_SPACE = 24 << 30  # bytes; past it an allocation fails instead of harming the machine
QUERIES = 200
SKIPPED = re.compile(r"imgrank: skipped \(([a-z-]+)\) (.*?): ")
EMBEDDED = re.compile(r"imgrank: (\d+) photos embedded, 0 known already, (\d+) skipped")


@dataclass
class Run:
    code: int
    stdout: bytes
    lines: list[str]  # of standard error
    seconds: float
    mib: float  # peak resident memory


class Report:
    """Counts what was wrong; the first of each kind are printed."""

    def __init__(self) -> None:
        self.violations = 0

    def check(self, holds: bool, message: str) -> None:
        if not holds:
            self.violations += 1
            print(f"VIOLATION: {message}", flush=True)


def run(arguments: list[str | Path], folder: Path, limit: float) -> Run:
    """Run a Python process; its peak memory is its own, not that of all children.

    From /proc, because the peak that getrusage gives starts at what this process had when it forked.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start, mib = time.monotonic(), 0.0
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=folder,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE)),
        )
        while process.poll() is None:
            mib = max(mib, peak_mib(process.pid))
            if time.monotonic() - start > limit:
                process.kill()
            time.sleep(0.01)
        out.seek(0)
        err.seek(0)
        lines = err.read().decode(errors="replace").splitlines()
        return Run(process.returncode, out.read(), lines, time.monotonic() - start, mib)


def peak_mib(process: int) -> float:
    """Return the peak resident memory of a process so far; 0 where it has just ended."""
    status = Path(f"/proc/{process}/status").read_text()
    return max((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), default=0.0)


def index(photos: Path, bundle: Path, limit: float) -> Run:
    return run(["-m", "imgrank", "index", photos, "-o", bundle, "--threads", "1"], photos.parent, limit)


def check_index(report: Report, what: str, done: Run, photos: Path, bundle: Path) -> dict[str, str]:
    """Check what one `index` said against its bundle; returns the status name of each file."""
    report.check(done.code in (0, 7), f"{what}: exit code {done.code}; {done.lines[-3:]}")
    report.check(done.stdout == b"", f"{what}: printed {done.stdout[:200]!r}")
    report.check(done.mib <= MEMORY_MIB, f"{what}: peak {done.mib:.0f} MiB, allowed {MEMORY_MIB}")
    strange = [line for line in done.lines if not line.startswith("imgrank: ")]
    report.check(not strange, f"{what}: {len(strange)} lines that are not ours, such as {strange[:3]}")
    if done.code not in (0, 7):
        return {}
    with file.read(bundle) as opened:
        paths = [Path(os.fsdecode(path)).name for path in opened.images.paths()]
        statuses = [STATUS_NAMES[status] for status in opened.images.statuses()]
    found = dict(zip(paths, statuses, strict=True))
    names = {path.name for path in photos.iterdir()}
    report.check(len(paths) == len(found), f"{what}: {len(paths) - len(found)} files have more than one row")
    report.check(set(found) == names, f"{what}: not in the bundle: {sorted(names - set(found))[:5]}")
    check_named(report, what, done, {name: code for name, code in found.items() if code != "ok"})
    counted = [match for line in done.lines if (match := EMBEDDED.match(line))]
    report.check(len(counted) == 1, f"{what}: {len(counted)} lines with counts")
    for match in counted:
        ok = statuses.count("ok")
        report.check((int(match[1]), int(match[2])) == (ok, len(paths) - ok), f"{what}: says {match[0]}, {ok} are ok")
    return found


def check_named(report: Report, what: str, done: Run, expected: dict[str, str]) -> None:
    said = Counter((Path(m[2]).name, m[1]) for line in done.lines if (m := SKIPPED.match(line)))
    report.check(said == Counter(expected.items()), f"{what}: named {len(said)}, left out {len(expected)}")


def mutants(report: Report, folder: Path, count: int, seed: int) -> None:
    random = Random(seed)
    drawn = [draw_photo(number) for number in range(12)]
    photos, good = folder / "photos", folder / "good"
    photos.mkdir()
    good.mkdir()
    forms: dict[str, tuple[str, str]] = {}
    for number in range(count):
        form = FORMATS[number % len(FORMATS)]
        mutation, data = mutant(drawn, form, random)
        name = f"{number:06d}-{mutation}.{SUFFIX[form]}"
        (photos / name).write_bytes(data)
        forms[name] = (form, mutation)
        if number % 10 == 5:  # in the middle of the encoder's batches
            form = FORMATS[number // 10 % len(FORMATS)]
            kept = good / f"{number:06d}-valid.{SUFFIX[form]}"
            kept.write_bytes(encode(draw_photo(100 + number % 40), form, random))
            os.link(kept, photos / kept.name)
    limit = 120 + 2 * count
    done = index(photos, folder / "db.h5", limit)
    found = check_index(report, "mutants", done, photos, folder / "db.h5")
    clean = index(good, folder / "good.h5", limit)
    report.check(clean.code == 0, f"the good photos alone: exit code {clean.code}")
    tables: dict[str, Counter[str]] = defaultdict(Counter)
    for name, (form, mutation) in forms.items():
        for key in (form, mutation.replace("_", " "), "all"):
            tables[key][found.get(name, "not in the bundle")] += 1
    print(f"{count} mutants among {len(forms) and len(list(good.iterdir()))} valid photos, seed {seed}\n")
    outcomes = sorted(
        {outcome for table in tables.values() for outcome in table}, key=lambda name: (name != "ok", name)
    )
    print(f"| {'':18s} | " + " | ".join(outcomes) + " |\n|---|" + "---|" * len(outcomes))
    for key in (*FORMATS, *sorted(set(tables) - {*FORMATS, "all"}), "all"):
        print(f"| {key:18s} | " + " | ".join(str(tables[key][outcome]) for outcome in outcomes) + " |")
    print(f"\nindex: {done.seconds:.1f} s, peak {done.mib:.0f} MiB; valid photos alone: peak {clean.mib:.0f} MiB")
    if found and clean.code == 0:
        print(f"largest change of a valid photo's descriptor: {compare(report, folder):.1e}")
        queries(report, folder, found, forms, random)
    each = decode_all(report, photos)
    slowest = max(each, key=lambda name: each[name])
    print(f"slowest mutant: {slowest}, {each[slowest]:.2f} s\n")


def compare(report: Report, folder: Path) -> float:
    """Return the largest difference between descriptors of valid photos with and without mutants beside them."""
    rows = []
    for bundle in ("good.h5", "db.h5"):
        with file.read(folder / bundle) as opened:
            descriptors = opened.descriptors.read()
            usable = opened.images.statuses() == OK
            names = [Path(os.fsdecode(path)).name for path in opened.images.paths()]
            rows.append({name: descriptors[row] for row, name in enumerate(names) if usable[row] and "valid" in name})
    report.check(rows[0].keys() == rows[1].keys(), "a valid photo has no descriptor")
    change = max(float(np.abs(rows[0][name] - rows[1][name]).max()) for name in rows[0].keys() & rows[1].keys())
    report.check(change <= 1e-6, f"descriptors of valid photos changed by {change}")
    return change


def queries(report: Report, folder: Path, found: dict[str, str], forms: dict[str, object], random: Random) -> None:
    chosen = random.sample(sorted(forms), min(QUERIES, len(forms)))
    paths: list[str | Path] = [folder / "photos" / name for name in chosen]
    for extra in ([], ["--rerank", "5"]):
        done = run(["-m", "imgrank", "search", "db.h5", "-k", "1", *extra, *paths], folder, 600)
        left_out = {name: found[name] for name in chosen if found[name] != "ok"}
        report.check(done.code == (7 if left_out else 0), f"search: exit code {done.code}; {done.lines[-3:]}")
        answered = {Path(json.loads(line)["query"]).name for line in done.stdout.splitlines()}
        report.check(answered == set(chosen) - set(left_out), "search: other queries are answered than were indexed")
        check_named(report, "search", done, left_out)
        strange = [line for line in done.lines if not line.startswith("imgrank: ")]
        report.check(not strange, f"search: lines that are not ours, such as {strange[:3]}")
    print(
        f"search: {len(answered)} of {len(chosen)} mutants answered, {len(left_out)} left out, with and without re-rank"
    )


# Decodes each file of a folder as `index` would, and says how long it took and how much memory the process has taken.
DECODE = r"""
import json, os, re, sys, time, warnings
from imgrank.config import DecodeSettings
from imgrank.images.decode import read_photo
warnings.simplefilter("ignore")
def peak(): return int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) / 1024
before = peak()
for name in sorted(sys.argv[1:]):
    start = time.monotonic()
    loaded = read_photo(name, DecodeSettings(), 512)
    seconds = time.monotonic() - start
    print(json.dumps([os.path.basename(name), loaded.error.code if loaded.error else "ok", seconds, peak() - before]))
"""


def decode_all(report: Report, photos: Path) -> dict[str, float]:
    """Return the seconds that each file takes, decoded one after the other in one process."""
    names = sorted(photos.iterdir())
    done = run(["-c", DECODE, *names], photos, 120 + len(names))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    report.check(done.code == 0, f"decoding ended with {done.code} after {answers[-1:]}")
    times = {name: seconds for name, _, seconds, _ in answers}
    slow = [name for name, seconds in times.items() if seconds > 10]
    report.check(not slow, f"mutants that take more than 10 s: {slow}")
    return times


def all_bombs(report: Report, folder: Path) -> None:
    photos = folder / "bombs"
    bombs(photos)
    names = sorted(photos.iterdir())
    print("| bomb | on disk, kB | outcome | s | peak, MiB |\n|---|---|---|---|---|")
    total = 0.0
    for path in names:
        done = run(["-c", DECODE, path], photos, DECODE_SECONDS)
        total += done.seconds
        if done.code != 0 or not done.stdout:
            report.check(False, f"{path.name}: code {done.code} after {done.seconds:.0f} s; {done.lines[-2:]}")
            continue
        _, outcome, seconds, mib = json.loads(done.stdout)
        size = path.stat().st_blocks * 512 / 1000
        print(f"| {path.name} | {size:.0f} | {outcome} | {seconds:.2f} | {mib:.0f} |", flush=True)
    done = index(photos, folder / "bombs.h5", 2 * total + 60)
    check_index(report, "bombs", done, photos, folder / "bombs.h5")
    print(f"\nindex of all {len(names)} bombs: {done.seconds:.1f} s, peak {done.mib:.0f} MiB, exit code {done.code}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="leave the files in this folder")
    parser.add_argument("--no-bombs", action="store_true")
    arguments = parser.parse_args()
    libraries = ("libjpeg_turbo", "zlib_ng", "libtiff", "webp", "avif", "jpg_2000")
    print(f"Pillow {PIL.__version__}: " + ", ".join(f"{name} {features.version(name)}" for name in libraries))
    report = Report()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="hostile-"))
    folder.mkdir(exist_ok=True)
    try:
        mutants(report, folder, arguments.count, arguments.seed)
        if not arguments.no_bombs:
            all_bombs(report, folder)
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{report.violations} violations")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
