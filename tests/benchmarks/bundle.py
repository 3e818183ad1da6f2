"""What opening a bundle and appending to it cost as it grows.

    python tests/benchmarks/bundle.py [--images 10000 1000000] [--dim 256] [--folder DIR]

For each size, makes a bundle of synthetic rows, then measures: opening it (median of 5), reading 1,000 scattered
images' tokens of a small cache, one commit of 1,000 more photos in parts of 64, and how many of the old bytes that
changed. The ratio to the first size is what matters; the seconds are of this machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from imgrank.bundle import file
from imgrank.bundle.descriptors import append_descriptors, create_descriptors
from imgrank.bundle.images import append_images
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import ImageTokens, TokenColumn, append_tokens, create_tokens
from imgrank.records import ImageRecord

BLOCK = 20_000
TOKENS, WIDTH = 4, 64  # a small cache, so that a million images fit on any disk
PAGE = 4096


def add(writer: file.Writer, first: int, count: int, dim: int, rng: np.random.Generator) -> None:
    with writer.transaction() as root:
        if first == 0:
            create_descriptors(root, dim, Provenance("synthetic", "1", "{}"))
            columns = [TokenColumn("codes", "|u1", (WIDTH,))]
            create_tokens(root, "small", "mllm", "synthetic", columns, Provenance("synthetic", "1", "{}"))
        records = [
            ImageRecord(b"photos/%09d.jpg" % i, i, i, i.to_bytes(16, "big"), 4, 3, 0)
            for i in range(first, first + count)
        ]
        append_images(root, records)
        append_descriptors(root, rng.standard_normal((count, dim), dtype=np.float32) / dim**0.5)
        codes = rng.integers(0, 256, (count, TOKENS, WIDTH), dtype=np.uint8)
        append_tokens(root, "small", [ImageTokens({"codes": rows}) for rows in codes])


def changed_pages(path: Path, copy: Path) -> int:
    """Count the pages of the old file that differ in the new one."""
    changed = 0
    with copy.open("rb") as old, path.open("rb") as new:
        while block := old.read(256 * PAGE):
            other = new.read(len(block))
            if block != other:
                changed += sum(block[i : i + PAGE] != other[i : i + PAGE] for i in range(0, len(block), PAGE))
    return changed


def measure(path: Path, images: int, dim: int) -> dict[str, float]:
    import shutil

    rng = np.random.default_rng(0)
    start = time.perf_counter()
    with file.Writer(path) as writer:
        file.create(path, root=b".")
        for first in range(0, images, BLOCK):
            add(writer, first, min(BLOCK, images - first), dim, rng)
    made = time.perf_counter() - start
    opens = []
    for _ in range(5):
        start = time.perf_counter()
        file.read(path).close()
        opens.append(time.perf_counter() - start)
    with file.read(path) as opened:
        rows = rng.choice(images, 1000, replace=False).tolist()
        start = time.perf_counter()
        opened.tokens("small").read(rows)
        tokens = time.perf_counter() - start
        start = time.perf_counter()
        opened.descriptors.read()
        descriptors = time.perf_counter() - start
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    commits = []
    with file.Writer(path) as writer:
        for part in range(0, 1000, 64):
            start = time.perf_counter()
            add(writer, images + part, min(64, 1000 - part), dim, rng)
            commits.append(time.perf_counter() - start)
    return {
        "make s": made,
        "MiB": copy.stat().st_size / 2**20,
        "open ms": 1000 * float(np.median(opens)),
        "1000 images' tokens ms": 1000 * tokens,
        "all descriptors ms": 1000 * descriptors,
        "commit of 64 ms": 1000 * float(np.median(commits)),
        "add 1000 s": sum(commits),
        "old KiB changed": changed_pages(path, copy) * PAGE / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = [measure(Path(folder) / f"{n}.h5", n, arguments.dim) for n in arguments.images]
    print(f"{'':26s}" + "".join(f"{n:>14,}" for n in arguments.images) + "         ratio")
    for name in results[0]:
        values = [result[name] for result in results]
        print(f"{name:26s}" + "".join(f"{value:14.1f}" for value in values) + f"{values[-1] / values[0]:14.2f}")


if __name__ == "__main__":
    main()
