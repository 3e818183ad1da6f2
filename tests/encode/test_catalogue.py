"""The catalogue of encoders is true to the families and to transformers."""

import json

import pytest
import torch
import transformers

from imgrank.checkpoints import HUB_ID
from imgrank.config import PRESETS
from imgrank.encode.builtin import BuiltinEncoder
from imgrank.encode.catalogue import BUILTIN, KNOWN, TIMM, TITLES, dim_and_size, known
from imgrank.encode.families import FAMILIES
from imgrank.encode.registry import ENCODERS
from imgrank.errors import SettingsError


def test_families_have_their_titles() -> None:
    assert {name: family.title for name, family in FAMILIES.items()} == dict(TITLES)


def test_whatever_the_code_names_is_known() -> None:
    named = {*ENCODERS, *(preset.encoder for preset in PRESETS.values())}
    assert named <= {one.name for one in KNOWN}


def test_names_are_hub_ids_of_known_families_without_doubles() -> None:
    assert len({one.name for one in KNOWN}) == len(KNOWN)
    for one in KNOWN[1:]:
        assert HUB_ID.fullmatch(one.name)
        assert one.family in (*FAMILIES, TIMM)


def test_the_builtin_encoder_is_described_as_it_is() -> None:
    builtin = known(BUILTIN)
    assert builtin is not None
    assert (builtin.dim, builtin.download_bytes) == (BuiltinEncoder().dim, 0)


def two_towers(config: str, vocabulary: int, **vision):
    language = {"vocab_size": vocabulary, "max_position_embeddings": 64}
    return getattr(transformers, config)(text_config=language | vision.pop("text", {}), vision_config=vision)


LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}

# Architectures as published: the class of the whole checkpoint, and its configuration.
PUBLISHED = {
    "facebook/dinov2-base": ("Dinov2Model", lambda: transformers.Dinov2Config(image_size=518)),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": (
        "DINOv3ViTModel",
        lambda: transformers.DINOv3ViTConfig(
            hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_register_tokens=4
        ),
    ),
    "facebook/dinov3-convnext-base-pretrain-lvd1689m": (
        "DINOv3ConvNextModel",
        lambda: transformers.DINOv3ConvNextConfig(hidden_sizes=[128, 256, 512, 1024], depths=[3, 3, 27, 3]),
    ),
    "google/siglip-large-patch16-384": (
        "SiglipModel",
        lambda: two_towers("SiglipConfig", 32000, text=LARGE, **LARGE, image_size=384),
    ),
    "google/siglip-so400m-patch14-384": (
        "SiglipModel",
        lambda: two_towers("SiglipConfig", 32000, text=SO400M, **SO400M, patch_size=14, image_size=384),
    ),
    "google/siglip2-so400m-patch14-384": (
        "SiglipModel",
        lambda: two_towers("SiglipConfig", 256000, text=SO400M, **SO400M, patch_size=14, image_size=384),
    ),
    "google/siglip2-base-patch16-384": ("SiglipModel", lambda: two_towers("SiglipConfig", 256000, image_size=384)),
    "google/siglip2-base-patch16-naflex": ("Siglip2Model", lambda: two_towers("Siglip2Config", 256000)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_of_the_published_architecture(name: str) -> None:
    model_class, build = PUBLISHED[name]
    config = build()
    with torch.device("meta"):
        network = getattr(transformers, model_class)(config)
    one = known(name)
    assert one is not None
    # DINOv2 was trained at 518 pixels and is used at 224, which its preprocessing says and config.json does not.
    size = 518 if name == "facebook/dinov2-base" else one.image_size
    assert (config.model_type, *dim_and_size(name, json.loads(config.to_json_string()))) == (one.family, one.dim, size)
    assert sum(weights.numel() for weights in network.parameters()) / 1e6 == pytest.approx(
        one.parameters / 1e6, abs=0.1
    )


@pytest.mark.parametrize(
    ("family", "class_name"),
    [
        ("dinov2", "Dinov2Config"),
        ("dinov2_with_registers", "Dinov2WithRegistersConfig"),
        ("dinov3_vit", "DINOv3ViTConfig"),
        ("dinov3_convnext", "DINOv3ConvNextConfig"),
        ("clip", "CLIPConfig"),
        ("clip_vision_model", "CLIPVisionConfig"),
        ("siglip", "SiglipConfig"),
        ("siglip_vision_model", "SiglipVisionConfig"),
        ("siglip2", "Siglip2Config"),
        ("siglip2_vision_model", "Siglip2VisionConfig"),
    ],
)
def test_numbers_that_are_left_out_are_those_of_transformers(family: str, class_name: str) -> None:
    full = json.loads(getattr(transformers, class_name)().to_json_string())
    assert full["model_type"] == family
    assert dim_and_size("x", {"model_type": family}) == dim_and_size("x", full)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "dinov2", "hidden_size": None},
        {"model_type": "dinov2", "hidden_size": 0},
        {"model_type": "dinov3_convnext", "hidden_sizes": []},
        {"model_type": "siglip", "vision_config": {"image_size": "large"}},
        {"model_type": "clip", "projection_dim": [1]},
    ],
)
def test_unusable_numbers_are_an_error_of_the_model(config) -> None:
    with pytest.raises(SettingsError, match=r"model 'bad': its config\.json is unusable"):
        dim_and_size("bad", config)
