from contextlib import suppress
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from imgrank.checkpoints import Checkpoint
from imgrank.errors import MissingDeviceError, MissingModelError
from imgrank.pretrained import load_model, quiet, reading

FOUND = Checkpoint("org/name", Path("/cache/name"), "1", {}, {})


class Tower:
    """Stands in for a class of transformers."""

    @classmethod
    def from_pretrained(cls, path, *, missing=(), **options):
        cls.asked = {"path": path, **options}
        return torch.nn.Linear(2, 2), {"missing_keys": set(missing)}


def test_weights_come_from_safetensors_on_this_machine_and_no_code_comes_along():
    model = load_model(Tower, FOUND, device="cpu", dtype="bfloat16", config="given")
    asked = Tower.asked
    assert (asked["path"], asked["dtype"], asked["config"]) == (FOUND.path, torch.bfloat16, "given")
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
