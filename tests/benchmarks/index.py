"""Graph against exact search on synthetic descriptors in clusters, side by side in one run.

python tests/benchmarks/index.py [--rows 100000] [--dim 256] [--cluster 200] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from imgrank.arrays import unit_rows
from imgrank.index.exact import ExactIndex
from imgrank.index.graph import arrays
from imgrank.index.hnsw import HnswIndex, build
from imgrank.index.numpy_search import NumpyHnswIndex

QUERIES, K = 50, 100


def median_ms(search, queries: np.ndarray) -> tuple[float, np.ndarray]:
    times, found = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(search(query[None]).rows[0])
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times), np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--cluster", type=int, default=200, help="rows in a cluster")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((arguments.rows // arguments.cluster, arguments.dim), dtype=np.float32)
    noise = rng.standard_normal((arguments.rows, arguments.dim), dtype=np.float32)
    rows = unit_rows(centres[np.arange(arguments.rows) % len(centres)] + 0.7 * noise)
    queries = unit_rows(rows[:QUERIES] + 0.03 * rng.standard_normal((QUERIES, arguments.dim), dtype=np.float32))
    start = time.perf_counter()
    graph = build(rows, threads=arguments.threads)
    print(f"build            {time.perf_counter() - start:8.1f} s")
    start = time.perf_counter()
    index = HnswIndex(graph, rows)
    print(f"load             {time.perf_counter() - start:8.2f} s")
    print(f"links            {sum(a.nbytes for a in arrays(graph).values()) / arguments.rows:8.1f} bytes a row")
    exact = ExactIndex(rows)
    exact_ms, truth = median_ms(lambda q: exact.search(q, K), queries)
    print(f"exact            {exact_ms:8.2f} ms a query")
    for ef in (128, 200, 400):
        ms, found = median_ms(lambda q, ef=ef: index.search(q, K, ef), queries)
        recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)])
        print(f"hnswlib, ef {ef:4d} {ms:8.2f} ms a query, {exact_ms / ms:5.1f}x, recall@{K} {recall:.4f}")
    numpy_index = NumpyHnswIndex(graph, rows)
    ms, found = median_ms(lambda q: numpy_index.search(q, K, 200), queries[:10])
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=False)])
    print(f"numpy,   ef  200 {ms:8.2f} ms a query, {exact_ms / ms:5.1f}x, recall@{K} {recall:.4f}")


if __name__ == "__main__":
    main()
