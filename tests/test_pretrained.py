from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from transformers.utils import logging

from imgrank.checkpoints import Checkpoint
from imgrank.errors import MissingDeviceError, MissingModelError
from imgrank.pretrained import in_a_line, load_model, quiet, reading

FOUND = Checkpoint("org/name", Path("/cache/name"), "1", {}, {}, {}, 3)


class TowerConfig:
    """Stands in for a configuration of transformers."""

    def __init__(self, numbers):
        self.numbers = numbers

    @classmethod
    def from_pretrained(cls, path, *, local_files_only):
        assert (path, local_files_only) == (FOUND.path, True)
        return cls(6)


class Tower(torch.nn.Module):
    """Stands in for a class of transformers."""

    config_class = TowerConfig

    def __init__(self, config):
        super().__init__()
        if config.numbers < 0:
            raise KeyError("act")
        self.weight = torch.nn.Parameter(torch.empty(config.numbers))

    @classmethod
    def from_pretrained(cls, path, *, missing=(), mismatched=(), **options):
        cls.asked = {"path": path, **options}
        return torch.nn.Linear(2, 2), {"missing_keys": set(missing), "mismatched_keys": set(mismatched)}


def test_weights_come_from_safetensors_on_this_machine_and_no_code_comes_along():
    config = TowerConfig(6)
    model = load_model(Tower, FOUND, device="cpu", dtype="bfloat16", config=config)
    asked = Tower.asked
    assert (asked["path"], asked["dtype"], asked["config"]) == (FOUND.path, torch.bfloat16, config)
    assert (asked["use_safetensors"], asked["local_files_only"], asked["trust_remote_code"]) == (True, True, False)
    assert not model.training
    assert not any(weights.requires_grad for weights in model.parameters())


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["b", "a"], "lack 2 of the tensors that Tower needs: a, b$"),
        (["d", "c", "b", "a"], r"lack 4 .*: a, b, c, \.\.\.$"),
    ],
)
def test_missing_tensors_are_named(missing, words):
    with pytest.raises(MissingModelError, match=words):
        load_model(Tower, FOUND, device="cpu", dtype="float32", missing=missing)


def test_a_tensor_may_be_missing_where_the_caller_says_so():
    options = {"device": "cpu", "dtype": "float32", "missing": ["embeddings.mask_token"]}
    load_model(Tower, FOUND, optional=("mask_token",), **options)
    with pytest.raises(MissingModelError, match="mask_token"):
        load_model(Tower, FOUND, **options)


def test_tensors_of_another_shape_are_named():
    others = [("b", torch.Size([2]), torch.Size([3, 4])), ("a", torch.Size([]), torch.Size([1]))]
    words = r"shapes of 2 tensors do not fit its config\.json: a \(\) instead of \(1,\), b \(2,\) instead of \(3, 4\)$"
    with pytest.raises(MissingModelError, match=words):
        load_model(Tower, FOUND, device="cpu", dtype="float32", mismatched=others)


@pytest.mark.parametrize("numbers", [7, 10**12])
def test_a_configuration_for_more_weights_than_there_are_takes_no_memory(numbers):
    with pytest.raises(MissingModelError, match=rf"config\.json asks for {numbers} weights, and there are only 3"):
        load_model(Tower, FOUND, device="cpu", dtype="float32", config=TowerConfig(numbers))


def test_packed_weights_are_not_counted():
    packed = replace(FOUND, config={"quantization_config": {}})
    load_model(Tower, packed, device="cpu", dtype="float32", config=TowerConfig(100))


def test_a_configuration_that_describes_no_model_is_named():
    with pytest.raises(MissingModelError, match=r"its config\.json cannot be loaded from .*KeyError: 'act'"):
        load_model(Tower, FOUND, device="cpu", dtype="float32", config=TowerConfig(-1))


@pytest.mark.parametrize(
    ("device", "accelerate", "straight"),
    [("cuda:1", True, True), ("mps", True, True), ("cuda", False, False), ("cpu", True, False), ("cpu", False, False)],
)
def test_weights_go_straight_onto_an_accelerator_where_transformers_will(monkeypatch, device, accelerate, straight):
    monkeypatch.setattr("transformers.utils.is_accelerate_available", lambda: accelerate)
    monkeypatch.setattr(torch.nn.Linear, "to", lambda self, device: self)
    load_model(Tower, FOUND, device=device, dtype="float32")
    assert Tower.asked.get("device_map") == ({"": device} if straight else None)


@pytest.mark.parametrize("accelerate", [False, True])
def test_a_real_model_ends_up_on_the_device(tmp_path, monkeypatch, accelerate):
    """The device is one that stores nothing, so that this runs everywhere; the weights lie in several files."""
    if accelerate:
        pytest.importorskip("accelerate")
    else:
        monkeypatch.setattr("transformers.utils.is_accelerate_available", lambda: False)
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    transformers.ViTModel(config).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = replace(FOUND, path=tmp_path, numbers=10**6)
    model = load_model(transformers.ViTModel, found, device="meta", dtype="float16")
    assert {(weights.device.type, weights.dtype) for weights in model.parameters()} == {("meta", torch.float16)}
    here = load_model(transformers.ViTModel, found, device="cpu", dtype="float32")
    for name, weights in transformers.ViTModel.from_pretrained(tmp_path).named_parameters():
        assert torch.equal(here.get_parameter(name), weights)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_device_that_is_too_small_is_told_from_a_damaged_file(error):
    with pytest.raises(MissingDeviceError, match="'cuda:1': the weights of 'org/name' do not fit"):
        with reading(FOUND, "its weights", device="cuda:1"):
            raise error


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, OSError, ZeroDivisionError])
def test_a_damaged_file_is_named_in_one_line(kind):
    with pytest.raises(MissingModelError, match=r"its weights cannot be loaded from /cache/name .*first.*download it"):
        with reading(FOUND, "its weights"):
            raise kind("first") if kind is KeyError else kind("first\nsecond")


def test_a_message_that_announces_the_next_line_is_read_on():
    assert in_a_line(ValueError("Errors:\n\tsize mismatch\n\tanother")) == "Errors: size mismatch"
    assert in_a_line(MemoryError()) == "MemoryError: "
    assert len(in_a_line(ValueError("x" * 10_000))) < 400


def test_a_package_for_quantized_weights_is_asked_for():
    with pytest.raises(MissingModelError, match=r"\(no bits\); install that, or take weights that are not quantized"):
        with reading(FOUND, "its weights"):
            raise ImportError("no bits")


@pytest.mark.parametrize("bars", [False, True])
def test_what_transformers_says_is_set_back(bars):
    level = logging.get_verbosity()
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
    logging.set_verbosity_info()
    try:
        with suppress(ArithmeticError), quiet():
            assert logging.get_verbosity() == logging.ERROR
            assert not logging.is_progress_bar_enabled()
            raise ArithmeticError
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled() == bars
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
