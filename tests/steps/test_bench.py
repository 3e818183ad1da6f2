"""What `bench` counts and reports, on tiny models; that times are right can only be seen, but not what they are of."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from imgrank.cli.bench import _lines
from imgrank.errors import MissingDeviceError, MissingModelError, SettingsError
from imgrank.mllm import random_weights
from imgrank.mllm.prompts import prompt_for
from imgrank.mllm.random_weights import random_mllm
from imgrank.mllm.registry import ADAPTERS, load_mllm
from imgrank.mllm.work import DecoderWork, decoder_work
from imgrank.progress import Silent
from imgrank.rerank.packing import PairScorer
from imgrank.steps.bench import BenchSettings, _read_back, _rows, bench_rerank
from imgrank.training.photos import draw_photo
from tests.tiny_mllms import TINY

SMALL = BenchSettings(tokens_per_image=9, query_tokens=20, candidates=5, repeat=1, device="cpu", dtype="float32")
SEVEN = Path(__file__).parents[1] / "benchmarks" / "qwen2_5_vl_7b.json"


@pytest.fixture(autouse=True)
def _small_matrices(monkeypatch):
    monkeypatch.setattr("imgrank.steps.bench._PEAK_SIDES", {"cpu": 128})


class Heard(Silent):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def alone(folder, tmp_path):
    """Return the config.json of a folder without what lies beside it."""
    return Path(
        (tmp_path / "shape.json").write_bytes((folder / "config.json").read_bytes()) and tmp_path / "shape.json"
    )


def test_every_family_has_a_tiny_model():
    assert {tiny.name for tiny in TINY.values()} == set(ADAPTERS) - {"imgrank_keypoints"}


@pytest.mark.parametrize("family", list(TINY))
def test_a_configuration_is_enough_to_score_pairs(model_folder, tmp_path, family):
    folder = model_folder(family)
    real, made = (
        load_mllm(str(folder), device="cpu"),
        random_mllm(alone(folder, tmp_path), device="cpu", dtype="float32"),
    )
    assert (made.family, made.hidden, made.levels) == (real.family, real.hidden, real.levels)
    shapes = {name: weights.shape for name, weights in real._network.named_parameters()}
    for name, weights in made._network.named_parameters():
        assert weights.shape == shapes.pop(name)
        assert weights.isfinite().all()
        assert weights.abs().max() < 10
    assert not shapes
    for name, buffer in real._network.named_buffers():  # rotary frequencies are computed and not loaded
        assert torch.equal(buffer, made._network.get_buffer(name)), name
    photos = [draw_photo(seed, (120, 160)) for seed in range(2)]
    query, candidate = made.encode(photos, longer_side=560, max_tokens=4096)
    scorer = PairScorer(made, prompt_for("object"))
    text = scorer.rendered
    ids = [*text.before, made.image_token, *text.between, made.image_token, *text.after]
    plain = made.plain_logits(ids, photos, text.answer_ids, longer_side=560, max_tokens=4096)
    assert scorer.score(query, [candidate])[0] == pytest.approx(float(plain[1] - plain[0]), abs=1e-4)


def test_random_weights_are_the_same_each_time(model_folder):
    folder = model_folder("qwen3_vl")
    before = torch.random.get_rng_state()
    one, other = (random_mllm(folder, device="cpu", dtype="bfloat16") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for first, second in zip(one._network.parameters(), other._network.parameters(), strict=True):
        assert first.dtype == torch.bfloat16
        assert torch.equal(first, second)


def test_what_cannot_be_built_is_refused(model_folder, tmp_path, monkeypatch):
    with pytest.raises(MissingModelError):
        random_mllm(tmp_path / "gone.json", device="cpu", dtype="float32")
    odd = tmp_path / "odd.json"
    odd.write_text('{"model_type": "bert"}')
    with pytest.raises(SettingsError, match="'bert'"):
        random_mllm(odd, device="cpu", dtype="float32")
    monkeypatch.setattr(random_weights, "free_memory", lambda device: 1000)
    with pytest.raises(MissingDeviceError, match="are free"):
        random_mllm(model_folder("qwen3_vl"), device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("family", "weights", "last", "windows"),
    [
        # hidden 64, 4 layers, 4 heads of 16, 2 of keys, feed-forward 128: 2 x 64 x 64 + 2 x 64 x 32 + 3 x 64 x 128
        ("qwen3_vl", 4 * 36_864, 24_576, (None,) * 4),
        # heads of 32: 2 x 64 x 128 + 2 x 64 x 64 + 3 x 64 x 128
        ("gemma3", 4 * 49_152, 24_576, (24, 24, None, 24)),
        # 2 of 4 experts, a shared one and its gate, the router: 3 x 3 x 64 x 64 + 64 + 4 x 64 in each layer; one layer
        # with gated attention: 3 x 64 x 64 + 2 x 64 x 32; three without: 64 x (96 + 32 + 8) + 96 x 4 + 32 x 64
        ("qwen3_5_moe", 4 * 37_184 + 16_384 + 3 * 11_136, 37_184, (None,)),
    ],
)
def test_the_work_of_a_token_by_hand(model_folder, family, weights, last, windows):
    work = decoder_work(random_mllm(model_folder(family), device="cpu", dtype="float32"))
    assert (work.weights, work.last, work.windows, work.heads) == (weights, last, windows, 4)


def test_operations_by_hand():
    work = DecoderWork(weights=10, last=4, windows=(None, 4), heads=2, dim=3)
    assert work.prefix(6) == 6 * (2 * 6 + 24 * (3 + 3))
    assert work.suffixes(6, [2, 4]) == 2 * (12 + 24 * (7 + 4)) + 4 * (12 + 24 * (8 + 4)) + 2 * 2 * 4


def test_operations_are_those_that_torch_counts(model_folder):
    model = random_mllm(model_folder("qwen2_5_vl"), device="cpu", dtype="float32")
    scorer, work = PairScorer(model, prompt_for("object")), decoder_work(model)
    (query,) = model.encode([draw_photo(0, (120, 160))], longer_side=560, max_tokens=4096)
    candidates = [query.take(np.arange(5))] * 3
    prefix_rows, suffix_rows = _rows(scorer, query, candidates)
    with FlopCounterMode(display=False) as counter:
        pairs = scorer.about(query)
    assert products(counter) == 2 * (work.weights - work.last) * prefix_rows
    with FlopCounterMode(display=False) as counter:
        list(pairs.chunks(candidates))
    answers = 2 * 3 * model.hidden * 2  # the output layer for 3 pairs and 2 words
    rows = 2 * (work.weights - work.last) * 3 * suffix_rows + 2 * work.last * 3
    assert products(counter) == rows + answers


def products(counter):
    counts = counter.get_flop_counts()["Global"]
    return counts.get(torch.ops.aten.mm, 0) + counts.get(torch.ops.aten.addmm, 0)


def test_what_is_measured(model_folder):
    found = bench_rerank(str(model_folder("qwen3_vl")), settings=SMALL)
    assert (found["tokens_per_image"], found["query_tokens"], found["candidates"]) == (9, 20, 5)
    assert found["suffix_rows"] > 9
    assert found["prefix_rows"] > 20
    assert set(found["seconds"]) == {"vision", "prefix", "suffix", "read"}
    assert min(found["seconds"].values()) > 0
    assert found["total_seconds"] == pytest.approx(sum(found["seconds"].values()), rel=1e-3)
    assert found["pairs_per_second"] == pytest.approx(5 / found["total_seconds"], rel=1e-3)
    assert found["tokens_per_second"] == pytest.approx(5 * found["suffix_rows"] / found["seconds"]["suffix"], rel=1e-3)
    for part in ("prefix", "suffix"):
        share = found["tflops"][part] / found["matmul_tflops"]
        assert found["share_of_matmul"][part] == pytest.approx(share, rel=3e-3)
    values = 3 * 64 * 2  # levels, hidden, bytes of float16
    assert found["stored_bytes"] == 5 * 9 * (values + 3 * 2)
    assert "plain_ratio" not in found
    json.dumps(found)


def test_the_question_first_is_shared(model_folder):
    rows = {}
    for layout in ("images-first", "instruction-first"):
        settings = BenchSettings(**{**vars(SMALL), "prompt_layout": layout})
        rows[layout] = bench_rerank(random_weights=model_folder("qwen3_vl"), settings=settings)
    assert rows["instruction-first"]["suffix_rows"] < rows["images-first"]["suffix_rows"]
    assert rows["instruction-first"]["prefix_rows"] > rows["images-first"]["prefix_rows"]


def test_a_larger_photo_where_more_tokens_are_wanted(model_folder):
    many = BenchSettings(**{**vars(SMALL), "query_tokens": 500})
    heard = Heard()
    assert bench_rerank(str(model_folder("qwen3_vl")), settings=many, reporter=heard)["query_tokens"] == 500
    assert heard.notes == []
    assert bench_rerank(str(model_folder("gemma3")), settings=many, reporter=heard)["query_tokens"] == 16
    (note,) = heard.notes
    assert "16 visual tokens" in note


def test_the_read_part_gives_back_what_was_written(model_folder):
    from imgrank.config import TokenSettings
    from imgrank.steps.features import VisualSource

    model = load_mllm(str(model_folder("qwen3_vl")), device="cpu")
    (tokens,) = model.encode([draw_photo(0, (120, 160))], longer_side=560, max_tokens=4096)
    source, read = VisualSource(model, TokenSettings(reduce="", store="float16")), []
    decode = source.of_tokens
    source.of_tokens = lambda stored: read.append(decode(stored))

    class Once:
        def seconds(self, run):
            run()
            return 0.0

    _read_back(source, [tokens, tokens.take([3, 1])] * 10, Once())
    assert len(read) == 20
    np.testing.assert_allclose(read[19].vectors, tokens.vectors[[3, 1]], rtol=1e-3, atol=1e-6)
    assert read[18].positions.tolist() == tokens.positions.tolist()


def test_one_model_is_wanted(model_folder):
    folder = model_folder("qwen3_vl")
    for names in ({}, {"mllm": str(folder), "random_weights": folder}):
        with pytest.raises(SettingsError, match="one of both"):
            bench_rerank(**names, settings=SMALL)


def test_the_seven_billion_shape_has_the_weights_of_the_published_model():
    config = transformers.Qwen2_5_VLConfig.from_dict(json.loads(SEVEN.read_text()))
    with torch.device("meta"):
        network = transformers.Qwen2_5_VLForConditionalGeneration(config)
    assert sum(weights.numel() for weights in network.parameters()) == 8_292_166_656


def test_the_command(imgrank, model_folder, tmp_path):
    shape = alone(model_folder("qwen2_5_vl"), tmp_path)
    small = ("--candidates", 3, "--tokens-per-image", 6, "--query-tokens", 8, "--repeat", 1, "--device", "cpu")
    run = imgrank("bench", "rerank", "--random-weights", shape, *small, "--compare", "--token-dtype", "int8")
    assert run.returncode == 0, run.stderr.decode()
    record = json.loads(run.stdout)
    assert (record["bench"], record["weights"], record["family"]) == ("rerank", "random", "qwen2_5_vl")
    assert record["torch"] == torch.__version__
    ratio = record["plain_seconds_per_pair"] * 3 / record["total_seconds"]
    assert record["plain_ratio"] == pytest.approx(ratio, rel=1e-2)
    lines = _lines(record)
    assert [line.split()[0] for line in lines[-4:]] == ["vision", "prefix", "suffix", "read"]
    assert max(map(len, lines[1:])) < 120
    assert f"{record['plain_ratio']:.1f} times ours" in "\n".join(lines)
    assert imgrank("bench", "rerank").returncode == 2
