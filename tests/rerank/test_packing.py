"""The scoring engine against the plain forward of transformers, which knows nothing of caches or packing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from imgrank.errors import ImgrankError, InputError, MissingDeviceError, SettingsError
from imgrank.mllm.answers import NAMED_ANSWERS, Answers
from imgrank.mllm.base import VisualTokens
from imgrank.mllm.prompts import Prompt, prompt_for, render
from imgrank.mllm.registry import load_mllm
from imgrank.mllm.segments import follow
from imgrank.rerank.base import PairScores
from imgrank.rerank.packing import PairScorer, SymmetricPairScorer
from tests.families.base import TinyFamily
from tests.tiny_mllms import FAMILIES, TINY, save_tiny_mllm


@dataclass
class Setup:
    family: TinyFamily
    folder: Path
    model: Any  # the adapter under test
    network: Any  # transformers' own class, loaded apart
    tokenizer: Any
    photos: list[np.ndarray]
    tokens: list[VisualTokens]

    @property
    def count(self) -> int:
        return len(self.photos)

    def text(self, prompt: Prompt, answers: Answers | None = None) -> str:
        text = self.tokenizer.apply_chat_template(
            prompt.messages(answers or Answers()), add_generation_prompt=True, tokenize=False
        )
        return text + " " if text.endswith(":") else text  # what stands before a digit in a reply

    def difference(self, logits: torch.Tensor) -> float:
        zero, one = self.tokenizer.convert_tokens_to_ids(["0", "1"])
        return float(logits[one] - logits[zero])

    def plain(self, prompt: Prompt, *order: int) -> float:
        """Forward of one pair on input_ids and pixel_values; photos in the order of the prompt."""
        photos = [self.photos[i] for i in order]
        return self.difference(self.family.plain(self.network, self.tokenizer, self.folder, self.text(prompt), photos))

    def plain_grade(self, prompt: Prompt, answers: Answers, *order: int) -> float:
        """The expected grade in [0, 1] of one pair by that forward, in float64."""
        photos = [self.photos[i] for i in order]
        text = self.text(prompt, answers)
        logits = self.family.plain(self.network, self.tokenizer, self.folder, text, photos).double().numpy()
        weights = np.exp(logits[self.tokenizer.convert_tokens_to_ids(list(answers.grades))])
        return float(weights @ np.linspace(0, 1, len(weights)) / weights.sum())

    def plain_pruned(self, prompt: Prompt, order: tuple[int, int], kept: list[np.ndarray]) -> float:
        """Forward of one pair from whose full sequence the dropped tokens were deleted, positions kept."""
        photos = [self.photos[i] for i in order]
        return self.difference(
            self.family.plain_pruned(self.network, self.tokenizer, self.folder, self.text(prompt), photos, kept)
        )


@pytest.fixture(scope="module", params=FAMILIES)
def setup(request, tmp_path_factory) -> Setup:
    family = TINY[request.param]
    folder = save_tiny_mllm(tmp_path_factory.mktemp("packing") / request.param, request.param)
    model = load_mllm(str(folder), device="cpu", dtype="float32")
    network = getattr(transformers, family.model_class).from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    random = np.random.default_rng(0)
    photos = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in family.photo_sizes]
    tokens = model.encode(photos, longer_side=family.longer_side, max_tokens=family.max_tokens)
    return Setup(family, folder, model, network, tokenizer, photos, tokens)


def test_every_pair_has_the_logit_difference_of_the_plain_forward(setup):
    prompt = prompt_for("object")
    expected = [setup.plain(prompt, 0, i) for i in range(1, setup.count)]
    scores = PairScorer(setup.model, prompt).score(setup.tokens[0], setup.tokens[1:])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    assert np.std(expected) > 0.01  # else equality would prove nothing


def test_every_pair_has_the_expected_grade_of_the_plain_forward(setup):
    prompt, answers = prompt_for("object"), NAMED_ANSWERS["grades"]
    expected = [setup.plain_grade(prompt, answers, 0, i) for i in range(1, setup.count)]
    scorer = PairScorer(setup.model, prompt, answers)
    logits = scorer.score(setup.tokens[0], setup.tokens[1:])
    scores = PairScores.of_logits(logits)
    np.testing.assert_allclose(scores.values, expected, atol=1e-5, rtol=0)
    assert np.std(expected) > 0.001
    sizes = {"longer_side": setup.family.longer_side, "max_tokens": setup.family.max_tokens}
    assert abs(scorer.score_plainly(*setup.photos[:2], **sizes) - logits[0]) < 1e-4


def test_two_grades_are_two_answers_to_the_bit(setup, monkeypatch):
    said = []
    answer_logits = setup.model.answer_logits

    def remembered(hidden, ids):
        said.append(answer_logits(hidden, ids).numpy())
        return torch.from_numpy(said[-1])

    monkeypatch.setattr(setup.model, "answer_logits", remembered)
    scores = PairScorer(setup.model, prompt_for("object")).score(setup.tokens[0], setup.tokens[1:])
    zero, one = np.concatenate(said).T
    np.testing.assert_array_equal(scores, one - zero)


@pytest.mark.parametrize("pairs", [0, 2, 3, 100])
def test_chunks_do_not_change_scores(setup, pairs):
    prompt = prompt_for("landmark")
    whole = PairScorer(setup.model, prompt).score(setup.tokens[0], setup.tokens[1:])
    after = len(render(prompt, Answers(), setup.model).after)
    longest = max(len(setup.model.image_segment(tokens)) for tokens in setup.tokens) + after
    scorer = PairScorer(setup.model, prompt, chunk_tokens=pairs * longest or 1)
    chunks = list(scorer.about(setup.tokens[0]).chunks(setup.tokens[1:]))
    assert len(chunks) <= {0: 6, 2: 3, 3: 2, 100: 1}[pairs]
    assert (len(chunks) == 6) == (pairs == 0)
    np.testing.assert_allclose(np.concatenate(chunks), whole, atol=2e-5, rtol=0)


def test_the_models_own_plain_road_agrees(setup):
    prompt = prompt_for("artwork")
    rendered = render(prompt, Answers(), setup.model)
    image = setup.model.image_token
    ids = [*rendered.before, image, *rendered.between, image, *rendered.after]
    sizes = {"longer_side": setup.family.longer_side, "max_tokens": setup.family.max_tokens}
    scores = PairScorer(setup.model, prompt).score(setup.tokens[0], setup.tokens[1:])
    for number in (1, 2):
        pair = [setup.photos[0], setup.photos[number]]
        negative, positive = setup.model.plain_logits(ids, pair, rendered.answer_ids, **sizes).tolist()
        assert abs(positive - negative - scores[number - 1]) < 1e-4
    # ... and leaves the fast road as it was.
    np.testing.assert_array_equal(PairScorer(setup.model, prompt).score(setup.tokens[0], setup.tokens[1:]), scores)


def test_order_and_company_of_candidates_do_not_change_scores(setup):
    scorer = PairScorer(setup.model, prompt_for("product"))
    scores = scorer.score(setup.tokens[0], setup.tokens[1:])
    backwards = scorer.score(setup.tokens[0], setup.tokens[:0:-1])
    np.testing.assert_allclose(backwards[::-1], scores, atol=2e-5, rtol=0)
    alone = [scorer.score(setup.tokens[0], [tokens])[0] for tokens in setup.tokens[1:]]
    np.testing.assert_allclose(alone, scores, atol=2e-5, rtol=0)


def test_pruned_tokens_keep_their_places_in_the_full_grid(setup):
    prompt = prompt_for("object")
    random = np.random.default_rng(1)
    kept = [random.random(len(tokens)) < 0.4 for tokens in setup.tokens]
    kept[0][:] = True  # the query is not pruned, as in a search
    kept[4][-1] = False  # the last token of that image goes: the text after it must not move
    pruned = [tokens.take(mask) for tokens, mask in zip(setup.tokens, kept, strict=True)]
    scores = PairScorer(setup.model, prompt).score(pruned[0], pruned[1:])
    expected = [setup.plain_pruned(prompt, (0, i), [kept[0], kept[i]]) for i in range(1, setup.count)]
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    full = PairScorer(setup.model, prompt).score(setup.tokens[0], setup.tokens[1:])
    assert np.abs(scores - full).max() > 0.01


def test_a_pruned_query_and_one_single_token(setup):
    prompt = prompt_for("artwork")
    kept = [np.arange(len(tokens)) % 3 == 1 for tokens in setup.tokens]
    kept[2] = np.arange(len(setup.tokens[2])) == 5
    expected = setup.plain_pruned(prompt, (0, 2), [kept[0], kept[2]])
    scores = PairScorer(setup.model, prompt).score(setup.tokens[0].take(kept[0]), [setup.tokens[2].take(kept[2])])
    np.testing.assert_allclose(scores, [expected], atol=1e-4, rtol=0)


def test_a_prompt_may_name_the_candidate_first_and_bring_a_system_message(setup):
    prompt = Prompt(
        "mine", "Look: {candidate} Does it show the thing of {query}? Say {positive} or {negative}.", "Be strict."
    )
    expected = [setup.plain(prompt, i, 0) for i in range(1, setup.count)]
    scores = PairScorer(setup.model, prompt, chunk_tokens=300).score(setup.tokens[0], setup.tokens[1:])
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)


def test_the_prefix_runs_once_for_many_calls(setup, monkeypatch):
    scorer = PairScorer(setup.model, prompt_for("object"))
    expected = scorer.score(setup.tokens[0], setup.tokens[1:])
    runs = []
    prefill = setup.model.prefill
    monkeypatch.setattr(setup.model, "prefill", lambda segment: runs.append(1) or prefill(segment))
    about = scorer.about(setup.tokens[0])
    one_by_one = [np.concatenate(list(about.chunks([tokens]))) for tokens in setup.tokens[1:]]
    np.testing.assert_allclose(np.concatenate(one_by_one), expected, atol=2e-5, rtol=0)
    assert len(runs) == 1


def test_the_last_layer_computes_only_what_is_read(setup, monkeypatch):
    scorer = PairScorer(setup.model, prompt_for("object"), chunk_tokens=100_000)
    plain = setup.model._decoder.layers[-1].mlp
    seen = []
    handle = next(module for module in plain.modules() if isinstance(module, torch.nn.Linear)).register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].flatten(0, -2).shape[0])
    )
    try:
        scorer.score(setup.tokens[0], setup.tokens[1:])
    finally:
        handle.remove()
    assert seen
    assert set(seen) <= set(range(1, setup.count))  # a row for each candidate; experts see some of them; no prefix


def test_symmetric_scores_ask_in_both_orders(setup):
    prompt = Prompt("mine", "Query {query} and candidate {candidate}: say {positive} or {negative}.")
    scorer = SymmetricPairScorer(setup.model, prompt, chunk_tokens=200)
    chunks = list(scorer.about(setup.tokens[0]).chunks(setup.tokens[1:]))
    ways = np.concatenate(chunks, axis=1)
    there = np.array([setup.plain(prompt, 0, i) for i in range(1, setup.count)])
    back = np.array([setup.plain(prompt, i, 0) for i in range(1, setup.count)])
    np.testing.assert_allclose(ways, [there, back], atol=1e-4, rtol=0)
    assert np.abs(there - back).max() > 0.01
    # Which of two photos is called the query does not matter.
    (other,) = scorer.about(setup.tokens[1]).chunks([setup.tokens[0]])
    np.testing.assert_allclose(other[::-1, 0], ways[:, 0], atol=1e-4, rtol=0)


def test_swapping_the_answers_changes_the_sign(setup):
    prompt = Prompt("mine", "{query}{candidate}Same?")
    scores = PairScorer(setup.model, prompt).score(setup.tokens[0], setup.tokens[1:])
    swapped = PairScorer(setup.model, prompt, Answers("1", "0")).score(setup.tokens[0], setup.tokens[1:])
    np.testing.assert_allclose(swapped, -scores, atol=1e-6, rtol=0)


def test_same_call_same_bits(setup):
    scorer = PairScorer(setup.model, prompt_for("object"), chunk_tokens=500)
    first, second = (scorer.score(setup.tokens[0], setup.tokens[1:]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_scoring_alters_neither_the_model_nor_the_tokens(setup):
    scorer = PairScorer(setup.model, prompt_for("object"))
    before = [tokens.vectors.copy() for tokens in setup.tokens]
    score = scorer.score(setup.tokens[0], setup.tokens[1:2])
    scorer.score(setup.tokens[3], setup.tokens[4:])
    np.testing.assert_array_equal(scorer.score(setup.tokens[0], setup.tokens[1:2]), score)
    for tokens, vectors in zip(setup.tokens, before, strict=True):
        np.testing.assert_array_equal(tokens.vectors, vectors)


def test_no_candidates_no_scores(setup):
    assert PairScorer(setup.model, prompt_for("object")).score(setup.tokens[0], []).shape == (0,)


def test_candidates_are_read_only_as_they_are_needed(setup):
    read = []

    def candidates():
        for number in range(1, setup.count):
            read.append(number)
            yield setup.tokens[number]

    chunks = PairScorer(setup.model, prompt_for("object"), chunk_tokens=1).about(setup.tokens[0]).chunks(candidates())
    next(chunks)
    assert read == [1, 2]  # the second had to be seen to know that the first chunk was full


def test_float16_tokens_score_like_their_float32_values(setup):
    scorer = PairScorer(setup.model, prompt_for("object"))
    half = [VisualTokens(t.vectors.astype(np.float16), t.positions, t.grid, t.tiles) for t in setup.tokens]
    wide = [VisualTokens(t.vectors.astype(np.float32), t.positions, t.grid, t.tiles) for t in half]
    np.testing.assert_array_equal(scorer.score(half[0], half[1:]), scorer.score(wide[0], wide[1:]))


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_comes_close_to_float32(tmp_path, family):
    folder = save_tiny_mllm(tmp_path / family, family)
    random = np.random.default_rng(0)
    photos = [random.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(6)]
    tiny = TINY[family]
    scores = {}
    for dtype in ("float32", "bfloat16"):
        model = load_mllm(str(folder), device="cpu", dtype=dtype)
        tokens = model.encode(photos, longer_side=min(128, tiny.longer_side), max_tokens=tiny.max_tokens)
        scores[dtype] = PairScorer(model, prompt_for("object")).score(tokens[0], tokens[1:])
    error = np.abs(scores["bfloat16"] - scores["float32"]).max()
    assert 0 < error < 0.15


def test_tokens_of_another_model_are_refused(setup):
    scorer = PairScorer(setup.model, prompt_for("object"))
    alien = VisualTokens(np.zeros((1, 7, 3), np.float32), np.zeros((1, 3), np.uint16), (1, 1))
    with pytest.raises(InputError, match="candidate 2 has visual tokens of"):
        scorer.score(setup.tokens[0], [setup.tokens[1], alien])
    with pytest.raises(InputError, match="the query has visual tokens of"):
        scorer.score(alien, [])
    with pytest.raises(InputError, match="candidate 1 has no visual tokens"):
        scorer.score(setup.tokens[0], [setup.tokens[1].take(np.zeros(0, int))])


def test_a_chunk_needs_room_for_a_token(setup):
    with pytest.raises(SettingsError, match="at least 1 token"):
        PairScorer(setup.model, prompt_for("object"), chunk_tokens=0)


def test_nan_logits_are_an_error_with_advice(setup, monkeypatch):
    scorer = PairScorer(setup.model, prompt_for("object"))
    monkeypatch.setattr(setup.model, "dtype", "bfloat16")
    monkeypatch.setattr(setup.model, "answer_logits", lambda hidden, ids: torch.full((len(hidden), 2), float("nan")))
    with pytest.raises(ImgrankError, match="--dtype float32"):
        scorer.score(setup.tokens[0], setup.tokens[1:])


class Small:
    """A model whose device runs out of memory above so many packed tokens, half way through its layers."""

    def __init__(self, setup: Setup, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[int] = []
        self.limit = limit
        last_layer = setup.model._decoder.layers[-1]
        plain = last_layer.forward

        def forward(hidden_states, *args, **kwargs):
            if kwargs["packed_layout"] is not None:
                self.runs.append(hidden_states.shape[1])
                if hidden_states.shape[1] > self.limit:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            return plain(hidden_states, *args, **kwargs)

        monkeypatch.setattr(last_layer, "forward", forward)


def test_running_out_of_memory_halves_the_chunk_and_loses_nothing(setup, monkeypatch):
    prompt = prompt_for("object")
    expected = PairScorer(setup.model, prompt).score(setup.tokens[0], setup.tokens[1:])
    small = Small(setup, 450, monkeypatch)
    scorer = PairScorer(setup.model, prompt, chunk_tokens=5000)
    scores = scorer.score(setup.tokens[0], setup.tokens[1:])
    np.testing.assert_allclose(scores, expected, atol=2e-5, rtol=0)
    assert max(small.runs) > 450
    assert scorer.chunk_tokens < 5000
    small.runs.clear()
    scorer.score(setup.tokens[0], setup.tokens[1:])
    assert len([run for run in small.runs if run > 450]) <= 1  # the lesson is kept


def test_a_device_too_small_for_one_candidate_is_an_error(setup, monkeypatch):
    Small(setup, 10, monkeypatch)
    with pytest.raises(MissingDeviceError, match="fewer visual tokens"):
        PairScorer(setup.model, prompt_for("object")).score(setup.tokens[0], setup.tokens[1:])


def test_other_errors_of_the_model_are_not_taken_for_memory(setup, monkeypatch):
    def fail(*args):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(setup.model, "last_hidden", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        PairScorer(setup.model, prompt_for("object")).score(setup.tokens[0], setup.tokens[1:])


def test_attention_of_the_answer_is_that_of_the_plain_forward(setup):
    prompt = prompt_for("object")
    decoder = setup.model._decoder
    names = {type(layer.self_attn) for layer in decoder.layers if hasattr(layer, "self_attn")}
    weights: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, given, found: weights.append(found[1][0, :, -1]))
        for name, module in setup.network.named_modules()
        if type(module) in names
    ]
    setup.network.set_attn_implementation({"text_config": "eager"})
    try:
        for query_first, order in ((True, (0, 1)), (False, (1, 0))):
            weights.clear()
            setup.plain(prompt, *order)
            expected = torch.stack(weights)  # (layers, heads, length)
            scorer = PairScorer(setup.model, prompt if query_first else prompt.swapped())
            query, candidate = setup.tokens[:2]
            pairs = scorer.about(query)
            suffix = follow([scorer.candidate_segment(candidate, 1), *pairs._tail])
            found = setup.model.end_attention(pairs._prefix, suffix)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
            visual = torch.cat([pairs._shared_visual, suffix.visual])
            shares = expected.mean(dim=1)[:, visual].numpy()
            first = len(query) if query_first else len(candidate)
            parts = (shares[:, :first], shares[:, first:])
            of_query, of_candidate = scorer.attention(query, candidate)
            np.testing.assert_allclose(of_query, parts[not query_first], atol=1e-4)
            np.testing.assert_allclose(of_candidate, parts[query_first], atol=1e-4)
            assert of_query.shape[1] == len(query)
            assert of_candidate.shape[1] == len(candidate)
    finally:
        setup.network.set_attn_implementation({"text_config": "sdpa"})
        for hook in hooks:
            hook.remove()
