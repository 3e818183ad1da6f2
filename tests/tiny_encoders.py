"""Vision towers small enough for a test: each family from a small configuration, random weights of a fixed seed.

Each function writes a whole checkpoint (config.json, model.safetensors, preprocessor_config.json) into a folder, so
that the real loading code loads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_TEXT = {"vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def write_tiny(model: Any, preprocessor: dict[str, Any], folder: Path) -> Path:
    """Save a model, its weights drawn anew, with its preprocessor_config.json."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Strong enough that a wrong token, scale or position shows in the descriptor.
            gain = ("norm" in name and name.endswith("weight")) or "lambda" in name or "gamma" in name
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.4 + float(gain))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def _steps(kind: str, **values: Any) -> dict[str, Any]:
    common = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
    return {"image_processor_type": kind, **common, **values}


def dinov2(folder: Path) -> Path:
    """DINOv2: trained on 28 pixels (2 x 2 patches), run on 42, so that positions are interpolated."""
    config = transformers.Dinov2Config(
        **{k: v for k, v in _SMALL.items() if k != "intermediate_size"}, patch_size=14, image_size=28
    )
    steps = _steps("BitImageProcessor", size={"shortest_edge": 48}, do_center_crop=True, resample=3, **_IMAGENET)
    steps["crop_size"] = {"height": 42, "width": 42}
    return write_tiny(transformers.Dinov2Model(config), steps, folder)


def dinov2_registers(folder: Path) -> Path:
    """DINOv2 with three register tokens after the CLS token."""
    config = transformers.Dinov2WithRegistersConfig(
        **{k: v for k, v in _SMALL.items() if k != "intermediate_size"},
        patch_size=14,
        image_size=28,
        num_register_tokens=3,
    )
    steps = _steps("BitImageProcessor", size={"shortest_edge": 32}, do_center_crop=True, resample=3, **_IMAGENET)
    steps["crop_size"] = {"height": 28, "width": 28}
    return write_tiny(transformers.Dinov2WithRegistersModel(config), steps, folder)


def dinov3(folder: Path) -> Path:
    """DINOv3 ViT with two register tokens."""
    config = transformers.DINOv3ViTConfig(
        **{**_SMALL, "hidden_size": 32}, patch_size=8, image_size=32, num_register_tokens=2
    )
    size = {"height": 32, "width": 32}
    steps = _steps("DINOv3ViTImageProcessorFast", size=size, resample=2, **_IMAGENET)
    return write_tiny(transformers.DINOv3ViTModel(config), steps, folder)


def dinov3_convnext(folder: Path) -> Path:
    """DINOv3 ConvNeXt: 2 x 2 tokens of the last stage for 64 pixels."""
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 1, 1], image_size=64)
    size = {"height": 64, "width": 64}
    steps = _steps("DINOv3ViTImageProcessorFast", size=size, resample=2, **_IMAGENET)
    return write_tiny(transformers.DINOv3ConvNextModel(config), steps, folder)


def clip(folder: Path) -> Path:
    """Both towers of CLIP, as they are published, so that the text tower has to be left out."""
    config = transformers.CLIPConfig(
        vision_config={**_SMALL, "patch_size": 8, "image_size": 32, "projection_dim": 12},
        text_config={**_SMALL, **_TEXT, "projection_dim": 12},
        projection_dim=12,
    )
    steps = _steps(
        "CLIPImageProcessor",
        size=32,
        crop_size=32,
        do_center_crop=True,
        resample=3,
        image_mean=_CLIP_MEAN,
        image_std=_CLIP_STD,
    )
    return write_tiny(transformers.CLIPModel(config), steps, folder)


def siglip(folder: Path) -> Path:
    """Both towers of SigLIP; SigLIP 2 of one fixed resolution looks the same."""
    config = transformers.SiglipConfig(
        vision_config={**_SMALL, "patch_size": 8, "image_size": 32},
        text_config={**_SMALL, **_TEXT},
    )
    size = {"height": 32, "width": 32}
    half = [0.5, 0.5, 0.5]
    steps = _steps("SiglipImageProcessor", size=size, resample=3, image_mean=half, image_std=half)
    return write_tiny(transformers.SiglipModel(config), steps, folder)


def naflex(folder: Path) -> Path:
    """Both towers of SigLIP 2 NaFlex: at most 16 patches of 8 pixels."""
    config = transformers.Siglip2Config(
        vision_config={**_SMALL, "patch_size": 8, "num_patches": 16},
        text_config={**_SMALL, **_TEXT},
    )
    half = [0.5, 0.5, 0.5]
    steps = _steps("Siglip2ImageProcessor", patch_size=8, max_num_patches=16, resample=2)
    return write_tiny(transformers.Siglip2Model(config), {**steps, "image_mean": half, "image_std": half}, folder)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "dinov2": dinov2,
    "dinov2_registers": dinov2_registers,
    "dinov3": dinov3,
    "dinov3_convnext": dinov3_convnext,
    "clip": clip,
    "siglip": siglip,
    "naflex": naflex,
}
