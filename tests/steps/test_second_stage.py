"""Re-ranking by a language model over a real bundle: what is scored, what is known from before, and what is asked."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from imgrank.config import RerankSettings, SearchSettings, TokenSettings
from imgrank.errors import MismatchError, SettingsError
from imgrank.results import Ranking
from imgrank.steps.cache_tokens import cache_tokens
from imgrank.steps.photos import open_photos
from imgrank.steps.rerank import Reranker, rerank_rankings
from imgrank.steps.search import Searcher
from imgrank.steps.second_stage import Request, choose_prompt
from tests.tiny_mllms import save_tiny_mllm

TOP = 12


@pytest.fixture(scope="module")
def cached(_indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, queries, the model and `db.h5` with its tokens; nothing in it may be changed."""
    folder = tmp_path_factory.mktemp("second") / "collection"
    shutil.copytree(_indexed.parent, folder, copy_function=os.link)
    (folder / "db.h5").unlink()
    shutil.copy2(_indexed, folder / "db.h5")
    save_tiny_mllm(folder / "mllm", "qwen3_vl")
    cache_tokens(
        folder / "db.h5", mllm=str(folder / "mllm"), settings=TokenSettings(longer_side=160, reduce="divprune:12")
    )
    return folder


def searcher(folder: Path, score_cache: Path | None = None, request: Request | None = None, **settings) -> Searcher:
    photos = open_photos(folder / "db.h5")
    reranker = Reranker(photos, RerankSettings(top=TOP, **settings), request, score_cache=score_cache)
    return Searcher(photos, SearchSettings(top_k=20), reranker=reranker)


def query(folder: Path, number: int = 0) -> bytes:
    return os.fsencode(folder / "queries" / f"query-{number:02}.jpg")


def bare(ranking: Ranking) -> list[tuple]:
    return [(hit.rank, hit.id, hit.score, hit.probability, hit.logit, hit.disagreement) for hit in ranking.hits]


def test_a_repeated_search_scores_nothing_and_finds_the_same(cached, tmp_path):
    first = searcher(cached, tmp_path / "scores")
    once = first.search(query(cached))
    assert (first.reranker.work.scored, first.reranker.work.known) == (TOP, 0)
    second = searcher(cached, tmp_path / "scores")

    def forbidden(*arguments):
        raise AssertionError("the query was encoded, or a pair was scored")

    second.reranker.stage.source.of_query = forbidden
    again = second.search(query(cached))
    assert (second.reranker.work.scored, second.reranker.work.known) == (0, TOP)
    assert bare(again) == bare(once)


def test_another_prompt_answer_or_query_is_scored_anew(cached, tmp_path):
    kept = tmp_path / "scores"
    searcher(cached, kept).search(query(cached))
    for request, settings, number in [
        (None, {"task": "landmark"}, 0),
        (None, {"prompt_layout": "instruction-first"}, 0),
        (None, {"answers": "yes-no"}, 0),
        (None, {"answers": "ternary"}, 0),
        (None, {"answers": "grades"}, 0),
        (None, {}, 1),
    ]:
        other = searcher(cached, kept, request, **settings)
        other.search(query(cached, number))
        assert other.reranker.work.known == 0


def test_grades_are_kept_apart_from_other_scales_where_the_prompt_is_the_same(cached, tmp_path):
    (tmp_path / "prompt.txt").write_text("{query}{candidate}Same?")
    (tmp_path / "two.txt").write_text("grade 0: 0\ngrade 1: 1\n")
    request = Request(prompt_file=tmp_path / "prompt.txt")
    kept = tmp_path / "scores"
    found = {}
    for answers in ("digits", "ternary", "grades"):
        one = searcher(cached, kept, request, answers=answers)
        found[answers] = bare(one.search(query(cached)))
        assert one.reranker.work.known == 0
    assert found["digits"] != found["ternary"] != found["grades"]
    for answers in (str(tmp_path / "two.txt"), "ternary", "grades"):
        again = searcher(cached, kept, request, answers=answers)
        assert bare(again.search(query(cached))) == found.get(answers, found["digits"])
        assert again.reranker.work.scored == 0


def test_symmetric_scores_share_what_one_order_has_said(cached, tmp_path):
    plain = searcher(cached, tmp_path / "scores").search(query(cached))
    both = searcher(cached, tmp_path / "scores", symmetric=True)
    ranking = both.search(query(cached))
    work = both.reranker.work
    assert (work.scored, work.judged_twice) == (TOP, TOP)
    by_id = {hit.id: hit for hit in plain.hits}
    for hit in ranking.hits[:TOP]:
        # The mean is half the disagreement away from what the first order says.
        assert abs(abs(hit.logit - by_id[hit.id].logit) - hit.disagreement / 2) < 1e-4
    assert work.disagreement == pytest.approx(sum(hit.disagreement for hit in ranking.hits[:TOP]), rel=1e-5)
    known = searcher(cached, tmp_path / "scores", symmetric=True)
    assert bare(known.search(query(cached))) == bare(ranking)
    assert known.reranker.work.scored == 0
    one_way = searcher(cached, tmp_path / "scores")
    assert bare(one_way.search(query(cached))) == bare(plain)
    assert one_way.reranker.work.scored == 0


@pytest.mark.parametrize("lam", [0.3, 0.9])
def test_the_first_places_alone_are_those_of_the_whole(cached, lam):
    whole = searcher(cached, lam=lam)
    few = searcher(cached, lam=lam, top_only=2)
    for number in (0, 1):
        expected = whole.search(query(cached, number)).hits[:2]
        hits = few.search(query(cached, number)).hits
        assert [hit.id for hit in hits] == [hit.id for hit in expected]
        np.testing.assert_allclose([h.logit for h in hits], [h.logit for h in expected], atol=2e-5)
    work = few.reranker.work
    assert work.scored + work.left_out == 2 * TOP
    if lam == 0.9:
        assert work.left_out > 0


def test_a_budget_scores_the_head_of_the_shortlist(cached):
    shortlist = searcher(cached, lam=1.0).search(query(cached))
    limited = searcher(cached, lam=1.0, time_budget=1e-6)
    ranking = limited.search(query(cached))
    assert limited.reranker.work.scored == 1  # one in any case
    assert [hit.id for hit in ranking.hits if hit.scorer] == [shortlist.hits[0].id]
    assert len(ranking.hits) == 20
    generous = searcher(cached, time_budget=600.0)
    generous.search(query(cached))
    assert generous.reranker.work.left_out == 0


def test_known_pairs_cost_no_budget(cached, tmp_path):
    searcher(cached, tmp_path / "scores").search(query(cached))
    limited = searcher(cached, tmp_path / "scores", time_budget=1e-6)
    limited.search(query(cached))
    assert (limited.reranker.work.known, limited.reranker.work.left_out) == (TOP, 0)


def test_hits_through_a_pipe_are_scored_the_same(cached):
    photos = open_photos(cached / "db.h5")
    shortlist = Searcher(photos, SearchSettings(top_k=20)).search(query(cached))
    reranker = Reranker(photos, RerankSettings(top=TOP))
    (ranking,) = rerank_rankings(iter([shortlist]), reranker)
    assert bare(ranking) == bare(searcher(cached).search(query(cached)))


def test_the_cache_of_a_model_that_moved_is_found_by_its_weights(cached, tmp_path):
    moved = shutil.copytree(cached / "mllm", tmp_path / "moved")
    stage = searcher(cached, request=Request(mllm=str(moved))).reranker.stage
    assert [kept.table.name for kept in stage.bundles] == ["default"]


def test_tokens_of_another_model_are_refused_with_the_command_to_run(cached, tmp_path):
    other = save_tiny_mllm(tmp_path / "other", "qwen3_vl", seed=1)
    with pytest.raises(MismatchError, match=r"imgrank cache-tokens .* --cache NAME"):
        searcher(cached, request=Request(mllm=str(other), cache="default"))
    assert searcher(cached, request=Request(mllm=str(other))).reranker.stage.bundles[0].table is None


def test_tokens_of_photos_prepared_in_another_way_are_refused(cached, tmp_path):
    changed = shutil.copytree(cached / "mllm", tmp_path / "changed")
    file = changed / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": [0.4, 0.5, 0.5]}))
    with pytest.raises(MismatchError, match=r"mean was \[0.5, 0.5, 0.5\] and is \[0.4, 0.5, 0.5\].*--overwrite"):
        searcher(cached, request=Request(mllm=str(changed)))
    # The number type is no such difference: a cache made on a GPU serves a CPU.
    assert searcher(cached, dtype="bfloat16").search(query(cached)).hits


class Named:
    def __init__(self, name: str, family: str) -> None:
        self.name, self.family = name, family


def test_a_tuned_reranker_is_asked_its_own_way():
    model = Named("Qwen/Qwen3-VL-Reranker-2B", "qwen3_vl")
    settings = RerankSettings()
    prompt, answers = choose_prompt(model, settings, None)
    assert (prompt.name, answers.positive) == ("qwen3-vl-reranker", "yes")
    plain, digits = choose_prompt(model, dataclasses.replace(settings, profile="none"), None)
    assert (plain.name, digits.positive) == ("object", "1")
    renamed = Named("/models/mine", "qwen3_vl")
    assert choose_prompt(renamed, settings, None)[0].name == "object"
    tuned = dataclasses.replace(settings, profile="qwen3-vl-reranker")
    assert choose_prompt(renamed, tuned, None) == (prompt, answers)


@pytest.mark.parametrize(
    ("name", "family", "change", "message"),
    [
        ("Qwen/Qwen3-VL-Reranker-2B", "qwen3_vl", {"answers": "digits"}, "--profile none"),
        ("Qwen/Qwen3-VL-Reranker-2B", "qwen3_vl", {"answers": "grades"}, "--profile none"),
        ("code-kunkun/LamRA-Rank", "qwen2_vl", {"answers": "grades"}, "--profile none"),
        ("builtin", "imgrank_keypoints", {"answers": "grades"}, "--answers"),
        ("Qwen/Qwen3-VL-Reranker-2B", "qwen3_vl", {"prompt_layout": "instruction-first"}, "--profile none"),
        ("mine", "gemma3", {"profile": "qwen3-vl-reranker"}, "of the family qwen3_vl"),
        ("mine", "gemma3", {"answers": "maybe"}, "maybe"),
    ],
)
def test_contradictions_are_refused(name, family, change, message):
    with pytest.raises(SettingsError, match=message):
        choose_prompt(Named(name, family), RerankSettings(**change), None)


def test_a_prompt_file_has_its_own_layout(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("{query} {candidate} Same?")
    prompt, _ = choose_prompt(Named("mine", "gemma3"), RerankSettings(), file)
    assert prompt.text == "{query} {candidate} Same?"
    with pytest.raises(SettingsError, match="--prompt-layout"):
        choose_prompt(Named("mine", "gemma3"), RerankSettings(prompt_layout="images-first"), file)
