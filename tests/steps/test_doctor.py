"""The parity check, on models of random weights: it agrees with a sound engine, and notices a broken one."""

import json

import pytest
import torch

from imgrank.mllm import packed
from imgrank.steps.doctor import Check, examine


def test_the_machine_alone():
    found = examine(device="cpu")
    assert "CPU" in found.facts["dtype_reason"]
    assert found.facts["device_name"]
    assert found.facts["torch"] == torch.__version__
    assert (found.facts["attention"], found.checks, found.healthy) == (
        packed.attention_kernel(found.facts["device"]),
        [],
        True,
    )


@pytest.mark.parametrize(
    ("family", "dtype"), [("qwen3_vl", "float32"), ("qwen3_vl", "bfloat16"), ("gemma3", "float32")]
)
def test_a_sound_engine_passes(model_folder, family, dtype):
    found = examine(str(model_folder(family)), device="cpu", dtype=dtype)
    assert len(found.checks) == 4
    assert found.healthy, found.checks
    assert max(found.facts["logits"]) - min(found.facts["logits"]) > 0.01  # else agreement would say nothing
    assert found.facts["family"] == family


def test_a_kernel_that_computes_something_else_is_noticed(model_folder, monkeypatch):
    sound = packed._sdpa

    def broken(query, key, value, layout, scaling, *, sliding):
        return sound(query, key, value, layout, scaling * 1.02, sliding=sliding)

    monkeypatch.setattr(packed, "_sdpa", broken)
    found = examine(str(model_folder("qwen3_vl")), device="cpu", dtype="float32")
    assert not found.healthy
    failed = [check.name for check in found.checks if not check.passed]
    assert failed == ["packed, as the plain forward on pixels"]


def test_a_difference_that_is_no_number_does_not_pass():
    assert not Check("x", float("nan"), 1.0).passed


def test_the_command_prints_facts_and_checks(imgrank, model_folder):
    run = imgrank("doctor", "--mllm", model_folder("qwen3_vl"), "--device", "cpu")
    assert run.returncode == 0, run.stderr.decode()
    record = json.loads(run.stdout)
    assert record["healthy"]
    assert [check["passed"] for check in record["checks"]] == [True] * 4
    text = imgrank("doctor", "--format", "text", "--device", "cpu")
    assert text.returncode == 0
    assert b"attention" in text.stdout
    gone = imgrank("doctor", "--mllm", "no/such/model/here")
    assert gone.returncode == 3
    assert gone.stdout == b""
