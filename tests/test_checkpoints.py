import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors.numpy import save_file

from imgrank.checkpoints import HUB_ID, digest_of, find_checkpoint
from imgrank.errors import MissingModelError, SettingsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "clip"}')
    (folder / "preprocessor_config.json").write_text('{"size": 8}')
    save_file({"a": np.arange(300_000, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def weights_of(folder):
    return [folder / "model.safetensors"]


def test_a_whole_folder_is_found(folder):
    found = find_checkpoint(str(folder))
    assert (found.path, found.config, found.image_processor) == (folder, {"model_type": "clip"}, {"size": 8})
    assert found.revision == digest_of(folder, weights_of(folder))
    assert found.revision.startswith("blake2b-")


def test_the_digest_is_the_same_for_a_copy_elsewhere(folder, tmp_path):
    before = digest_of(folder, weights_of(folder))
    moved = folder.rename(tmp_path / "moved")
    os.utime(moved / "model.safetensors", (1, 1))
    assert digest_of(moved, weights_of(moved)) == before


def test_the_digest_follows_weights_of_equal_shape(folder):
    before = digest_of(folder, weights_of(folder))
    save_file({"a": np.arange(1, 300_001, dtype=np.float32)}, folder / "model.safetensors")
    assert digest_of(folder, weights_of(folder)) != before


@pytest.mark.parametrize("start", range(20_000, 1_180_000, 170_000))
def test_the_digest_sees_a_fortieth_of_the_file_changed_anywhere(folder, start):
    before = digest_of(folder, weights_of(folder))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(start)
        file.write(b"\x55" * 30_000)
    assert digest_of(folder, weights_of(folder)) != before


@pytest.mark.parametrize("place", [0, -1])
def test_the_digest_reads_the_first_and_the_last_byte(folder, place):
    before = digest_of(folder, weights_of(folder))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[place] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert digest_of(folder, weights_of(folder)) != before


def test_the_digest_follows_the_configuration(folder):
    before = digest_of(folder, weights_of(folder))
    (folder / "config.json").write_text('{"model_type": "clip"} ')
    assert digest_of(folder, weights_of(folder)) != before


def test_the_numbers_of_the_weights_are_counted(folder):
    assert find_checkpoint(str(folder)).numbers == 300_000
    save_file({"a": np.zeros((2, 3, 4), np.int8), "b": np.zeros((), np.float16)}, folder / "model.safetensors")
    assert find_checkpoint(str(folder)).numbers == 25


def test_what_the_processor_says_is_kept(folder):
    assert find_checkpoint(str(folder)).processor == {}
    (folder / "processor_config.json").write_text('{"image_seq_length": 256}')
    found = find_checkpoint(str(folder))
    assert (found.processor, found.image_processor) == ({"image_seq_length": 256}, {"size": 8})
    (folder / "processor_config.json").write_text("[")
    with pytest.raises(MissingModelError, match=r"processor_config\.json is not JSON"):
        find_checkpoint(str(folder))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1200072\n"


def header(**tensors):
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda whole: whole[:-1], "has 12000.. bytes, but its header says 12000.."),
        (lambda whole: whole + b"\0", "has 12000.. bytes, but its header says 12000.."),
        (lambda whole: whole[:20], "is not a safetensors file, or cut short"),
        (lambda whole: b"", "is not a safetensors file"),
        (lambda whole: b"\xff" * 100, "is not a safetensors file"),
        (lambda whole: b"PK\x03\x04" + bytes(100), "is not a safetensors file"),
        (lambda whole: POINTER, "is a Git LFS pointer to them; run `git lfs pull`"),
        (lambda whole: header(a=3), "is not a safetensors file"),
        (lambda whole: header(a={"shape": ["x"], "data_offsets": [0, 0]}), "is not a safetensors file"),
        (lambda whole: header(a={"shape": [9], "data_offsets": [0, 10**18]}), r"but its header says 10{16}\d\d"),
    ],
)
def test_damaged_weights_are_named_before_anything_is_loaded(folder, damage, words):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(MissingModelError, match=rf"weights cannot be loaded: {path} .*{words}"):
        find_checkpoint(str(folder))


def test_weights_that_may_not_be_read_are_named(folder, monkeypatch):
    def refuse(path, *arguments, **options):
        if path.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    opened = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MissingModelError, match=r"model\.safetensors cannot be read: Permission denied"):
        find_checkpoint(str(folder))


def test_an_adapter_is_no_whole_model(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(MissingModelError, match="makes it an adapter, and a whole model is needed"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(MissingModelError, match=f"lacks {missing}"):
        find_checkpoint(str(folder))


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(MissingModelError, match=r"pytorch_model\.bin is not read: such files can run code"):
        find_checkpoint(str(folder))


def test_the_image_part_of_a_saved_processor_counts(folder):
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text('{"image_processor": {"size": 9}}')
    assert find_checkpoint(str(folder)).image_processor == {"size": 9}


def test_shards_are_complete(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(MissingModelError, match="lacks model-00002-of-00002"):
        find_checkpoint(str(folder))
    save_file({"b": np.zeros(1, np.float32)}, folder / "model-00002-of-00002.safetensors")
    before = find_checkpoint(str(folder)).revision
    save_file({"b": np.ones(1, np.float32)}, folder / "model-00002-of-00002.safetensors")
    assert find_checkpoint(str(folder)).revision != before


def test_shards_lie_in_the_folder(folder, tmp_path):
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../outside.safetensors"}}')
    with pytest.raises(MissingModelError, match=r"lacks outside\.safetensors"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("shards", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_that_names_no_shards_is_refused(folder, shards):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(MissingModelError, match=r"index\.json names no weight files"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff", "\xed\xa0\x80", "[" * 100_000])
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


# On the hub


@pytest.fixture
def cache(folder, tmp_path):
    """The hub client's cache, which holds org/name."""
    repository = tmp_path / "cache" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    return tmp_path / "cache"


def offline(cache, revision):
    """Look for org/name in a process of its own: the hub client reads its variables once, when it is imported."""
    code = f"""
from imgrank.checkpoints import find_checkpoint
from imgrank.errors import MissingModelError
try:
    print(find_checkpoint("org/name", {revision!r}).revision)
except MissingModelError as error:
    print(error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.strip()


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_hub_model_in_the_cache_is_found_offline_with_its_commit(cache, revision):
    assert offline(cache, revision) == COMMIT


def test_another_revision_is_not_taken_from_the_cache(cache):
    assert "not in the cache" in offline(cache, "other")


def test_a_hub_model_that_is_nowhere_says_what_to_do(tmp_path):
    message = offline(tmp_path, None)
    assert message.startswith("model 'org/name': there is no such folder, it is not in the cache")
    assert "HF_HUB_OFFLINE" in message
    assert "hf download org/name --local-dir DIR" in message


class Hub:
    """Stands in for the hub client: answers online calls as told, and calls for local files from a folder."""

    def __init__(self, folder, answer=lambda revision: None):
        self.folder, self.answer, self.calls = folder, answer, []

    def __call__(self, name, *, revision, allow_patterns, local_files_only=False):
        self.calls.append((name, revision, list(allow_patterns), local_files_only))
        error = None if local_files_only else self.answer(revision)
        if error is not None:
            raise error
        if self.folder is None:
            raise LocalEntryNotFoundError("not here")
        return str(self.folder)


@pytest.fixture
def hub(monkeypatch):
    def install(*arguments):
        fake = Hub(*arguments)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
        return fake

    return install


def test_the_weights_are_fetched_at_the_commit_of_the_configuration(folder, hub):
    fake = hub(folder.rename(folder.with_name(COMMIT)))
    found = find_checkpoint("org/name", "v1", extra=["*.jinja"])
    assert (found.name, found.revision, found.path.name) == ("org/name", COMMIT, COMMIT)
    (_, first, files, _), (_, second, more, _) = fake.calls
    assert (first, files, second) == ("v1", ["config.json", "adapter_config.json"], COMMIT)
    assert {"config.json", "preprocessor_config.json", "model.safetensors", "*.jinja"} <= set(more)
    assert not any(pattern.endswith(("*", ".bin", ".py", ".pt")) for pattern in more)


def test_an_unwanted_hub_model_is_refused_before_its_weights_are_fetched(folder, hub):
    fake = hub(folder)

    def refuse(config):
        raise SettingsError(f"no {config['model_type']}")

    with pytest.raises(SettingsError, match="no clip"):
        find_checkpoint("org/name", accept=refuse)
    assert [files for _, _, files, _ in fake.calls] == [["config.json", "adapter_config.json"]]


def test_a_client_that_asks_the_network_for_a_cached_commit_is_answered_from_the_cache(folder, hub):
    fake = hub(
        folder.rename(folder.with_name(COMMIT)),
        lambda revision: OfflineModeIsEnabled("offline") if revision == COMMIT else None,
    )
    assert find_checkpoint("org/name").revision == COMMIT
    *_, asked, again = fake.calls
    assert asked[:3] == again[:3]
    assert (asked[3], again[3]) == (False, True)


def http_error(kind):
    response = SimpleNamespace(headers={}, request=None, status_code=400)
    return kind("refused", response=response)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (http_error(GatedRepoError), "accept the terms on its page"),
        (http_error(RevisionNotFoundError), "no revision 'v1' of it"),
        (http_error(RepositoryNotFoundError), "the hub has no such model"),
        (http_error(HfHubHTTPError), r"cannot be reached \(HfHubHTTPError\)"),
        (next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")("no"), r"reached \(HTTPError\)"),
        (ConnectionResetError("reset"), r"cannot be reached \(ConnectionResetError\)"),
        (LocalEntryNotFoundError("no network"), "hf download org/name --local-dir DIR"),
    ],
)
def test_what_the_hub_answers_is_an_error_with_advice(hub, error, words, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub(None, lambda revision: error)
    with pytest.raises(MissingModelError, match=words) as raised:
        find_checkpoint("org/name", "v1")
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("disabled", [False, True])
def test_bars_are_drawn_on_terminals_only_and_the_setting_comes_back(folder, hub, monkeypatch, disabled):
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    seen = []
    hub(folder, lambda revision: seen.append(are_progress_bars_disabled()))
    (disable_progress_bars if disabled else enable_progress_bars)()
    try:
        find_checkpoint("org/name")
        assert are_progress_bars_disabled() == disabled
        monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
        find_checkpoint("org/name")
    finally:
        enable_progress_bars()
    assert seen == [True, True, disabled, disabled]


@pytest.mark.parametrize("name", ["org/name", "facebook/dinov3-vitb16-pretrain-lvd1689m", "a/b.c_d"])
def test_hub_ids(name):
    assert HUB_ID.fullmatch(name)


@pytest.mark.parametrize("name", ["name", "/a/b", "a/b/c", "../b", "a/", "a b/c"])
def test_other_names_are_no_hub_ids(name):
    assert not HUB_ID.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["", "./nowhere", "/no/where", "~/nowhere", "~nobody-of-that-name/a", "a/b/c", "nowhere"]
)
def test_what_is_no_hub_id_is_not_looked_for_on_the_hub(hub, name):
    fake = hub(None)
    with pytest.raises(MissingModelError, match="no such folder"):
        find_checkpoint(name)
    assert fake.calls == []


def test_looking_for_a_folder_loads_no_model_library(folder):
    code = (
        f"import sys; from imgrank.checkpoints import find_checkpoint; find_checkpoint({str(folder)!r});"
        "print(*{'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
