"""What each way to store tokens does to scores, on models with random weights: `imgrank tune-tokens` on real photos.

    python tests/benchmarks/token_fidelity.py PHOTOS [--family qwen3_vl] [--hidden 512] [--layers 8]

Builds a model of the family from a small configuration with random weights, indexes the photos, and runs the usual grid
at the size given. Random weights know nothing of objects, so there is no mAP here; how near logit differences stay to
those with all tokens, and what random pruning does, they show.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.tiny_mllms import save_tiny_mllm

STEPS = (
    "float16", "int8", "pq:{8}", "opq:{8}", "rpq:{8}", "pq:{16}", "divprune:50%", "divprune:25%", "divprune:12%",
    "random:50%", "random:25%", "random:12%", "grid:2", "pool:2", "merge:4", "kmeans:25%", "ward:25%",
    "divprune:50% | pq:{8}", "divprune:25% | pq:{8}", "random:25% | pq:{8}",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--family", default="qwen3_vl")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--longer-side", type=int, default=512)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--top", type=int, default=30)
    options = parser.parse_args()
    hidden = options.hidden
    with tempfile.TemporaryDirectory() as folder:
        model = save_tiny_mllm(
            Path(folder) / "mllm", options.family, hidden=hidden, layers=options.layers, tower=(hidden // 2, 6)
        )
        bundle = Path(folder) / "db.h5"
        imgrank = [sys.executable, "-m", "imgrank"]
        subprocess.run([*imgrank, "embed", options.photos, "-o", bundle, "--quiet"], check=True)
        recipes = []
        for steps in STEPS:
            steps = steps.replace("{8}", str(hidden // 8)).replace("{16}", str(hidden // 16))
            recipes += ["--recipe", f"resize:{options.longer_side} | {steps}"]
        sizes = ["--queries", str(options.queries), "--top", str(options.top)]
        command = [*imgrank, "tune-tokens", bundle, "--mllm", model, *sizes, *recipes, "--format", "jsonl"]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()
        print("| recipe | tokens | bytes a photo | correlation | Kendall's tau | change of the logit | on the curve |")
        print("|---|---|---|---|---|---|---|")
        for line in lines:
            one = json.loads(line)
            steps = " | ".join(one["recipe"].split(" | ")[2:]).replace("|", "\\|")
            print(
                f"| `{steps}` | {one['tokens']:.0f} | {one['bytes_per_image']:,.0f} | {one['correlation']:.4f} | "
                f"{one['kendall_tau']:.3f} | {one['logit_change']:.3f} | {'yes' if one['pareto'] else ''} |"
            )


if __name__ == "__main__":
    main()
