"""Reading the cached tokens of scattered candidates, beside the same bytes read by `os.pread` in file order.

    python tests/benchmarks/token_reads.py [--images 100000] [--candidates 1000] [--subvectors 448] [--folder DIR]

Makes a bundle of synthetic product-quantized tokens, 64 of a photo, and reads those of scattered photos in two ways in
turn: by `TokenTable.read`, 32 candidates at a time as a search does, with every checksum looked at; and by one
`os.pread` for each stretch of bytes that belongs to a photo, in the order of the file. Cold: the pages of the file are
dropped first (POSIX_FADV_DONTNEED after fsync). Medians of several rounds, each with candidates of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from imgrank.bundle import file
from imgrank.bundle.images import append_images
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import ImageTokens, TokenColumn, TokenTable, append_tokens, create_tokens
from imgrank.records import ImageRecord

TOKENS, BLOCK, TOGETHER = 64, 2_000, 32
CACHE = "synthetic"


def make(path: Path, images: int, subvectors: int) -> None:
    rng = np.random.default_rng(0)
    with file.Writer(path) as writer:
        file.create(path, root=b".")
        with writer.transaction() as root:
            columns = [TokenColumn("codes", "|u1", (subvectors,)), TokenColumn("position", "<u2", (3,))]
            create_tokens(root, CACHE, "mllm", f"pq:{subvectors}", columns, Provenance("synthetic", "1", "{}"))
        for first in range(0, images, BLOCK):
            count = min(BLOCK, images - first)
            codes = rng.integers(0, 256, (count, TOKENS, subvectors), dtype=np.uint8)
            places = rng.integers(0, 20, (count, TOKENS, 3), dtype=np.uint16)
            with writer.transaction() as root:
                append_images(
                    root, [ImageRecord(b"%d" % i, 1, 1, bytes(16), 4, 3, 0) for i in range(first, first + count)]
                )
                columns = [{"codes": own, "position": place} for own, place in zip(codes, places, strict=True)]
                append_tokens(root, CACHE, [ImageTokens(one, (20, 20)) for one in columns])


def drop(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def ours(table: TokenTable, rows: list[int]) -> int:
    total = 0
    for start in range(0, len(rows), TOGETHER):
        for tokens in table.read(rows[start : start + TOGETHER]):
            total += sum(column.nbytes for column in tokens.columns.values())
    return total


def plain(path: Path, ranges: list[tuple[int, int]]) -> int:
    descriptor, total = os.open(path, os.O_RDONLY), 0
    for offset, count in ranges:
        total += len(os.pread(descriptor, count, offset))
    os.close(descriptor)
    return total


def ranges_of(table: TokenTable, rows: list[int]) -> list[tuple[int, int]]:
    found = []
    for row in rows:
        start, stop = int(table.offsets[row]), int(table.offsets[row + 1])
        for view in table.columns.values():
            found += list(view.extents(start, stop))
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=1_000)
    parser.add_argument("--subvectors", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = (options.folder or Path(folder)) / f"reads-{options.images}-{options.subvectors}.h5"
        if not path.exists():
            make(path, options.images, options.subvectors)
        with path.open("rb") as written:
            os.fsync(written.fileno())
        print(f"{options.candidates} of {options.images} photos, {path.stat().st_size / 1e9:.2f} GB, ", end="")
        print(f"{options.candidates * TOKENS * (options.subvectors + 6) / 1e6:.1f} MB a round")
        with file.read(path) as bundle:
            table = bundle.tokens(CACHE)
            ours(table, [0])  # what a search looks at once: offsets and checksums
            for state in ("cold", "warm"):
                times: dict[str, list[float]] = {"ours": [], "pread": []}
                for number in range(options.rounds):
                    rows = np.random.default_rng([7, number]).permutation(options.images)[: options.candidates].tolist()
                    ranges = ranges_of(table, rows)
                    ways = {"ours": partial(ours, table, rows), "pread": partial(plain, path, ranges)}
                    for name in list(ways)[:: 1 if number % 2 else -1]:
                        if state == "cold":
                            drop(path)
                        else:
                            plain(path, ranges)
                        began = time.perf_counter()
                        ways[name]()
                        times[name].append(time.perf_counter() - began)
                medians = {name: statistics.median(found) * 1000 for name, found in times.items()}
                print(f"{state}: ours {medians['ours']:.1f} ms, os.pread {medians['pread']:.1f} ms, ", end="")
                print(f"ratio {medians['ours'] / medians['pread']:.2f}", flush=True)


if __name__ == "__main__":
    main()
