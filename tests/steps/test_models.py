"""The verbs with real model families, from small random weights on disk through the real loading code."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests import tiny_encoders, tiny_mllms


def records(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_hugging_face_encoder_is_stored_and_found_again(imgrank, collection: Path) -> None:
    model = tiny_encoders.dinov2(collection / "encoder")
    run = imgrank("index", "photos", "-o", "hf.h5", "--encoder", "encoder", "--threads", 1, cwd=collection)
    assert run.returncode == 0, run.stderr.decode()
    found = imgrank("search", "../hf.h5", "query-00.jpg", "-k", 3, cwd=collection / "queries")
    assert found.returncode == 0, found.stderr.decode()
    assert len(records(found.stdout)) == 3
    # The same command again, cut batches or not, gives the same bits.
    assert imgrank("index", "photos", "-o", "two.h5", "--encoder", "encoder", cwd=collection).returncode == 0
    with h5py.File(collection / "hf.h5") as one, h5py.File(collection / "two.h5") as two:
        np.testing.assert_array_equal(one["descriptors/vectors"][:], two["descriptors/vectors"][:])
        assert "tokens" not in one
    # Re-ranking without cached tokens computes local features from the photos, and says how to keep them.
    reranked = imgrank("search", "hf.h5", "queries/query-00.jpg", "--rerank", 5, cwd=collection)
    assert reranked.returncode == 0, reranked.stderr.decode()
    assert b"cache-tokens" in reranked.stderr
    assert imgrank("cache-tokens", "hf.h5", "--cache", "local", cwd=collection).returncode == 0
    cached = imgrank("search", "hf.h5", "queries/query-00.jpg", "--rerank", 5, cwd=collection)
    assert cached.stdout == reranked.stdout
    # Other weights in the same place are noticed.
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-4] + b"abcd")
    changed = imgrank("search", "hf.h5", "queries/query-00.jpg", cwd=collection)
    assert changed.returncode == 4
    assert b"revision" in changed.stderr


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_cached_tokens_give_the_scores_of_the_photos(imgrank, collection: Path, family: str) -> None:
    tiny_mllms.save_tiny_mllm(collection / "mllm", family)
    search = ["search", "db.h5", "queries/query-00.jpg", "-k", 10, "--rerank", 4]
    fresh = imgrank(*search, "--mllm", "mllm", cwd=collection)
    assert fresh.returncode == 0, fresh.stderr.decode()
    assert b"computed from their photos" in fresh.stderr
    cache = imgrank("cache-tokens", "db.h5", "--mllm", "mllm", cwd=collection)
    assert cache.returncode == 0, cache.stderr.decode()
    cached = imgrank(*search, cwd=collection)
    assert cached.returncode == 0, cached.stderr.decode()
    assert cached.stderr.startswith(b"imgrank: 1 query: 4 of 4 pairs scored in ")
    assert cached.stdout == fresh.stdout
    hits = records(cached.stdout)
    assert [hit.get("scorer") for hit in hits] == ["mllm"] * 4 + [None] * 6
    for hit in hits[:4]:
        assert hit["probability"] == pytest.approx(1 / (1 + np.exp(-hit["logit"])), rel=1e-5)
        assert hit["score"] == pytest.approx(0.5 * hit["similarity"] + 0.5 * hit["probability"], rel=1e-5)
    piped = imgrank("search", "db.h5", "queries/query-00.jpg", "-k", 10, cwd=collection)
    again = imgrank("rerank", "db.h5", "--top", 4, "--score-cache", "none", cwd=collection, input=piped.stdout)
    assert b"4 of 4 pairs scored" in again.stderr
    assert again.stdout == cached.stdout
    late = imgrank(*search, "--scorer", "maxsim", cwd=collection)
    assert [hit.get("scorer") for hit in records(late.stdout)] == ["maxsim"] * 4 + [None] * 6


def test_several_caches_stand_beside_each_other(imgrank, collection: Path) -> None:
    tiny_mllms.save_tiny_mllm(collection / "one", "qwen3_vl")
    tiny_mllms.save_tiny_mllm(collection / "two", "qwen3_vl", seed=1)

    def cache(*arguments: object):
        return imgrank("cache-tokens", "db.h5", *arguments, cwd=collection)

    assert cache("--mllm", "one", "--prune", "grid", "--dtype", "int8", "--cache", "a").returncode == 0
    other = cache("--mllm", "two", "--cache", "a")
    assert other.returncode == 4
    assert b"--cache OTHER_NAME" in other.stderr
    settings = cache("--mllm", "one", "--keep", 7, "--cache", "a")
    assert settings.returncode == 4
    assert cache("--mllm", "two", "--prune", "none", "--longer-side", 224, "--cache", "b").returncode == 0
    with h5py.File(collection / "db.h5") as root:
        grid, counts = root["tokens/a/grid"][:].astype(int), np.diff(root["tokens/a/offsets"][:].astype(int))
        np.testing.assert_array_equal(counts, -(-grid[:, 0] // 2) * -(-grid[:, 1] // 2))  # every 2nd row and column
        assert root["tokens/a/columns/codes"].dtype == np.int8
        grid, counts = root["tokens/b/grid"][:].astype(int), np.diff(root["tokens/b/offsets"][:].astype(int))
        np.testing.assert_array_equal(counts, grid.prod(axis=1))
        assert grid.max() == 7  # 224 pixels at 32 a token
    search = ["search", "db.h5", "queries/query-00.jpg", "--rerank", 3]
    which = imgrank(*search, cwd=collection)
    assert which.returncode == 2
    assert b"a, b" in which.stderr
    a, b = (imgrank(*search, "--cache", name, cwd=collection) for name in "ab")
    assert (a.returncode, b.returncode) == (0, 0)
    assert a.stdout != b.stdout
    wrong = imgrank(*search, "--cache", "a", "--mllm", "two", cwd=collection)
    assert wrong.returncode == 4
    assert b"holds tokens of" in wrong.stderr
    assert cache("--mllm", "one", "--keep", 7, "--cache", "a", "--overwrite").returncode == 0
    with h5py.File(collection / "db.h5") as root:
        assert set(np.diff(root["tokens/a/offsets"][:].astype(int))) == {7}


def test_a_cut_cache_goes_on(imgrank, collection: Path) -> None:
    tiny_mllms.save_tiny_mllm(collection / "mllm", "qwen3_vl")
    assert imgrank("cache-tokens", "db.h5", "--mllm", "mllm", "--cache", "whole", cwd=collection).returncode == 0
    code = (
        "import os, sys\nfrom imgrank.steps import cache_tokens\nreal, parts = cache_tokens.append_tokens, 0\n"
        "def append(*arguments):\n    global parts\n    parts += 1\n    real(*arguments)\n"
        "    os._exit(9) if parts == 2 else None\n"
        "cache_tokens.append_tokens = append\nfrom pathlib import Path\n"
        "cache_tokens.cache_tokens(Path('db.h5'), mllm='mllm', cache='cut')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=collection, check=False, capture_output=True)
    assert run.returncode == 9, run.stderr.decode()
    run = imgrank("cache-tokens", "db.h5", "--mllm", "mllm", "--cache", "cut", cwd=collection)
    assert b"4 photos computed, 16 known already" in run.stderr
    with h5py.File(collection / "db.h5") as root:
        for name in ("offsets", "crc32", "grid", "columns/values", "columns/position"):
            np.testing.assert_array_equal(root[f"tokens/cut/{name}"][:], root[f"tokens/whole/{name}"][:])


def test_a_changed_photo_is_not_cached_under_its_old_row(imgrank, collection: Path) -> None:
    tiny_mllms.save_tiny_mllm(collection / "mllm", "qwen3_vl")
    target = collection / "photos" / "object-00-view-0.jpg"
    content = target.read_bytes()
    target.unlink()
    target.write_bytes(content + b"\0")
    run = imgrank("cache-tokens", "db.h5", "--mllm", "mllm", cwd=collection)
    assert run.returncode == 7
    assert b"skipped (changed)" in run.stderr
    assert b"19 photos computed" in run.stderr


@pytest.mark.parametrize("prompt", ["Is {query} in {candidate}? {positive} or {negative}", "no slots"])
def test_a_prompt_of_your_own(imgrank, collection: Path, prompt: str) -> None:
    tiny_mllms.save_tiny_mllm(collection / "mllm", "qwen3_vl")
    (collection / "prompt.txt").write_text(prompt)
    search = ["search", "db.h5", "queries/query-00.jpg", "-k", 2, "--rerank", 2, "--mllm", "mllm"]
    run = imgrank(*search, "--prompt-file", "prompt.txt", cwd=collection)
    if "{query}" in prompt:
        assert run.returncode == 0, run.stderr.decode()
        assert run.stdout != imgrank(*search, cwd=collection).stdout
    else:
        assert run.returncode == 2
        assert b"{query}" in run.stderr


def test_the_built_in_model_scores_where_it_is_asked_for_and_never_instead_of_another(
    imgrank, collection: Path
) -> None:
    def scorers(*options: str) -> set[str]:
        run = imgrank("search", "db.h5", "queries/query-00.jpg", "--rerank", 4, "-k", 4, *options, cwd=collection)
        assert run.returncode == 0, run.stderr.decode()
        return {hit["scorer"] for hit in records(run.stdout)}

    fresh = imgrank("search", "db.h5", "queries/query-00.jpg", "--rerank", 4, "--mllm", "builtin", cwd=collection)
    assert b"--mllm builtin` makes re-ranking faster" in fresh.stderr
    (collection / "builtin").mkdir()  # a folder of that name is something else
    cached = imgrank("cache-tokens", "db.h5", cwd=collection)
    assert cached.returncode == 0, cached.stderr.decode()
    assert b"cache 'builtin'" in cached.stderr
    for options in (["--mllm", "builtin"], ["--scorer", "mllm"], ["--cache", "builtin"]):
        run = imgrank("search", "db.h5", "queries/query-00.jpg", "--rerank", 4, *options, cwd=collection)
        assert run.stdout == fresh.stdout
        assert b"computed from their photos" not in run.stderr
    assert scorers() == {"geometric"}
    assert scorers("--scorer", "maxsim") == {"maxsim"}
    tiny_mllms.save_tiny_mllm(collection / "mllm", "qwen3_vl")
    assert imgrank("cache-tokens", "db.h5", "--mllm", "mllm", cwd=collection).returncode == 0
    chosen = imgrank("search", "db.h5", "queries/query-00.jpg", "--rerank", 4, cwd=collection).stdout
    assert chosen != fresh.stdout
    for options in ([], ["--scorer", "mllm"]):
        run = imgrank("search", "db.h5", "queries/query-00.jpg", "--rerank", 4, *options, cwd=collection)
        assert run.stdout == chosen
    refused = imgrank(
        "search",
        "db.h5",
        "queries/query-00.jpg",
        "--rerank",
        4,
        "--mllm",
        "builtin",
        "--profile",
        "none",
        cwd=collection,
    )
    assert refused.returncode == 2
    assert b"no words" in refused.stderr
