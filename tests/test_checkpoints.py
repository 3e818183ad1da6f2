import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from imgrank.encode.checkpoint import HUB_ID, digest_of, find_checkpoint
from imgrank.errors import MissingModelError, SettingsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "clip"}')
    (folder / "preprocessor_config.json").write_text('{"size": 8}')
    save_file({"a": torch.arange(300_000, dtype=torch.float32)}, folder / "model.safetensors")
    return folder


def weights_of(folder):
    return [folder / "model.safetensors"]


def test_a_whole_folder_is_found(folder):
    found = find_checkpoint(str(folder))
    assert (found.folder, found.config, found.preprocessor) == (folder, {"model_type": "clip"}, {"size": 8})
    assert found.revision == digest_of(folder, weights_of(folder))
    assert found.revision.startswith("blake2b-")


def test_the_digest_is_the_same_for_a_copy_elsewhere(folder, tmp_path):
    before = digest_of(folder, weights_of(folder))
    moved = folder.rename(tmp_path / "moved")
    os.utime(moved / "model.safetensors", (1, 1))
    assert digest_of(moved, weights_of(moved)) == before


def test_the_digest_follows_weights_of_equal_shape(folder):
    before = digest_of(folder, weights_of(folder))
    save_file({"a": torch.arange(300_000, dtype=torch.float32) + 1}, folder / "model.safetensors")
    assert digest_of(folder, weights_of(folder)) != before


@pytest.mark.parametrize("start", range(20_000, 1_180_000, 170_000))
def test_the_digest_sees_a_fortieth_of_the_file_changed_anywhere(folder, start):
    before = digest_of(folder, weights_of(folder))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(start)
        file.write(b"\x55" * 30_000)
    assert digest_of(folder, weights_of(folder)) != before


def test_the_digest_reads_the_last_byte(folder):
    before = digest_of(folder, weights_of(folder))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    assert digest_of(folder, weights_of(folder)) != before


def test_the_digest_follows_the_configuration(folder):
    before = digest_of(folder, weights_of(folder))
    (folder / "config.json").write_text('{"model_type": "siglip"}')
    assert digest_of(folder, weights_of(folder)) != before


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(MissingModelError, match=missing):
        find_checkpoint(str(folder))


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(MissingModelError, match=r"pytorch_model\.bin is not read: such files can run code"):
        find_checkpoint(str(folder))


def test_the_image_part_of_a_saved_processor_counts(folder):
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text('{"image_processor": {"size": 9}}')
    assert find_checkpoint(str(folder)).preprocessor == {"size": 9}


def test_shards_are_complete(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(MissingModelError, match="lacks model-00002-of-00002"):
        find_checkpoint(str(folder))
    save_file({"b": torch.zeros(1)}, folder / "model-00002-of-00002.safetensors")
    before = find_checkpoint(str(folder)).revision
    save_file({"b": torch.ones(1)}, folder / "model-00002-of-00002.safetensors")
    assert find_checkpoint(str(folder)).revision != before


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff", "[" * 100_000])
def test_a_damaged_configuration_is_named(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(MissingModelError, match=r"config\.json"):
        find_checkpoint(str(folder))


def test_an_enormous_configuration_is_not_read(folder):
    with (folder / "config.json").open("wb") as file:
        file.truncate(2**34)
    with pytest.raises(MissingModelError, match="too many"):
        find_checkpoint(str(folder))


def test_a_folder_has_no_revision(folder):
    with pytest.raises(SettingsError, match="no revision 'main'"):
        find_checkpoint(str(folder), "main")


def test_an_unwanted_model_is_refused_before_its_weights_are_looked_at(folder):
    (folder / "model.safetensors").unlink()

    def refuse(config):
        raise SettingsError(f"no {config['model_type']}")

    with pytest.raises(SettingsError, match="no clip"):
        find_checkpoint(str(folder), accept=refuse)


def offline(cache, code):
    """Run code in a process of its own, because the hub client reads its variables once, when it is imported."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


FIND = """
from imgrank.encode.checkpoint import find_checkpoint
from imgrank.errors import MissingModelError
try:
    print(find_checkpoint("org/name", {revision!r}).revision)
except MissingModelError as error:
    print(error)
"""


def test_a_hub_model_in_the_cache_is_found_offline_with_its_commit(folder, tmp_path):
    repository = tmp_path / "cache" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / COMMIT)
    assert offline(tmp_path / "cache", FIND.format(revision=None)) == COMMIT
    assert offline(tmp_path / "cache", FIND.format(revision=COMMIT)) == COMMIT
    assert "not in the cache" in offline(tmp_path / "cache", FIND.format(revision="other"))


def test_a_hub_model_that_is_nowhere_says_what_to_do(tmp_path):
    message = offline(tmp_path, FIND.format(revision=None))
    assert message.startswith("model 'org/name':")
    assert "HF_HUB_OFFLINE" in message
    assert "or give a folder" in message


@pytest.mark.parametrize("name", ["org/name", "facebook/dinov3-vitb16-pretrain-lvd1689m", "a/b.c_d"])
def test_hub_ids(name):
    assert HUB_ID.fullmatch(name)


@pytest.mark.parametrize("name", ["name", "/a/b", "a/b/c", "../b", "a/", "a b/c"])
def test_other_names_are_no_hub_ids(name):
    assert not HUB_ID.fullmatch(name)
