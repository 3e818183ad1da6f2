"""Make the golden bundle of the current format version: run in an empty folder, by the release that it is of."""

import subprocess
import sys
from pathlib import Path

from imgrank.training.collection import draw_collection

draw_collection(Path("."), seed=11, objects=3, views=2, distractors=2, queries=1)


def run(*a):
    subprocess.run([sys.executable, "-m", "imgrank", *a], check=True)


run("index", "photos", "-o", "db.h5", "--threads", "1")
run("cache-tokens", "db.h5", "--recipe", "resize:256 | divprune:48 | pq:24", "--cache", "small", "--proof-pairs", "6")
run("cache-tokens", "db.h5", "--recipe", "resize:192 | divprune:8 | int8", "--cache", "int8", "--proof-pairs", "0")
