"""Pair scoring side by side in one run: the published way, cached tokens one at a time, and the packed engine.

    python tests/benchmarks/rerank.py [--candidates 50] [--plain 8] [--threads 2]

Random-weight Qwen3-VL (hidden 512, 8 layers; vision 384 wide, 6 layers), float32, CPU, photos of 384 x 384 pixels,
which are 144 tokens.

(a) plain: transformers' own class on input_ids and pixel_values of one pair at a time, the vision tower on both
    photos, the output layer over the whole vocabulary. Timed on `--plain` pairs, the median counts.
(b) cached tokens, one candidate a call.
(c) ours: all candidates in one call. Reading the cache is not in it; encoding the query is.

Prints seconds a pair, the ratio to (a), and how far the logit differences are from (a).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

sys.path.insert(0, str(Path(__file__).parents[2]))

from imgrank.mllm.answers import Answers
from imgrank.mllm.prompts import Prompt
from imgrank.mllm.registry import load_mllm
from imgrank.rerank.packing import PairScorer
from imgrank.tokens.prune import DivPrune
from tests.tiny_mllms import save_tiny_mllm

SIDE = 384
# Short words: the byte-level tokenizer of the test model cuts text much finer than a real one.
PROMPT = Prompt("short", "{query}{candidate}Same? {positive} or {negative}")


class Plain:
    """The published way: one pair at a time, from the pixels."""

    def __init__(self, folder: Path) -> None:
        self.network = transformers.Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        text = self.tokenizer.apply_chat_template(
            PROMPT.messages(Answers()), add_generation_prompt=True, tokenize=False
        )
        self.ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        self.answers = self.tokenizer.convert_tokens_to_ids(["0", "1"])

    @torch.no_grad()
    def score(self, query: np.ndarray, candidate: np.ndarray) -> float:
        inputs = self.processor([query, candidate], return_tensors="pt")
        sizes = iter((inputs["image_grid_thw"].prod(dim=1) // 4).tolist())
        image = self.network.config.image_token_id
        ids = torch.tensor([[t for token in self.ids for t in [token] * (next(sizes) if token == image else 1)]])
        self.network.model.rope_deltas = None
        logits = self.network(input_ids=ids, mm_token_type_ids=(ids == image).int(), **inputs).logits
        return float(logits[0, -1, self.answers[1]] - logits[0, -1, self.answers[0]])


def timed(call) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--plain", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random = np.random.default_rng(0)
    photos = [random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(arguments.candidates + 1)]
    with tempfile.TemporaryDirectory() as name:
        folder = save_tiny_mllm(Path(name) / "model", hidden=512, layers=8, tower=(384, 6))
        plain, model = Plain(folder), load_mllm(str(folder), device="cpu", dtype="float32")
    scorer = PairScorer(model, PROMPT)

    def encode(photo: np.ndarray):
        return model.encode([photo], longer_side=SIDE, max_tokens=1280)[0]

    cached = [encode(photo) for photo in photos[1:]]
    pruner = DivPrune(len(cached[0]) // 4)
    quarter = [t.take(pruner.keep(t.vectors[:, 0], t.positions, t.grid)) for t in cached]
    plain.score(photos[0], photos[1])  # warm
    runs = [timed(lambda c=c: plain.score(photos[0], c)) for c in photos[1 : arguments.plain + 1]]
    base, expected = statistics.median(seconds for seconds, _ in runs), [value for _, value in runs]
    print(f"{len(cached[0])} tokens a photo, {arguments.candidates} candidates, {arguments.threads} threads")
    print(f"{'':34s} s a pair   ratio   largest difference")
    print(f"{'(a) plain, from the pixels':34s} {base:8.4f}  {1.0:6.1f}")
    for label, tokens in (("all tokens", cached), ("a quarter of the tokens", quarter)):
        single = statistics.median(
            timed(lambda t=t: scorer.score(encode(photos[0]), [t]))[0] for t in tokens[: arguments.plain]
        )
        print(f"{'(b) one at a time, ' + label:34s} {single:8.4f}  {base / single:6.1f}")
        times = []
        for _ in range(3):
            seconds, scores = timed(lambda tokens=tokens: scorer.score(encode(photos[0]), tokens))
            times.append(seconds / len(tokens))
        packed = statistics.median(times)
        far = f"{np.abs(scores[: len(expected)] - expected).max():.1e}" if tokens is cached else ""
        print(f"{'(c) packed, ' + label:34s} {packed:8.4f}  {base / packed:6.1f}   {far}")


if __name__ == "__main__":
    main()
