import json
import shutil

import pytest

from imgrank.checkpoints import find_checkpoint
from imgrank.errors import MissingModelError, SettingsError
from imgrank.mllm.folder import open_model_folder


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder("qwen3_vl"), tmp_path / "model")


def test_a_complete_folder(folder):
    opened = open_model_folder(str(folder))
    assert opened.config["model_type"] == "qwen3_vl"
    assert opened.image_processor["patch_size"] == 16
    assert opened.chat_template is None  # the tokenizer has it
    assert (opened.name, opened.path) == (str(folder), folder)
    assert opened.revision == find_checkpoint(str(folder)).revision


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(MissingModelError, match=f"lacks {file}"):
        open_model_folder(str(folder))


def test_a_tokenizer_of_the_older_form_counts(folder):
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    assert open_model_folder(str(folder)).path == folder


def test_a_chat_template_apart_from_the_tokenizer(folder):
    for file in folder.glob("*.jinja"):
        file.unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 1 }}"}))
    assert open_model_folder(str(folder)).chat_template == "{{ 1 }}"
    (folder / "chat_template.jinja").write_text("{{ 2 }}")  # newer, and read by the tokenizer
    assert open_model_folder(str(folder)).chat_template is None


def test_the_config_can_be_refused_before_the_weights_are_looked_for(folder):
    (folder / "model.safetensors").unlink()

    def refuse(config):
        raise SettingsError(f"no {config['model_type']}")

    with pytest.raises(SettingsError, match="no qwen3_vl"):
        open_model_folder(str(folder), accept=refuse)


def test_the_tokenizer_is_downloaded_with_the_weights(folder, monkeypatch):
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((revision, set(allow_patterns)))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    open_model_folder("some/model", "v1")
    assert asked[0] == ("v1", {"config.json"})
    assert asked[1][0] == folder.name
    assert asked[1][1] >= {"*.json", "*.jinja", "merges.txt", "model.safetensors"}
