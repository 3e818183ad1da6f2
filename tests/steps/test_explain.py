"""An explanation says what search says, and marks what was compared where it lies."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrank.config import ExplainSettings, RerankSettings, SearchSettings, TokenSettings
from imgrank.errors import InputError, SettingsError
from imgrank.local.geometry import match_score
from imgrank.rerank.calibration import Isotonic
from imgrank.steps.cache_tokens import cache_tokens
from imgrank.steps.collection import open_collection
from imgrank.steps.explain import Explainer, check_explanation_output, query_of, row_of, write_explanation
from imgrank.steps.explanation import Explanation
from imgrank.steps.remove import remove
from imgrank.steps.rerank import Reranker
from imgrank.steps.search import Query, Searcher
from imgrank.steps.second_stage import Request

TOP = 8
QUERY = "queries/query-00.jpg"


def name(folder: Path, path: str = QUERY) -> bytes:
    return os.fsencode(folder / path)


def explainer(folder: Path, shown: ExplainSettings | None = None, request: Request | None = None, **settings):
    photos = open_collection([folder / "db.h5"])
    return Explainer(photos, RerankSettings(**{"top": TOP, **settings}), shown, request)


def searched(folder: Path, query, request: Request | None = None, **settings) -> list[dict]:
    photos = open_collection([folder / "db.h5"])
    reranker = Reranker(photos, RerankSettings(**{"top": TOP, **settings}), request)
    ranking = Searcher(photos, SearchSettings(top_k=100, exact=True), reranker=reranker).search(query)
    return [hit.to_dict() for hit in ranking.hits]


def differing(found: Explanation, record: dict) -> dict:
    """Return what an explanation says otherwise than the record of a search, the rank aside."""
    said = found.to_dict()
    return {key: (said.get(key), value) for key, value in record.items() if said.get(key) != value}


@pytest.fixture
def tiny(collection: Path, model_folder) -> tuple[Path, Request]:
    """The collection with a token cache of a tiny Qwen3-VL."""
    model = str(model_folder("qwen3_vl"))
    settings = TokenSettings(longer_side=256, reduce="divprune:8")
    cache_tokens(collection / "db.h5", mllm=model, settings=settings, proof_pairs=0)
    return collection, Request(mllm=model)


@pytest.mark.parametrize("scorer", ["geometric", "maxsim"])
def test_local_features_say_what_search_says(collection: Path, scorer: str) -> None:
    records = searched(collection, name(collection), scorer=scorer)
    explain = explainer(collection, scorer=scorer)
    for record in (records[0], records[TOP - 1], records[TOP], records[-1]):
        found = explain.explain(name(collection), record["id"])
        assert differing(found, record) == {}
        assert found.searched == len(records) == 20
        # The last ones keep the rank that their similarity gives them.
        assert found.reranked == (record["rank"] <= TOP)
        if not found.reranked:
            assert found.shortlist_rank == record["rank"]
            assert "not among the first 8" in found.movement()


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"lam": 0.2, "task": "product"}, {"answers": "ternary"}])
def test_a_language_model_says_what_search_says(tiny, options: dict) -> None:
    folder, request = tiny
    options = {"scorer": "mllm", **options}
    records = searched(folder, name(folder), request, **options)
    explain = explainer(folder, request=request, **options)
    for record in (records[1], records[TOP + 1]):
        found = explain.explain(name(folder), record["id"])
        assert differing(found, record) == {}
        judged = found.to_dict()["pair"]
        assert list(judged["logits"]) == ["query_first", "candidate_first"]
        if "answers" in options:
            assert judged["answers"] == {"same": "2", "different": "0", "grades": ["0", "1", "2"]}
            assert ("answers", "'2' for the same, '0' for different, of 3 grades") in found.table()
        else:
            assert judged["answers"] == {"same": "1", "different": "0"}
        if "symmetric" in options:
            both = np.float32(list(judged["logits"].values()))
            assert judged["logit"] == pytest.approx(both.mean(dtype=np.float64), abs=1e-6)
            assert judged["disagreement"] == pytest.approx(np.ptp(both), abs=1e-6)
        else:
            assert judged["logits"]["query_first"] == judged["logit"]
            assert judged["logits"]["candidate_first"] != judged["logit"]
        if record["rank"] > TOP:
            lam = options.get("lam", 0.5)
            assert "probability" not in found.to_dict()
            assert found.hit.score == pytest.approx(lam * found.hit.similarity)
            assert judged["score"] == pytest.approx(
                lam * found.hit.similarity + (1 - lam) * judged["probability"], abs=1e-6
            )


def test_both_orders_are_those_of_a_symmetric_search(tiny) -> None:
    folder, request = tiny
    one = explainer(folder, request=request, scorer="mllm").explain(name(folder), 3)
    both = explainer(folder, request=request, scorer="mllm", symmetric=True).explain(name(folder), 3)
    assert one.logits == pytest.approx(both.logits, abs=1e-4)


def test_the_builtin_model_says_what_search_says(collection: Path) -> None:
    options = {"scorer": "mllm", "top": 3}
    request = Request(mllm="builtin")
    records = searched(collection, name(collection), request, **options)
    found = explainer(collection, request=request, **options).explain(name(collection), records[0]["id"])
    assert differing(found, records[0]) == {}
    # Without a cache the candidate is computed from its photo, as one would be cached.
    assert found.tokens.cache is None
    assert found.tokens.recipe is not None
    query, candidate = found.evidence.sides
    assert len(query.boxes) == found.tokens.query
    assert len(candidate.boxes) == found.tokens.candidate
    assert len(candidate.boxes) + len(candidate.left_out) == found.tokens.full
    assert not candidate.cells


def test_a_query_by_id_and_a_part(collection: Path) -> None:
    records = searched(collection, Query((5,)))
    found = explainer(collection).explain(5, records[2]["id"])
    assert differing(found, records[2]) == {}
    assert found.searched == 19
    part = name(collection) + b"#xywh=20,30,160,120"
    records = searched(collection, part)
    found = explainer(collection).explain(part, records[0]["id"])
    assert differing(found, records[0]) == {}
    assert found.evidence.sides[0].size == (160, 120)


def test_inliers_are_those_of_the_score(collection: Path) -> None:
    explain = explainer(collection, ExplainSettings(lines=3))
    found = explain.explain(name(collection), 0)
    query = explain.reranker.stage.source.of_query(explain.reranker.prepare(name(collection)).pixels)
    expected = match_score(query, [explain.reranker.candidate(0)])
    assert found.evidence.inliers == expected.inliers[0]
    assert found.scores.values[0] == expected.scores[0]
    assert len(found.evidence.lines) == min(3, found.evidence.inliers)
    record = found.to_dict()["evidence"]
    assert record["method"] == "inliers"
    # A keypoint of the record lies where the feature is, as a share of width and height.
    number, _ = found.evidence.lines[0]
    left, top, width, height = record["lines"][0]["query"]
    photo = found.evidence.sides[0]
    longer = max(photo.size)
    x, y = (left + width / 2) * photo.size[0] / longer, (top + height / 2) * photo.size[1] / longer
    assert (x, y) == pytest.approx(tuple(query.keypoints[number, :2]), abs=1e-3)


def test_kept_tokens_are_marked_where_they_are(tiny) -> None:
    folder, request = tiny
    explain = explainer(folder, ExplainSettings(lines=0), request, scorer="mllm")
    found = explain.explain(name(folder), 2)
    tokens = explain.reranker.candidate(2)
    assert found.tokens.cache is not None
    assert len(tokens) == 8 < tokens.full_length
    sheet = found.picture()
    area = sheet.candidate[0]
    shown = Image.fromarray(found.evidence.sides[1].pixels).resize((area.width, area.height), Image.Resampling.LANCZOS)
    rows, columns = tokens.grid
    kept = {(row, column) for _, row, column in tokens.positions.tolist()}
    for row in range(rows):
        for column in range(columns):
            x, y = round((column + 0.5) / columns * area.width), round((row + 0.5) / rows * area.height)
            drawn = sheet.image.getpixel((area.left + x, area.top + y))
            same = np.abs(np.subtract(drawn, shown.getpixel((x, y)))).max() <= 2
            assert same == ((row, column) in kept) or min(shown.getpixel((x, y))) > 225


@pytest.mark.parametrize(("reduce", "means"), [("pool:2", False), ("kmeans:6", True)])
def test_groups_are_marked_as_far_as_they_are_known(collection: Path, model_folder, reduce: str, means: bool) -> None:
    model = str(model_folder("internvl"))
    settings = TokenSettings(longer_side=200, max_tokens=400, reduce=reduce)
    cache_tokens(collection / "db.h5", mllm=model, settings=settings, proof_pairs=0)
    explain = explainer(collection, request=Request(mllm=model), scorer="maxsim")
    found = explain.explain(name(collection), 2)
    candidate, tokens = found.evidence.sides[1], explain.reranker.candidate(2)
    assert candidate.means == means
    assert any("Diamonds" in note for note in found.notes) == means
    assert tokens.tile_count > 1
    assert candidate.inset.any() or candidate.left_out_inset.any()
    if means:
        assert len(candidate.left_out) == tokens.full_length - len(tokens)
    else:  # all blocks together are the whole photo
        assert len(candidate.left_out) == 0
        for part in (candidate.inset, ~candidate.inset):
            assert candidate.boxes[part][:, 2:].prod(axis=1).sum() == pytest.approx(1, abs=1e-5)
    assert found.picture().candidate[1] is not None


def test_attention_of_a_language_model(tiny) -> None:
    folder, request = tiny
    every = explainer(folder, ExplainSettings("attention", 2), request, scorer="mllm").explain(name(folder), 2)
    record = every.to_dict()["evidence"]
    assert record["method"] == "attention"
    assert 0 < record["query_share"] + record["candidate_share"] < 1
    shares = [entry["share"] for entry in record["candidate_strongest"]]
    assert len(shares) == 2
    assert shares == sorted(shares, reverse=True)
    of_layer = [
        explainer(folder, ExplainSettings("attention", 2, (layer, layer)), request, scorer="mllm")
        .explain(name(folder), 2)
        .evidence.attention[0]
        for layer in (1, 2, 3, 4)
    ]
    np.testing.assert_allclose(np.mean(of_layer, axis=0), every.evidence.attention[0], atol=1e-6)
    with pytest.raises(SettingsError, match="layers 1 to 4"):
        explainer(folder, ExplainSettings("attention", 2, (2, 9)), request, scorer="mllm").explain(name(folder), 2)
    with pytest.raises(SettingsError, match="--scorer mllm"):
        explainer(folder, ExplainSettings("attention"), scorer="geometric")


def test_a_photo_that_is_gone_or_another_one_leaves_its_tokens(tiny) -> None:
    folder, request = tiny
    explain = explainer(folder, request=request, scorer="mllm")
    before = explain.explain(name(folder), 2)
    path = folder / os.fsdecode(open_collection([folder / "db.h5"]).parts[0].stored_paths[2])
    content = path.read_bytes()
    path.unlink()
    gone = explain.explain(name(folder), 2)
    path.write_bytes(content + b"\0")
    other = explain.explain(name(folder), 2)
    for found, why in ((gone, "no such file"), (other, "not the photo that was embedded")):
        assert differing(found, before.hit.to_dict()) == {}
        side = found.evidence.sides[1]
        assert side.pixels is None
        assert side.size[0] / side.size[1] == pytest.approx(np.divide(*before.evidence.sides[1].size), abs=0.02)
        np.testing.assert_array_equal(side.boxes, before.evidence.sides[1].boxes)
        assert any(why in note for note in found.notes)
        sheet = found.picture()
        x, y = (round(value) for value in sheet.candidate[0].centre(side.left_out[0]))
        assert len(set(sheet.image.getpixel((x, y)))) <= 2  # grey


def test_keypoints_of_a_photo_that_is_gone_have_no_place(collection: Path) -> None:
    cache_tokens(collection / "db.h5", proof_pairs=0)
    path = collection / os.fsdecode(open_collection([collection / "db.h5"]).parts[0].stored_paths[2])
    path.unlink()
    found = explainer(collection, request=Request(mllm="builtin"), scorer="mllm", top=1).explain(name(collection), 2)
    assert found.evidence.sides[1].boxes is None
    assert any("not known without the photo" in note for note in found.notes)
    assert found.to_dict()["evidence"]["lines"][0]["candidate"] is None
    assert found.picture().image.width == 1300


def test_what_no_search_finds_is_said(collection: Path) -> None:
    explain = explainer(collection)
    with pytest.raises(InputError, match="is the query itself"):
        explain.explain(4, 4)
    remove(collection / "db.h5", [b"photos/object-00-view-0.jpg"])
    row, explain = row_of(explain.photos, b"photos/object-00-view-0.jpg"), explainer(collection)
    with pytest.raises(InputError, match="removed"):
        explain.explain(name(collection), row)
    with pytest.raises(SettingsError, match="--top-only"):
        explainer(collection, top_only=2)


def test_names_ids_and_neighbours(collection: Path, monkeypatch) -> None:
    monkeypatch.chdir(collection)
    photos = open_collection([collection / "db.h5"])
    stored = photos.parts[0].stored_paths
    absolute = os.fsencode(collection) + b"/" + stored[7]
    assert row_of(photos, stored[7]) == row_of(photos, b"7") == row_of(photos, absolute) == 7
    assert query_of(photos, b"7") == 7
    assert query_of(photos, b"queries/none.jpg") == b"queries/none.jpg"  # said by who reads it
    (collection / "7").write_bytes((collection / QUERY).read_bytes())
    assert query_of(photos, b"7") == b"7"
    with pytest.raises(InputError, match=r"called photos/object-00-view-9\.jpg; did you mean photos/object-00"):
        row_of(photos, b"photos/object-00-view-9.jpg")
    with pytest.raises(InputError, match=r"did you mean photos/object-01-view-1\.jpg"):
        row_of(photos, b"elsewhere/object-01-view-1.jpg")
    with pytest.raises(InputError, match="give the path or the id"):
        row_of(photos, b"\xff")
    for wrong in (b"99", b"9" * 40):
        with pytest.raises(InputError, match="no photo with id"):
            row_of(photos, wrong)


def test_files_are_checked_before_and_written_whole(collection: Path) -> None:
    found = explainer(collection).explain(name(collection), 1)
    for ending in (".png", ".HTML"):
        path = collection / f"why{ending}"
        check_explanation_output(path, force=False)
        write_explanation(found, path)
        with pytest.raises(SettingsError, match="--force"):
            check_explanation_output(path, force=False)
        check_explanation_output(path, force=True)
    assert (collection / "why.HTML").read_bytes().startswith(b"<!doctype html>")
    with Image.open(collection / "why.png") as image:
        assert image.format == "PNG"
        assert image.width >= 1200
    for wrong in ("why.gif", "why", "none/why.png"):
        with pytest.raises(SettingsError):
            check_explanation_output(collection / wrong, force=False)
    (collection / "db.png").write_bytes((collection / "db.h5").read_bytes())
    with pytest.raises(SettingsError, match="HDF5"):
        check_explanation_output(collection / "db.png", force=True)


def test_a_calibrated_probability_is_that_of_search(collection: Path, monkeypatch) -> None:
    knots = Isotonic(np.array([0.0, 1.0]), np.array([0.125, 0.625]))
    monkeypatch.setattr("imgrank.steps.rerank.calibration_of", lambda *given: knots)
    records = searched(collection, name(collection), scorer="geometric")
    explain = explainer(collection, scorer="geometric")
    for record in (records[0], records[TOP]):
        found = explain.explain(name(collection), record["id"])
        assert differing(found, record) == {}
        judged = found.to_dict()["pair"]
        assert judged["calibrated"] == pytest.approx(0.125 + judged["match_score"] / 2, abs=1e-6)
        assert record.get("calibrated", judged["calibrated"]) == judged["calibrated"]
        assert "calibrated" in dict(found.table())
    assert "calibrated" in records[0]
    assert "calibrated" not in records[TOP]
