"""What `dedup` and `group` find on a folder with images/ and qrels.tsv, and how long they take on many descriptors.

    python tests/benchmarks/grouping.py DATASET [--copies 250] [--synthetic 20000]

Copies: of some photos, four each: half the pixels of a side, JPEG quality 30, a part with 90 % of the area, 15 %
brighter. They stand beside all photos of DATASET. Of the pairs of neighbours, the table says which share of the pairs
of a copy and its original reaches a threshold, and how many pairs of different photos of DATASET do; then what `dedup`
does.

Groups: pairs of photos that a query of qrels.tsv has among its positives, or itself, against the pairs of `group` over
DATASET/images.

Synthetic: descriptors of 1,024 numbers in clusters of five, by similarity alone. Nothing is written into DATASET.
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
from collections import defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from imgrank.config import COPY_SIMILARITY, DedupSettings, RerankSettings
from imgrank.rerank.scorers import OverlayScorer
from imgrank.steps.collection import open_collection
from imgrank.steps.neighbour_pairs import Pairs, neighbour_pairs, score_pairs
from imgrank.steps.rerank import Reranker

KINDS = ("half", "q30", "cropped", "bright")


def main() -> None:
    """Run what is asked for and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--copies", type=int, default=250)
    parser.add_argument("--synthetic", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="keep the bundles here; any that are here are brought up to date")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = chosen.folder or Path(name)
        os.environ["XDG_CACHE_HOME"] = name
        copies(folder, chosen.dataset / "images", chosen.copies)
        groups(folder, chosen.dataset)
        synthetic(folder, chosen.synthetic)


def imgrank(*arguments: object) -> tuple[bytes, float]:
    """Run the command line; returns its output and seconds."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "imgrank", *map(str, arguments)], check=True, stdout=subprocess.PIPE)
    return done.stdout, time.monotonic() - started


def make_copies(images: Path, folder: Path, count: int) -> None:
    """Write four copies of each of some photos, called by the name of the photo and the kind of the copy."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    names = sorted(path.name for path in images.iterdir())
    for name in rng.choice(names, min(count, len(names)), replace=False):
        image = Image.open(images / name).convert("RGB")
        width, height = image.size
        stem = folder / Path(name).stem
        image.resize((width // 2, height // 2), Image.Resampling.LANCZOS).save(f"{stem}-half.jpg", quality=85)
        image.save(f"{stem}-q30.jpg", quality=30)
        side = 0.9**0.5
        x, y = int(rng.uniform(0, width * (1 - side))), int(rng.uniform(0, height * (1 - side)))
        box = (x, y, x + int(width * side), y + int(height * side))
        image.crop(box).save(f"{stem}-cropped.jpg", quality=85)
        ImageEnhance.Brightness(image).enhance(1.15).save(f"{stem}-bright.jpg", quality=85)


def split(path: str) -> tuple[str, str]:
    """Return the name of the original, and what kind of copy it is."""
    stem, _, kind = Path(path).stem.partition("-")
    return stem, kind or "original"


def copies(folder: Path, images: Path, count: int) -> None:
    """Measure `dedup`."""
    bundle, made = folder / "copies.h5", folder / "copies"
    make_copies(images, made, count)
    imgrank("index", images, made, "-o", bundle, "--root", "/", "-q")
    pairs, overlays = scored(bundle)
    kinds = [split(os.fsdecode(path)) for path in stored_paths(bundle)]
    print(f"copies of {count} photos beside {len(list(images.iterdir()))}; {len(pairs)} pairs")
    print("| threshold | copy and original | half | q30 | cropped | bright | pairs of different photos |")
    print("|---|---|---|---|---|---|---|")
    for threshold in (0.5, 0.6, 0.65, 0.7, 0.8):
        print_row(f"overlay {threshold}", pairs, kinds, overlays >= threshold, count)
    for threshold in (0.5, 0.6, 0.75, 0.95):
        print_row(f"similarity {threshold}", pairs, kinds, pairs.similarities >= threshold, count)
    out, seconds = imgrank("dedup", bundle, "-q")
    found = [[split(photo["path"]) for photo in json.loads(line)["photos"]] for line in out.splitlines()]
    extra = [(photo[0] == group[0][0], photo[1]) for group in found for photo in group[1:]]
    mixed = sum(not same for same, _ in extra)
    print(f"dedup: {len(extra)} photos are copies of one that is kept, {mixed} of them of another original; ", end="")
    print(f"{4 * count} copies were made; {seconds:.0f} s", flush=True)


def scored(bundle: Path) -> tuple[Pairs, np.ndarray]:
    """Return the pairs that `dedup` compares, with their overlays."""
    with open_collection([bundle]) as photos:
        pairs = neighbour_pairs(photos, DedupSettings.neighbours, min_similarity=COPY_SIMILARITY)
        reranker = Reranker(photos, RerankSettings(scorer="geometric"))
        reranker.stage = replace(reranker.stage, scorer=OverlayScorer())
        return pairs, score_pairs(reranker, pairs)


def stored_paths(bundle: Path) -> list[bytes]:
    """Return the path of each row."""
    with open_collection([bundle]) as photos:
        return photos.parts[0].stored_paths


def print_row(name: str, pairs: Pairs, kinds: list[tuple[str, str]], holds: np.ndarray, count: int) -> None:
    """Print how many pairs hold."""
    found, wrong = dict.fromkeys(KINDS, 0), 0
    for a, b in zip(pairs.first[holds].tolist(), pairs.second[holds].tolist(), strict=True):
        (one, one_kind), (other, other_kind) = kinds[a], kinds[b]
        if one == other and "original" in (one_kind, other_kind):
            found[one_kind if other_kind == "original" else other_kind] += 1
        wrong += one != other and one_kind == other_kind == "original"
    shares = [found[kind] / count for kind in KINDS]
    cells = [f"{share:.3f}" for share in (sum(shares) / len(shares), *shares)]
    print(f"| {name} | {' | '.join(cells)} | {wrong} |", flush=True)


def groups(folder: Path, dataset: Path) -> None:
    """Measure `group`."""
    bundle = folder / "groups.h5"
    imgrank("index", dataset / "images", "-o", bundle, "--root", "/", "-q")
    positives = defaultdict(set)
    for line in (dataset / "qrels.tsv").read_text().splitlines():
        query, _, image, relevance = line.split("\t")
        if int(relevance) > 0:
            positives[query] |= {query, image}
    truth = {pair for names in positives.values() for pair in combinations(sorted(names), 2)}
    print(f"\n{len(truth)} pairs of the same thing")
    print("| options | groups | largest | precision | recall | F1 | seconds |\n|---|---|---|---|---|---|---|")
    for options in (
        [],
        ["--linkage", "single"],
        ["--linkage", "complete"],
        ["--mutual"],
        ["--neighbours", "20"],
        ["--min-score", "0.6"],
        ["--scorer", "none", "--min-similarity", "0.5"],
    ):
        out, seconds = imgrank("group", bundle, "-q", *options)
        found = [json.loads(line)["photos"] for line in out.splitlines()]
        names = [sorted(Path(photo["path"]).name for photo in photos) for photos in found]
        pairs = {pair for group in names for pair in combinations(group, 2)}
        right = len(pairs & truth)
        precision, recall = right / max(1, len(pairs)), right / len(truth)
        score = 2 * precision * recall / max(1e-9, precision + recall)
        largest = max(map(len, names), default=0)
        numbers = f"{len(names)} | {largest} | {precision:.3f} | {recall:.3f} | {score:.3f} | {seconds:.0f}"
        print(f"| `{' '.join(options) or 'defaults'}` | {numbers} |", flush=True)


def synthetic(folder: Path, count: int, dim: int = 1024) -> None:
    """Time `group` on descriptors alone: clusters of five."""
    from imgrank.bundle import file
    from imgrank.bundle.descriptors import append_descriptors, create_descriptors
    from imgrank.bundle.images import append_images
    from imgrank.bundle.provenance import Provenance
    from imgrank.records import ImageRecord

    bundle = folder / "synthetic.h5"
    with file.Writer(bundle) as writer:
        file.create(bundle, root=b".")
        with writer.transaction() as h5:
            create_descriptors(h5, dim, Provenance("synthetic", "1", "{}"))
        for start in range(0, count, 10_000):
            numbers = range(start, min(start + 10_000, count))
            rng = np.random.default_rng(start)
            centres = rng.standard_normal((len(numbers) // 5 + 1, dim), dtype=np.float32)
            rows = np.repeat(centres, 5, axis=0)[: len(numbers)]
            rows = rows + 0.5 * rng.standard_normal(rows.shape, dtype=np.float32)
            with writer.transaction() as h5:
                append_images(
                    h5, [ImageRecord(b"%09d.jpg" % n, n, n, (n + 1).to_bytes(16, "big"), 4, 3, 0) for n in numbers]
                )
                append_descriptors(h5, rows / np.linalg.norm(rows, axis=1, keepdims=True))
    _, building = imgrank("index", bundle, "-q")
    out, seconds = imgrank("group", bundle, "--scorer", "none", "--min-similarity", "0.5", "-q")
    sizes = [json.loads(line)["size"] for line in out.splitlines()]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"\n{count} descriptors of {dim} numbers in clusters of five: graph {building:.0f} s, group {seconds:.0f} s, "
    )
    print(f"{len(sizes)} groups, {sizes.count(5)} of five; {peak:.0f} MiB at most (the graph's building included)")


if __name__ == "__main__":
    main()
