"""Caching visual tokens: recipes, codebooks, the proof, and that no photo is looked at twice."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from imgrank.bundle import file
from imgrank.config import TokenSettings
from imgrank.errors import InputError, MismatchError, SettingsError
from imgrank.steps import cache_tokens as module
from imgrank.steps.cache_estimate import estimate_tokens
from imgrank.steps.cache_tokens import cache_tokens
from imgrank.steps.features import kept_settings, stored_codebooks
from imgrank.steps.fidelity import check_fidelity
from imgrank.steps.proof import choose_pairs, read_proof
from imgrank.steps.token_request import TokenRequest
from imgrank.tokens.recipe import parse_recipe
from tests.tiny_mllms import save_tiny_mllm

SIZE = "resize:160 | max-tokens:100"


@pytest.fixture(scope="module")
def mllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_mllm(tmp_path_factory.mktemp("model") / "mllm", "qwen3_vl")


@pytest.fixture
def bundle(collection: Path) -> Path:
    return collection / "db.h5"


def cached(bundle: Path, mllm: Path, recipe: str, **chosen):
    return cache_tokens(bundle, mllm=str(mllm), settings=parse_recipe(f"{SIZE} | {recipe}"), **chosen)


def left_behind(bundle: Path) -> list[str]:
    return [path.name for path in bundle.parent.glob("db.h5*") if path.name not in ("db.h5", "db.h5.lock")]


def rows_of(bundle: Path, name: str = "default") -> list[dict[str, np.ndarray]]:
    with file.read(bundle) as opened:
        table = opened.tokens(name)
        return [tokens.columns for tokens in table.read(range(len(table)))]


def test_product_quantized_tokens_are_smaller_and_near(bundle, mllm):
    cached(bundle, mllm, "float16")
    summary = cached(bundle, mllm, "pq:16", cache="small")
    assert summary.images == 20
    assert summary.recipe == "resize:160 | max-tokens:100 | pq:16"
    assert left_behind(bundle) == []
    with file.read(bundle) as opened:
        plain, small = opened.tokens("default"), opened.tokens("small")
        codebooks = stored_codebooks(small)
        assert codebooks.centroids.shape == (3, 1, 16, 256, 4)  # one level and two of DeepStack
        assert small.columns["codes"].shape == (plain.columns["values"].shape[0], 3, 16)
        np.testing.assert_array_equal(plain.offsets, small.offsets)
        np.testing.assert_array_equal(plain.columns["position"].read(), small.columns["position"].read())
        from imgrank.tokens.product_quantization import ProductCodec

        near = ProductCodec(codebooks).decode({"codes": small.columns["codes"].read()})
        values = plain.columns["values"].read().astype(np.float32)
        assert ((near - values) ** 2).sum() < 0.2 * (values**2).sum()


def test_a_search_reads_quantized_tokens(imgrank, bundle, mllm):
    cached(bundle, mllm, "divprune:70% | rpq:16", cache="small")
    run = imgrank(
        *("search", bundle, "queries/query-00.jpg", "--rerank", 5, "--cache", "small", "--score-cache", "none"),
        cwd=bundle.parent,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[0])["scorer"] == "mllm"


def test_no_photo_is_encoded_twice(bundle, mllm, monkeypatch):
    seen = encodings(monkeypatch)
    cached(bundle, mllm, "divprune:14 | opq:16")
    assert sum(seen) == 20  # also those of the proof and of the codebooks
    assert cached(bundle, mllm, "divprune:14 | opq:16").known == 20
    assert sum(seen) == 20


@pytest.mark.parametrize("recipe", ["divprune:14 | pq:16", "int8"])
@pytest.mark.parametrize("after", [3, 9, 17])
def test_a_run_that_was_cut_ends_as_one_that_was_not(bundle, mllm, monkeypatch, recipe, after):
    whole = bundle.with_name("whole.h5")
    shutil.copy(bundle, whole)
    cached(whole, mllm, recipe)
    seen = encodings(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        cached(bundle, mllm, recipe)
    assert sum(seen) == after
    seen = encodings(monkeypatch)
    cached(bundle, mllm, recipe)
    # Groups of the proof have 6 photos: what a whole group has seen is not seen again.
    assert sum(seen) == 20 - 6 * (after // 6)
    assert left_behind(bundle) == ["whole.h5"] or left_behind(bundle) == []
    for one, other in zip(rows_of(whole), rows_of(bundle), strict=True):
        np.testing.assert_array_equal(one["position"], other["position"])
        # The model's last bits depend on where its arrays lie in memory, so a number on an edge may round otherwise.
        assert (one["codes"] == other["codes"]).mean() > 0.98


def encodings(monkeypatch, limit: int | None = None) -> list[int]:
    """Count the photos that a model sees; cut the run after so many."""
    from imgrank.mllm.adapter import DecoderAdapter

    monkeypatch.undo()
    seen: list[int] = []
    real = DecoderAdapter.encode

    def encode(self, images, **sizes):
        if limit is not None and len(seen) >= limit:
            raise KeyboardInterrupt
        seen.append(len(images))
        return real(self, images, **sizes)

    monkeypatch.setattr(DecoderAdapter, "encode", encode)
    return seen


def test_codebooks_are_taken_over_from_another_bundle(bundle, mllm, tmp_path):
    other = bundle.with_name("other.h5")
    shutil.copy(bundle, other)
    cached(bundle, mllm, "pq:16")
    cached(other, mllm, "pq:16", codebooks=[bundle], proof_pairs=0)
    with file.read(bundle) as one, file.read(other) as two:
        assert stored_codebooks(one.tokens("default")).digest() == stored_codebooks(two.tokens("default")).digest()
    for first, second in zip(rows_of(bundle), rows_of(other), strict=True):
        assert (first["codes"] == second["codes"]).mean() > 0.98  # the sample was in float16 meanwhile
    with pytest.raises(MismatchError, match=r"for pq:16 only"):
        cached(other, mllm, "pq:8", codebooks=[bundle], cache="b")
    with pytest.raises(SettingsError, match="has no codebooks to take over"):
        cached(other, mllm, "int8", codebooks=[bundle], cache="b")
    with pytest.raises(SettingsError, match="3 times"):
        cached(other, mllm, "pq:16", codebooks=[mllm / "config.json"], cache="b")
    stranger = save_tiny_mllm(tmp_path / "stranger", "qwen3_vl", seed=1)
    with pytest.raises(MismatchError, match="no codebooks of"):
        cached(other, stranger, "pq:16", codebooks=[bundle], cache="b")
    with file.read(other) as opened:
        assert sorted(opened.token_tables) == ["default", "local"]


def test_codebooks_are_taken_over_from_faiss(bundle, tmp_path):
    faiss = pytest.importorskip("faiss")
    flat = save_tiny_mllm(tmp_path / "flat", "qwen2_5_vl")
    cached(bundle, flat, "float16", cache="plain")
    with file.read(bundle) as opened:
        values = opened.tokens("plain").columns["values"].read()[:, 0].astype(np.float32)
    index = faiss.IndexPQ(values.shape[1], 16, 8)
    index.train(values)
    faiss.write_index(index, str(tmp_path / "pq.faiss"))
    cached(bundle, flat, "pq:16", cache="pq", codebooks=[tmp_path / "pq.faiss"])
    codes = np.concatenate([columns["codes"][:, 0] for columns in rows_of(bundle, "pq")])
    theirs = index.sa_encode(values)
    assert (codes == theirs).mean() > 0.99  # the tokens were not rounded to float16 before


@pytest.mark.parametrize(
    ("recipe", "error", "reason"),
    [
        ("pq:24", SettingsError, "divide"),
        ("divprune:3 | pq:16", InputError, "256"),
        ("opq:7", SettingsError, "divide"),
    ],
)
def test_impossible_codebooks_change_nothing(bundle, mllm, recipe, error, reason):
    before = bundle.read_bytes()
    with pytest.raises(error, match=reason):
        cached(bundle, mllm, recipe)
    assert bundle.read_bytes() == before
    assert left_behind(bundle) == []
    cached(bundle, mllm, "int8", proof_pairs=0)
    with pytest.raises(error, match=reason):
        cached(bundle, mllm, recipe, overwrite=True)
    assert len(rows_of(bundle)) == 20  # the cache that was to be replaced is there


def test_an_old_cache_serves_until_the_new_one_is_complete(bundle, mllm, monkeypatch):
    cached(bundle, mllm, "int8")
    encodings(monkeypatch, 17)
    with pytest.raises(KeyboardInterrupt):
        cached(bundle, mllm, "float16", proof_pairs=0, overwrite=True)
    with file.read(bundle) as opened:
        assert opened.tokens("default").codec == "int8"
        assert len(opened.tokens("default")) == 20
        assert len(opened.unfinished[".default"]) == 16
    seen = encodings(monkeypatch)
    summary = cached(bundle, mllm, "float16", proof_pairs=0, overwrite=True)
    assert (sum(seen), summary.known, summary.images) == (4, 16, 4)
    with file.read(bundle) as opened:
        assert opened.tokens("default").codec == "float16"
        assert opened.unfinished == {}


def test_a_new_cache_with_other_wishes_is_begun_anew(bundle, mllm, monkeypatch):
    cached(bundle, mllm, "int8")
    encodings(monkeypatch, 17)
    with pytest.raises(KeyboardInterrupt):
        cached(bundle, mllm, "float16", proof_pairs=0, overwrite=True)
    monkeypatch.undo()
    assert cached(bundle, mllm, "bfloat16", proof_pairs=0, overwrite=True).images == 20
    with file.read(bundle) as opened:
        assert opened.tokens("default").codec == "bfloat16"
        assert opened.unfinished == {}


def test_the_proof_tells_what_compression_did(bundle, mllm):
    cached(bundle, mllm, "float16")
    exact = check_fidelity(bundle, cache="default").scores
    assert exact.pairs == 15  # 3 queries of 20 photos, each with its share of candidates
    assert exact.correlation > 0.9999
    assert exact.logit_change < 0.01
    cached(bundle, mllm, "random:1", cache="coarse")
    coarse = check_fidelity(bundle, cache="coarse")
    assert coarse.scores.logit_change > 10 * exact.logit_change
    assert coarse.scores.correlation < exact.correlation
    assert coarse.same_question
    assert coarse.recipe == f"{SIZE} | random:1 | float16"


def test_the_proof_is_of_the_plain_forward(bundle, mllm):
    """Its logits are those of the published forward pass on the photos' pixels."""
    from imgrank.mllm.registry import load_mllm
    from imgrank.steps.photos import open_photos
    from imgrank.steps.proof import proof_scorer

    cached(bundle, mllm, "random:1")
    scorer = proof_scorer(load_mllm(str(mllm), device="cpu", dtype="float32"))
    photos = open_photos(bundle)
    with file.read(bundle) as opened:
        queries, facts = read_proof(opened.tokens("default"))
    assert facts["dtype"] == "float32"
    for query in queries[:2]:
        pixels = photos.pixels(query.row, 160)
        for row, logit in list(zip(query.candidates.tolist(), query.logits, strict=True))[:2]:
            plain = scorer.score_plainly(pixels, photos.pixels(row, 160), longer_side=160, max_tokens=100)
            assert logit == pytest.approx(plain, abs=0.05)  # the query's tokens are kept in 8 bits


def test_pairs_of_the_proof_are_near_photos_and_no_photo_comes_twice():
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(300, 8)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    rows = np.arange(300) * 2 + 5
    groups = choose_pairs(descriptors, rows, 200)
    assert [len(candidates) for _, candidates in groups] == [50] * 4
    flat = [row for query, candidates in groups for row in (query, *candidates.tolist())]
    assert len(set(flat)) == 204
    assert set(flat) <= set(rows.tolist())
    query, candidates = groups[0]
    similar = descriptors @ descriptors[(query - 5) // 2]
    queries = {(one - 5) // 2 for one, _ in groups}
    best = [row for row in np.argsort(-similar).tolist() if row not in queries][:50]
    assert ((candidates - 5) // 2).tolist() == best


@pytest.mark.parametrize(("photos", "sizes"), [(1, []), (2, [1]), (5, [4]), (11, [10]), (12, [5, 5]), (30, [6] * 4)])
def test_small_collections_have_fewer_pairs(photos, sizes):
    descriptors = np.eye(30, dtype=np.float32)[:photos]
    assert [len(candidates) for _, candidates in choose_pairs(descriptors, np.arange(photos), 200)] == sizes


def test_wishes_change_only_what_they_name():
    default = TokenSettings(512, 300, "divprune:171", "int8")

    def wished(**asked) -> TokenSettings:
        return TokenRequest(**asked).settings(default, 1, 64, lambda: 200)

    assert wished() == default
    assert wished(keep=64) == TokenSettings(512, 300, "divprune:64", "int8")
    assert wished(prune="divprune") == default
    assert wished(prune="grid", dtype="float16") == TokenSettings(512, 300, "grid:2", "float16")
    assert wished(prune="none", longer_side=256) == TokenSettings(256, 300, "", "int8")
    assert wished(recipe="pq:8", max_tokens=50) == TokenSettings(512, 50, "", "pq:8")
    assert wished(bytes_per_image=1000) == TokenSettings(512, 300, "divprune:69", "opq:8")
    for asked, reason in [
        ({"recipe": "pq:8", "keep": 3}, "leave --keep out"),
        ({"recipe": "pq:8", "bytes_per_image": 30}, "leave --recipe out"),
        ({"bytes_per_image": 3000, "dtype": "int8", "prune": "grid"}, "leave --prune and --dtype out"),
        ({"prune": "grid", "keep": 3}, "--keep is for"),
    ]:
        with pytest.raises(SettingsError, match=reason):
            wished(**asked)


def test_an_estimate_is_what_caching_then_does(imgrank, bundle, mllm):
    before = bundle.read_bytes()
    asked = {"mllm": str(mllm), "settings": TokenRequest(bytes_per_image=700, longer_side=160)}
    estimate = estimate_tokens(bundle, **asked)
    assert bundle.read_bytes() == before
    assert left_behind(bundle) == []
    cache_tokens(bundle, **asked)
    with file.read(bundle) as opened:
        table = opened.tokens("default")
        stored = sum(len(view) * view.row_bytes for view in {**table.images, **table.columns}.values())
        assert kept_settings(table.provenance).reduce.startswith("divprune:")
    assert estimate.images == 20
    assert estimate.bytes_per_image <= 700
    assert stored == pytest.approx(20 * estimate.bytes_per_image, rel=0.15)  # one photo is larger than the first few
    run = imgrank("cache-tokens", bundle, "--mllm", mllm, "--cache", "b", "--recipe", "divprune:3", "--dry-run")
    assert run.returncode == 0, run.stderr
    lines = dict(line.split(maxsplit=1) for line in run.stdout.decode().splitlines())
    assert lines["photos"] == "20 to compute, 0 known already"
    assert lines["tokens"].startswith("3 of ")
    assert lines["tokens"].endswith(", 60 in all")
    assert "about" in lines["time"]
    assert bundle.read_bytes().count(b"tokens/b") == 0


def test_what_keeps_all_tokens_is_said_once(imgrank, bundle, mllm):
    run = imgrank("cache-tokens", bundle, "--mllm", mllm, "--longer-side", 160, "--keep", 5000)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count(b"20 photos have no more tokens than") == 1


def test_photos_that_came_later_use_the_same_codebooks(imgrank, bundle, mllm):
    cached(bundle, mllm, "pq:16")
    before = rows_of(bundle)
    shutil.copy(bundle.parent / "queries" / "query-00.jpg", bundle.parent / "photos" / "new.jpg")
    assert imgrank("index", "photos", "-o", "db.h5", cwd=bundle.parent).returncode == 0
    with file.read(bundle) as opened:
        digest = stored_codebooks(opened.tokens("default")).digest()
    summary = cached(bundle, mllm, "pq:16")
    assert (summary.images, summary.known) == (1, 20)
    with file.read(bundle) as opened:
        assert stored_codebooks(opened.tokens("default")).digest() == digest
    after = rows_of(bundle)
    for one, other in zip(before, after, strict=False):
        np.testing.assert_array_equal(one["codes"], other["codes"])
    assert len(after[20]["codes"])
    shutil.copy(bundle.parent / "queries" / "query-01.jpg", bundle.parent / "photos" / "newer.jpg")
    assert imgrank("index", "photos", "-o", "db.h5", cwd=bundle.parent).returncode == 0
    with pytest.raises(SettingsError, match="has codebooks"):
        cached(bundle, mllm, "pq:16", codebooks=[bundle])


def test_a_photo_that_is_gone_is_named_and_has_no_tokens(bundle, mllm):
    gone = sorted((bundle.parent / "photos").glob("*.jpg"))[3]
    gone.unlink()
    summary = cached(bundle, mllm, "divprune:14 | pq:16")
    assert summary.skipped == {"missing": 1}
    assert summary.images == 19
    assert [len(columns) for columns in rows_of(bundle)].count(0) == 1
    assert check_fidelity(bundle).scores.pairs > 0
    assert module.PART == 16
