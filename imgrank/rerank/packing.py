"""The logit of "same" of (query, candidate) pairs from visual tokens, many candidates at a time.

The part of the prompt up to the candidate's photo runs once for each query; the rest of the prompt of many candidates
runs as one packed sequence (`imgrank.mllm.packed`), in chunks that fit a token budget. Knows no model family, no
file, and nothing of similarities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from imgrank.arrays import Floats, Pixels
from imgrank.devices import free_memory, is_out_of_memory
from imgrank.errors import ImgrankError, InputError, MissingDeviceError, SettingsError
from imgrank.mllm.answers import Answers
from imgrank.mllm.base import Prefix, Segment, VisionLanguageModel, VisualTokens
from imgrank.mllm.prompts import Prompt, render
from imgrank.mllm.segments import follow
from imgrank.rerank.grades import match_logits

# On a CPU longer chunks gain nothing: 1,024 rows keep its cores busy, and their activations still fit its caches.
_CPU_CHUNK_TOKENS = 1024
_FEWEST_TOKENS, _MOST_TOKENS = 512, 32768
_SHARE_OF_MEMORY = 0.4  # of what is free; the rest is for the prefix, the vision tower and fragments


def default_chunk_tokens(model: VisionLanguageModel) -> int:
    """Return how many tokens are packed into one forward pass on the model's device, by its free memory."""
    if model.device == "cpu":
        return _CPU_CHUNK_TOKENS
    free = free_memory(model.device)
    if free is None:
        return _FEWEST_TOKENS
    return max(_FEWEST_TOKENS, min(_MOST_TOKENS, int(free * _SHARE_OF_MEMORY) // model.row_bytes))


class PairScorer:
    """Scores candidates against a query with one model, one prompt and one scale of answers.

    Scores do not depend on the order of the candidates or on the chunks, up to the last bits: matrix products of
    other sizes sum in another order. The same call gives the same bits.

    Args:
        model: from `imgrank.mllm.registry.load_mllm`.
        prompt: from `imgrank.mllm.prompts`.
        answers: the words compared.
        chunk_tokens: tokens packed into one forward pass; None chooses by the device's free memory. It is halved, for
            good, whenever the device runs out of memory.

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
        self.prompt, self.answers = prompt, answers or Answers()
        self.rendered = render(self.prompt, self.answers, model)
        self.model = model
        self.text = tuple(
            model.text_segment(ids) for ids in (self.rendered.before, self.rendered.between, self.rendered.after)
        )
        self.chunk_tokens = chunk_tokens or default_chunk_tokens(model)

    @property
    def ways(self) -> tuple[PairScorer, ...]:
        """The ways in which a pair is asked about: this one."""
        return (self,)

    def swapped(self) -> PairScorer:
        """Return what asks the same with the roles of query and candidate exchanged."""
        return PairScorer(self.model, self.prompt.swapped(), self.answers, chunk_tokens=self.chunk_tokens)

    def score(self, query: VisualTokens, candidates: Iterable[VisualTokens]) -> Floats:
        """Return the (n,) float32 logits of "same" (`imgrank.rerank.grades`), in the order of the candidates.

        Raises:
            InputError: visual tokens of another model, or an image without tokens.
            ImgrankError: the model gave logits that are NaN or infinite.
            MissingDeviceError: not even one candidate fits into the device's memory.
        """
        chunks = self.about(query).chunks(candidates)
        return np.concatenate([np.zeros(0, dtype=np.float32), *chunks])

    def score_plainly(self, query: Pixels, candidate: Pixels, *, longer_side: int, max_tokens: int) -> float:
        """Return the logit of "same" by the model's published forward on the pixels of one pair: slow, for checks.

        Args:
            query: (height, width, 3) uint8.
            candidate: likewise.
            longer_side: as for `VisionLanguageModel.encode`.
            max_tokens: likewise.
        """
        text, image = self.rendered, self.model.image_token
        ids = [*text.before, image, *text.between, image, *text.after]
        pair = [query, candidate] if text.query_first else [candidate, query]
        logits = self.model.plain_logits(ids, pair, text.answer_ids, longer_side=longer_side, max_tokens=max_tokens)
        return float(match_logits(logits.cpu().numpy()[None])[0])

    def about(self, query: VisualTokens) -> QueryPairs:
        """Get ready to score candidates of one query, in as many calls as one likes.

        Raises:
            InputError: visual tokens of another model, or an image without tokens.
            MissingDeviceError: the prompt up to the candidate does not fit into the device's memory.
        """
        self._check(query, "the query")
        return QueryPairs(self, self.model.image_segment(query))

    def attention(self, query: VisualTokens, candidate: VisualTokens) -> tuple[Floats, Floats]:
        """Return what the position that predicts the answer attends to, the mean over the heads of each layer.

        Returns:
            (layers, n) float32 weights of the query's visual tokens and (layers, m) of the candidate's. All weights of
            a layer, those of text included, sum to 1. Layers without attention are left out.

        Raises:
            InputError: visual tokens of another model, or an image without tokens.
        """
        weights = self.about(query).attention(candidate)
        first = len(query) if self.rendered.query_first else len(candidate)
        one, other = np.split(weights, [first], axis=1)
        return (one, other) if self.rendered.query_first else (other, one)

    def candidate_segment(self, tokens: VisualTokens, number: int) -> Segment:
        """Return a candidate as the language model receives it; `number` names it in errors."""
        self._check(tokens, f"candidate {number}")
        return self.model.image_segment(tokens)

    def prefill(self, shared: list[Segment]) -> Prefix:
        """Run what all pairs of a query share."""
        try:
            return self.model.prefill(follow(shared))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._too_small() from error
            raise

    def score_suffixes(self, prefix: Prefix, suffixes: list[Segment]) -> Iterator[Floats]:
        """Score one chunk, in two halves where the device is too small for it."""
        try:
            logits = self._logits(prefix, suffixes)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(suffixes) == 1:
                raise self._too_small() from error
        else:
            yield logits
            return
        # Outside the handler: the exception's traceback would keep the failed pass's tensors alive.
        if self.model.device.startswith("cuda"):
            torch.cuda.empty_cache()
        self.chunk_tokens = max(1, min(self.chunk_tokens, sum(map(len, suffixes))) // 2)
        half = len(suffixes) // 2
        yield from self.score_suffixes(prefix, suffixes[:half])
        yield from self.score_suffixes(prefix, suffixes[half:])

    def _logits(self, prefix: Prefix, suffixes: list[Segment]) -> Floats:
        hidden = self.model.last_hidden(prefix, suffixes)
        grades = self.model.answer_logits(hidden, self.rendered.answer_ids).cpu().numpy()  # (n, answers) float32
        if not np.isfinite(grades).all():
            dtype = self.model.dtype
            advice = "the visual tokens or the weights are damaged" if dtype == "float32" else "try --dtype float32"
            raise ImgrankError(f"{self.model.name} gave logits that are not numbers in {dtype}; {advice}")
        return match_logits(grades)

    def _too_small(self) -> MissingDeviceError:
        return MissingDeviceError(
            self.model.device,
            f"too little memory to score one candidate with {self.model.name}; "
            "keep fewer visual tokens, take a smaller model, or use --device cpu",
        )

    def _check(self, tokens: VisualTokens, what: str) -> None:
        expected = (self.model.levels, self.model.hidden)
        if tokens.vectors.shape[1:] != expected:
            raise InputError(
                f"{what} has visual tokens of {tokens.vectors.shape[1:]} (levels, hidden), "
                f"{self.model.name} needs {expected}: they are another model's"
            )
        if len(tokens) == 0:
            raise InputError(f"{what} has no visual tokens")


class QueryPairs:
    """The pairs of one query; what they share has been run."""

    def __init__(self, scorer: PairScorer, image: Segment) -> None:
        self._scorer = scorer
        before, between, after = scorer.text
        query_first = scorer.rendered.query_first
        shared = [before, image, between] if query_first else [before]
        self._shared_visual = torch.cat([segment.visual for segment in shared])
        self._prefix = scorer.prefill(shared)
        self._tail = [after] if query_first else [between, image, after]

    def attention(self, candidate: VisualTokens) -> Floats:
        """Return (layers, visual tokens of both photos, in the order of the prompt) float32; see `PairScorer`."""
        suffix = follow([self._scorer.candidate_segment(candidate, 1), *self._tail])
        weights = self._scorer.model.end_attention(self._prefix, suffix).mean(dim=1)
        visual: Floats = weights[:, torch.cat([self._shared_visual, suffix.visual])].cpu().numpy()
        return visual

    def chunks(self, candidates: Iterable[VisualTokens]) -> Iterator[Floats]:
        """Yield the logits of "same" chunk by chunk, reading candidates only as they are needed.

        A caller that has seen enough can stop. Raises as `PairScorer.score`.
        """
        chunk: list[Segment] = []
        rows = 0
        for number, candidate in enumerate(candidates, 1):
            suffix = follow([self._scorer.candidate_segment(candidate, number), *self._tail])
            if chunk and rows + len(suffix) > self._scorer.chunk_tokens:
                yield from self._scorer.score_suffixes(self._prefix, chunk)
                chunk, rows = [], 0
            chunk.append(suffix)
            rows += len(suffix)
        if chunk:
            yield from self._scorer.score_suffixes(self._prefix, chunk)


class SymmetricPairScorer:
    """Asks about each pair twice, the second time with the roles of query and candidate exchanged.

    The mean of the two logits does not depend on which photo is called the query; their distance tells how
    far the model's answer does.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        prompt: Prompt,
        answers: Answers | None = None,
        *,
        chunk_tokens: int | None = None,
    ) -> None:
        self.ways = tuple(
            PairScorer(model, way, answers, chunk_tokens=chunk_tokens) for way in (prompt, prompt.swapped())
        )

    def about(self, query: VisualTokens) -> SymmetricQueryPairs:
        """Get ready to score candidates of one query; see `PairScorer.about`."""
        return SymmetricQueryPairs(*(way.about(query) for way in self.ways))


class SymmetricQueryPairs:
    """The pairs of one query, both ways."""

    def __init__(self, forward: QueryPairs, backward: QueryPairs) -> None:
        self._forward, self._backward = forward, backward

    def chunks(self, candidates: Iterable[VisualTokens]) -> Iterator[Floats]:
        """Yield (2, n) logits of "same", as asked and the other way round, chunk by chunk."""
        waiting: list[VisualTokens] = []  # scored one way, not yet the other

        def remembered() -> Iterator[VisualTokens]:
            for candidate in candidates:
                waiting.append(candidate)
                yield candidate

        for one in self._forward.chunks(remembered()):
            these, waiting[: len(one)] = waiting[: len(one)], []
            other = np.concatenate(list(self._backward.chunks(these)))
            yield np.stack([one, other])
