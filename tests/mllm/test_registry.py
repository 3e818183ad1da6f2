import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch

from imgrank.errors import MissingModelError, SettingsError
from imgrank.mllm.prompts import prompt_for
from imgrank.mllm.registry import ADAPTERS, load_mllm
from imgrank.rerank.packing import PairScorer
from tests.tiny_mllms import FAMILIES, TINY


def test_every_adapter_exists_and_has_a_tiny_model_in_the_tests():
    # The family of the built-in model has tests and a trained model of its own.
    assert set(ADAPTERS) - {"imgrank_keypoints"} == {tiny.name for tiny in TINY.values()}
    for family, (module, name) in ADAPTERS.items():
        assert getattr(importlib.import_module(module), name).family == family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_loaded_as_asked(model_folder, family):
    model = load_mllm(str(model_folder(family)), device="cpu", dtype="bfloat16")
    assert (model.family, model.device, model.dtype) == (TINY[family].name, "cpu", "bfloat16")
    assert model.name == str(model_folder(family))
    assert model.hidden == 64
    assert model.levels == (3 if family == "qwen3_vl" else 1)
    json.dumps(dict(model.settings))


def test_an_unsupported_architecture_names_the_supported_ones(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))  # no weights needed to tell
    with pytest.raises(SettingsError, match=r"'bert'.*internvl.*qwen3_vl"):
        load_mllm(str(tmp_path))


def test_weights_that_lack_a_tensor_are_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("qwen2_5_vl"), tmp_path / "model")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (name,) = (name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    del tensors[name]
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingModelError, match=r"lack 1 of the tensors.*layers\.1\.mlp\.up_proj"):
        load_mllm(str(folder), device="cpu")


def test_weights_of_another_shape_are_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("qwen2_5_vl"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingModelError, match=str(folder)):
        load_mllm(str(folder), device="cpu")


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_an_error_of_the_model(model_folder, tmp_path, file):
    folder = shutil.copytree(model_folder("qwen3_vl"), tmp_path / "model")
    (folder / file).write_bytes(b"\0" * 100)
    with pytest.raises(MissingModelError, match=str(folder)):
        load_mllm(str(folder), device="cpu")


def test_code_in_a_folder_is_never_run(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("qwen3_vl"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", None]}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = config["auto_map"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    load_mllm(str(folder), device="cpu")
    assert not (tmp_path / "ran").exists()


def test_loading_says_nothing_on_standard_error(model_folder):
    code = f"from imgrank.mllm.registry import load_mllm; load_mllm({str(model_folder('qwen3_vl'))!r}, device='cpu')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


def test_the_list_of_adapters_costs_no_model_library():
    code = (
        "import sys, imgrank.mllm.registry, imgrank.mllm.prompts;"
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_layers_score_the_same(model_folder):
    random = np.random.default_rng(0)
    photos = [random.integers(0, 256, (100, 130, 3), dtype=np.uint8) for _ in range(4)]
    scores = []
    for compiled in (False, True):
        model = load_mllm(str(model_folder("qwen3_vl")), device="cpu", dtype="float32", compile=compiled)
        tokens = model.encode(photos, longer_side=128, max_tokens=50)
        scorer = PairScorer(model, prompt_for("object"))
        scores.append(scorer.score(tokens[0], tokens[1:]))
        few = scorer.score(tokens[0], [tokens[1].take([0, 2])])  # another length runs without compiling anew
        assert np.isfinite(few).all()
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-4, rtol=0)
