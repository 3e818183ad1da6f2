"""Storing cached tokens again, in fewer bytes, without photos."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from imgrank.bundle import file
from imgrank.errors import InputError, MissingGroupError, SettingsError
from imgrank.steps.cache_tokens import cache_tokens
from imgrank.steps.features import kept_settings, stored_codebooks
from imgrank.steps.fidelity import check_fidelity
from imgrank.steps.proof import read_proof
from imgrank.steps.requantize import requantize
from imgrank.tokens.recipe import codec_of, parse_recipe
from tests.tiny_mllms import save_tiny_mllm

SIZE = "resize:160 | max-tokens:100"


@pytest.fixture(scope="module")
def made(_indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with float16 tokens, without its photos; nothing in it may be changed."""
    folder = tmp_path_factory.mktemp("requantize")
    shutil.copytree(_indexed.parent, folder / "collection")
    shutil.copy2(_indexed, folder / "collection" / "db.h5")
    save_tiny_mllm(folder / "mllm", "qwen3_vl")
    cache_tokens(folder / "collection" / "db.h5", mllm=str(folder / "mllm"), settings=parse_recipe(f"{SIZE} | float16"))
    shutil.copy2(folder / "collection" / "db.h5", folder / "db.h5")
    shutil.rmtree(folder / "collection")
    return folder / "db.h5"


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy2(made, tmp_path / "db.h5"))


def decoded(bundle: Path, name: str = "default") -> tuple[np.ndarray, np.ndarray]:
    with file.read(bundle) as opened:
        table = opened.tokens(name)
        codec = codec_of(kept_settings(table.provenance), stored_codebooks(table))
        columns = {key: view.read() for key, view in table.columns.items()}
    positions = columns.pop("position")
    return codec.decode(columns), positions


def test_the_quantizer_changes_and_nothing_else(bundle):
    before, places = decoded(bundle)
    summary = requantize(bundle, "pq:16")
    after, same = decoded(bundle)
    np.testing.assert_array_equal(places, same)
    error = ((after - before).astype(float) ** 2).sum() / (before.astype(float) ** 2).sum()
    assert summary.error == pytest.approx(error, rel=1e-4)
    assert 0 < error < 0.2
    assert summary.tokens == summary.tokens_before == len(before)
    assert summary.images == 20
    assert summary.recipe == f"{SIZE} | pq:16"
    assert summary.bytes_before == before.size * 2 + places.nbytes
    with file.read(bundle) as opened:
        assert sorted(opened.token_tables) == ["default", "local"]
        provenance = opened.tokens("default").provenance
    assert json.loads(provenance.settings)["from"] == ["float16"]


def test_tokens_are_left_out_as_if_they_had_been_before(bundle, made):
    summary = requantize(bundle, "divprune:7 | int8", to="few")
    assert summary.recipe == f"{SIZE} | divprune:7 | int8"
    assert summary.tokens == 7 * 20
    few, places = decoded(bundle, "few")
    all_of_them, every = decoded(bundle)
    from imgrank.tokens.prune import most_diverse

    kept = most_diverse(all_of_them[: len(every) // 20, 0], 7)
    np.testing.assert_array_equal(places[:7], every[kept])
    np.testing.assert_allclose(few[:7], all_of_them[kept], atol=np.abs(all_of_them).max() / 250)
    assert decoded(made)[0].tobytes() == all_of_them.tobytes()


def test_the_proof_goes_along_and_tells_the_loss(bundle):
    requantize(bundle, "pq:4", to="coarse")
    with file.read(bundle) as opened:
        first, second = (read_proof(opened.tokens(name))[0] for name in ("default", "coarse"))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
    exact, coarse = (check_fidelity(bundle, cache=name).scores for name in ("default", "coarse"))
    assert coarse.logit_change > 5 * exact.logit_change


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_a_run_that_was_cut_goes_on(bundle, monkeypatch, parts):
    from imgrank.steps import requantize as module

    whole = Path(shutil.copy2(bundle, bundle.with_name("whole.h5")))
    requantize(whole, "pq:8")
    monkeypatch.setattr(module, "PART", 8)
    real, done = module.append_tokens, []

    def append(*arguments):
        if len(done) == parts:
            raise KeyboardInterrupt
        done.append(1)
        real(*arguments)

    monkeypatch.setattr(module, "append_tokens", append)
    with pytest.raises(KeyboardInterrupt):
        requantize(bundle, "pq:8")
    with file.read(bundle) as opened:
        assert opened.tokens("default").codec == "float16"
        assert sorted(opened.token_tables) == ["default", "local"]
        assert len(opened.unfinished[".default"]) == 8 * parts
    monkeypatch.setattr(module, "append_tokens", real)
    requantize(bundle, "pq:8")
    for one, other in zip(decoded(whole), decoded(bundle), strict=True):
        np.testing.assert_array_equal(one, other)
    with file.read(bundle) as opened:
        assert sorted(opened.token_tables) == ["default", "local"]


def test_a_cut_run_with_other_wishes_is_forgotten(bundle, monkeypatch):
    from imgrank.steps import requantize as module

    def cut(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "append_tokens", cut)
    with pytest.raises(KeyboardInterrupt):
        requantize(bundle, "pq:8")
    monkeypatch.undo()
    assert requantize(bundle, "int8").recipe == f"{SIZE} | int8"
    with file.read(bundle) as opened:
        assert opened.tokens("default").codec == "int8"
        assert opened.tokens("default").codebooks is None


@pytest.mark.parametrize(
    ("recipe", "chosen", "error", "reason"),
    [
        ("resize:80 | int8", {}, SettingsError, "size they have"),
        ("pq:7", {}, SettingsError, "divide"),
        ("divprune:2 | pq:8", {}, InputError, "256"),
        ("int8", {"cache": "local"}, SettingsError, "local features"),
        ("int8", {"cache": "nowhere"}, MissingGroupError, "there is: default, local"),
        ("int8", {"to": "local"}, SettingsError, "already"),
        ("int8", {"to": "a b"}, SettingsError, "cache name"),
    ],
)
def test_what_cannot_be_done_changes_nothing(bundle, recipe, chosen, error, reason):
    before = bundle.read_bytes()
    with pytest.raises(error, match=reason):
        requantize(bundle, recipe, **chosen)
    assert bundle.read_bytes() == before


def test_the_command_says_what_is_lost_and_what_comes_next(imgrank, bundle):
    run = imgrank("requantize", bundle, "--recipe", "rpq:8", "--to", "small")
    assert run.returncode == 0, run.stderr
    assert run.stdout == b""
    assert b"of their squared length lost" in run.stderr
    assert b"imgrank check" in run.stderr
    run = imgrank("check", bundle, "--fidelity", "--cache", "small")
    assert run.returncode == 0, run.stderr
    record = json.loads(run.stdout)
    assert record["recipe"] == f"{SIZE} | rpq:8"
    assert record["pairs"] == 15
    assert 0.5 < record["correlation"] <= 1
    run = imgrank("check", bundle, "--fidelity")
    assert run.returncode == 2
    assert b"several token caches (default, small)" in run.stderr


def test_a_cache_without_a_proof_says_how_to_get_one(imgrank, bundle):
    import h5py

    with h5py.File(bundle, "r+") as root:
        del root["tokens/default/proof"]
    run = imgrank("check", bundle, "--fidelity")
    assert run.returncode == 4
    assert b"imgrank cache-tokens" in run.stderr
    assert run.stdout == b""


def test_a_damaged_proof_is_named(imgrank, bundle):
    with file.read(bundle) as opened:
        view = opened.tokens("default").proof.columns["logits"]
        ((offset, _),) = view.extents(0, 1)
    with bundle.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\x01\x02")
    run = imgrank("check", bundle, "--fidelity")
    assert run.returncode == 4
    assert b"proof/logits" in run.stderr
    assert b"Traceback" not in run.stderr
