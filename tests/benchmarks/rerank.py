"""Pair scoring side by side in one run: the published way, its batches, another library, and the packed engine.

    python tests/benchmarks/rerank.py [--candidates 50] [--plain 8] [--batch 8] [--threads 2] [--device cpu]
                                      [--dtype float32] [--repeat 3]

A Qwen3-VL with random weights in the shape of `qwen3_vl_small.json`, photos of 384 x 384 pixels, which are 144 tokens.

(a) plain: transformers' own class on input_ids and pixel_values of one pair at a time, the vision tower on both
    photos, the output layer over the whole vocabulary at every position.
(b) ours, cached tokens, one candidate a call; the query is encoded in each call.
(c) (a) in batches, padded on the left. Photos of one size, so that nothing is padded: its best case.
(d) CrossEncoder of sentence-transformers, in the same batches; the output layer on the last position.
(e) ours, packed: all candidates in one call. Reading the cache is not in it; encoding the query is.

Prints a Markdown table: seconds a pair (medians over the calls of all repeats, which take the ways in turn, so that a
slow minute hits all of them), the ratio to (a) with the same prompt, the bar where there is one, and the largest
distance of a logit difference from (a); for pruned candidates from (a) with the same tokens deleted from its sequence.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

sys.path.insert(0, str(Path(__file__).parents[2]))

from imgrank.mllm.answers import Answers
from imgrank.mllm.prompts import Prompt, prompt_for
from imgrank.mllm.registry import load_mllm
from imgrank.rerank.packing import PairScorer
from imgrank.tokens.prune import DivPrune
from tests.families.qwen import Qwen3
from tests.tiny_mllms import save_tiny_mllm

SIDE = 384
SHAPE = Path(__file__).with_name("qwen3_vl_small.json")
# The byte-level tokenizer of the test model cuts text much finer than a real one: the long prompts are longer here.
PROMPTS = {
    "short prompt": Prompt("short", "{query}{candidate}Same? {positive} or {negative}"),
    "long, images first": prompt_for("landmark", "images-first"),
    "long, instruction first": prompt_for("landmark", "instruction-first"),
}
BARS = {("short prompt", "all tokens"): 6.0, ("short prompt", "a quarter"): 15.0}
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


class Kept(Qwen3):
    """The shape kept beside this script; ids and the size of the vocabulary are the tokenizer's."""

    def config(self, tokenizer, hidden, layers, tower):
        shape = json.loads(SHAPE.read_text())
        shape["text_config"] |= {
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        return transformers.Qwen3VLConfig(**shape, **self.special_ids(tokenizer))


class Plain:
    """The published way, from the pixels: (a), and (c) where it gets several pairs."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        network = transformers.Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        self.network = network.eval().to(device)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self.answers = self.tokenizer.convert_tokens_to_ids(["0", "1"])
        self.device, self.dtype = device, dtype

    def text(self, prompt: Prompt) -> str:
        messages = prompt.messages(Answers())
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def _inputs(self, prompt: Prompt, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        inputs = self.processor([photo for pair in pairs for photo in pair], return_tensors="pt")
        sizes = iter((inputs["image_grid_thw"].prod(dim=1) // 4).tolist())
        image = self.network.config.image_token_id
        ids = self.tokenizer(self.text(prompt), add_special_tokens=False)["input_ids"]
        rows = [[t for token in ids for t in [token] * (next(sizes) if token == image else 1)] for _ in pairs]
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        whole = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        kinds = (whole == image).int()
        # Explicit, since the model's own choice of positions depends on what an earlier call left in it.
        positions, _ = self.network.model.get_rope_index(
            whole, kinds, inputs["image_grid_thw"], attention_mask=mask if len(pairs) > 1 else None
        )
        found = {
            "input_ids": whole,
            "pixel_values": inputs["pixel_values"].to(self.dtype),
            "image_grid_thw": inputs["image_grid_thw"],
            "position_ids": positions,
            "mm_token_type_ids": kinds,
        }
        if len(pairs) > 1:
            found["attention_mask"] = mask
        return {name: value.to(self.device) for name, value in found.items()}

    def _differences(self, logits: torch.Tensor) -> np.ndarray:
        last = logits[:, -1].float()
        return (last[:, self.answers[1]] - last[:, self.answers[0]]).cpu().numpy()

    @torch.inference_mode()
    def score(self, prompt: Prompt, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        return self._differences(self.network(**self._inputs(prompt, pairs), use_cache=False).logits)

    @torch.inference_mode()
    def score_pruned(self, prompt: Prompt, pair: tuple[np.ndarray, np.ndarray], kept: np.ndarray) -> float:
        """Delete all but `kept` of the second photo's tokens from the whole sequence; their positions stay."""
        inputs = self._inputs(prompt, [pair])
        image = inputs["mm_token_type_ids"][0].bool()
        features = self.network.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        embeds = self.network.get_input_embeddings()(inputs["input_ids"])[0]
        embeds[image] = torch.cat(list(features.pooler_output))
        visual = torch.ones(int(image.sum()), dtype=torch.bool, device=self.device)
        visual[len(visual) // 2 :] = False
        visual[len(visual) // 2 + torch.from_numpy(kept).to(self.device)] = True
        keep = torch.ones_like(image)
        keep[image] = visual
        levels = [torch.cat(list(f)) if isinstance(f, list | tuple) else f for f in features.deepstack_features]
        states = self.network.model.language_model(
            inputs_embeds=embeds[keep][None],
            position_ids=inputs["position_ids"][:, :, keep],
            visual_pos_masks=image[keep][None],
            deepstack_visual_embeds=[level[visual] for level in levels],
            use_cache=False,
        ).last_hidden_state
        return float(self._differences(self.network.lm_head(states[:, -1:]))[0])


class Processor(Qwen3VLProcessor):
    """The processor without its part for videos, which exists only where torchvision does."""

    @classmethod
    def get_attributes(cls):
        return ["image_processor", "tokenizer"]

    def __init__(self, image_processor, tokenizer, **settings):
        super().__init__(image_processor, tokenizer, **settings)


def cross_encoder(folder: Path, plain: Plain, prompt: Prompt) -> tuple[Callable[..., np.ndarray] | None, str]:
    """Return (score, how it was loaded), or (None, why not)."""
    try:
        from sentence_transformers import CrossEncoder
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.cross_encoder.modules.logit_score import LogitScore
    except ImportError as error:
        return None, _first_line(error)
    label = "sentence-transformers " + importlib.metadata.version("sentence-transformers")
    # The library hands a template one message for the query and one for the document, and no text between them.
    before, _, rest = plain.text(prompt).partition(IMAGE)
    between, _, after = rest.partition(IMAGE)
    if between:
        return None, f"{label}: text between the photos has no place"
    template = f"{{{{ {before!r} }}}}" + (
        "{%- for message in messages -%}{%- for part in message.content -%}{%- if part.type == 'image' -%}"
        f"{IMAGE}"
        "{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endfor -%}"
        f"{{{{ {after!r} }}}}"
    )

    def load() -> Any:
        module = Transformer(str(folder), transformer_task="any-to-any", model_kwargs={"dtype": plain.dtype})
        module.processor.chat_template = template
        score = LogitScore(plain.answers[1], plain.answers[0])
        return CrossEncoder(modules=[module, score], device=plain.device, activation_fn=torch.nn.Identity())

    try:
        try:
            encoder = load()
        except ImportError:  # for want of torchvision; all but its loading of the processor works
            own = Processor(plain.processor, plain.tokenizer, chat_template=template)
            with mock.patch.object(transformers.AutoProcessor, "from_pretrained", return_value=own):
                encoder = load()
            label += ", handed a processor without videos"
    except Exception as error:  # noqa: BLE001  # whatever a release of the library raises is its row
        return None, f"{label}: {_first_line(error)}"

    def score(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        pictures = [tuple(map(Image.fromarray, pair)) for pair in pairs]
        return encoder.predict(pictures, batch_size=len(pairs), show_progress_bar=False)

    return score, label


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100]}"


@dataclass
class Way:
    """One row: each call scores some pairs; the first of them all are those that (a) scores."""

    label: str
    calls: list[Callable[[], np.ndarray]]
    against: str  # whose scores these must be: "a" or "pruned"
    bar: float | None = None
    seconds: list[float] = field(default_factory=list)  # a pair, one entry a call
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def measure(self) -> None:
        scores = []
        for call in self.calls:
            start = time.perf_counter()
            scores.append(call())  # on the host: the device has finished
            self.seconds.append((time.perf_counter() - start) / len(scores[-1]))
        self.scores = np.concatenate(scores)


def print_table(sections: list[tuple[str, list[Way], dict[str, np.ndarray], str]]) -> None:
    print("| | s a pair | ratio to (a) | bar | largest difference to (a) |\n|---|---|---|---|---|")
    for name, ways, expected, note in sections:
        base = statistics.median(ways[0].seconds)
        for way in ways:
            middle = statistics.median(way.seconds)
            ratio = base / middle
            bar = "" if way.bar is None else f"{way.bar:.0f}x {'met' if ratio >= way.bar else 'MISSED'}"
            right = expected[way.against]
            count = min(len(way.scores), len(right))
            far = "" if way is ways[0] else f"{np.abs(way.scores[:count] - right[:count]).max():.1e}"
            print(f"| {way.label}, {name} | {middle:.4f} | {ratio:.1f} | {bar} | {far} |")
        if note:
            print(f"| (d) not timed: {note} | | | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--plain", type=int, default=8, help="pairs that the ways one at a time are timed on")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    random = np.random.default_rng(0)
    photos = [random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(arguments.candidates + 1)]
    pairs = [(photos[0], photo) for photo in photos[1:]]
    batch = arguments.batch
    few, several = pairs[: arguments.plain], pairs[: max(arguments.plain, batch)]
    with tempfile.TemporaryDirectory() as name:
        folder = save_tiny_mllm(Path(name) / "model", Kept())
        plain = Plain(folder, arguments.device, getattr(torch, arguments.dtype))
        model = load_mllm(str(folder), device=arguments.device, dtype=arguments.dtype)
        other, other_label = cross_encoder(folder, plain, PROMPTS["short prompt"])

    def encode(photo: np.ndarray):
        return model.encode([photo], longer_side=SIDE, max_tokens=1280)[0]

    cached = [encode(photo) for photo in photos[1:]]
    pruner = DivPrune(len(cached[0]) // 4)
    kept = [pruner.keep(tokens.vectors[:, 0], tokens.positions[:, 1:], tokens.grid) for tokens in cached]
    stocks = {"all tokens": cached, "a quarter": [t.take(k) for t, k in zip(cached, kept, strict=True)]}

    sections = []
    for name, prompt in PROMPTS.items():
        scorer = PairScorer(model, prompt)

        def batched(score, of, size):
            return [partial(score, of[i : i + size]) for i in range(0, len(of), size)]

        def ours(stock, scorer=scorer):
            return scorer.score(encode(photos[0]), stock)

        published = partial(plain.score, prompt)
        ways = [Way("(a) plain", batched(published, few, 1), "a")]
        if name == "short prompt":
            for amount, stock in stocks.items():
                against = "a" if stock is cached else "pruned"
                ways.append(Way(f"(b) one at a time, {amount}", batched(ours, stock[: len(few)], 1), against))
        ways.append(Way(f"(c) plain, batches of {batch}", batched(published, several, batch), "a"))
        if other and name == "short prompt":
            ways.append(Way(f"(d) {other_label}", batched(other, several, batch), "a"))
        for amount, stock in stocks.items():
            against = "a" if stock is cached else "pruned"
            ways.append(Way(f"(e) packed, {amount}", [partial(ours, stock)], against, BARS.get((name, amount))))
        for way in ways:  # warm
            way.calls[0]()
        gc.collect()
        for _ in range(arguments.repeat):
            for way in ways:
                way.measure()
        pruned = [plain.score_pruned(prompt, pair, k) for pair, k in zip(few, kept, strict=False)]
        note = other_label if other is None and name == "short prompt" else ""
        sections.append((name, ways, {"a": ways[0].scores, "pruned": np.asarray(pruned)}, note))
        lengths = [len(part) for part in (scorer.rendered.before, scorer.rendered.between, scorer.rendered.after)]
        print(f"{name}: {' + '.join(map(str, lengths))} tokens of text before, between and after the photos")
    print(
        f"{len(cached[0])} tokens a photo, {arguments.candidates} candidates, {arguments.threads} threads, "
        f"{arguments.device}, {arguments.dtype}, {scorer.model.kernel} kernel, chunks of {scorer.chunk_tokens}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}\n"
    )
    print_table(sections)


if __name__ == "__main__":
    main()
