"""A bundle of a million photos: opening, the first search, memory, adding 1,000, `check`.

    python tests/benchmarks/million.py [--images 1000000] [--dim 256] [--m 16] [--ef-construction 200] [--folder DIR]

Descriptors are synthetic: unit vectors in 20,000 clusters. Each step is a process of its own, so that its peak of
memory is its own. "descriptors" is the size of the vectors alone, to compare with.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.config import GraphSettings

SETTINGS = GraphSettings()
BLOCK = 50_000
CLUSTERS = 20_000


def main() -> None:
    """Run each step and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        global SETTINGS
        SETTINGS = GraphSettings(m=chosen.m, ef_construction=chosen.ef_construction)
        seconds, facts = STEPS[chosen.step](chosen.bundle, chosen.images, chosen.dim)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak": peak, "facts": facts}))
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        os.environ["XDG_CACHE_HOME"] = name
        bundle = Path(name) / "db.h5"
        own = chosen.images * chosen.dim * 4 / 2**20
        print(f"{chosen.images} photos, {chosen.dim} dimensions, descriptors {own:.0f} MiB")
        print(f"{'step':24}{'seconds':>10}{'peak MiB':>10}{'file MiB':>10}")
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--bundle", bundle]
            command += ["--images", chosen.images, "--dim", chosen.dim, "--m", chosen.m]
            command += ["--ef-construction", chosen.ef_construction]
            done = subprocess.run(list(map(str, command)), capture_output=True, check=True)
            found = json.loads(done.stdout)
            size = bundle.stat().st_size / 2**20
            print(f"{step:24}{found['seconds']:10.2f}{found['peak']:10.0f}{size:10.0f}  {found['facts']}", flush=True)


@cache
def centres_of(dim: int) -> np.ndarray:
    """Return the centres of the clusters, (CLUSTERS, dim)."""
    return np.random.default_rng(0).standard_normal((CLUSTERS, dim), dtype=np.float32)


def vectors(first: int, count: int, dim: int) -> np.ndarray:
    """Return (count, dim) unit vectors of photos from a number on."""
    centres = centres_of(dim)
    rng = np.random.default_rng(first + 1)
    found = centres[rng.integers(0, CLUSTERS, count)] + 0.7 * rng.standard_normal((count, dim), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def append(bundle: Path, first: int, count: int, dim: int, part: int) -> None:
    """Commit photos in parts."""
    from imgrank.bundle import file
    from imgrank.bundle.descriptors import append_descriptors
    from imgrank.bundle.images import append_images
    from imgrank.records import ImageRecord

    with file.Writer(bundle) as writer:
        for start in range(first, first + count, part):
            stop = min(start + part, first + count)
            records = [
                ImageRecord(b"photos/%03d/%09d.jpg" % (n % 1000, n), n, n, n.to_bytes(16, "big"), 4, 3, 0)
                for n in range(start, stop)
            ]
            rows = vectors(start, stop - start, dim)
            with writer.transaction() as h5:
                append_images(h5, records)
                append_descriptors(h5, rows)


def make(bundle: Path, images: int, dim: int) -> tuple[float, str]:
    """Make the bundle, without a graph."""
    from imgrank.bundle import file
    from imgrank.bundle.descriptors import create_descriptors
    from imgrank.bundle.provenance import Provenance

    started = time.monotonic()
    with file.Writer(bundle) as writer:
        file.create(bundle, root=b".")
        with writer.transaction() as h5:
            create_descriptors(h5, dim, Provenance("synthetic", "1", "{}"))
    append(bundle, 0, images, dim, BLOCK)
    return time.monotonic() - started, ""


def graph(bundle: Path, images: int, dim: int) -> tuple[float, str]:
    """Build or extend the graph."""
    from imgrank.steps.build_index import build_index

    started = time.monotonic()
    found = build_index(bundle, SETTINGS)
    return time.monotonic() - started, f"{found.action}, recall@10 {found.recall:.4f}"


def opening(bundle: Path, images: int, dim: int) -> tuple[float, str]:
    """Open the bundle."""
    from imgrank.bundle import file

    started = time.monotonic()
    with file.read(bundle) as opened:
        return time.monotonic() - started, f"{len(opened.images)} rows"


def first_search(exact: bool) -> Callable[[Path, int, int], tuple[float, str]]:
    """Return the step that opens the bundle and searches once."""

    def step(bundle: Path, images: int, dim: int) -> tuple[float, str]:
        from imgrank.config import SearchSettings
        from imgrank.steps.collection import Collection
        from imgrank.steps.photos import open_photos
        from imgrank.steps.shortlist import Shortlister

        query = vectors(0, 1, dim)[0]
        started = time.monotonic()
        with open_photos(bundle) as photos:
            shortlister = Shortlister(Collection.of(photos), SearchSettings(10, 0, exact))
            shortlister.search(query, 10)
            first = time.monotonic() - started
            later = [vectors(row, 1, dim)[0] for row in range(1, 21)]
            again = time.monotonic()
            for query in later:
                shortlister.search(query, 10)
            each = (time.monotonic() - again) / len(later)
        return first, f"{1000 * each:.2f} ms for each later query"

    return step


def add(bundle: Path, images: int, dim: int) -> tuple[float, str]:
    """Add 1,000 photos in commits of 64."""
    before = bundle.stat().st_size
    started = time.monotonic()
    append(bundle, images, 1000, dim, 64)
    return time.monotonic() - started, f"file grew by {(bundle.stat().st_size - before) / 2**20:.1f} MiB"


def checking(fast: bool) -> Callable[[Path, int, int], tuple[float, str]]:
    """Return the step that checks the bundle."""

    def step(bundle: Path, images: int, dim: int) -> tuple[float, str]:
        from imgrank.steps.check import check

        started = time.monotonic()
        report = check(bundle, fast=fast, photos=False)
        codes = ", ".join(f"{finding.code} {finding.count}" for finding in report.findings)
        return time.monotonic() - started, f"found: {codes or 'nothing'}"

    return step


STEPS: dict[str, Callable[[Path, int, int], tuple[float, Any]]] = {
    "make": make,
    "build the graph": graph,
    "open": opening,
    "first search": first_search(exact=False),
    "first search, exact": first_search(exact=True),
    "add 1,000": add,
    "extend the graph": graph,
    "check --fast": checking(fast=True),
    "check": checking(fast=False),
}


if __name__ == "__main__":
    main()
