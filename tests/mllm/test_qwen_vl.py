"""The Qwen-VL adapters against transformers' own classes."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from imgrank.errors import ImgrankError, InputError, MissingModelError, SettingsError
from imgrank.mllm.base import VisualTokens
from imgrank.mllm.prompts import prompt_for
from imgrank.mllm.registry import load_mllm
from imgrank.mllm.segments import follow
from imgrank.rerank.packing import PairScorer
from tests.families import qwen, qwen3_5

CLASSES = {family.name: getattr(transformers, family.model_class) for family in qwen.FAMILIES + qwen3_5.FAMILIES}


@pytest.fixture(scope="module", params=list(CLASSES))
def model(request, model_folder):
    return load_mllm(str(model_folder(request.param)), device="cpu", dtype="float32")


def photos(*sizes):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


def test_visual_tokens_are_what_the_vision_tower_gives(model, model_folder):
    from imgrank.mllm.preprocess import patches

    network = CLASSES[model.family].from_pretrained(model_folder(model.family)).eval()
    (photo,) = photos((150, 260))
    (tokens,) = model.encode([photo], longer_side=560, max_tokens=1280)
    rows, columns = tokens.grid
    with torch.no_grad():
        features = network.get_image_features(
            patches(photo, rows, columns, model._patches), torch.tensor([[1, 2 * rows, 2 * columns]])
        )
    np.testing.assert_allclose(tokens.vectors[:, 0], features.pooler_output[0], atol=1e-5)
    if model.family == "qwen3_vl":
        assert model.levels == 3
        for level, feature in enumerate(features.deepstack_features):
            feature = feature if isinstance(feature, torch.Tensor) else feature[0]
            np.testing.assert_allclose(tokens.vectors[:, 1 + level], feature, atol=1e-5)
    assert tokens.vectors.dtype == np.float32
    assert tokens.vectors.shape == (rows * columns, model.levels, model.hidden)
    assert tokens.positions.tolist() == [[0, row, column] for row in range(rows) for column in range(columns)]


def test_other_photos_never_change_the_tokens_of_one(model):
    several = photos((100, 130), (64, 64), (200, 90))
    together = model.encode(several, longer_side=128, max_tokens=30)
    for photo, tokens in zip(several, together, strict=True):
        (alone,) = model.encode([photo], longer_side=128, max_tokens=30)
        np.testing.assert_array_equal(alone.vectors, tokens.vectors)
        assert len(tokens) <= 30


def test_tokens_tell_photos_apart(model):
    first, second = model.encode(photos((96, 96), (96, 96)), longer_side=96, max_tokens=30)
    assert np.abs(first.vectors - second.vectors).mean(axis=(0, 2)).min() > 0.01  # on every level


@pytest.mark.parametrize(("longer_side", "max_tokens"), [(0, 5), (5, 0)])
def test_encode_refuses_sizes_below_one(model, longer_side, max_tokens):
    with pytest.raises(SettingsError):
        model.encode(photos((50, 50)), longer_side=longer_side, max_tokens=max_tokens)


def test_encode_refuses_what_is_not_a_photo(model):
    with pytest.raises(InputError):
        model.encode([np.zeros((50, 50), np.uint8)], longer_side=100, max_tokens=5)


def test_nan_tokens_are_an_error_with_advice(model, monkeypatch):
    monkeypatch.setattr(model, "dtype", "float16")
    monkeypatch.setattr(model, "_vision", lambda pixels, grid: torch.full((1, 4, 64), float("nan")))
    with pytest.raises(ImgrankError, match="--dtype float32"):
        model.encode(photos((64, 64)), longer_side=64, max_tokens=4)


def test_positions_of_a_prompt_with_two_images(model):
    # Worked by hand: "ab" 0-1, an image of 2 x 3 from 2 (time stays 2), "c" at 2 + 3, an image of 1 x 1 at 6, "d" at 7.
    first = VisualTokens(
        np.zeros((2, model.levels, 64), np.float32), np.array([[0, 0, 2], [0, 1, 1]], np.uint16), (2, 3)
    )
    second = VisualTokens(np.zeros((1, model.levels, 64), np.float32), np.zeros((1, 3), np.uint16), (1, 1))
    joined = follow(
        [
            model.text_segment([1, 2]),
            model.image_segment(first),
            model.text_segment([3]),
            model.image_segment(second),
            model.text_segment([4]),
        ]
    )
    assert joined.positions.tolist() == [[0, 1, 2, 2, 5, 6, 7], [0, 1, 2, 3, 5, 6, 7], [0, 1, 4, 3, 5, 6, 7]]
    assert joined.visual.int().tolist() == [0, 0, 1, 1, 0, 1, 0]
    assert joined.deepstack.shape == (model.levels - 1, 3, 64)


def test_answer_rows_are_multiplied_in_float32(model_folder):
    model = load_mllm(str(model_folder("qwen3_vl")), device="cpu", dtype="bfloat16")
    hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    logits = model.answer_logits(hidden, [5, 9])
    expected = hidden.double() @ model._network.lm_head.weight[[5, 9]].double().T
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 1e-5  # bfloat16 would be off by about 0.01


@pytest.mark.parametrize("family", [family.name for family in qwen.FAMILIES])
def test_chat_follows_the_template_with_its_system_message(model_folder, family):
    model = load_mllm(str(model_folder(family)), device="cpu")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi."}]}]
    assert model.chat(messages) == (
        "<|im_start|>system\nYou compare photos.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Hi.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_older_models_separate_template_is_used(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("qwen3_vl"), tmp_path / "model")
    for file in folder.glob("*.jinja"):
        file.unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}]
    with pytest.raises(MissingModelError, match="chat template"):
        load_mllm(str(folder), device="cpu").chat(messages)
    template = qwen.QwenFamily.chat_template.replace("You compare photos.", "From afar.")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert "From afar." in load_mllm(str(folder), device="cpu").chat(messages)


def test_a_template_that_refuses_the_prompt_is_an_error_of_the_model(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("qwen3_vl"), tmp_path / "model")
    for file in folder.glob("*.jinja"):
        file.unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ raise_exception('no system') }}"}))
    with pytest.raises(MissingModelError, match="no system"):
        load_mllm(str(folder), device="cpu").chat([{"role": "user", "content": []}])


def test_a_tokenizer_without_the_placeholder_is_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("qwen3_vl"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["image_token_id"] = 10**6
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingModelError, match="image placeholder"):
        load_mllm(str(folder), device="cpu")


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_sliding_windows_are_refused(model_folder, tmp_path, family):
    folder = shutil.copytree(model_folder(family), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match="sliding_attention"):
        load_mllm(str(folder), device="cpu")


def test_checkpoints_with_the_layout_of_older_releases_load(model_folder, tmp_path):
    # As the hub has Qwen2-VL and what was tuned from it: settings of the language model on the top level of the
    # configuration, the range of sizes as min_pixels and max_pixels, and tensors called model.layers and visual.
    new = model_folder("qwen2_vl")
    old = shutil.copytree(new, tmp_path / "model")
    config = json.loads((new / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    text |= {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 28}
    for name in ("model_type", "layer_types", "dtype", "architectures"):
        text.pop(name, None)
    config["vision_config"].pop("model_type")
    (old / "config.json").write_text(json.dumps(text | config))
    weights = load_file(new / "model.safetensors")  # some releases save the hub's names, others their own
    named = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): weight
        for name, weight in weights.items()
    }
    save_file(named, old / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((new / "preprocessor_config.json").read_text())
    values |= {"size": {"min_pixels": 3136, "max_pixels": 12845056}, "min_pixels": 3136, "max_pixels": 12845056}
    (old / "preprocessor_config.json").write_text(json.dumps(values))
    models = [load_mllm(str(folder), device="cpu", dtype="float32") for folder in (new, old)]
    scores = []
    for model in models:
        query, candidate = model.encode(photos((150, 260), (90, 90)), longer_side=260, max_tokens=99)
        scores.append(PairScorer(model, prompt_for("object")).score(query, [candidate]))
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("damage", [{"image_std": [0, 1, 1]}, {"image_mean": [1, 2]}, {"image_mean": None}])
def test_an_unusable_image_processor_is_refused(model_folder, tmp_path, damage):
    folder = shutil.copytree(model_folder("qwen3_vl"), tmp_path / "model")
    values = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(values | damage))
    with pytest.raises(SettingsError, match="preprocessor_config"):
        load_mllm(str(folder), device="cpu")
