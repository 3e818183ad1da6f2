"""The InternVL adapter against transformers' own classes, and worked by hand."""

import json
import shutil
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
import transformers

from imgrank.errors import ImgrankError, InputError, MissingModelError, SettingsError
from imgrank.images.resize import fitted_size
from imgrank.mllm.answers import Answers
from imgrank.mllm.base import VisualTokens, full_positions
from imgrank.mllm.prompts import prompt_for
from imgrank.mllm.registry import load_mllm
from imgrank.mllm.texts import check_text_model
from imgrank.mllm.tiles import tile_grid
from imgrank.rerank.packing import PairScorer
from tests.families import internvl
from tests.tiny_mllms import save_tiny_mllm

SIDE, TILE = internvl.InternVL.side, 9  # pixels a side, tokens


@pytest.fixture(scope="module", params=[family.key for family in internvl.FAMILIES])
def model(request, model_folder):
    return load_mllm(str(model_folder(request.param)), device="cpu", dtype="float32")


def photos(*sizes):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


def changed(folder, target, name, values):
    """Copy a model folder, with other values in one of its JSON files; dictionaries are merged."""
    shutil.copytree(folder, target)
    old = json.loads((target / name).read_text())
    for key, value in values.items():
        old[key] = old[key] | value if isinstance(value, dict) and isinstance(old.get(key), dict) else value
    (target / name).write_text(json.dumps(old))
    return str(target)


# Text models that are not in the whole of tests/rerank/test_packing.py


class Llama(internvl.InternVL):
    variant = text_type = "llama"


class Mixture(internvl.InternVL):
    variant = text_type = "qwen3_moe"
    text_extra: ClassVar = {
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    }


@pytest.mark.parametrize("family", [Llama(), Mixture()], ids=lambda family: family.variant)
def test_other_language_models_score_as_in_the_plain_forward(family, tmp_path):
    folder = save_tiny_mllm(tmp_path / "model", family)
    model = load_mllm(str(folder), device="cpu", dtype="float32")
    network = transformers.InternVLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = prompt_for("object")
    text = tokenizer.apply_chat_template(prompt.messages(Answers()), add_generation_prompt=True, tokenize=False)
    zero, one = tokenizer.convert_tokens_to_ids(["0", "1"])
    images = photos(*family.photo_sizes)
    tokens = model.encode(images, longer_side=family.longer_side, max_tokens=family.max_tokens)
    random = np.random.default_rng(1)
    kept = [np.ones(len(tokens[0]), bool)] + [random.random(len(one)) < 0.5 for one in tokens[1:]]
    pruned = [one.take(mask) for one, mask in zip(tokens, kept, strict=True)]
    full, fewer = [], []
    for number in range(1, len(images)):
        pair = [images[0], images[number]]
        for logits, found in (
            (family.plain(network, tokenizer, folder, text, pair), full),
            (family.plain_pruned(network, tokenizer, folder, text, pair, [kept[0], kept[number]]), fewer),
        ):
            found.append(float(logits[one] - logits[zero]))
    scorer = PairScorer(model, prompt, chunk_tokens=400)
    np.testing.assert_allclose(scorer.score(tokens[0], tokens[1:]), full, atol=1e-4, rtol=0)
    np.testing.assert_allclose(scorer.score(pruned[0], pruned[1:]), fewer, atol=1e-4, rtol=0)
    assert np.std(full) > 0.01
    assert np.abs(np.subtract(full, fewer)).max() > 0.01


def test_other_language_models_are_refused_by_name(model_folder, tmp_path):
    with pytest.raises(SettingsError, match="'gpt_oss' is not supported; it is with llama, qwen2, qwen3"):
        check_text_model("mine", "internvl", SimpleNamespace(model_type="gpt_oss"))
    sliding = {"layer_types": ["full_attention", "sliding_attention"] * 2, "use_sliding_window": True}
    folder = changed(model_folder("internvl"), tmp_path / "model", "config.json", {"text_config": sliding})
    with pytest.raises(SettingsError, match="sliding-window"):
        load_mllm(folder, device="cpu")


# Tiles


@pytest.mark.parametrize(
    ("size", "longer_side", "max_tokens", "tiles"),
    [
        ((84, 84), 512, 45, (2, 2)),
        ((84, 84), 512, 44, (1, 1)),  # no room for four and the whole; 1 x 1 is nearer than 1 x 2
        ((84, 84), 83, 45, (1, 1)),  # reduced, it has no four tiles of pixels
        ((1000, 1000), 84, 1000, (2, 2)),
        ((42, 84), 84, 27, (1, 2)),
        ((42, 84), 84, 26, (1, 1)),
        ((500, 30), 512, 1000, (8, 1)),  # 8.5 tiles of pixels
        ((5, 3000), 3000, 1000, (1, 8)),
        ((20, 20), 512, 1000, (1, 1)),
        ((5000, 5000), 5000, 10**6, (3, 3)),  # 12 tiles, the most of its files
        ((84, 84), 1, 9, (1, 1)),
    ],
)
def test_how_many_tiles_a_photo_is_worth(model, size, longer_side, max_tokens, tiles):
    (tokens,) = model.encode(photos(size), longer_side=longer_side, max_tokens=max_tokens)
    count = tiles[0] * tiles[1]
    count += count > 1
    assert (tokens.tiles, tokens.grid, len(tokens)) == (tiles, (3, 3), TILE * count)
    assert tokens.full_length == len(tokens) <= max_tokens
    np.testing.assert_array_equal(tokens.positions, full_positions(count, 3, 3))
    np.testing.assert_array_equal(tokens.index, np.arange(len(tokens)))


def test_at_the_defaults_every_photo_is_one_tile_of_the_published_size():
    for width in range(100, 3000, 100):
        width, height = fitted_size(width, 1500, 560)
        assert tile_grid(height, width, side=448, most=1280 // 256 - 1) == (1, 1)


def test_too_few_tokens_for_a_tile_are_refused_with_the_least(model):
    with pytest.raises(SettingsError, match=r"at least 9 visual tokens.*8 allowed; allow 9"):
        model.encode(photos((50, 50)), longer_side=100, max_tokens=8)
    with pytest.raises(SettingsError, match="at least 1 pixel"):
        model.encode(photos((50, 50)), longer_side=0, max_tokens=9)


def test_encode_refuses_what_is_not_a_photo(model):
    with pytest.raises(InputError):
        model.encode([np.zeros((50, 50), np.uint8)], longer_side=100, max_tokens=9)


def test_a_token_is_where_its_pixels_are(model_folder, monkeypatch):
    """Without its layers the tower mixes nothing, so a spot in the photo changes the token there, and the whole's."""
    model = load_mllm(str(model_folder("internvl")), device="cpu", dtype="float32")
    monkeypatch.setattr(model._network.model.vision_tower.encoder, "layer", torch.nn.ModuleList())
    plain = np.full((84, 126, 3), 128, np.uint8)
    spot = plain.copy()
    spot[42 + 2 : 42 + 6, 84 + 30 : 84 + 34] = 255  # in tile (1, 2), token (0, 2)
    before, after = model.encode([plain, spot], longer_side=126, max_tokens=63)
    assert before.tiles == (2, 3)
    moved = np.abs(after.vectors - before.vectors).max(axis=(1, 2)) > 1e-4
    places = before.positions[moved].tolist()
    # In the whole, 84 x 126 becomes 42 x 42: the spot is at (22, 38), a little wider by the filter.
    assert places[0] == [5, 0, 2]
    assert [6, 1, 2] in places
    assert {tile for tile, _, _ in places} == {5, 6}


def test_other_photos_never_change_the_tokens_of_one(model):
    several = photos((84, 84), (30, 40), (42, 126))
    together = model.encode(several, longer_side=512, max_tokens=45)
    for photo, tokens in zip(several, together, strict=True):
        (alone,) = model.encode([photo], longer_side=512, max_tokens=45)
        np.testing.assert_array_equal(alone.vectors, tokens.vectors)


def test_nan_tokens_are_an_error_with_advice(model, monkeypatch):
    monkeypatch.setattr(model, "dtype", "float16")
    monkeypatch.setattr(model, "_vision", lambda pixels: torch.full((1, 9, 64), float("nan")))
    with pytest.raises(ImgrankError, match="--dtype float32"):
        model.encode(photos((42, 42)), longer_side=64, max_tokens=9)


# Prompts


def test_images_are_wrapped_as_the_processor_wraps_them(model):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Hi."}]}]
    text = model.chat(messages)
    assert text == (
        "<|im_start|>user\n<img><IMG_CONTEXT></img>\n<img><IMG_CONTEXT></img>\nHi.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert model.tokenize(text).count(model.image_token) == 2


def test_pruned_tiles_keep_their_places(model):
    # Two tiles and the whole are 27 tokens; the last of the first tile and the first of the whole are left.
    vectors = np.zeros((2, 1, 64), np.float32)
    tokens = VisualTokens(vectors, np.array([[0, 2, 2], [2, 0, 0]], np.uint16), (3, 3), (1, 2))
    segment = model.image_segment(tokens)
    assert segment.positions.tolist() == [[8, 18]]
    assert segment.span == 27


@pytest.mark.parametrize("name", ["start_image_token", "end_image_token"])
def test_a_tokenizer_that_cannot_wrap_is_refused(model_folder, tmp_path, name):
    named = {key: token for key, token in internvl.TOKENS.items() if key != name}
    folder = changed(model_folder("internvl"), tmp_path / "model", "tokenizer.json", {})
    path = tmp_path / "model" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"] = [one for one in tokenizer["added_tokens"] if one["content"] != internvl.TOKENS[name]]
    path.write_text(json.dumps(tokenizer))
    path = tmp_path / "model" / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"extra_special_tokens": named}
    path.write_text(json.dumps(settings))
    with pytest.raises(MissingModelError, match=f"token '{internvl.TOKENS[name]}' beside an image"):
        load_mllm(folder, device="cpu")


# What is refused


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("config.json", {"image_seq_length": 256}, r"tiles have 9 tokens, but config.json counts on 256"),
        ("processor_config.json", {"image_seq_length": 16}, r"9 tokens, but processor_config.json counts on 16"),
        ("config.json", {"vision_feature_select_strategy": "full"}, "class token"),
        ("preprocessor_config.json", {"size": {"height": 35, "width": 35}}, "2.5 rows"),
        ("preprocessor_config.json", {"size": {"height": 7, "width": 7}}, "0.5 rows"),
        ("preprocessor_config.json", {"size": {"height": 56, "width": 56}}, "16 tokens, but config.json counts on 9"),
        ("preprocessor_config.json", {"min_patches": 2}, "2 to 12 tiles"),
        ("preprocessor_config.json", {"max_patches": 10**9}, "at most 256"),
        ("preprocessor_config.json", {"max_patches": 0}, "1 to 0 tiles"),
        ("preprocessor_config.json", {"max_patches": "many"}, "1 to many tiles"),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "not positive"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_file(model_folder, tmp_path, name, values, message):
    folder = changed(model_folder("internvl"), tmp_path / "model", name, values)
    with pytest.raises(SettingsError, match=message):
        load_mllm(folder, device="cpu")


def test_settings_tell_what_decides_the_tokens(model_folder, tmp_path):
    model = load_mllm(str(model_folder("internvl")), device="cpu", dtype="float32")
    other = load_mllm(
        changed(model_folder("internvl"), tmp_path / "model", "preprocessor_config.json", {"max_patches": 3}),
        device="cpu",
        dtype="float32",
    )
    assert model.settings["tile_side"] == SIDE
    assert dict(model.settings) != dict(other.settings)
