"""The family that reads keypoints: the engine against the network's own forward and the forward it learns by."""

import json
import shutil

import numpy as np
import pytest
import torch

from imgrank.config import BUILTIN
from imgrank.errors import InputError, MissingModelError, SettingsError
from imgrank.local.keypoints import LocalSettings, chosen, detect
from imgrank.mllm import folder as folders
from imgrank.mllm import packed
from imgrank.mllm.answers import Answers
from imgrank.mllm.base import VisualTokens, full_positions
from imgrank.mllm.folder import open_model_folder
from imgrank.mllm.keypoint_network import COLOURS, DESCRIPTOR, INPUTS, inputs_of
from imgrank.mllm.keypoints import MOST_TOKENS
from imgrank.mllm.profiles import PROFILES, profile_of
from imgrank.mllm.prompts import Prompt, prompt_for, render
from imgrank.mllm.registry import load_mllm
from imgrank.rerank.packing import PairScorer, SymmetricPairScorer
from imgrank.training.export import export
from imgrank.training.matcher import Matcher
from tests.local.drawing import picture, view
from tests.training.handmade import random_keypoints, small_network

SIZES = {"longer_side": 512, "max_tokens": 60}
PROMPT = PROFILES["keypoints"].prompt("object")
CANDIDATE_FIRST = Prompt("mine", "{candidate}{query}")


@pytest.fixture(scope="module")
def network():
    return small_network()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small"
    export(network, path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_mllm(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def photos():
    first = picture(0)
    flat = np.full((100, 80, 3), 90, np.uint8)
    few = np.full((100, 200, 3), 255, np.uint8)
    few[30:50, 140:160] = 0
    return [first, view(first, 15, 1.1), picture(1, 200, 300), flat, picture(2, 300, 200), few]


@pytest.fixture(scope="module")
def tokens(model, photos):
    return model.encode(photos, **SIZES)


@pytest.fixture(scope="module")
def scores(model, tokens):
    return PairScorer(model, PROMPT).score(tokens[0], tokens[1:])


def features(photo, max_tokens=SIZES["max_tokens"]):
    """Return the numbers of the keypoints that are read of a photo."""
    keypoints = detect(photo, LocalSettings())
    return inputs_of(keypoints, chosen(keypoints, max_tokens)) if len(keypoints) else np.zeros((1, INPUTS), np.float32)


def plain(network, query, candidate):
    """Return the logit difference of the network's own forward for the numbers of two photos, on ids written out."""
    ids = [1, *[0] * len(query), 2, *[0] * len(candidate), *range(3, 11)]
    with torch.inference_mode():
        rows = torch.from_numpy(np.concatenate([query, candidate]))
        logits = network(torch.tensor([ids]), rows)[0, -1]
    return float(logits[12] - logits[11])


def as_tokens(model, numbers):
    """Return the visual tokens of (n, INPUTS) numbers of keypoints."""
    vectors = model._network.connect(torch.from_numpy(numbers)).numpy()
    return VisualTokens(vectors[:, None], full_positions(1, 1, len(vectors)), (1, len(vectors)))


def changed(folder, tmp_path, file="config.json", **values):
    """Copy a model folder with other settings in a file."""
    copy = shutil.copytree(folder, tmp_path / "model")
    held = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(held | values))
    return copy


# What a token is made of


def test_the_numbers_of_a_keypoint_are_those_worked_out_by_hand():
    keypoints = random_keypoints(np.random.default_rng(0), 2)
    keypoints.root_sift[0] = 0
    keypoints.root_sift[0, 3:5] = 30, 40
    keypoints.places[0] = 0.75, 0.375, 1 / 16, 90
    keypoints.colours[0, :6] = 192, 128, 112, 0, 144, 128
    row = inputs_of(keypoints)[0]
    assert row.dtype == np.float32
    # A unit vector times sqrt(128); L in units of 64 and a, b in units of 16 from 128.
    np.testing.assert_allclose(row[3:5], np.array([0.6, 0.8]) * np.sqrt(DESCRIPTOR), rtol=1e-6)
    assert np.count_nonzero(row[:DESCRIPTOR]) == 2
    np.testing.assert_allclose(row[DESCRIPTOR : DESCRIPTOR + 6], [1, 0, -1, -2, 1, 0])
    # From the middle of a photo of 1 x 0.75; octaves over 1/32; radians.
    np.testing.assert_allclose(row[DESCRIPTOR + COLOURS :], [0.25, 0, 1, np.pi / 2], atol=1e-6)
    np.testing.assert_array_equal(inputs_of(keypoints, np.array([1]))[0], inputs_of(keypoints)[1])


def test_the_strongest_keypoints_near_the_middle_become_tokens(model, photos, tokens):
    for photo, found in zip(photos, tokens, strict=True):
        expected = as_tokens(model, features(photo))
        np.testing.assert_array_equal(found.vectors, expected.vectors)
        np.testing.assert_array_equal(found.positions, expected.positions)
        assert found.grid == (1, len(found))
        assert found.vectors.dtype == np.float32


@pytest.mark.parametrize("limit", [1, 7, 59])
def test_a_photo_has_no_more_tokens_than_asked_for(model, photos, limit):
    found = model.encode(photos, longer_side=512, max_tokens=limit)
    assert max(map(len, found)) == limit
    for photo, some in zip(photos, found, strict=True):
        np.testing.assert_array_equal(some.vectors, as_tokens(model, features(photo, limit)).vectors)


def test_a_photo_has_no_more_tokens_than_the_model_has_learned_from(model):
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    assert len(detect(noise, LocalSettings())) > MOST_TOKENS
    (most,) = model.encode([noise], longer_side=512, max_tokens=10**6)
    (same,) = model.encode([noise], longer_side=512, max_tokens=MOST_TOKENS)
    assert len(most) == MOST_TOKENS
    np.testing.assert_array_equal(most.vectors, same.vectors)


def test_the_longer_side_changes_nothing(model, photos, tokens):
    for side in (1, 64, 4000):
        np.testing.assert_array_equal(
            model.encode(photos[:1], **SIZES | {"longer_side": side})[0].vectors, tokens[0].vectors
        )
        assert model.decode_side(side) == LocalSettings().longer_side


@pytest.mark.parametrize("sizes", [{"longer_side": 0}, {"max_tokens": 0}, {"max_tokens": -3}])
def test_no_size_and_no_tokens_are_refused(model, photos, sizes):
    with pytest.raises(SettingsError, match="at least 1"):
        model.encode(photos[:1], **SIZES | sizes)


def test_what_is_no_photo_is_refused(model):
    with pytest.raises(InputError):
        model.encode([np.zeros((20, 20), np.uint8)], **SIZES)
    with pytest.raises(InputError):
        model.encode([np.zeros((20, 20, 3), np.float32)], **SIZES)


@pytest.mark.parametrize("shape", [(100, 80), (1, 1), (7, 300)])
def test_a_photo_without_keypoints_is_one_token_and_has_a_score(model, tokens, shape):
    (flat,) = model.encode([np.full((*shape, 3), 90, np.uint8)], **SIZES)
    assert len(flat) == 1
    scorer = PairScorer(model, PROMPT)
    assert np.isfinite(scorer.score(flat, [tokens[0], flat])).all()
    assert np.isfinite(scorer.score(tokens[0], [flat])).all()


def test_settings_name_what_decides_the_tokens(model):
    assert dict(model.settings) == {
        "family": "imgrank_keypoints",
        "dtype": "float32",
        "local": json.loads(LocalSettings().to_json()),
    }
    assert (model.levels, model.hidden) == (1, 192)


# What the decoder sees


def test_the_pair_is_written_as_it_was_trained(model):
    rendered = render(PROMPT, Answers(), model)
    assert (rendered.before, rendered.between, rendered.after) == ((1,), (2,), tuple(range(3, 11)))
    assert rendered.answer_ids == (11, 12)
    assert rendered.query_first


@pytest.mark.parametrize("task", ["object", "landmark", "artwork", "product"])
def test_words_are_left_out(model, task):
    expected = render(PROMPT, Answers(), model)
    assert render(PROFILES["keypoints"].prompt(task), Answers(), model) == expected
    assert render(prompt_for(task), Answers(), model) == expected


def outputs(model, run):
    """Return what the first layer gives, at each of its passes in a run."""
    seen = []
    handle = model._decoder.layers[0].register_forward_hook(
        lambda module, inputs, output: seen.append((output[0] if isinstance(output, tuple) else output).flatten(0, -2))
    )
    try:
        run()
    finally:
        handle.remove()
    return seen


def altered(tokens, row):
    vectors = tokens.vectors.copy()
    vectors[row] += 1.0
    return VisualTokens(vectors, tokens.positions, tokens.grid)


def test_tokens_of_a_photo_see_each_other_both_ways(model, tokens):
    query, candidate = tokens[0], tokens[1]
    scorer = PairScorer(model, PROMPT)
    prefix, suffix = outputs(model, lambda: scorer.score(query, [candidate]))
    other_prefix, _ = outputs(model, lambda: scorer.score(altered(query, -1), [candidate]))
    moved = (other_prefix - prefix).abs().amax(dim=1)
    assert moved[0] == 0  # the announcement stands before the photo
    assert moved[1 : 1 + len(query)].min() > 1e-4
    same_prefix, other_suffix = outputs(model, lambda: scorer.score(query, [altered(candidate, -1)]))
    torch.testing.assert_close(same_prefix, prefix, atol=0, rtol=0)  # a query never sees a candidate
    assert (other_suffix - suffix).abs().amax(dim=1).min() > 1e-4


def test_a_candidate_never_sees_another(model, tokens):
    first, second = tokens[1], tokens[2]
    scorer = PairScorer(model, PROMPT)
    _, together = outputs(model, lambda: scorer.score(tokens[0], [first, second]))
    _, other = outputs(model, lambda: scorer.score(tokens[0], [first, altered(second, 0)]))
    own = len(first) + 8
    torch.testing.assert_close(other[:own], together[:own], atol=0, rtol=0)
    assert (other[own:] - together[own:]).abs().amax(dim=1).min() > 1e-4


# Scores


def test_every_pair_has_the_logit_difference_of_the_plain_forward(model, network, photos, scores):
    expected = [plain(network, features(photos[0]), features(photo)) for photo in photos[1:]]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    assert np.std(expected) > 0.01  # else equality would prove nothing


def test_the_models_own_plain_road_agrees(model, photos, tokens, scores):
    scorer = PairScorer(model, PROMPT)
    expected = [scorer.score_plainly(photos[0], photo, **SIZES) for photo in photos[1:]]
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    # ... and leaves the fast road as it was.
    np.testing.assert_array_equal(scorer.score(tokens[0], tokens[1:]), scores)


@pytest.mark.parametrize("chunk_tokens", [1, 100, 140, 10**6])
def test_chunks_do_not_change_scores(model, tokens, scores, chunk_tokens):
    scorer = PairScorer(model, PROMPT, chunk_tokens=chunk_tokens)
    chunks = list(scorer.about(tokens[0]).chunks(tokens[1:]))
    assert len(chunks) == {1: 5, 100: 3, 140: 2, 10**6: 1}[chunk_tokens]
    np.testing.assert_allclose(np.concatenate(chunks), scores, atol=2e-5, rtol=0)


def test_order_and_company_of_candidates_do_not_change_scores(model, tokens, scores):
    scorer = PairScorer(model, PROMPT)
    np.testing.assert_allclose(scorer.score(tokens[0], tokens[:0:-1])[::-1], scores, atol=2e-5, rtol=0)
    alone = [scorer.score(tokens[0], [one])[0] for one in tokens[1:]]
    np.testing.assert_allclose(alone, scores, atol=2e-5, rtol=0)
    np.testing.assert_allclose(scorer.score(tokens[0], tokens[1:] * 3), np.tile(scores, 3), atol=2e-5, rtol=0)


def test_pruned_tokens_score_as_if_their_keypoints_had_never_been_found(model, network, photos, tokens, scores):
    random = np.random.default_rng(1)
    kept = [np.flatnonzero(random.random(len(one)) < 0.4) for one in tokens]
    kept[3] = np.array([0])
    kept[5] = np.array([2])
    expected = [
        plain(network, features(photos[0])[kept[0]], features(photo)[rows])
        for photo, rows in zip(photos[1:], kept[1:], strict=True)
    ]
    pruned = [one.take(rows) for one, rows in zip(tokens, kept, strict=True)]
    found = PairScorer(model, PROMPT).score(pruned[0], pruned[1:])
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert np.abs(found - scores).max() > 0.01


def test_the_order_of_the_tokens_of_a_photo_changes_nothing(model, tokens, scores):
    random = np.random.default_rng(2)
    shuffled = [one.take(random.permutation(len(one))) for one in tokens]
    found = PairScorer(model, PROMPT).score(shuffled[0], shuffled[1:])
    np.testing.assert_allclose(found, scores, atol=1e-4, rtol=0)


def test_the_forward_of_training_gives_the_scores_of_the_engine(model, network):
    random = np.random.default_rng(3)
    query = np.stack([inputs_of(random_keypoints(random, 30)) for _ in range(2)])
    candidates = np.stack([[inputs_of(random_keypoints(random, 20)) for _ in range(3)] for _ in range(2)])
    candidates[0, 0, :15] = query[0, :15]
    with torch.inference_mode():
        logits, inlier, weights = Matcher(network)(torch.from_numpy(query), torch.from_numpy(candidates))
    scorer = PairScorer(model, PROMPT)
    found = [
        scorer.score(as_tokens(model, own), [as_tokens(model, one) for one in theirs])
        for own, theirs in zip(query, candidates, strict=True)
    ]
    np.testing.assert_allclose(found, logits, atol=1e-4, rtol=0)
    assert np.std(found) > 0.01
    assert inlier.shape == (1, 2, 3, 20)
    assert weights.shape[:2] == (2, 3)
    assert weights.shape[-2:] == (20, 31)


def test_the_prompt_may_name_the_candidate_first(model, network, photos, tokens, scores):
    found = PairScorer(model, CANDIDATE_FIRST).score(tokens[0], tokens[1:])
    expected = [plain(network, features(photo), features(photos[0])) for photo in photos[1:]]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    (ways,) = SymmetricPairScorer(model, PROMPT).about(tokens[0]).chunks(tokens[1:])
    np.testing.assert_allclose(ways, [scores, expected], atol=1e-4, rtol=0)
    assert np.abs(ways[0] - ways[1]).max() > 0.01


@pytest.mark.parametrize("prompt", [PROMPT, CANDIDATE_FIRST], ids=["query-first", "candidate-first"])
def test_the_flex_kernel_gives_the_same_scores(model, tokens, prompt, monkeypatch):
    candidates = [tokens[1].take(np.arange(0, 60, 3)), tokens[2].take([5]), tokens[3]]
    query = tokens[0].take(np.arange(30))
    expected = PairScorer(model, prompt).score(query, candidates)
    used = []
    flex = packed._flex
    monkeypatch.setattr(packed, "_flex", lambda *args, **kwargs: used.append(1) or flex(*args, **kwargs))
    monkeypatch.setattr(type(model), "kernel", "flex")
    np.testing.assert_allclose(PairScorer(model, prompt).score(query, candidates), expected, atol=2e-5, rtol=0)
    assert len(used) == 2 * 2  # prefix and suffixes, in every layer


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.15), ("float16", 0.02)])
def test_half_precision_comes_close_to_float32(folder, photos, scores, dtype, error):
    half = load_mllm(str(folder), device="cpu", dtype=dtype)
    found = half.encode(photos, **SIZES)
    assert 0 < np.abs(PairScorer(half, PROMPT).score(found[0], found[1:]) - scores).max() < error


def test_same_call_same_bits(model, photos, tokens, scores):
    again = model.encode(photos, **SIZES)
    np.testing.assert_array_equal(PairScorer(model, PROMPT).score(again[0], again[1:]), scores)


# The folder


def test_a_folder_holds_the_network_that_was_written(model, network):
    held = model._network.state_dict()
    assert held.keys() == network.state_dict().keys()
    for name, values in network.state_dict().items():
        torch.testing.assert_close(held[name], values, atol=0, rtol=0)


def test_a_network_is_written_with_the_same_bytes_each_time(network, folder, tmp_path):
    export(network, tmp_path / "again")
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= set(files)
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    assert load_mllm(str(tmp_path / "again"), device="cpu").revision == load_mllm(str(folder), device="cpu").revision


@pytest.mark.parametrize("name", ["/models/whatever", "someone/qwen3-vl-reranker-2b", "builtin", "."])
def test_the_profile_goes_by_the_family_whatever_the_model_is_called(folder, name):
    config = json.loads((folder / "config.json").read_text())
    profile = profile_of(name, config)
    assert profile is not None
    assert profile.name == "keypoints"
    assert profile_of(name, config | {"model_type": "gemma3"}) is None


@pytest.mark.parametrize(
    "values", [{"version": 0}, {"longer_side": 640}, {"keep": None}, {"image_mean": [0.5]}], ids=lambda v: str(*v)
)
def test_local_features_of_other_settings_are_refused(folder, tmp_path, values):
    other = changed(folder, tmp_path, "preprocessor_config.json", **values)
    with pytest.raises(MissingModelError, match=r"local features of other settings.*train it again"):
        load_mllm(str(other), device="cpu", dtype="float32")


def put(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def cut(file, share):
    return lambda folder: put(file, (folder / file).read_bytes()[: int((folder / file).stat().st_size * share)])(folder)


def config(section=None, **values):
    def harm(folder):
        whole = json.loads((folder / "config.json").read_text())
        (whole if section is None else whole[section]).update(values)
        (folder / "config.json").write_text(json.dumps(whole))

    return harm


CASES = {
    "half the weights": (cut("model.safetensors", 0.5), MissingModelError, "its header says"),
    "a byte of the weights missing": (cut("model.safetensors", 0.99999), MissingModelError, "its header says"),
    "weights of a few bytes": (put("model.safetensors", b"\0" * 5), MissingModelError, "not a safetensors file"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        MissingModelError,
        r"lacks model\.safetensors",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), MissingModelError, r"lacks config\.json"),
    "no preprocessor": (
        lambda folder: (folder / "preprocessor_config.json").unlink(),
        MissingModelError,
        r"lacks preprocessor_config\.json",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), MissingModelError, r"lacks tokenizer\.json"),
    "half a config": (cut("config.json", 0.5), MissingModelError, r"config\.json is not JSON"),
    "another family": (config(model_type="gemma3"), MissingModelError, "weights"),
    "a family of no adapter": (config(model_type="keypoints"), SettingsError, "'keypoints' cannot score pairs"),
    "no family": (config(model_type=None), MissingModelError, "lacks model_type"),
    "more layers": (config("text_config", num_hidden_layers=3), MissingModelError, "num_hidden_layers"),
    "a narrower connector": (config(connector_size=64), MissingModelError, "do not fit its config"),
    "words for numbers": (config("text_config", hidden_size="x"), MissingModelError, "hidden_size"),
    "weights for other numbers": (config(version=0), MissingModelError, "of version 0, this imgrank runs version"),
    "another image token": (config(image_token_id=999), MissingModelError, "image placeholder, token 999"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_folder_is_refused_with_the_reason(folder, tmp_path, case):
    harm, error, reason = CASES[case]
    copy = shutil.copytree(folder, tmp_path / "model")
    harm(copy)
    with pytest.raises(error, match=reason):
        load_mllm(str(copy), device="cpu", dtype="float32")


# The model that comes along


def test_the_builtin_model_is_found_by_its_name(folder, monkeypatch, photos, scores):
    monkeypatch.setattr(folders, "BUILTIN_FOLDER", folder)
    loaded = load_mllm(BUILTIN, device="cpu", dtype="float32")
    assert loaded.name == "builtin"
    found = loaded.encode(photos, **SIZES)
    np.testing.assert_array_equal(PairScorer(loaded, PROMPT).score(found[0], found[1:]), scores)


def test_the_builtin_model_goes_before_a_folder_of_that_name(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "BUILTIN_FOLDER", folder)
    (tmp_path / "builtin").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_model_folder("builtin").path == folder


def test_the_builtin_model_has_no_revision(folder, monkeypatch):
    monkeypatch.setattr(folders, "BUILTIN_FOLDER", folder)
    with pytest.raises(SettingsError, match="no revision 'main'; leave the revision out"):
        open_model_folder(BUILTIN, "main")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_builtin_model_that_lacks_files_asks_to_install_again(folder, monkeypatch, tmp_path, file):
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / file).unlink()
    monkeypatch.setattr(folders, "BUILTIN_FOLDER", copy)
    with pytest.raises(MissingModelError, match=f"damaged; reinstall imgrank.*{file}"):
        open_model_folder(BUILTIN)


def test_a_builtin_model_whose_folder_is_missing_asks_to_install_again(monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "BUILTIN_FOLDER", tmp_path / "nothing")
    with pytest.raises(MissingModelError, match="reinstall imgrank"):
        open_model_folder(BUILTIN)


def test_the_builtin_model_knows_a_picture_again_and_tells_others_apart():
    shipped = load_mllm(BUILTIN, device="cpu", dtype="float32")
    scorer = PairScorer(shipped, PROMPT)
    for seed in (0, 1):
        query = picture(seed)
        again = [view(query, 15, 1.1), view(query, -30, 0.8, 0.0005), view(query, 170, 0.9)]
        others = [picture(10 * seed + number) for number in range(20, 24)]
        found = shipped.encode([query, *again, *others], longer_side=512, max_tokens=192)
        scores = scorer.score(found[0], found[1:])
        assert scores[:3].min() > 1
        assert scores[3:].max() < -1
