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
    assert opened.chat_template == (folder / "chat_template.jinja").read_text()
    assert (opened.processor, opened.adapter, opened.tokenizer) == ({}, None, folder)
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


def test_the_template_of_the_processor_goes_before_that_of_the_tokenizer(folder):
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert open_model_folder(str(folder)).chat_template is None
    files = [  # each goes before those above
        ("tokenizer_config.json", json.dumps(settings | {"chat_template": "text only"})),
        ("chat_template.jinja", "newer"),
        ("chat_template.json", json.dumps({"chat_template": "older"})),
        ("processor_config.json", json.dumps({"chat_template": "with images"})),
    ]
    found = []
    for file, content in files:
        (folder / file).write_text(content)
        found.append(open_model_folder(str(folder)).chat_template)
    assert found == ["text only", "newer", "older", "with images"]


def test_files_without_a_template_are_passed_over(folder):
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": None}))
    (folder / "processor_config.json").write_text(json.dumps({"image_seq_len": 64}))
    opened = open_model_folder(str(folder))
    assert opened.chat_template == (folder / "chat_template.jinja").read_text()
    assert opened.processor == {"image_seq_len": 64}


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.json"])
def test_of_several_templates_the_default_counts(folder, file):
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    (folder / file).write_text(json.dumps({"chat_template": named}))
    assert open_model_folder(str(folder)).chat_template == "b"
    for other in (named[:1], [3], {"a": "b"}):
        (folder / file).write_text(json.dumps({"chat_template": other}))
        with pytest.raises(MissingModelError, match=rf"{file} has no chat template called default"):
            open_model_folder(str(folder))


def test_further_templates_beside_the_default_are_left_alone(folder):
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("other")
    assert open_model_folder(str(folder)).chat_template == (folder / "chat_template.jinja").read_text()


@pytest.mark.parametrize(("content", "words"), [(b"\xff\xfe", "is not UTF-8 text"), (b" " * 2**21, "is too long")])
def test_a_damaged_template_is_named(folder, content, words):
    (folder / "chat_template.jinja").write_bytes(content)
    with pytest.raises(MissingModelError, match=rf"chat_template\.jinja {words}"):
        open_model_folder(str(folder))


@pytest.mark.parametrize("kind", [None, 3, ["qwen3_vl"]])
def test_a_configuration_must_name_the_architecture(folder, kind):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    with pytest.raises(MissingModelError, match=r"config\.json lacks model_type"):
        open_model_folder(str(folder), accept=lambda config: {}[config["model_type"]])


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
    assert asked[0] == ("v1", {"config.json", "adapter_config.json"})
    assert asked[1][0] == folder.name
    assert asked[1][1] >= {"*.json", "*.jinja", "merges.txt", "model.safetensors"}
