"""Retrieval quality and time of the default settings on a folder with images/ and qrels.tsv.

    python tests/benchmarks/quality.py DATASET [--imgrank CMD] [--rerank K ...] [--extra "..."]
    python tests/benchmarks/quality.py DATASET --cache "--mllm builtin" --compare "--scorer geometric" "--mllm builtin"

Drives the command line as a user would: indexes DATASET/images once, searches all queries of qrels.tsv (TREC qrels:
query, 0, image, relevance) in one call, and prints mAP, P@1 and recall for each number of re-ranked candidates. A query
is left out of its own ranking; positives that are not among the first 200 count as missed. The interval is the 90 %
bootstrap interval over queries, and for re-ranking that of the paired difference to the shortlist.

--cache runs `cache-tokens` with such options after the index, once for each; --compare re-ranks with each of several
sets of options for search, and gives the paired difference of each to the first as well.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

TOP = 200
RESAMPLES = 10_000


def read_qrels(path: Path) -> dict[str, set[str]]:
    positives: dict[str, set[str]] = defaultdict(set)
    for line in path.read_text().splitlines():
        query, _, image, relevance = line.split("\t")
        if int(relevance) > 0:
            positives[query].add(image)
    return dict(positives)


def average_precision(names: list[str], positives: set[str]) -> float:
    found = np.array([name in positives for name in names])
    precisions = np.cumsum(found) / np.arange(1, len(names) + 1)
    return float(precisions[found].sum() / len(positives))


def search(command: list[str], images: Path, bundle: Path, queries: list[str], extra: list[str]):
    start = time.perf_counter()
    paths = [str(images / query) for query in queries]
    options = ["-k", str(TOP), "--format", "jsonl", "-q", *extra]
    run = subprocess.run([*command, "search", str(bundle), *paths, *options], check=True, stdout=subprocess.PIPE)
    seconds = (time.perf_counter() - start) / len(queries)
    rankings: dict[str, list[str]] = defaultdict(list)
    for line in run.stdout.splitlines():
        hit = json.loads(line)
        query, name = Path(hit["query"]).name, Path(hit["path"]).name
        if name != query:
            rankings[query].append(name)
    return rankings, seconds


def interval(values: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    return "[{:+.3f}, {:+.3f}]".format(*np.percentile(means, [5, 95]))


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--imgrank", default="imgrank")
    parser.add_argument("--rerank", type=int, nargs="*", default=[50])
    parser.add_argument("--index-extra", default="")
    parser.add_argument("--cache", nargs="*", default=[], help="options for cache-tokens")
    parser.add_argument("--extra", default="", help="more options for search")
    parser.add_argument("--compare", nargs="+", default=[""], help="options for search, one set after the other")
    arguments = parser.parse_args()
    images = arguments.dataset / "images"
    positives = read_qrels(arguments.dataset / "qrels.tsv")
    queries = sorted(positives)
    command = shlex.split(arguments.imgrank)
    count = len(list(images.iterdir()))
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "db.h5"
        seconds = timed([*command, "index", str(images), "-o", str(bundle), *shlex.split(arguments.index_extra)])
        size = bundle.stat().st_size
        print(
            f"index: {count} photos in {seconds:.1f} s, {count / seconds:.1f} photos/s, "
            f"{size / count / 1024:.1f} KiB each"
        )
        for options in arguments.cache:
            seconds = timed([*command, "cache-tokens", str(bundle), *shlex.split(options)])
            size, before = bundle.stat().st_size, size
            print(f"cache-tokens {options}: {seconds:.1f} s, {(size - before) / count / 1024:.1f} KiB each")
        print("rerank    mAP    90 % interval     to the first      P@1     R@50   R@200  s/query  options")
        shortlist, reference = None, {}
        for top, options in [(0, ""), *((top, options) for options in arguments.compare for top in arguments.rerank)]:
            extra = [*(["--rerank", str(top)] if top else []), *shlex.split(arguments.extra), *shlex.split(options)]
            rankings, seconds = search(command, images, bundle, queries, extra)
            ap = np.array([average_precision(rankings[query], positives[query]) for query in queries])
            p1 = np.mean([rankings[query][0] in positives[query] for query in queries])
            recalls = [
                np.mean([len(positives[q] & set(rankings[q][:k])) / len(positives[q]) for q in queries])
                for k in (50, TOP)
            ]
            shortlist = ap if shortlist is None else shortlist
            spread = interval(ap - shortlist) if top else interval(ap)
            other = interval(ap - reference[top]) if top in reference else ""
            reference.setdefault(top, ap)
            print(
                f"{top:6d}  {ap.mean():.4f}  {spread:16s}  {other:16s}  {p1:.4f}  {recalls[0]:.3f}  {recalls[1]:.3f}  "
                f"{seconds:.3f}  {options}",
                flush=True,
            )


if __name__ == "__main__":
    main()
