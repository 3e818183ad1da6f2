"""The LLaVA-OneVision adapter against transformers' own classes, and worked by hand."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from imgrank.errors import ImgrankError, InputError, SettingsError
from imgrank.mllm.answers import Answers
from imgrank.mllm.base import VisualTokens
from imgrank.mllm.prompts import Prompt, prompt_for
from imgrank.mllm.registry import load_mllm
from imgrank.rerank.packing import PairScorer

NAME = "llava_onevision"


@pytest.fixture(scope="module")
def model(model_folder):
    return load_mllm(str(model_folder(NAME)), device="cpu", dtype="float32")


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


def test_every_photo_is_one_square_of_tokens(model):
    for tokens in model.encode(photos((75, 75), (10, 300), (400, 300)), longer_side=560, max_tokens=25):
        assert (tokens.tiles, tokens.grid, tokens.vectors.shape) == ((1, 1), (5, 5), (25, 1, 64))


def test_the_longer_side_has_no_effect(model):
    (small,) = model.encode(photos((90, 60)), longer_side=8, max_tokens=25)
    (large,) = model.encode(photos((90, 60)), longer_side=5000, max_tokens=10**6)
    np.testing.assert_array_equal(small.vectors, large.vectors)


@pytest.mark.parametrize("layer", [-2, [-1, -3]])
def test_the_layer_of_the_tower_is_that_of_the_configuration(model_folder, tmp_path, layer):
    if isinstance(layer, int):
        folder = changed(model_folder(NAME), tmp_path / "model", "config.json", {"vision_feature_layer": layer})
    else:  # two layers side by side need a wider projection
        network = transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(model_folder(NAME))
        config = network.config
        config.vision_feature_layer = layer
        shutil.copytree(model_folder(NAME), tmp_path / "model")
        transformers.LlavaOnevisionForConditionalGeneration(config).save_pretrained(tmp_path / "model")
        folder = str(tmp_path / "model")
    model = load_mllm(folder, device="cpu", dtype="float32")
    network = transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(folder).eval()
    (photo,) = photos((75, 75))
    (tokens,) = model.encode([photo], longer_side=560, max_tokens=25)
    mean, std = np.array([0.5, 0.45, 0.4]), np.array([0.5, 0.4, 0.6])
    pixels = torch.from_numpy(((photo / 255 - mean) / std).astype(np.float32)).permute(2, 0, 1)
    with torch.no_grad():
        states = network.model.vision_tower(pixels[None], output_hidden_states=True).hidden_states
        layers = [layer] if isinstance(layer, int) else layer
        expected = network.model.multi_modal_projector(torch.cat([states[number] for number in layers], dim=-1))[0]
    np.testing.assert_allclose(tokens.vectors[:, 0], expected, atol=1e-5)


def test_the_vector_that_closes_an_image_is_the_models_and_is_never_pruned(model):
    tokens = VisualTokens(np.ones((2, 1, 64), np.float32), np.array([[0, 0, 3], [0, 4, 4]], np.uint16), (5, 5))
    segment = model.image_segment(tokens)
    assert segment.positions.tolist() == [[3, 24, 25]]
    assert segment.span == 26
    assert segment.visual.tolist() == [True, True, False]
    np.testing.assert_array_equal(segment.inputs[2], model._network.model.image_newline)
    assert segment.inputs[2].abs().max() > 0


def test_the_closing_vector_counts(model_folder):
    model = load_mllm(str(model_folder(NAME)), device="cpu", dtype="float32")
    tokens = model.encode(photos((75, 75), (60, 75)), longer_side=560, max_tokens=25)
    score = PairScorer(model, prompt_for("object")).score(tokens[0], tokens[1:])
    model._network.model.image_newline.data.fill_(1)
    assert abs(PairScorer(model, prompt_for("object")).score(tokens[0], tokens[1:]) - score) > 1e-3


def test_a_photo_by_itself_is_still_the_photo_of_a_pair(model):
    first, second = photos((75, 75), (75, 40))
    ids = [5, model.image_token, 6]
    alone = model.plain_logits(ids, [first], [1, 2], longer_side=560, max_tokens=25)
    pair = model.plain_logits([*ids, model.image_token], [first, second], [1, 2], longer_side=560, max_tokens=25)
    assert torch.isfinite(alone).all()
    assert (alone - pair).abs().max() > 1e-3


def test_long_strips_are_reduced_before_they_become_squares(model, monkeypatch):
    from imgrank.mllm import llava_onevision

    sides = []
    square = llava_onevision.pad_to_square
    monkeypatch.setattr(
        llava_onevision, "pad_to_square", lambda image, numbers: sides.append(image.shape[:2]) or square(image, numbers)
    )
    model.encode([np.zeros((20000, 3, 3), np.uint8)], longer_side=20000, max_tokens=25)
    assert sides == [(8 * 75, 1)]


def test_too_few_tokens_for_a_photo_are_refused_with_the_least(model):
    with pytest.raises(SettingsError, match=r"25 visual tokens.*24 allowed; allow 25"):
        model.encode(photos((50, 50)), longer_side=100, max_tokens=24)
    with pytest.raises(SettingsError, match="at least 1"):
        model.encode(photos((50, 50)), longer_side=0, max_tokens=25)


def test_encode_refuses_what_is_not_a_photo(model):
    with pytest.raises(InputError):
        model.encode([np.zeros((50, 50), np.uint8)], longer_side=100, max_tokens=25)


def test_nan_tokens_are_an_error_with_advice(model_folder):
    model = load_mllm(str(model_folder(NAME)), device="cpu", dtype="float32")
    model._network.model.multi_modal_projector.linear_2.bias[3] = float("nan")
    with pytest.raises(ImgrankError, match="damaged"):
        model.encode(photos((64, 64)), longer_side=64, max_tokens=25)


def test_the_template_puts_images_before_all_text(model):
    text = model.chat(Prompt("mine", "Is {query} in {candidate}?").messages(Answers()))
    assert text == "<|im_start|>user <image><image>\nIs \n in \n?<|im_end|><|im_start|>assistant\n"
    assert model.tokenize(text).count(model.image_token) == 2


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("config.json", {"vision_feature_select_strategy": "default"}, "vision_feature_select_strategy 'default'"),
        ("preprocessor_config.json", {"size": {"height": 70, "width": 70}}, "70 pixels a side, but.*takes 75"),
        ("preprocessor_config.json", {"image_mean": [1]}, "preprocessor_config.json is unusable"),
        ("processor_config.json", {"num_image_tokens": 729}, "25 tokens, but processor_config.json counts on 729"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_file(model_folder, tmp_path, name, values, message):
    folder = changed(model_folder(NAME), tmp_path / "model", name, values)
    with pytest.raises(SettingsError, match=message):
        load_mllm(folder, device="cpu")


def test_another_tower_is_refused_by_name(model_folder, tmp_path):
    shutil.copytree(model_folder(NAME), tmp_path / "model")
    config = transformers.LlavaOnevisionConfig.from_pretrained(tmp_path / "model").to_dict()
    config["vision_config"] = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 75,
        "patch_size": 14,
    }
    network = transformers.LlavaOnevisionForConditionalGeneration(transformers.LlavaOnevisionConfig(**config))
    network.save_pretrained(tmp_path / "model")
    with pytest.raises(SettingsError, match="vision tower of type 'clip_vision_model'"):
        load_mllm(str(tmp_path / "model"), device="cpu")
