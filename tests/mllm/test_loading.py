"""What is wrong with a model folder is said in one error, which names the file."""

import json
import shutil

import pytest
import transformers

from imgrank.errors import ImgrankError, MissingModelError, SettingsError
from imgrank.mllm.registry import load_mllm


def put(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def without(*files):
    return lambda folder: [(folder / file).unlink() for file in files]


def cut(file, part=2):
    return lambda folder: put(file, (folder / file).read_bytes()[: (folder / file).stat().st_size // part])(folder)


def config(section=None, **values):
    def harm(folder):
        whole = json.loads((folder / "config.json").read_text())
        (whole if section is None else whole[section]).update(values)
        (folder / "config.json").write_text(json.dumps(whole))

    return harm


def shards(folder):
    """Cut the weights into several files, and return one of the middle."""
    network = transformers.Qwen3VLForConditionalGeneration.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="300KB")
    return sorted(folder.glob("model-*.safetensors"))[1]


def cut_shard(folder):
    shard = shards(folder)
    shard.write_bytes(shard.read_bytes()[:-1])


def half_an_index(folder):
    shards(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = {key: file for key, file in index["weight_map"].items() if "00001" in file}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


CASES = {
    "no tokenizer": (without("tokenizer.json"), "lacks tokenizer.json"),
    "half a tokenizer": (cut("tokenizer.json"), r"tokenizer\.json is not JSON .*download it again"),
    "tokenizer of bytes": (put("tokenizer.json", b"\xff\0" * 9), r"tokenizer\.json is not JSON"),
    "empty tokenizer": (put("tokenizer.json", b"{}"), r"its tokenizer cannot be loaded: .*download it again"),
    "half the tokenizer's settings": (cut("tokenizer_config.json"), r"tokenizer_config\.json is not JSON"),
    "settings of no tokenizer": (put("tokenizer_config.json", b"[]"), r"tokenizer_config\.json is not a JSON object"),
    "tokenizer of another model": (config(image_token_id=9999), "does not know the image placeholder, token 9999"),
    "no preprocessor": (without("preprocessor_config.json"), r"lacks preprocessor_config\.json"),
    "half a preprocessor": (cut("preprocessor_config.json"), r"preprocessor_config\.json is not JSON"),
    "half a processor": (put("processor_config.json", b"{"), r"processor_config\.json is not JSON"),
    "no config": (without("config.json"), r"lacks config\.json"),
    "config is text": (put("config.json", b"a model"), r"config\.json is not JSON"),
    "config of a list": (put("config.json", b"[]"), r"config\.json is not a JSON object"),
    "config of no model": (config(model_type=None), r"config\.json lacks model_type"),
    "config with words for numbers": (config("text_config", hidden_size="x"), r"config\.json .*hidden_size"),
    "config with no heads": (config("text_config", num_attention_heads=0), r"config\.json cannot be loaded"),
    "config with an unknown function": (config("text_config", hidden_act="nope"), r"config\.json .*KeyError: 'nope'"),
    "config of a larger model": (config("text_config", hidden_size=2**14), r"config\.json asks for \d+ weights"),
    "config of a narrower model": (
        config("text_config", intermediate_size=64),
        r"shapes of 12 tensors do not fit its config\.json: \S*\.0\.mlp\.down_proj\.weight \(64, 128\) instead of",
    ),
    "config of a longer model": (config("text_config", num_hidden_layers=5), r"lack 11 of the tensors .*layers\.4"),
    "quantized for a package": (
        config(quantization_config={"quant_method": "awq", "bits": 4}),
        "AWQ .*install that, or take weights that are not quantized",
    ),
    "no weights": (without("model.safetensors"), r"lacks model\.safetensors"),
    "half the weights": (cut("model.safetensors"), r"model\.safetensors has \d+ bytes, but its header says \d+"),
    "a little of the weights": (cut("model.safetensors", 10_000), r"model\.safetensors is not a safetensors file"),
    "a pointer to weights": (put("model.safetensors", b"version https://git-lfs"), r"model\.safetensors is a Git LFS"),
    "a missing file of weights": (lambda folder: shards(folder).unlink(), r"lacks model-00002-of-0000\d\.safetensors"),
    "half a file of weights": (cut_shard, r"model-00002-of-0000\d\.safetensors has \d+ bytes"),
    "half an index": (half_an_index, r"config\.json asks for|lack \d+ of the tensors"),
    "index is text": (
        lambda folder: [shards(folder), put("model.safetensors.index.json", b"x")(folder)],
        r"model\.safetensors\.index\.json is not JSON",
    ),
    "template of bytes": (put("chat_template.jinja", b"\xff"), r"chat_template\.jinja is not UTF-8"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_folder_is_one_error_that_names_the_file(model_folder, tmp_path, case):
    folder = shutil.copytree(model_folder("qwen3_vl"), tmp_path / "model")
    harm, words = CASES[case]
    harm(folder)
    with pytest.raises(MissingModelError, match=words) as raised:
        load_mllm(str(folder), device="cpu")
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 800


@pytest.mark.parametrize("harm", [put("chat_template.jinja", b"{% if %}"), without("chat_template.jinja")])
def test_a_template_that_cannot_be_used_is_an_error_of_the_model(model_folder, tmp_path, harm):
    folder = shutil.copytree(model_folder("qwen3_vl"), tmp_path / "model")
    harm(folder)
    model = load_mllm(str(folder), device="cpu")
    with pytest.raises(MissingModelError, match="its chat template cannot be used"):
        model.chat([{"role": "user", "content": "?"}])


def test_a_model_with_code_of_its_own_is_refused_by_architecture(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("qwen3_vl"), tmp_path / "model")
    config(model_type="internvl_chat", auto_map={"AutoModel": "evil.Model"})(folder)
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(SettingsError, match=r"'internvl_chat'.*qwen3_vl"):
        load_mllm(str(folder), device="cpu")


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "no/such/folder"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(MissingModelError, match="there is no such folder"):
        load_mllm(name, device="cpu")


def test_a_hub_id_without_network_says_what_to_do(monkeypatch):
    def unreachable(*arguments, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ImgrankError, match="hf download org/name --local-dir DIR") as raised:
        load_mllm("org/name", device="cpu")
    assert raised.value.exit_code == 3
