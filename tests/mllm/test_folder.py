import json
import shutil

import huggingface_hub.constants
import pytest

from imgrank.errors import MissingModelError, SettingsError
from imgrank.mllm.folder import folder_digest, open_model_folder


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder("qwen3_vl"), tmp_path / "model")


def test_a_complete_folder(folder):
    opened = open_model_folder(str(folder))
    assert opened.config["model_type"] == "qwen3_vl"
    assert opened.image_processor["patch_size"] == 16
    assert opened.chat_template is None  # the tokenizer has it
    assert opened.revision == folder_digest(folder, [folder / "model.safetensors"])


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(MissingModelError, match=f"lacks {file}"):
        open_model_folder(str(folder))


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(MissingModelError, match="pickled weights are not read"):
        open_model_folder(str(folder))


def test_every_shard_must_be_there_and_lie_in_the_folder(folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    shutil.copy(folder / "a.safetensors", tmp_path / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    assert open_model_folder(str(folder)).revision.startswith("blake2b-")
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    with pytest.raises(MissingModelError, match=r"lacks b\.safetensors"):
        open_model_folder(str(folder))
    index.write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    with pytest.raises(MissingModelError, match=r"lacks outside\.safetensors"):
        open_model_folder(str(folder))


@pytest.mark.parametrize("content", ["{", "[1]", "\ud800"])
def test_a_damaged_config_is_named(folder, content):
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(MissingModelError, match=r"config\.json"):
        open_model_folder(str(folder))


def test_a_processor_saved_in_one_file(folder):
    values = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    assert open_model_folder(str(folder)).image_processor == values


def test_a_chat_template_apart_from_the_tokenizer(folder):
    for file in folder.glob("*.jinja"):
        file.unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 1 }}"}))
    assert open_model_folder(str(folder)).chat_template == "{{ 1 }}"
    (folder / "chat_template.jinja").write_text("{{ 2 }}")  # newer, and read by the tokenizer
    assert open_model_folder(str(folder)).chat_template is None


def test_the_digest_sees_changed_weights_and_configs(folder):
    weights = folder / "model.safetensors"
    before = folder_digest(folder, [weights])
    assert folder_digest(folder, [weights]) == before
    content = bytearray(weights.read_bytes())
    # The head of the file, its last byte, and a stretch in the middle that no head would show.
    for place in (slice(0, 1), slice(-1, None), slice(len(content) // 2, len(content) // 2 + 20_000)):
        changed = content.copy()
        changed[place] = bytes(byte ^ 1 for byte in content[place])
        weights.write_bytes(changed)
        assert folder_digest(folder, [weights]) != before
    weights.write_bytes(content)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert folder_digest(folder, [weights]) != before


def test_a_folder_has_no_revision(folder):
    with pytest.raises(SettingsError, match="leave the revision out"):
        open_model_folder(str(folder), "main")


def test_the_config_can_be_refused_before_the_weights_are_looked_for(folder):
    (folder / "model.safetensors").unlink()

    def refuse(config):
        raise SettingsError(f"no {config['model_type']}")

    with pytest.raises(SettingsError, match="no qwen3_vl"):
        open_model_folder(str(folder), accept=refuse)


@pytest.mark.parametrize("name", ["", "./nowhere", "/no/where", "~/nowhere", "a/b/c"])
def test_what_looks_like_a_folder_is_not_looked_for_on_the_hub(name):
    with pytest.raises(MissingModelError, match="no such folder"):
        open_model_folder(name)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_an_id_that_cannot_be_fetched_comes_with_advice(offline):
    with pytest.raises(MissingModelError, match="hf download some/model --local-dir"):
        open_model_folder("some/model")


def test_a_cached_id_is_found_without_a_network(offline, folder):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = offline / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)
    opened = open_model_folder("some/model")
    assert (opened.name, opened.revision) == ("some/model", commit)
