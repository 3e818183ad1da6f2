"""The recipe: its numbers, that it learns, that it goes on where it was cut, and the command that runs it."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from imgrank.encode.builtin import BuiltinEncoder
from imgrank.errors import SettingsError
from imgrank.mllm.profiles import PROFILES
from imgrank.mllm.registry import load_mllm
from imgrank.rerank.packing import PairScorer
from imgrank.training import corpus, train
from imgrank.training.__main__ import main
from imgrank.training.matcher import LossWeights, losses
from imgrank.training.pairs import GroupSettings, Sampler
from imgrank.training.subjects import SAME
from imgrank.training.train import Recipe, Stage, Training, descriptor_basis, mine, split
from tests.local.drawing import picture
from tests.training.handmade import ROLES, SMALL, made_photos, quick_subject

RECIPE = Recipe(shape=SMALL, stages=(Stage(3, 16, 2), Stage(2, 24, 1, 1.0)), warm_up=2, seed=3)
WHOLE = {}


@pytest.fixture(scope="module")
def learn():
    return made_photos(5)


@pytest.fixture(scope="module")
def hold():
    return made_photos(2, seed=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Fit the descriptors' directions on few of them, which takes longer than all the steps here."""
    monkeypatch.setattr(train, "_SIFT_SAMPLE", 3000)


def quiet(line):
    pass


def started(folder, learn, hold, recipe=RECIPE):
    """Start a run in a folder, or go on with it."""
    with torch.random.fork_rng(devices=[]):
        return Training(folder, learn, hold, recipe, compile=False)


@pytest.fixture
def start(learn, hold, tmp_path):
    return lambda recipe=RECIPE: started(tmp_path / "run", learn, hold, recipe)


@pytest.fixture
def whole(learn, hold, tmp_path_factory):
    """Return the weights after a run that nothing cut."""
    if "weights" not in WHOLE:
        training = started(tmp_path_factory.mktemp("whole"), learn, hold)
        assert training.run(note=quiet)
        WHOLE["weights"] = weights_of(training)
    return WHOLE["weights"]


def weights_of(training):
    return {name: value.clone() for name, value in training.network().state_dict().items()}


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


# Numbers of the recipe


def test_stages_follow_each_other():
    recipe = Recipe(stages=(Stage(2, 16, 3), Stage(3, 32, 1)))
    assert recipe.steps == 5
    assert [recipe.stage_of(step).tokens for step in range(6)] == [16, 16, 32, 32, 32, 32]
    assert [recipe.stage_of(step).groups for step in range(5)] == [3, 3, 1, 1, 1]


def test_the_rate_warms_up_and_falls_to_a_fiftieth():
    recipe = Recipe(stages=(Stage(60, 16, 1), Stage(50, 16, 1)), learning_rate=0.1, warm_up=10)
    assert [recipe.rate(step) for step in (0, 4, 9)] == pytest.approx([0.01, 0.05, 0.1])
    assert recipe.rate(10) == pytest.approx(0.1)
    assert recipe.rate(60) == pytest.approx(0.051)  # half way: the mean of 0.1 and 0.002
    assert recipe.rate(110) == pytest.approx(0.002)
    assert recipe.rate(500) == pytest.approx(0.002)
    rates = [recipe.rate(step) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


def test_hardship_comes_with_a_stage():
    recipe = Recipe(stages=(Stage(1, 16, 1), Stage(1, 16, 1, 0.5)))
    assert [recipe.groups_of(step).hardship for step in (0, 1)] == [0, 0.5]


def test_candidates_have_as_many_tokens_as_the_query_or_a_part_of_them():
    recipe = Recipe(stages=(Stage(100, 48, 1),))
    settings = [recipe.groups_of(step) for step in range(12)]
    assert {one.tokens for one in settings} == {one.candidate_tokens for one in settings} == {48}
    assert all(one.augment for one in settings)
    assert {recipe.kept(step) for step in range(12)} == {48, 24, 16}


def test_candidates_learn_with_the_tokens_that_are_kept(tmp_path, learn, hold, monkeypatch):
    seen = []
    monkeypatch.setattr(train, "losses", lambda *given: (seen.append(given[1].candidates.shape[2]), losses(*given))[1])
    started(tmp_path, learn, hold, dataclasses.replace(RECIPE, stages=(Stage(4, 24, 1),))).run(note=quiet)
    assert seen[:4] == [24, 12, 24, 8]


def test_held_out_subjects_are_whole_and_apart(learn):
    photos = made_photos(60, points=2)
    rest, held = split(photos)
    assert len(rest) + len(held) == len(photos)
    assert not set(rest.subject) & set(held.subject)
    assert 2 <= len(set(held.subject)) <= 6
    few, held = split(learn)
    assert (len(set(few.subject)), len(set(held.subject))) == (3, 2)
    assert len(held) == 2 * len(ROLES)


def test_near_photos_are_of_other_subjects_and_nearest_first(learn):
    nearest, descriptors = mine(learn, BuiltinEncoder())
    assert nearest.shape == (25, 20)
    assert np.isfinite(descriptors).all()
    for number, row in enumerate(nearest):
        assert (learn.subject[row] != learn.subject[number]).all()
        assert len(set(row)) == 20
        similar = descriptors[row] @ descriptors[number]
        assert (np.diff(similar) <= 1e-6).all()


def test_the_basis_spreads_descriptors_around_their_mean(learn):
    mean, basis = descriptor_basis(learn, seed=0)
    assert mean.shape == (128,)
    assert basis.shape[0] == 128
    assert (mean.dtype, basis.dtype) == (np.float32, np.float32)
    for first, again in zip((mean, basis), descriptor_basis(learn, seed=0), strict=True):
        np.testing.assert_array_equal(first, again)
    sift = np.concatenate([one.root_sift for one in learn.keypoints]).astype(np.float32)
    rows = (sift / np.linalg.norm(sift, axis=1, keepdims=True) - mean) @ basis
    assert rows.std() == pytest.approx(1, abs=0.1)
    assert np.abs(rows.mean(axis=0)).max() < 0.3


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [([2, 3], [0, 1], 1), ([0], [1, 2], 0), ([1, 3], [0, 2], 0.75), ([1], [1, 1], 0.5), ([1, 2], [1, 0], 0.875)],
)
def test_the_share_of_pairs_in_order_counts_ties_half(positive, negative, expected):
    assert train._auc(np.array(positive, np.float32), np.array(negative, np.float32)) == pytest.approx(expected)


# Runs


def test_the_loss_falls(start, learn):
    training = start(Recipe(shape=SMALL, stages=(Stage(25, 16, 2),), warm_up=3, learning_rate=2e-3))
    sampler = Sampler(learn, mine(learn)[0])
    groups = sampler.draw(np.random.default_rng(99), 12, GroupSettings(tokens=16, candidate_tokens=16))

    def parts():
        with torch.no_grad():
            total, found = losses(training.matcher, groups, LossWeights(), "cpu")
        return float(total), float(found["pair"])

    total, pair = parts()
    assert training.run(note=quiet)
    trained_total, trained_pair = parts()
    assert trained_total < 0.85 * total
    assert trained_pair < 0.95 * pair
    assert trained_pair < np.log(2)


def test_equal_runs_give_equal_weights_and_another_seed_others(start, whole):
    training = start()
    assert training.run(note=quiet)
    assert largest_difference(weights_of(training), whole) == 0
    # A finished run is not run again.
    again = start()
    assert again.step == RECIPE.steps
    assert again.run(note=quiet)
    assert largest_difference(weights_of(again), whole) == 0


def test_another_seed_gives_other_weights(start, whole):
    training = start(dataclasses.replace(RECIPE, seed=4))
    training.run(note=quiet)
    assert largest_difference(weights_of(training), whole) > 1e-3


def test_a_run_that_was_stopped_ends_as_one_that_was_not(start, whole):
    steps = []
    for _ in range(10):
        training = start()
        steps.append(training.step)
        if training.run(minutes=0, note=quiet):
            break
    assert steps == list(range(RECIPE.steps))
    assert largest_difference(weights_of(training), whole) < 1e-6


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_died_ends_as_one_that_did_not(start, whole, monkeypatch, kept):
    if kept:  # a checkpoint after every step
        monkeypatch.setattr(train, "_CHECKPOINT_SECONDS", -1)
    with pytest.raises(MemoryError):
        die(start(), monkeypatch, "clip_grad_norm_", MemoryError)
    training = start()
    assert training.step == (3 if kept else 0)
    assert training.run(note=quiet)
    assert largest_difference(weights_of(training), whole) < 1e-6


@pytest.mark.parametrize("place", ["losses", "clip_grad_norm_", "zero_grad", "measure"])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(start, whole, monkeypatch, place):
    if place == "measure":  # a checkpoint after every step, which measures
        monkeypatch.setattr(train, "_CHECKPOINT_SECONDS", -1)
    with pytest.raises(KeyboardInterrupt):
        die(start(), monkeypatch, "losses" if place == "measure" else place, KeyboardInterrupt)
    training = start()
    assert training.step in (0, 1, 3)
    assert training.run(note=quiet)
    assert largest_difference(weights_of(training), whole) < 1e-6


def die(training, monkeypatch, place, error):
    """Run until the program comes to a place for the fourth time, and raise an error there."""
    owner = {"losses": train, "clip_grad_norm_": torch.nn.utils, "zero_grad": torch.optim.AdamW}[place]
    plain = getattr(owner, place)
    calls = []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise error
        return plain(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, place, dies)
        training.run(note=quiet)


def test_a_checkpoint_of_another_recipe_is_refused(start):
    start().run(minutes=0, note=quiet)
    with pytest.raises(SettingsError, match=r"checkpoint\.pt.*recipe"):
        start(dataclasses.replace(RECIPE, seed=4))


def test_a_loss_that_is_no_number_stops_the_run(start, monkeypatch):
    def nan(*args):
        total, parts = losses(*args)
        return total * float("nan"), parts

    monkeypatch.setattr(train, "losses", nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        start().run(note=quiet)


def test_the_log_is_lines_of_json_and_what_is_noted(start, monkeypatch):
    monkeypatch.setattr(train, "_LOG_EVERY", 2)
    notes = []
    training = start()
    training.run(note=notes.append)
    lines = (training.folder / "log.jsonl").read_text().splitlines()
    assert lines == notes

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    records = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [record["step"] for record in records] == [2, 4, 5]
    for record in (*records[:-1], records[-1]["held_out"]):
        assert {"pair", "order", "inlier", "match", "accuracy"} <= record.keys()
        assert 0 <= record["accuracy"] <= 1


def test_a_log_without_negatives_of_a_kind_is_json_too(learn, tmp_path):
    alike = learn.take(np.flatnonzero(learn.role == SAME))
    training = started(tmp_path, alike, alike, dataclasses.replace(RECIPE, stages=(Stage(1, 16, 1),)))
    training.run(note=quiet)
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert "NaN" not in line
    assert json.loads(line)["held_out"]["accuracy"] >= 0


def test_measuring_changes_nothing_and_repeats(start):
    training = start()
    training.matcher.network.lm_head.weight.data += 1.0  # not the averaged weights, which are measured
    before = {name: value.clone() for name, value in training.matcher.state_dict().items()}
    first = training.measure(2)
    assert first == training.measure(2)
    assert largest_difference(training.matcher.state_dict(), before) == 0
    assert first == start().measure(2)


def test_the_network_that_is_written_is_the_average(start):
    training = start()
    training.run(note=quiet)
    network = training.network()
    assert not network.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, training.average[f"network.{name}"], atol=0, rtol=0)


# The command


@pytest.fixture
def run(monkeypatch, tmp_path, opencv_threads, capsys):
    """Return a function that runs the command on quickly drawn subjects; it gives the exit code."""
    monkeypatch.setattr(corpus, "draw_subject", quick_subject)
    monkeypatch.setattr(corpus, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers))

    def call(*more):
        work, output = tmp_path / "work", tmp_path / "model"
        arguments = [
            str(work),
            "-o",
            str(output),
            "--subjects",
            "10",
            "--stages",
            "2x12x2",
            "1x24x1x0.5",
            "--workers",
            "1",
        ]
        with torch.random.fork_rng(devices=[]):
            return main([*arguments, "--device", "cpu", "--no-compile", *more])

    return call


def score(folder):
    model = load_mllm(str(folder), device="cpu", dtype="float32")
    tokens = model.encode([picture(0), picture(1)], longer_side=512, max_tokens=40)
    profile = PROFILES["keypoints"]
    return PairScorer(model, profile.prompt("object"), profile.answers).score(tokens[0], tokens)


def test_the_command_makes_a_model_that_scores_and_goes_on_where_time_ran_out(run, tmp_path, capsys):
    assert run("--minutes", "0") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "16 of 10 subjects are drawn" in printed.err
    assert "stopped after step 1 of 3; the same command goes on" in printed.err
    assert len(list((tmp_path / "work" / "subjects").glob("*.safetensors"))) == 1
    early = score(tmp_path / "model")
    assert run() == 0
    late = score(tmp_path / "model")
    assert np.isfinite(early).all()
    assert np.isfinite(late).all()
    assert not np.array_equal(early, late)
    assert run() == 0  # nothing is left to do
    np.testing.assert_array_equal(score(tmp_path / "model"), late)
