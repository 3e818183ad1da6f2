"""`bench`: how fast this machine re-ranks with a model, where the time goes, and how near the device's peak that is.

The candidates' tokens are random numbers at places that the model gives the tokens of a photo: the work does not
depend on what they say. It measures time and memory only; whether scores are right is for `doctor`.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgrank.bundle import file
from imgrank.bundle.images import append_images
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import append_tokens, create_tokens
from imgrank.config import PromptLayout, RerankSettings, TokenSettings
from imgrank.devices import device_name, pick_device, pick_dtype, torch_dtype
from imgrank.errors import SettingsError
from imgrank.progress import SILENT, Reporter
from imgrank.records import NO_DIGEST, OK, ImageRecord
from imgrank.steps.features import VisualSource, default_token_settings
from imgrank.steps.second_stage import choose_prompt
from imgrank.tokens.recipe import codebook_spec

if TYPE_CHECKING:
    from imgrank.mllm.base import VisionLanguageModel, VisualTokens
    from imgrank.rerank.packing import PairScorer
    from imgrank.tokens.product_quantization import Codebooks

_PHOTO = (420, 560)  # pixels, (height, width)
_LARGER = (1120, 2240, 4096)  # longer sides that are tried where a photo has too few tokens
_MOST_TOKENS = 4096  # that one photo may have; families with tiles need room for several
_KINDS = 64  # candidates that differ; more of them are these again
_AHEAD = 16  # candidates read at a time
_CACHE = "bench"
_PLAIN_PAIRS = 3
_PEAK_SIDES = {"cuda": 8192, "mps": 4096, "cpu": 2048}  # of the square matrices
_PEAK_RUNS, _PEAK_SECONDS = 20, 2.0


@dataclass(frozen=True)
class BenchSettings:
    """What is measured.

    Attributes:
        tokens_per_image: visual tokens of a candidate.
        query_tokens: visual tokens of the query.
        candidates: of the one query.
        prompt_layout: None: the model's.
        dtype: of the model.
        device: of the model.
        token_dtype: of the cache: the last step of a recipe, such as int8 or pq:64.
        chunk_tokens: packed into one forward pass; None: as a search chooses.
        repeat: the median of so many runs counts, after one that does not.
        compile: compile the model first.
        compare: time the model's published forward pass on pairs of photos, too.
    """

    tokens_per_image: int = 96
    query_tokens: int = 300
    candidates: int = 100
    prompt_layout: PromptLayout | None = None
    dtype: str = "auto"
    device: str = "auto"
    token_dtype: str = "float16"
    chunk_tokens: int | None = None
    repeat: int = 3
    compile: bool = False
    compare: bool = False


def bench_rerank(
    mllm: str | None = None,
    random_weights: Path | None = None,
    *,
    settings: BenchSettings | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Measure re-ranking the candidates of one query.

    Args:
        mllm: model id or folder.
        random_weights: a config.json, or a folder with one, instead of a model.
        settings: what is measured.
        reporter: hears of progress, and of photos that have too few tokens.

    Returns:
        One record of JSON values: facts, then what was measured. Seconds are medians; `seconds` are those of vision,
        prefix, suffix and read, and `pairs_per_second` counts them all, as one query of a search has them.

    Raises:
        SettingsError: not one model, or a number below 1.
        MissingModelError, MissingDeviceError: it cannot be loaded or built.
    """
    settings = settings or BenchSettings()
    counts = (settings.tokens_per_image, settings.query_tokens, settings.candidates, settings.repeat)
    if min(counts) < 1:
        raise SettingsError("tokens, candidates and repeats must be at least 1")
    with reporter.bar(7 if settings.compare else 6, "bench", "step") as advance:
        model = _model(mllm, random_weights, settings)
        advance(1)
        return _measure(model, settings, random_weights is not None, reporter, advance)


def _model(mllm: str | None, random_weights: Path | None, settings: BenchSettings) -> VisionLanguageModel:
    if (mllm is None) == (random_weights is None):
        raise SettingsError(
            "name a model (--mllm), or a configuration to build one from (--random-weights), one of both"
        )
    if mllm is not None:
        from imgrank.mllm.registry import load_mllm

        return load_mllm(mllm, device=settings.device, dtype=settings.dtype, compile=settings.compile)
    from imgrank.mllm.random_weights import random_mllm

    assert random_weights is not None  # looked at above
    device = pick_device(settings.device)
    model = random_mllm(random_weights, device=device, dtype=pick_dtype(device, settings.dtype))
    if settings.compile:
        model.compile_layers()
    return model


def _measure(
    model: VisionLanguageModel,
    settings: BenchSettings,
    stand_in: bool,
    reporter: Reporter,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    from imgrank.mllm.work import decoder_work
    from imgrank.rerank.packing import PairScorer
    from imgrank.training.photos import draw_photo

    work, memory = decoder_work(model), _Memory(model.device)
    clock = _Clock(model.device, settings.repeat)
    asked = RerankSettings(prompt_layout=settings.prompt_layout, profile="none" if stand_in else "auto")
    scorer = PairScorer(model, *choose_prompt(model, asked, None), chunk_tokens=settings.chunk_tokens)

    shown = default_token_settings(model)
    shown = replace(shown, max_tokens=max(shown.max_tokens, _MOST_TOKENS), reduce="", store=settings.token_dtype)
    source, photo = VisualSource(model, shown, _codebooks(model, shown)), draw_photo(0, _PHOTO)
    vision = clock.seconds(lambda: source.of_query(photo))
    advance(1)

    query = _tokens(model, source.of_query(photo), settings.query_tokens, "the query", reporter)
    place = _tokens(model, source.of_query(photo), settings.tokens_per_image, "a candidate", reporter)
    candidates = [_random_like(place, seed) for seed in range(min(settings.candidates, _KINDS))]
    candidates = [candidates[i % _KINDS] for i in range(settings.candidates)]
    prefix_rows, suffix_rows = _rows(scorer, query, candidates)

    prefix = clock.seconds(lambda: scorer.about(query))
    advance(1)
    pairs = scorer.about(query)
    suffix = clock.seconds(lambda: list(pairs.chunks(candidates)))
    peak_memory = memory.peak()
    advance(1)
    read, stored = _read_back(source, candidates, clock)
    advance(1)
    peak = _matmul_peak(model)
    advance(1)

    parts = {"vision": vision, "prefix": prefix, "suffix": suffix, "read": read}
    total = sum(parts.values())
    operations = {
        "prefix": work.prefix(prefix_rows),
        "suffix": work.suffixes(prefix_rows, [suffix_rows] * len(candidates)),
    }
    record = _facts(model, settings, stand_in) | {
        "candidates": len(candidates),
        "tokens_per_image": len(place),
        "query_tokens": len(query),
        "prefix_rows": prefix_rows,
        "suffix_rows": suffix_rows,
        "chunk_tokens": scorer.chunk_tokens,
        "repeat": settings.repeat,
        "seconds": {name: _rounded(value) for name, value in parts.items()},
        "total_seconds": _rounded(total),
        "pairs_per_second": _rounded(len(candidates) / total),
        "tokens_per_second": _rounded(suffix_rows * len(candidates) / suffix),
        "tflops": {name: _rounded(count / parts[name] / 1e12) for name, count in operations.items()},
        "matmul_tflops": _rounded(peak / 1e12),
        "share_of_matmul": {name: _rounded(count / parts[name] / peak) for name, count in operations.items()},
        "peak_memory": peak_memory,
        "peak_memory_counts": memory.counts,
        "stored_bytes": stored,
        "page_cache": "warm",
    }
    if settings.compare:
        tokens, seconds = _plain(scorer, shown, clock)
        record |= {
            "plain_tokens_per_image": tokens,
            "plain_seconds_per_pair": _rounded(seconds),
            "plain_ratio": _rounded(seconds / (total / len(candidates))),
        }
        advance(1)
    return record


def _facts(model: VisionLanguageModel, settings: BenchSettings, stand_in: bool) -> dict[str, Any]:
    import torch

    return {
        "model": model.name,
        "revision": model.revision,
        "weights": "random" if stand_in else "of the model",
        "family": model.family,
        "dtype": model.dtype,
        "device": model.device,
        "device_name": device_name(model.device),
        "kernel": model.kernel,
        "compiled": settings.compile,
        "threads": torch.get_num_threads(),
        **{name: importlib.metadata.version(name) for name in ("imgrank", "torch", "transformers")},
        "prompt_layout": settings.prompt_layout,
        "token_dtype": settings.token_dtype,
    }


def _codebooks(model: VisionLanguageModel, shown: TokenSettings) -> Codebooks | None:
    """Return codebooks of random numbers: decoding takes as long as with any others."""
    from imgrank.tokens.product_quantization import train_codebooks

    spec = codebook_spec(shown)
    if spec is None:
        return None
    numbers = np.random.default_rng(0).standard_normal((256, model.levels, model.hidden), dtype=np.float32)
    return train_codebooks(numbers, spec, iterations=1)


class _Clock:
    """Takes the median time of a call, after one run that warms up, and waits for what a GPU still does."""

    def __init__(self, device: str, repeat: int) -> None:
        self._device, self._repeat = device, repeat

    def seconds(self, run: Callable[[], object]) -> float:
        run()
        return statistics.median(self.once(run) for _ in range(self._repeat))

    def once(self, run: Callable[[], object]) -> float:
        _wait_for(self._device)
        started = time.perf_counter()
        run()
        _wait_for(self._device)
        return time.perf_counter() - started


def _wait_for(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


class _Memory:
    """The most memory that was taken at a time: of a CUDA device, else by how much this process has grown."""

    def __init__(self, device: str) -> None:
        import torch

        self._cuda = device if device.startswith("cuda") else None
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        self._before = _most_resident()
        self.counts = "device memory, weights too" if self._cuda else "growth of the process, without weights"

    def peak(self) -> int | None:
        """Return bytes; None where nobody can tell."""
        import torch

        if self._cuda is not None:
            return int(torch.cuda.max_memory_allocated(self._cuda))
        now = _most_resident()
        return None if now is None or self._before is None else now - self._before


def _most_resident() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _tokens(
    model: VisionLanguageModel, photo: VisualTokens, wanted: int, what: str, reporter: Reporter
) -> VisualTokens:
    """Return so many tokens of a photo, evenly spread over it; of a larger photo where this one has too few."""
    from imgrank.training.photos import draw_photo

    for side in _LARGER:
        if len(photo) >= wanted:
            break
        times = -(-side // _PHOTO[1])
        large = draw_photo(0, _PHOTO).repeat(times, axis=0).repeat(times, axis=1)
        (photo,) = model.encode([large], longer_side=side, max_tokens=max(wanted, _MOST_TOKENS))
    if len(photo) < wanted:
        reporter.note(f"{model.name} makes {len(photo)} visual tokens of a photo at most, so {what} has no {wanted}")
    wanted = min(wanted, len(photo))
    return photo.take(np.arange(wanted) * len(photo) // wanted)


def _random_like(tokens: VisualTokens, seed: int) -> VisualTokens:
    """Return random vectors as large as those of a photo, at their places."""
    random = np.random.default_rng(seed).standard_normal(tokens.vectors.shape, dtype=np.float32)
    return replace(tokens, vectors=random * np.float32(tokens.vectors.std()))


def _rows(scorer: PairScorer, query: VisualTokens, candidates: list[VisualTokens]) -> tuple[int, int]:
    """Return the rows of the prefix and of one suffix, text included."""
    before, between, after = map(len, scorer.text)
    candidate = len(scorer.model.image_segment(candidates[0]))
    if scorer.rendered.query_first:
        return before + len(scorer.model.image_segment(query)) + between, candidate + after
    return before, candidate + between + len(scorer.model.image_segment(query)) + after


def _read_back(source: VisualSource, candidates: list[VisualTokens], clock: _Clock) -> tuple[float, int]:
    """Write candidates as `cache-tokens` does; return seconds to read and decode them, and bytes of their columns."""
    model = source.model
    with tempfile.TemporaryDirectory(prefix="imgrank-bench-") as folder:
        path = Path(folder) / "bench.h5"
        stored = 0
        with file.Writer(path) as writer:
            file.create(path, root=b".")
            with writer.transaction() as root:
                names = [b"%d" % i for i in range(len(candidates))]
                append_images(root, [ImageRecord(name, 0, 0, NO_DIGEST, 1, 1, OK) for name in names])
                provenance = Provenance(model.name, model.revision, source.settings.to_json())
                create_tokens(root, _CACHE, "mllm", source.codec.name, source.columns, provenance)
            for start in range(0, len(candidates), _AHEAD):
                images = [source.packed(tokens) for tokens in candidates[start : start + _AHEAD]]
                stored += sum(column.nbytes for image in images for column in image.columns.values())
                with writer.transaction() as root:
                    append_tokens(root, _CACHE, images)

        def read() -> None:
            with file.read(path) as bundle:
                table = bundle.tokens(_CACHE)
                for start in range(0, len(candidates), _AHEAD):
                    for tokens in table.read(range(start, min(start + _AHEAD, len(candidates)))):
                        source.of_tokens(tokens)

        return clock.seconds(read), stored


def _matmul_peak(model: VisionLanguageModel) -> float:
    """Return floating-point operations a second of a large square product: the best of several runs."""
    import torch

    side = _PEAK_SIDES[model.device.split(":")[0]]
    left, right = (torch.full((side, side), 0.5, device=model.device, dtype=torch_dtype(model.dtype)) for _ in range(2))
    clock, times = _Clock(model.device, 1), list[float]()
    clock.once(lambda: left @ right)
    started = time.perf_counter()
    while len(times) < _PEAK_RUNS and (len(times) < 2 or time.perf_counter() - started < _PEAK_SECONDS):
        times.append(clock.once(lambda: left @ right))
    return float(2 * side**3 / min(times))


def _plain(scorer: PairScorer, shown: TokenSettings, clock: _Clock) -> tuple[int, float]:
    """Return tokens of a photo and the median seconds of a pair in the model's own forward pass on pixels."""
    from imgrank.training.photos import draw_photo

    sizes = {"longer_side": shown.longer_side, "max_tokens": shown.max_tokens}
    photos = [draw_photo(seed, _PHOTO) for seed in range(_PLAIN_PAIRS + 1)]

    def forward(candidate: Any) -> None:
        scorer.score_plainly(photos[0], candidate, **sizes)

    forward(photos[1])
    times = [clock.once(lambda photo=photo: forward(photo)) for photo in photos[1:]]  # type: ignore[misc]
    (tokens,) = scorer.model.encode([photos[0]], **sizes)
    return len(tokens), statistics.median(times)


def _rounded(value: float) -> float:
    """Return four digits: times do not repeat better."""
    return float(f"{value:.4g}")
