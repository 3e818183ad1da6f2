"""What is in the Hugging Face cache is told from the files alone."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from imgrank import hub_cache

NAME = "someone/model-1"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty snapshot of NAME in a cache of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--model-1"
    folder = repository / "snapshots" / ("a1" * 20)
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a1" * 20)
    return folder


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("{}")


def test_a_snapshot_is_found_and_complete_with_its_weights(snapshot: Path) -> None:
    assert hub_cache.snapshot(NAME) == snapshot
    assert not hub_cache.in_cache(NAME)
    fill(snapshot, "config.json", "preprocessor_config.json")
    assert not hub_cache.in_cache(NAME)
    fill(snapshot, "model.safetensors")
    assert hub_cache.in_cache(NAME)
    assert not hub_cache.in_cache(NAME, hub_cache.TOKENIZER)
    fill(snapshot, "vocab.json")
    assert hub_cache.in_cache(NAME, hub_cache.TOKENIZER)


def test_every_weight_file_of_the_index_must_be_there(snapshot: Path) -> None:
    fill(snapshot, "config.json", "processor_config.json", "one.safetensors")
    index = snapshot / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    assert not hub_cache.in_cache(NAME)
    (snapshot / "two.safetensors").symlink_to(snapshot / "blob")
    assert not hub_cache.in_cache(NAME)  # the link leads nowhere: the download was cut
    fill(snapshot, "blob")
    assert hub_cache.in_cache(NAME)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}', "[" * 10**5])
def test_a_damaged_index_means_incomplete(snapshot: Path, index: str) -> None:
    fill(snapshot, "config.json", "preprocessor_config.json")
    (snapshot / "model.safetensors.index.json").write_text(index)
    assert not hub_cache.in_cache(NAME)


@pytest.mark.parametrize("commit", ["", "../../..", "b2" * 20, "a1" * 20 + "/x"])
def test_a_reference_that_leads_nowhere_is_no_snapshot(snapshot: Path, commit: str) -> None:
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    assert hub_cache.snapshot(NAME) is None


@pytest.mark.parametrize("name", ["someone/other", "model-1", "../someone/model-1", "/etc", "", "someone/model-1/x"])
def test_other_names_are_not_in_the_cache(snapshot: Path, name: str) -> None:
    assert hub_cache.snapshot(name) is None
    assert not hub_cache.in_cache(name)
