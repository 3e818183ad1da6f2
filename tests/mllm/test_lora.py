"""Adapters made by peft, merged by the loading code, against the forward of peft's own unmerged model."""

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from imgrank.checkpoints import find_checkpoint
from imgrank.errors import MissingExtraError, MissingModelError, SettingsError
from imgrank.mllm import lora
from imgrank.mllm.answers import Answers
from imgrank.mllm.folder import open_model_folder
from imgrank.mllm.prompts import prompt_for
from imgrank.mllm.registry import load_mllm
from imgrank.rerank.packing import PairScorer
from tests.tiny_mllms import FAMILIES, TINY

needs_peft = pytest.mark.skipif(
    not all(importlib.util.find_spec(package) for package in ("peft", "accelerate")), reason="peft is not installed"
)
PROJECTIONS = ["q_proj", "v_proj", "down_proj"]


def network_of(folder, family):
    return getattr(transformers, TINY[family].model_class).from_pretrained(folder, dtype=torch.float32).eval()


def save_adapter(
    base, folder, family="qwen3_vl", *, kind="Lora", target_modules=PROJECTIONS, base_name=None, **settings
):
    """Let peft save an adapter with random weights; return the network that has its layers unmerged."""
    import peft

    network = network_of(base, family)
    if kind == "Lora":
        settings = {"r": 4, "lora_alpha": 8} | settings
    config = getattr(peft, f"{kind}Config")(target_modules=target_modules, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        wrapped = peft.get_peft_model(network, config)
        with torch.no_grad():
            for name, weights in wrapped.named_parameters():
                if weights.requires_grad:
                    weights.add_(torch.randn_like(weights) * (0.1 if "lora_B" in name else 0.02))
    wrapped.peft_config["default"].base_model_name_or_path = str(base) if base_name is None else base_name
    wrapped.save_pretrained(folder)
    return network.eval()


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def base(model_folder):
    return model_folder("qwen3_vl")


def photos_of(family):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in TINY[family].photo_sizes[:3]]


def difference(network, family, base, photos):
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    text = tokenizer.apply_chat_template(
        prompt_for("object").messages(Answers()), add_generation_prompt=True, tokenize=False
    )
    text += " " if text.endswith(":") else ""  # what stands before a digit in a reply
    logits = TINY[family].plain(network, tokenizer, base, text, photos)
    zero, one = tokenizer.convert_tokens_to_ids(["0", "1"])
    return float(logits[one] - logits[zero])


def scores_of(model, family, photos):
    tokens = model.encode(photos, longer_side=TINY[family].longer_side, max_tokens=TINY[family].max_tokens)
    return PairScorer(model, prompt_for("object")).score(tokens[0], tokens[1:])


def check_scores(model, network, family, base):
    """Hold the whole road, from pixels to logits, against a forward of the unmerged network."""
    photos = photos_of(family)
    expected = [difference(network, family, base, [photos[0], photo]) for photo in photos[1:]]
    plain = network_of(base, family)
    before = [difference(plain, family, base, [photos[0], photo]) for photo in photos[1:]]
    assert np.abs(np.subtract(expected, before)).min() > 1e-3  # else any adapter would do
    np.testing.assert_allclose(scores_of(model, family, photos), expected, atol=1e-4, rtol=0)


@needs_peft
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_unmerged_adapter_on_language_model_and_vision(model_folder, tmp_path, family):
    base = model_folder(family)
    network = save_adapter(base, tmp_path / "adapter", family, target_modules="all-linear")
    touched = {key for key in load_file(tmp_path / "adapter" / "adapter_model.safetensors") if "lora_B" in key}
    assert any("visual" in key or "vision" in key for key in touched)
    model = load_mllm(str(tmp_path / "adapter"), device="cpu", dtype="float32")
    assert model.name == str(tmp_path / "adapter")
    check_scores(model, network, family, base)


@needs_peft
@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True, "rank_pattern": {"layers.1.self_attn.q_proj": 8}, "alpha_pattern": {"v_proj": 32}},
        {"use_dora": True, "modules_to_save": ["lm_head", "merger"]},
        {"target_modules": r".*language_model.*\.(q_proj|k_proj)", "bias": "all"},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"kind": "LoHa", "r": 4, "alpha": 8},
    ],
    ids=["scales", "dora", "pattern", "embeddings", "loha"],
)
@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
def test_settings_of_adapters_count(base, tmp_path, settings, tied):
    if tied:  # the output matrix is the input's, and must stay what it was where only the other is changed
        base = shutil.copytree(base, tmp_path / "base")
        config = json.loads((base / "config.json").read_text())
        config["text_config"]["tie_word_embeddings"] = config["tie_word_embeddings"] = True
        (base / "config.json").write_text(json.dumps(config))
        tensors = load_file(base / "model.safetensors")
        del tensors["lm_head.weight"]
        save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    network = save_adapter(base, tmp_path / "adapter", **settings)
    model = load_mllm(str(tmp_path / "adapter"), device="cpu", dtype="float32")
    check_scores(model, network, "qwen3_vl", base)


@needs_peft
def test_the_weights_are_those_of_the_base_plus_the_scaled_product(base, tmp_path):
    save_adapter(base, tmp_path / "adapter")
    changes = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    before = load_file(base / "model.safetensors")
    whole = (base / "model.safetensors").read_bytes()
    state = torch.random.get_rng_state()
    merged = dict(load_mllm(str(tmp_path / "adapter"), device="cpu", dtype="float32")._network.named_parameters())
    assert set(merged) == set(dict(network_of(base, "qwen3_vl").named_parameters()))
    for name, weights in merged.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in changes:
            product = changes[f"{key}.lora_B.weight"] @ changes[f"{key}.lora_A.weight"]
            assert product.abs().max() > 0.01
            torch.testing.assert_close(weights, before[name] + 8 / 4 * product, atol=1e-6, rtol=0)
        else:
            torch.testing.assert_close(weights, before[name], atol=0, rtol=0)
        assert not weights.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (base / "model.safetensors").read_bytes() == whole  # though its weights are mapped into memory


@needs_peft
def test_the_merged_weights_have_the_number_type_that_was_asked_for(base, tmp_path):
    save_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    network = load_mllm(str(tmp_path / "adapter"), device="cpu", dtype="bfloat16")._network
    exact = load_mllm(str(tmp_path / "adapter"), device="cpu", dtype="float32")._network
    assert {weights.dtype for weights in network.parameters()} == {torch.bfloat16}
    for name, weights in exact.named_parameters():  # rounded two or three times: base, difference and sum
        torch.testing.assert_close(network.get_parameter(name).float(), weights, atol=0.02, rtol=0.02)


def renamed_as_by_older_transformers(folder):
    path = folder / "adapter_model.safetensors"
    tensors = {
        key.replace("model.language_model.", "model.").replace(".model.visual.", ".visual."): tensor
        for key, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


@needs_peft
@pytest.mark.parametrize(
    "targets", [["q_proj", "qkv"], r"^(model\.layers.*q_proj|visual.*qkv)$"], ids=["names", "pattern"]
)
def test_an_adapter_with_the_module_names_of_older_transformers_is_merged(model_folder, tmp_path, targets):
    base, folder = model_folder("qwen2_5_vl"), tmp_path / "adapter"
    network = save_adapter(
        base,
        folder,
        "qwen2_5_vl",
        target_modules=["q_proj", "qkv"],
        alpha_pattern={"model.language_model.layers.0.self_attn.q_proj": 64},
    )
    renamed_as_by_older_transformers(folder)
    edit(
        folder / "adapter_config.json",
        target_modules=targets,
        alpha_pattern={"model.layers.0.self_attn.q_proj": 64},
    )
    check_scores(load_mllm(str(folder), device="cpu", dtype="float32"), network, "qwen2_5_vl", base)


@needs_peft
def test_loading_an_adapter_says_nothing_on_standard_error(base, tmp_path):
    save_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    code = f"from imgrank.mllm.registry import load_mllm; load_mllm({str(tmp_path / 'adapter')!r}, device='cpu')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


# What does not fit


def change_tensors(change):
    def harm(folder):
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return harm


def change_settings(**values):
    return lambda folder: edit(folder / "adapter_config.json", **values)


def last_with(part, tensors):
    return max(key for key in tensors if part in key)


def rename(tensors):
    key = last_with("lora_A", tensors)
    tensors[key.replace("down_proj", "dawn_proj").replace("v_proj", "w_proj")] = tensors.pop(key)


HARM = {
    "rank": (change_settings(r=8), r"does not fit the base model .*size mismatch"),
    "target": (change_settings(target_modules=["nowhere"]), "nowhere"),
    "more targets": (
        change_settings(target_modules=[*PROJECTIONS, "k_proj"]),
        r"asks for 8 tensors .* lacks: .*k_proj",
    ),
    "tensor missing": (
        change_tensors(lambda tensors: tensors.pop(last_with("lora_B", tensors))),
        r"asks for 1 tensors .* lacks: .*lora_B",
    ),
    "tensor unknown": (change_tensors(rename), r"no place for 1 of its tensors: .*w_proj\.lora_A"),
    "tensor of another layer": (
        change_tensors(
            lambda t: t.update({last_with("lora_A", t).replace("layers.3", "layers.7"): torch.zeros(4, 64)})
        ),
        "no place for 1 of its tensors",
    ),
    "nan": (
        change_tensors(lambda tensors: tensors[last_with("lora_B", tensors)].fill_(torch.nan)),
        "NaNs detected in the merged weights",
    ),
    "pattern": (change_settings(alpha_pattern={"layers.9.self_attn.q_proj": 2}), r"'layers\.9.*' in alpha_pattern"),
    "kind": (change_settings(peft_type="NO_SUCH"), "knows no adapter of type 'NO_SUCH'; upgrade peft"),
    "no kind": (change_settings(peft_type=["LORA"]), "knows no adapter of type"),
    "prompt": (
        change_settings(peft_type="PROMPT_TUNING", num_virtual_tokens=4),
        "type PROMPT_TUNING adds to the input of layers",
    ),
    "newer": (change_settings(use_wings=True, wing_count=2), "does not know its settings use_wings; upgrade peft"),
    "layers": (change_settings(layer_replication=[[0, 2], [1, 4]]), "layer_replication are not supported"),
    "foreign": (change_settings(megatron_config={"a": 1}), "megatron_config are not supported"),
    "setting": (change_settings(r="four"), "does not fit"),
    "cut": (lambda folder: cut(folder / "adapter_model.safetensors"), r"has \d+ bytes, but its header says"),
}


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


@pytest.fixture(scope="module")
def saved(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    save_adapter(model_folder("qwen3_vl"), folder)
    return folder


@needs_peft
@pytest.mark.parametrize("case", HARM)
def test_what_does_not_fit_is_refused_with_the_reason(saved, tmp_path, case):
    folder = shutil.copytree(saved, tmp_path / "adapter")
    harm, words = HARM[case]
    harm(folder)
    with pytest.raises(MissingModelError, match=words) as raised:
        load_mllm(str(folder), device="cpu")
    assert str(folder) in str(raised.value)


@needs_peft
def test_an_adapter_of_another_model_is_refused(saved, model_folder, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "adapter")
    edit(folder / "adapter_config.json", base_model_name_or_path=str(model_folder("smolvlm")))
    with pytest.raises(MissingModelError, match="its adapter cannot be used"):
        load_mllm(str(folder), device="cpu")


# Finding an adapter: no peft needed


@pytest.fixture
def adapter(base, tmp_path, monkeypatch):
    """An adapter of one tensor, as far as the files go."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 1, "revision": None})
    )
    save_file({"a": torch.zeros(3)}, folder / "adapter_model.safetensors")
    monkeypatch.setattr(lora, "_lacks_package", lambda package: False)
    return folder


@pytest.mark.parametrize("package", ["peft", "accelerate"])
def test_a_missing_package_is_named_with_the_command(adapter, monkeypatch, package):
    monkeypatch.undo()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name) or name)
    with pytest.raises(MissingExtraError, match=rf"needs {package}, .*pip install 'imgrank\[peft\]'") as raised:
        load_mllm(str(adapter), device="cpu")
    assert (raised.value.exit_code, raised.value.extra) == (3, "peft")
    assert repr(str(adapter)) in str(raised.value)


def test_the_rest_comes_from_the_base_model(adapter, base):
    found, plain = open_model_folder(str(adapter)), open_model_folder(str(base))
    assert (found.name, found.path, found.adapter.path) == (str(adapter), base, adapter)
    assert (found.config, found.image_processor, found.processor) == (plain.config, plain.image_processor, {})
    assert (found.chat_template, found.tokenizer) == (plain.chat_template, base)
    assert plain.adapter is None


def test_what_the_adapter_has_of_its_own_goes_first(adapter, base):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, adapter)
    (adapter / "preprocessor_config.json").write_text('{"size": 3}')
    (adapter / "processor_config.json").write_text('{"image_seq_len": 4}')
    found = open_model_folder(str(adapter))
    assert (found.image_processor, found.processor) == ({"size": 3}, {"image_seq_len": 4})
    assert (found.tokenizer, found.path) == (adapter, base)
    assert found.chat_template == (base / "chat_template.jinja").read_text()  # the adapter's tokenizer has none
    (adapter / "chat_template.jinja").write_text("{{ 1 }}")
    assert open_model_folder(str(adapter)).chat_template == "{{ 1 }}"


def test_the_revision_covers_adapter_and_base(adapter, base, tmp_path):
    def revision(folder=adapter):
        return open_model_folder(str(folder)).revision

    first = revision()
    assert first.startswith("blake2b-")
    assert first != find_checkpoint(str(base)).revision
    assert revision(shutil.copytree(adapter, tmp_path / "copy")) == first
    save_file({"a": torch.ones(3)}, adapter / "adapter_model.safetensors")
    second = revision()
    other = shutil.copytree(base, tmp_path / "base")
    edit(other / "config.json", changed=True)
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(other))
    edit(tmp_path / "copy" / "adapter_config.json", base_model_name_or_path=str(other))
    assert len({first, second, revision(), revision(tmp_path / "copy")}) == 4


def test_a_base_beside_the_adapter_and_one_in_the_working_directory(adapter, base, tmp_path, monkeypatch):
    shutil.copytree(base, tmp_path / "models" / "base")
    edit(adapter / "adapter_config.json", base_model_name_or_path="../models/base")
    assert open_model_folder(str(adapter)).path.resolve() == tmp_path / "models" / "base"
    edit(adapter / "adapter_config.json", base_model_name_or_path="models/base")
    monkeypatch.chdir(tmp_path)
    assert open_model_folder(str(adapter)).path.resolve() == tmp_path / "models" / "base"


def set_base(value):
    return lambda folder: edit(folder / "adapter_config.json", base_model_name_or_path=value)


def as_pickle(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (as_pickle, r"lacks adapter_model\.safetensors \(adapter_model\.bin is not read: such files can run code\)"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), r"lacks adapter_model\.safetensors; copy"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), r"adapter_config\.json is not JSON"),
        (lambda folder: (folder / "model.safetensors").touch(), "holds both a whole model and an adapter"),
        (set_base(None), r"base_model_name_or_path in .*adapter_config\.json does not say which model"),
        (set_base("/mnt/training/base"), r"'/mnt/training/base' is not on this machine; put base_model_name_or_path"),
        (set_base("."), "its base model is of no use: .* makes it an adapter, and a whole model is needed"),
    ],
)
def test_an_incomplete_adapter_says_what_it_lacks(adapter, harm, words):
    harm(adapter)
    with pytest.raises(MissingModelError, match=words) as raised:
        open_model_folder(str(adapter))
    assert raised.value.model == str(adapter)


def test_the_architecture_of_the_base_decides(adapter, base, tmp_path):
    other = shutil.copytree(base, tmp_path / "base")
    edit(other / "config.json", model_type="bert")
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(other))
    with pytest.raises(SettingsError, match="'bert'"):
        load_mllm(str(adapter), device="cpu")


def test_an_adapter_on_the_hub_and_its_base_at_a_revision(adapter, base, monkeypatch, tmp_path):
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((name, revision, set(allow_patterns)))
        return str(folders[name])

    commit, other = "a" * 40, "b" * 40
    folders = {"org/adapter": adapter.rename(tmp_path / commit), "org/base": shutil.copytree(base, tmp_path / other)}
    edit(tmp_path / commit / "adapter_config.json", base_model_name_or_path="org/base", revision="v2")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found = open_model_folder("org/adapter", "v1")
    assert [call[:2] for call in asked] == [
        ("org/adapter", "v1"),
        ("org/adapter", commit),
        ("org/base", "v2"),
        ("org/base", other),
    ]
    assert asked[1][2] >= {"adapter_config.json", "adapter_model.safetensors", "*.json", "*.jinja"}
    assert not any(pattern.endswith((".bin", ".py", ".pt")) for call in asked for pattern in call[2])
    assert (found.name, found.path, found.adapter.revision) == ("org/adapter", tmp_path / other, commit)
