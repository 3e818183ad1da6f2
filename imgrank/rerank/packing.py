"""The logit difference of (query, candidate) pairs from visual tokens, many candidates at a time.

The part of the prompt up to the candidate's photo runs once for each query; the rest of the prompt of many candidates
runs as one packed sequence (`imgrank.mllm.packed`), in chunks that fit a token budget. Knows no model family, no
file, and nothing of similarities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from imgrank.arrays import Floats
from imgrank.devices import is_out_of_memory
from imgrank.errors import ImgrankError, InputError, MissingDeviceError, SettingsError
from imgrank.mllm.answers import Answers
from imgrank.mllm.base import Prefix, Segment, VisionLanguageModel, VisualTokens
from imgrank.mllm.prompts import Prompt, render
from imgrank.mllm.segments import follow

CHUNK_TOKENS = {"cpu": 1024, "cuda": 8192, "mps": 2048}


class PairScorer:
    """Scores candidates against a query with one model, one prompt and one pair of answers.

    Scores do not depend on the order of the candidates or on the chunks, up to the last bits: matrix products of
    other sizes sum in another order. The same call gives the same bits.

    Args:
        model: from `imgrank.mllm.registry.load_mllm`.
        prompt: from `imgrank.mllm.prompts`.
        answers: the two words compared.
        chunk_tokens: tokens packed into one forward pass; None takes the device's default. It is halved, for good,
            whenever the device runs out of memory.

    Raises:
        SettingsError: the prompt or the answers do not suit the model, or `chunk_tokens` is below 1.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        prompt: Prompt,
        answers: Answers | None = None,
        *,
        chunk_tokens: int | None = None,
    ) -> None:
        if chunk_tokens is not None and chunk_tokens < 1:
            raise SettingsError(f"a chunk must hold at least 1 token, not {chunk_tokens}")
        rendered = render(prompt, answers or Answers(), model)
        self._model = model
        self._answer_ids = rendered.answer_ids
        self._query_first = rendered.query_first
        self._before = model.text_segment(rendered.before)
        self._between = model.text_segment(rendered.between)
        self._after = model.text_segment(rendered.after)
        self.chunk_tokens = chunk_tokens or CHUNK_TOKENS[model.device.split(":")[0]]

    def score(self, query: VisualTokens, candidates: Iterable[VisualTokens]) -> Floats:
        """Return the (n,) float32 logit differences z_positive - z_negative, in the order of the candidates.

        Raises:
            InputError: visual tokens of another model, or an image without tokens.
            ImgrankError: the model gave logits that are NaN or infinite.
            MissingDeviceError: not even one candidate fits into the device's memory.
        """
        return np.concatenate([np.zeros(0, dtype=np.float32), *self.score_chunks(query, candidates)])

    def score_chunks(self, query: VisualTokens, candidates: Iterable[VisualTokens]) -> Iterator[Floats]:
        """Yield the logit differences chunk by chunk, reading candidates only as they are needed.

        A caller that has seen enough can stop. Raises as `score`.
        """
        self._check(query, "the query")
        query_image = self._model.image_segment(query)
        shared = [self._before, query_image, self._between] if self._query_first else [self._before]
        tail = [self._after] if self._query_first else [self._between, query_image, self._after]
        prefix: Prefix | None = None
        waiting: list[Segment] = []
        tokens = 0
        for number, candidate in enumerate(candidates):
            self._check(candidate, f"candidate {number + 1}")
            suffix = follow([self._model.image_segment(candidate), *tail])
            if waiting and tokens + len(suffix) > self.chunk_tokens:
                prefix = prefix or self._prefill(shared)
                yield from self._run(prefix, waiting)
                waiting, tokens = [], 0
            waiting.append(suffix)
            tokens += len(suffix)
        if waiting:
            yield from self._run(prefix or self._prefill(shared), waiting)

    def _prefill(self, shared: list[Segment]) -> Prefix:
        try:
            return self._model.prefill(follow(shared))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._too_small() from error
            raise

    def _run(self, prefix: Prefix, suffixes: list[Segment]) -> Iterator[Floats]:
        """Score one chunk, in two halves where the device is too small for it."""
        try:
            differences = self._differences(prefix, suffixes)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(suffixes) == 1:
                raise self._too_small() from error
        else:
            yield differences
            return
        # Outside the handler: the exception's traceback would keep the failed pass's tensors alive.
        if self._model.device.startswith("cuda"):
            torch.cuda.empty_cache()
        self.chunk_tokens = max(1, min(self.chunk_tokens, sum(map(len, suffixes))) // 2)
        half = len(suffixes) // 2
        yield from self._run(prefix, suffixes[:half])
        yield from self._run(prefix, suffixes[half:])

    def _differences(self, prefix: Prefix, suffixes: list[Segment]) -> Floats:
        hidden = self._model.last_hidden(prefix, suffixes)
        logits = self._model.answer_logits(hidden, self._answer_ids).cpu().numpy()  # (n, 2) float32
        differences: Floats = logits[:, 1] - logits[:, 0]
        if not np.isfinite(differences).all():
            dtype = self._model.dtype
            advice = "the visual tokens or the weights are damaged" if dtype == "float32" else "try --dtype float32"
            raise ImgrankError(f"{self._model.name} gave logits that are not numbers in {dtype}; {advice}")
        return differences

    def _too_small(self) -> MissingDeviceError:
        return MissingDeviceError(
            self._model.device,
            f"too little memory to score one candidate with {self._model.name}; "
            "keep fewer visual tokens, take a smaller model, or use --device cpu",
        )

    def _check(self, tokens: VisualTokens, what: str) -> None:
        expected = (self._model.levels, self._model.hidden)
        if tokens.vectors.shape[1:] != expected:
            raise InputError(
                f"{what} has visual tokens of {tokens.vectors.shape[1:]} (levels, hidden), "
                f"{self._model.name} needs {expected}: they are another model's"
            )
        if len(tokens) == 0:
            raise InputError(f"{what} has no visual tokens")
