"""Product quantization against faiss, side by side in one run: what is lost, and how fast tokens are coded and decoded.

    python tests/benchmarks/quantization.py [--small 192/24] [--large 2048/256] [--tokens 10240] [--rotated-large]
                                            [--iterations 25] [--faiss-turns 20] [--turns 5] [--threads 2]

Tokens are drawn, not a model's: correlated ones, of a random basis whose variances fall by 1000, with heavier tails
than normal ones, an offset and noise. White noise, which product quantization cannot make smaller, would tell nothing.
Trained on --tokens, measured on others. faiss is IndexPQ's quantizer, and for OPQ its OPQMatrix.

Speeds are medians over five calls in each of --turns turns, which alternate with those of faiss, so that a slow minute
hits both; ratios are of medians, above 1 where ours is faster. Decoding is of 1000 candidates with 64 tokens each, one
call a candidate.
--rotated-large also trains OPQ at the large size (ours only: 20 seconds; faiss would take an hour).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from imgrank.tokens.product_quantization import CodebookSpec, ProductCodec, train_codebooks

CANDIDATES, TOKENS = 1000, 64


def draw(n: int, hidden: int, seed: int) -> np.ndarray:
    """Return (n, hidden) float32 tokens; those of one size have the same basis."""
    basis = np.random.default_rng(0).standard_normal((hidden // 2, hidden), dtype=np.float32) / np.sqrt(hidden)
    basis *= np.geomspace(10, 10 / np.sqrt(1000), len(basis), dtype=np.float32)[:, None]
    rng = np.random.default_rng(seed)
    places = rng.standard_normal((n, len(basis)), dtype=np.float32)
    places *= np.sqrt(6 / rng.chisquare(6, (n, 1))).astype(np.float32)  # Student's t of 6 degrees
    return places @ basis + 0.1 * rng.standard_normal((n, hidden), dtype=np.float32) + 1


def lost(back: np.ndarray, tokens: np.ndarray) -> float:
    return float(np.square(back.astype(np.float64) - tokens).mean())


def medians(ways: Sequence[Callable[[], object]], turns: int) -> list[float]:
    """Return the median seconds of a call, of five calls in each of so many turns."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(turns):
        for way, found in zip(ways, times, strict=True):
            # Threads of OpenMP, faiss's, keep their cores busy for a while when they are done; then all wake up again.
            time.sleep(0.02)
            way()
            for _ in range(5):
                start = time.perf_counter()
                way()
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def compare(hidden: int, m: int, arguments: argparse.Namespace, with_opq: bool) -> ProductCodec:
    """Print what is lost at one size; returns the codec of plain product quantization."""
    tokens, unseen = draw(arguments.tokens, hidden, 1), draw(4096, hidden, 2)
    size = f"d = {hidden}, M = {m}"
    variance = float(unseen.var(axis=0, dtype=np.float64).mean())

    def ours(spec: CodebookSpec) -> tuple[ProductCodec, float, float]:
        start = time.perf_counter()
        codec = ProductCodec(train_codebooks(tokens[:, None], spec, iterations=arguments.iterations))
        seconds = time.perf_counter() - start
        return codec, lost(codec.decode(codec.encode(unseen[:, None]))[:, 0], unseen) / variance, seconds

    def theirs(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, float]:
        quantizer = faiss.ProductQuantizer(hidden, m, 8)
        quantizer.cp.niter = arguments.iterations
        start = time.perf_counter()
        quantizer.train(train)
        seconds = time.perf_counter() - start
        return quantizer.decode(quantizer.compute_codes(test)), seconds

    back, faiss_seconds = theirs(tokens, unseen)
    faiss_error = lost(back, unseen) / variance
    codec, error, seconds = ours(CodebookSpec(m))
    row(size, codec.name, f"{error:.4f}", f"{faiss_error:.4f}", f"{error / faiss_error:.3f}", f"{seconds:.1f} s",
        f"{faiss_seconds:.1f} s")  # fmt: skip
    residual, residual_error, seconds = ours(CodebookSpec(m, stages=2))
    row(size, residual.name, f"{residual_error:.4f}", "", f"{residual_error / error:.3f} of PQ", f"{seconds:.1f} s", "")
    if hidden % (2 * m) == 0:
        twice, twice_error, seconds = ours(CodebookSpec(2 * m))
        row(size, twice.name, f"{twice_error:.4f}", "", f"{twice_error / error:.3f} of PQ", f"{seconds:.1f} s", "")
    if with_opq:
        rotated, error, seconds = ours(CodebookSpec(m, rotated=True))
        cells = ["", "", ""]
        if hidden <= 256:
            matrix = faiss.OPQMatrix(hidden, m)
            matrix.niter = arguments.faiss_turns
            start = time.perf_counter()
            matrix.train(tokens)
            back, _ = theirs(matrix.apply(tokens), matrix.apply(unseen))
            faiss_error = lost(matrix.reverse_transform(back), unseen) / variance
            took = time.perf_counter() - start
            cells = [f"{faiss_error:.4f}", f"{error / faiss_error:.3f}", f"{took:.1f} s"]
        row(size, rotated.name, f"{error:.4f}", *cells[:2], f"{seconds:.1f} s", cells[2])


def speeds(hidden: int, m: int, arguments: argparse.Namespace) -> None:
    """Print how fast tokens are coded and decoded, with the same codebooks on both sides."""
    tokens = draw(4096, hidden, 3)
    codebooks = train_codebooks(tokens[:1024, None], CodebookSpec(m), iterations=2)
    codec, quantizer = ProductCodec(codebooks), faiss.ProductQuantizer(hidden, m, 8)
    faiss.copy_array_to_vector(codebooks.centroids.ravel(), quantizer.centroids)
    for n in (4096, 256):
        some = tokens[:n]
        ways = [lambda some=some: codec.encode(some[:, None]), lambda some=some: quantizer.compute_codes(some)]
        here, there = medians(ways, arguments.turns)
        row(f"d = {hidden}, M = {m}", f"encode, {n} tokens a call", f"{n / here:,.0f} tokens/s",
            f"{n / there:,.0f} tokens/s", f"{there / here:.2f}")  # fmt: skip
    codes = np.random.default_rng(0).integers(0, 256, (CANDIDATES, TOKENS, m), dtype=np.uint8)

    def decode() -> None:
        for candidate in codes:
            codec.decode({"codes": candidate[:, None]})

    def faiss_decode() -> None:
        for candidate in codes:
            quantizer.decode(candidate)

    here, there = medians([decode, faiss_decode], arguments.turns)
    row(f"d = {hidden}, M = {m}", f"decode {CANDIDATES} x {TOKENS} tokens", f"{here:.3f} ms a candidate",
        f"{there:.3f} ms a candidate", f"{there / here:.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", default="192/24", help="numbers of a token / sub-vectors")
    parser.add_argument("--large", default="2048/256", help="numbers of a token / sub-vectors")
    parser.add_argument("--tokens", type=int, default=10_240, help="to train on")
    parser.add_argument("--rotated-large", action="store_true", help="also train OPQ at the large size")
    parser.add_argument("--iterations", type=int, default=25, help="of k-means")
    parser.add_argument("--faiss-turns", type=int, default=20, help="of faiss's OPQ; its own default is 50")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    sizes = [tuple(int(number) for number in size.split("/")) for size in (arguments.small, arguments.large)]
    print(f"faiss {faiss.__version__}, torch {torch.__version__}, numpy {np.__version__}; {arguments.threads} threads")
    print("\nPart of the variance of unseen tokens that is lost, and seconds of training:\n")
    row("size", "quantizer", "ours", "faiss", "ours / faiss", "training, ours", "faiss")
    row(*["---"] * 7)
    for (hidden, m), with_opq in zip(sizes, (True, arguments.rotated_large), strict=True):
        compare(hidden, m, arguments, with_opq)
    print("\nSpeeds, medians in turns:\n")
    row("size", "what", "ours", "faiss", "times as fast")
    row(*["---"] * 5)
    for hidden, m in sizes:
        speeds(hidden, m, arguments)


if __name__ == "__main__":
    main()
