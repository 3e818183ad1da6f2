"""How far the packed engine is from the plain forward, for every family: the largest difference of logit differences.

    python tests/benchmarks/parity.py [--seeds 3]

Small models with random weights, saved and loaded by the real code, float32, CPU. The plain forward is transformers'
own class and image processor on input_ids and pixel_values, one pair at a time; for pruned tokens (about 40 % kept) it
is the forward of the sequence from which they were deleted, with the positions of the full one. Photos of seven sizes.
`spread` is the standard deviation of the logit differences: what agreement is measured against.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2]))

from imgrank.mllm.answers import Answers
from imgrank.mllm.prompts import Prompt, prompt_for
from imgrank.mllm.registry import load_mllm
from imgrank.rerank.packing import PairScorer
from tests.tiny_mllms import TINY, save_tiny_mllm


def differences(key: str, seed: int) -> tuple[float, float, float]:
    """Return the largest difference with all tokens, with pruned tokens, and the spread of the logits."""
    tiny = TINY[key]
    random = np.random.default_rng(seed)
    photos = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in tiny.photo_sizes]
    with tempfile.TemporaryDirectory() as name:
        folder = save_tiny_mllm(Path(name) / key, key, seed=seed)
        model = load_mllm(str(folder), device="cpu", dtype="float32")
        network = getattr(transformers, tiny.model_class).from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokens = model.encode(photos, longer_side=tiny.longer_side, max_tokens=tiny.max_tokens)
        kept = [random.random(len(image)) < 0.4 for image in tokens]
        kept[0][:] = True
        for mask in kept:
            mask[len(mask) // 2] = True
        prompt: Prompt = prompt_for("object")
        text = tokenizer.apply_chat_template(prompt.messages(Answers()), add_generation_prompt=True, tokenize=False)
        text += " " if text.endswith(":") else ""
        zero, one = tokenizer.convert_tokens_to_ids(["0", "1"])

        def plain(number: int, pruned: bool) -> float:
            pair, masks = [photos[0], photos[number]], [kept[0], kept[number]]
            if pruned:
                logits = tiny.plain_pruned(network, tokenizer, folder, text, pair, masks)
            else:
                logits = tiny.plain(network, tokenizer, folder, text, pair)
            return float(logits[one] - logits[zero])

        scorer = PairScorer(model, prompt)
        full = scorer.score(tokens[0], tokens[1:])
        few = scorer.score(tokens[0], [image.take(mask) for image, mask in zip(tokens[1:], kept[1:], strict=True)])
        numbers = range(1, len(photos))
        expected = [plain(number, False) for number in numbers]
        pruned = [plain(number, True) for number in numbers]
    return float(np.abs(full - expected).max()), float(np.abs(few - pruned).max()), float(np.std(expected))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    print("| family | all tokens | pruned | spread |\n|---|---|---|---|")
    for key in sorted(TINY):
        results = np.array([differences(key, seed) for seed in range(arguments.seeds)])
        print(
            f"| {key} | {results[:, 0].max():.1e} | {results[:, 1].max():.1e} | {results[:, 2].min():.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
