"""Write a control for the built-in model: its numbers, shuffled within each tensor, so that all it learned is gone.

    python tests/benchmarks/shuffled.py FOLDER [--seed 0]

FOLDER is then a model for --mllm.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from imgrank.mllm.folder import BUILTIN_FOLDER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shutil.copytree(BUILTIN_FOLDER, arguments.folder)
    rng = np.random.default_rng(arguments.seed)
    weights = load_file(arguments.folder / "model.safetensors")
    shuffled = {name: rng.permutation(weights[name].ravel()).reshape(weights[name].shape) for name in sorted(weights)}
    save_file(shuffled, arguments.folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
