"""Make the built-in model from nothing: draw, train, export. See `imgrank.training.train`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from imgrank.devices import pick_device
from imgrank.training.corpus import SHARD, draw_corpus, read_shards, shard_path
from imgrank.training.export import export
from imgrank.training.train import Recipe, Stage, Training, split

SUBJECTS = 1200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, or 1 where the recipe was not finished in time."""
    parser = argparse.ArgumentParser(prog="python -m imgrank.training", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for drawn photos, checkpoints and the log")
    parser.add_argument("-o", "--output", type=Path, required=True, help="model folder to write, for --mllm")
    parser.add_argument("--subjects", type=int, default=SUBJECTS, help="to draw (default: %(default)s)")
    parser.add_argument(
        "--stages", type=_stage, nargs="+", metavar="STEPSxTOKENSxGROUPS[xHARDSHIP]", help="instead of the recipe's"
    )
    parser.add_argument("--minutes", type=float, help="of training at most; run again to go on")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="drawing processes (default: one per core)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--no-compile", action="store_true", help="do without a C++ compiler, at half the speed")
    options = parser.parse_args(arguments)
    folder = options.work / "subjects"
    for count in draw_corpus(folder, options.subjects, workers=options.workers):
        _note(f"{count} of {options.subjects} subjects are drawn")
    shards = range(-(-options.subjects // SHARD))
    learn, hold = split(read_shards([shard_path(folder, shard) for shard in shards]))
    recipe = (
        Recipe(seed=options.seed) if options.stages is None else Recipe(seed=options.seed, stages=tuple(options.stages))
    )
    device = pick_device(options.device)
    training = Training(options.work, learn, hold, recipe, device=device, compile=not options.no_compile)
    finished = training.run(minutes=options.minutes, note=_note)
    with torch.no_grad():
        export(training.network(), options.output)
    if not finished:
        _note(f"stopped after step {training.step} of {recipe.steps}; the same command goes on")
    return 0 if finished else 1


def _stage(text: str) -> Stage:
    steps, tokens, groups, *hardship = text.split("x")
    return Stage(int(steps), int(tokens), int(groups), *map(float, hardship))


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  # standard output has no result here


if __name__ == "__main__":
    sys.exit(main())
