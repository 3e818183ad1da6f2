"""The catalogue is true to the adapters and to transformers, as far as that can be told without the weights."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from imgrank.checkpoints import HUB_ID
from imgrank.config import BUILTIN, PRESETS
from imgrank.errors import SettingsError
from imgrank.mllm import geometry
from imgrank.mllm.catalogue import FAMILIES, KNOWN, known
from imgrank.mllm.profiles import PROFILES, profile_of
from imgrank.mllm.registry import ADAPTERS, load_mllm
from tests import tiny_mllms


def test_every_family_has_an_adapter_and_every_adapter_a_family() -> None:
    assert set(FAMILIES) == set(ADAPTERS)


def test_every_family_has_a_known_checkpoint() -> None:
    assert {model.family for model in KNOWN} == set(FAMILIES)


def test_the_list_is_in_order_and_without_doubles() -> None:
    families = list(FAMILIES)
    places = [families.index(model.family) for model in KNOWN]
    assert places == sorted(places)
    assert len({model.name for model in KNOWN}) == len(KNOWN)
    assert all(HUB_ID.fullmatch(model.name) for model in KNOWN if model.name != BUILTIN)


@pytest.mark.parametrize("model", KNOWN, ids=lambda model: model.name)
def test_the_name_says_the_size(model) -> None:
    said = re.search(r"-(\d+(?:\.\d+)?)(B|b|M)\b", model.name)
    if said is None:  # SmolVLM-Instruct and LamRA-Rank do not say
        assert model.name in (BUILTIN, "HuggingFaceTB/SmolVLM-Instruct", "code-kunkun/LamRA-Rank")
        return
    millions = float(said[1]) * (1 if said[2] == "M" else 1000)
    # Publishers round freely, and leave embeddings or the vision tower out: LLaVA's 0.5B has 0.89.
    assert 0.85 < model.parameters / 1e6 / millions < 1.8


def test_models_that_presets_name_are_known() -> None:
    assert all(known(preset.mllm) is not None for preset in PRESETS.values() if preset.mllm is not None)


def test_tuned_rerankers_of_the_catalogue_get_their_prompt() -> None:
    tuned = {profile_of(model.name, {"model_type": model.family}).name for model in KNOWN if "tuned" in model.note}
    assert tuned == {"qwen3-vl-reranker", "lamra-rank"}
    assert tuned <= set(PROFILES)
    for model in KNOWN[1:]:  # the first is the built-in one
        assert (profile_of(model.name, {"model_type": model.family}) is not None) == ("tuned" in model.note)


def text(hidden, inner, layers, heads, key_heads, vocabulary, *, tied=False, **more):
    return dict(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        **more,
    )


def tower(hidden, inner, layers, heads, **more):
    sizes = dict(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads)
    return {**sizes, **more}


SIGLIP = tower(1152, 4304, 27, 16, model_type="siglip_vision_model", patch_size=14, vision_use_head=False)

# Architectures as published, one checkpoint of each family: config and model class of transformers, and the values.
PUBLISHED = {
    "Qwen/Qwen2-VL-2B-Instruct": (
        "Qwen2VL",
        text(1536, 8960, 28, 12, 2, 151936, tied=True),
        {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16},
        {"tie_word_embeddings": True},
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": (
        "Qwen2_5_VL",
        text(3584, 18944, 28, 28, 4, 152064),
        {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584},
        {},
    ),
    "Qwen/Qwen3-VL-4B-Instruct": (
        "Qwen3VL",
        text(2560, 9728, 36, 32, 8, 151936, tied=True, head_dim=128),
        {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2560}
        | {"deepstack_visual_indexes": [5, 11, 17]},
        {"tie_word_embeddings": True},
    ),
    "OpenGVLab/InternVL3_5-8B-HF": (
        "InternVL",
        text(4096, 12288, 36, 32, 8, 151936, head_dim=128, model_type="qwen3"),
        tower(1024, 4096, 24, 16, attention_bias=True),
        {"tie_word_embeddings": False},
    ),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (
        "LlavaOnevision",
        text(3584, 18944, 28, 28, 4, 152064, model_type="qwen2"),
        SIGLIP | {"num_hidden_layers": 26, "image_size": 384},
        {},
    ),
    "google/gemma-3-4b-it": (
        "Gemma3",
        text(2560, 10240, 34, 8, 4, 262208, head_dim=256),
        SIGLIP | {"image_size": 896},
        {},
    ),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": (
        "SmolVLM",
        text(2048, 8192, 24, 32, 32, 49280, model_type="llama"),
        tower(1152, 4304, 27, 16, patch_size=14, image_size=384),
        {"scale_factor": 3},
    ),
    "HuggingFaceM4/Idefics3-8B-Llama3": (
        "Idefics3",
        text(4096, 14336, 32, 32, 8, 128259, model_type="llama"),
        tower(1152, 4304, 27, 16, patch_size=14, image_size=364),
        {"scale_factor": 2},
    ),
    "HuggingFaceTB/SmolVLM-256M-Instruct": (
        "Idefics3",
        text(576, 1536, 30, 9, 3, 49280, model_type="llama", head_dim=64),
        tower(768, 3072, 12, 12, patch_size=16, image_size=512),
        {"scale_factor": 4},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_and_geometry_are_those_of_the_published_architecture(name: str) -> None:
    family, language, vision, rest = PUBLISHED[name]
    config = getattr(transformers, f"{family}Config")(text_config=language, vision_config=vision, **rest)
    with torch.device("meta"):
        network = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    network.tie_weights()
    model = known(name)
    assert model is not None
    assert sum(weights.numel() for weights in network.parameters()) / 1e6 == pytest.approx(
        model.parameters / 1e6, abs=1
    )
    assert config.model_type == model.family
    listed = geometry.of_known(model)
    read = geometry.of_config(name, json.loads(config.to_json_string()))
    assert (read.hidden, read.levels, read.token_side, read.tile) == (
        listed.hidden,
        listed.levels,
        listed.token_side,
        listed.tile,
    )


def test_hand_worked_tokens_of_a_four_by_three_photo() -> None:
    def tokens(name: str, longer_side: int = 560) -> int:
        model = known(name)
        shape = geometry.of_known(model)
        return geometry.tokens_of(model.family, shape, 3024, 4032, longer_side=longer_side, max_tokens=1280)

    # 560 x 420 pixels are 20 x 15 tokens of 28 pixels, 756 x 567 are 27 x 20.25.
    assert tokens("Qwen/Qwen2.5-VL-7B-Instruct") == 20 * 15
    assert tokens("Qwen/Qwen2.5-VL-7B-Instruct", 756) == 27 * 20
    # 17.5 x 13.125 tokens of 32 pixels; Python rounds the half to the even 18.
    assert tokens("Qwen/Qwen3-VL-8B-Instruct") == 18 * 13
    assert tokens("google/gemma-3-4b-it") == tokens("google/gemma-3-4b-it", 2000) == 256
    assert tokens("llava-hf/llava-onevision-qwen2-7b-ov-hf") == 27 * 27
    # One tile; 2 x 2 tiles of 16 x 16 tokens and the whole, from as many pixels as 4 tiles have.
    assert tokens("OpenGVLab/InternVL3_5-8B-HF") == tokens("OpenGVLab/InternVL3_5-8B-HF", 1034) == 256
    assert tokens("OpenGVLab/InternVL3_5-8B-HF", 1035) == 5 * 256
    # Tiles of 512 pixels and 8 x 8 tokens, of 384 and 9 x 9, of 364 and 13 x 13.
    assert tokens("HuggingFaceTB/SmolVLM2-500M-Video-Instruct") == 64
    assert tokens("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", 1024) == (2 * 2 + 1) * 64
    assert tokens("HuggingFaceTB/SmolVLM2-2.2B-Instruct") == 81
    assert tokens("HuggingFaceM4/Idefics3-8B-Llama3") == 169


@pytest.mark.parametrize("family", tiny_mllms.FAMILIES)
def test_a_folder_is_described_as_the_adapter_measures_it(model_folder, family: str) -> None:
    folder = model_folder(family)
    config = json.loads((folder / "config.json").read_text())
    preparation = folder / "preprocessor_config.json"
    shape = geometry.of_config("tiny", config, json.loads(preparation.read_text()) if preparation.exists() else None)
    model = load_mllm(str(folder), device="cpu")
    assert (shape.hidden, shape.levels) == (model.hidden, model.levels)
    for height, width in [(300, 400), (420, 560), (64, 48), (90, 800), (700, 120)]:
        for longer_side, max_tokens in [(560, 1280), (200, 1280), (560, 40)]:
            limits = {"longer_side": longer_side, "max_tokens": max_tokens}
            try:
                (tokens,) = model.encode([np.full((height, width, 3), 90, dtype=np.uint8)], **limits)
            except SettingsError:  # a tile has more tokens than asked for
                continue
            assert geometry.tokens_of(config["model_type"], shape, height, width, **limits) == len(tokens), (
                height,
                width,
                limits,
            )


@pytest.mark.parametrize(
    ("family", "class_name"),
    [
        ("qwen2_vl", "Qwen2VLConfig"),
        ("qwen2_5_vl", "Qwen2_5_VLConfig"),
        ("qwen3_vl", "Qwen3VLConfig"),
        ("qwen3_5", "Qwen3_5Config"),
        ("qwen3_5_moe", "Qwen3_5MoeConfig"),
        ("internvl", "InternVLConfig"),
        ("llava_onevision", "LlavaOnevisionConfig"),
        ("smolvlm", "SmolVLMConfig"),
        ("idefics3", "Idefics3Config"),
    ],
)
def test_numbers_that_are_left_out_are_those_of_transformers(family: str, class_name: str) -> None:
    full = json.loads(getattr(transformers, class_name)().to_json_string())
    assert full["model_type"] == family
    assert geometry.of_config("x", {"model_type": family}) == geometry.of_config("x", full)


def test_numbers_at_the_top_of_older_files_are_found() -> None:
    old = {"model_type": "qwen2_vl", "hidden_size": 1536, "vision_config": {"patch_size": 14, "hidden_size": 1536}}
    assert geometry.of_config("old", old) == geometry.Geometry(1536, 1, 28)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "qwen3_vl", "text_config": {"hidden_size": "many"}},
        {"model_type": "qwen3_vl", "vision_config": {"patch_size": 0}},
        {"model_type": "qwen3_vl", "vision_config": {"patch_size": []}},
        {"model_type": "internvl", "downsample_ratio": 0},
        {"model_type": "gemma3", "mm_tokens_per_image": 0},
        {"model_type": "smolvlm", "scale_factor": 1000},
        {"model_type": "idefics3", "vision_config": {"patch_size": 0}},
        {"model_type": "idefics3", "vision_config": {"image_size": float("nan")}},
    ],
)
def test_unusable_numbers_are_an_error_of_the_model(config) -> None:
    with pytest.raises(SettingsError, match=r"model 'bad': its configuration is unusable"):
        geometry.of_config("bad", config)


def test_the_catalogue_costs_no_library() -> None:
    code = (
        "import sys, imgrank.mllm.catalogue, imgrank.mllm.geometry;"
        "print(sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
