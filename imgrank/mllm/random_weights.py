"""A model of any shape with random weights, from its config.json alone, to measure what that shape costs.

Nothing is downloaded, and no checkpoint and no tokenizer is needed: what a folder lacks is replaced by something that
costs the same. Answers of such a model mean nothing. The weights are drawn on the device they stay on.
"""

from __future__ import annotations

import copy
import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from imgrank.checkpoints import Config, read_image_processor, read_json, read_processor
from imgrank.devices import free_memory, torch_dtype
from imgrank.errors import MissingDeviceError, SettingsError
from imgrank.mllm.base import VisionLanguageModel
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.loading import load_tokenizer
from imgrank.mllm.packed import ATTENTION, register
from imgrank.mllm.registry import ADAPTERS
from imgrank.mllm.stand_in import StandInTokenizer
from imgrank.pretrained import reading

REVISION = "random"

_MOST_LAYERS = 1000
_TILES = 4  # along the longer side, of families that cut photos


def random_mllm(config: Path, *, device: str, dtype: str) -> VisionLanguageModel:
    """Build a multimodal language model with random weights; the same ones each time.

    Args:
        config: a config.json under any name, or a folder with one. A tokenizer with a chat template, and an image
            processor, are used where they lie beside it.
        device: as `imgrank.devices.pick_device` returns it.
        dtype: "float32", "float16" or "bfloat16".

    Raises:
        MissingModelError: there is no such file, or it is no configuration of a model.
        SettingsError: the architecture has no adapter, or a variant that is not supported.
        MissingDeviceError: the weights do not fit into the device's free memory.
    """
    path = config / "config.json" if config.is_dir() else config
    name = f"{config} (random weights)"
    values = read_json(name, path)
    family = values.get("model_type")
    if family not in ADAPTERS:
        raise SettingsError(
            f"{path}: architecture {family!r} cannot score pairs of photos here; "
            f"supported: {', '.join(sorted(ADAPTERS))}"
        )
    folder = _folder(name, path, values)
    module, adapter = ADAPTERS[family]
    made: Any = getattr(importlib.import_module(module), adapter)
    if not hasattr(made, "model_class"):
        raise SettingsError(f"{path}: models of the architecture {family!r} are small; measure a real one with --mllm")
    with reading(folder, "a model", device=device):
        model_class = getattr(transformers, made.model_class)
        shape = model_class.config_class.from_dict(dict(values))
        _check_size(name, model_class, shape, device, dtype)
        network = _drawn(model_class, shape, device, dtype)
    tokenizer = _tokenizer(folder, network.config)
    folder = replace(folder, image_processor=folder.image_processor or _usual_preparation(network.config))
    model: VisionLanguageModel = made(folder, network, tokenizer, device=device, dtype=dtype)
    return model


def _folder(name: str, path: Path, config: Config) -> ModelFolder:
    """Return what is known without weights; files count only beside a config.json that is called so."""
    beside = path.parent if path.name == "config.json" else None
    prepared = beside is not None and any(
        (beside / file).exists() for file in ("preprocessor_config.json", "processor_config.json")
    )
    return ModelFolder(
        name=name,
        path=path.parent,
        revision=REVISION,
        config=config,
        image_processor=read_image_processor(name, path.parent) if prepared else {},
        processor=read_processor(name, path.parent) if prepared else {},
        numbers=0,
        chat_template=None,  # the tokenizer's own
        tokenizer=path.parent if beside is not None else path,
        adapter=None,
    )


def _check_size(name: str, model_class: Any, shape: Any, device: str, dtype: str) -> None:
    """Refuse a model that is too large, before memory is taken for it."""
    for part in (shape.get_text_config(), shape.vision_config):
        for depth in (getattr(part, "num_hidden_layers", 0), getattr(part, "depth", 0)):
            if depth > _MOST_LAYERS:
                raise SettingsError(f"{name}: {depth} layers are more than any model has; is that its config.json?")
    with torch.device("meta"):
        numbers = sum(weights.numel() for weights in model_class(copy.deepcopy(shape)).parameters())
    needed, free = numbers * torch_dtype(dtype).itemsize, free_memory(device)
    if free is not None and needed > free:
        raise MissingDeviceError(
            device,
            f"{numbers / 1e9:.1f} billion weights take {needed / 2**30:.1f} GiB in {dtype}, and "
            f"{free / 2**30:.1f} GiB are free; take a smaller model, fewer layers or --dtype bfloat16",
        )


def _drawn(model_class: Any, shape: Any, device: str, dtype: str) -> Any:
    """Build a network as its own class initialises it, from a fixed seed, straight on the device."""
    register()
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=cuda), torch.device(device):
        torch.manual_seed(0)
        network = model_class._from_config(
            shape, dtype=torch_dtype(dtype), attn_implementation={"": "sdpa", "text_config": ATTENTION}
        )
    return network.eval().requires_grad_(False)


def _tokenizer(folder: ModelFolder, config: Any) -> Any:
    """Return the folder's tokenizer where it has one that can chat, else a stand-in."""
    if (folder.tokenizer / "tokenizer.json").exists():
        found = load_tokenizer(folder)
        if found.chat_template is not None:
            return found
    return StandInTokenizer(folder.name, config)


def _usual_preparation(config: Any) -> dict[str, Any]:
    """Return numbers of an image processor under the names that the families use; they change no cost."""
    side = getattr(config.vision_config, "image_size", None)
    if isinstance(side, list | tuple):
        side = side[0]
    values: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if side is not None:
        values["size"] = {"height": side, "width": side, "longest_edge": _TILES * side}
        values["max_image_size"] = {"longest_edge": side}
    return values
