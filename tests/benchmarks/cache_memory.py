"""Memory of `imgrank cache-tokens` as a collection grows: it should not.

    python tests/benchmarks/cache_memory.py [--photos 250 1000 4000] [--recipe RECIPE ...]

Makes collections of drawn noise photos and a small Qwen3-VL with random weights, caches the tokens of each in a process
of its own, and prints the most memory that process had at a time, and the cache's bytes. Codebooks are trained on a
sample whose size does not depend on the collection's; the smallest collection is smaller than that.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.tiny_mllms import save_tiny_mllm

RECIPES = ("resize:320 | divprune:48 | float16", "resize:320 | divprune:48 | pq:64")
FOLDER = 1000  # photos in one folder


def photos(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number // FOLDER:03d}"
        place.mkdir(parents=True, exist_ok=True)
        blocks = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        blocks.resize((320, 240), Image.Resampling.BICUBIC).save(place / f"{number:06d}.jpg", quality=80)


def run(*arguments: object) -> int:
    """Run imgrank; returns the most memory it had, in KiB."""
    child = subprocess.Popen([sys.executable, "-m", "imgrank", *map(str, arguments)], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"imgrank {arguments[0]} failed with {status}")
    return usage.ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[250, 1000, 4000])
    parser.add_argument("--recipe", nargs="+", default=list(RECIPES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = save_tiny_mllm(Path(folder) / "mllm", "qwen3_vl", hidden=256, layers=4, tower=(64, 4))
        for count in options.photos:
            place = Path(folder) / f"photos-{count}"
            photos(place, count)
            bundle = Path(folder) / f"{count}.h5"
            run("embed", place, "-o", bundle, "--quiet")
            for number, recipe in enumerate(options.recipe):
                before = bundle.stat().st_size
                peak = run("cache-tokens", bundle, "--mllm", model, "--cache", f"c{number}", "--recipe", recipe)
                stored = (bundle.stat().st_size - before) / 2**20
                print(f"{count:6d} photos  {peak / 1024:7.0f} MiB  cache {stored:7.1f} MiB  {recipe}", flush=True)


if __name__ == "__main__":
    main()
