"""The Gemma 3 adapter against transformers' own classes."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.gemma3 import modeling_gemma3

from imgrank.errors import MissingModelError, SettingsError
from imgrank.mllm import packed
from imgrank.mllm.answers import Answers
from imgrank.mllm.packed import image_numbers
from imgrank.mllm.prompts import Prompt, prompt_for, render
from imgrank.mllm.registry import load_mllm
from imgrank.mllm.segments import follow
from imgrank.rerank.packing import PairScorer
from tests.families.gemma3 import Gemma3

SIZES = {"longer_side": 560, "max_tokens": 1280}
FAMILY = Gemma3()
CANDIDATE_FIRST = Prompt("mine", "Is {candidate} the thing of {query}? {positive} or {negative}.", "Be strict.")


@pytest.fixture(scope="module")
def folder(model_folder):
    return model_folder("gemma3")


@pytest.fixture(scope="module")
def model(folder):
    return load_mllm(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def network(folder):
    return transformers.Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def photos():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in FAMILY.photo_sizes[:4]]


@pytest.fixture(scope="module")
def tokens(model, photos):
    return model.encode(photos, **SIZES)


def changed(folder, tmp_path, config=None, text=None, vision=None, preprocessor=None):
    """Copy a model folder with other settings."""
    copy = shutil.copytree(folder, tmp_path / "model")
    values = json.loads((copy / "config.json").read_text())
    values |= config or {}
    values["text_config"] |= text or {}
    values["vision_config"] |= vision or {}
    (copy / "config.json").write_text(json.dumps(values))
    values = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(values | (preprocessor or {})))
    return copy


def difference(logits, tokenizer):
    negative, positive = tokenizer.convert_tokens_to_ids(["0", "1"])
    return float(logits[positive] - logits[negative])


# What the decoder sees


def test_images_are_wrapped_and_tokenized_as_the_processor_does(model, folder, photos):
    rendered = render(prompt_for("object"), Answers(), model)
    image = [model.image_token] * 16
    ours = [*rendered.before, *image, *rendered.between, *image, *rendered.after]
    messages = prompt_for("object").messages(Answers())
    for part, photo in zip(messages[0]["content"][:2], photos[:2], strict=True):
        part["image"] = photo
    (theirs,) = FAMILY.processor(folder).apply_chat_template(
        [messages],
        chat_template=FAMILY.chat_template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )["input_ids"]
    assert ours == list(theirs)
    (begin,) = model.tokenize("<bos>")
    assert ours[0] == begin
    assert ours.count(begin) == 1


def test_chat_wraps_images_and_puts_the_system_message_before_the_question(model):
    content = [{"type": "text", "text": "See "}, {"type": "image"}]
    messages = [{"role": "system", "content": [{"type": "text", "text": "Be kind."}]}]
    assert model.chat([*messages, {"role": "user", "content": content}]) == (
        "<bos><start_of_turn>user\nBe kind.\n\nSee\n\n<start_of_image><image_soft_token><end_of_image>\n\n"
        "<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_prompt_that_holds_an_image_token_of_its_own_is_refused(model):
    for token in ("<start_of_image>", "<image_soft_token>"):
        with pytest.raises(SettingsError, match="3 image placeholders"):
            render(Prompt("mine", "{query}{candidate} " + token), Answers(), model)


def test_text_is_scaled_and_images_are_not(model, network, photos, tokens):
    weights = network.model.language_model.embed_tokens.weight
    torch.testing.assert_close(model.text_segment([5, 9]).inputs, weights[[5, 9]].detach() * 64**0.5)
    pixels = FAMILY.processor(model.name).image_processor(photos, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = network.get_image_features(pixels).pooler_output
    for photo, feature in zip(tokens, features, strict=True):
        assert photo.vectors.shape == (16, 1, 64)
        np.testing.assert_allclose(photo.vectors[:, 0], feature, atol=1e-5)
        np.testing.assert_array_equal(model.image_segment(photo).inputs, photo.vectors[:, 0])
    assert (tokens[0].grid, tokens[0].tiles) == ((4, 4), (1, 1))
    assert tokens[0].positions.tolist() == [[0, row, column] for row in range(4) for column in range(4)]


def test_pixels_are_those_of_the_image_processor(model, photos):
    pixels = FAMILY.processor(model.name).image_processor(photos, return_tensors="pt")["pixel_values"]
    for photo, expected in zip(photos, pixels, strict=True):
        torch.testing.assert_close(model._pixels(photo, 560, 1280), expected, atol=1e-6, rtol=0)


def test_a_pruned_image_moves_nothing(model, tokens):
    kept = model.image_segment(tokens[0].take([3, 7, 14]))
    joined = follow([model.text_segment([1, 2]), kept, model.text_segment([3])])
    assert joined.positions.tolist() == [[0, 1, 5, 9, 16, 18]]


def test_images_are_numbered_through_prefix_and_suffixes(model, tokens):
    text, image = model.text_segment([1]), model.image_segment(tokens[0].take([3, 7]))
    first, second = follow([text, image, text]), follow([image, text, image, text])
    assert image_numbers([first, second, second]).tolist() == [
        *(-1, 0, 0, -1),
        *(1, 1, -1, 2, 2, -1),
        *(3, 3, -1, 4, 4, -1),
    ]
    layout = model._layout(model.prefill(first), [second, second])
    # Text, an image whose places are 3 and 7 of 16, text: the next image begins at 18.
    assert layout.facts.positions.tolist() == [*(0, 4, 8, 17), *([21, 25, 34, 38, 42, 51] * 2)]


# Scores


@pytest.mark.parametrize("prompt", [prompt_for("object"), CANDIDATE_FIRST], ids=["query-first", "candidate-first"])
def test_the_flex_kernel_gives_the_same_scores(model, tokens, prompt, monkeypatch):
    pruned = [tokens[1], tokens[2].take([0, 5, 15]), tokens[3].take([5])]
    expected = PairScorer(model, prompt).score(tokens[0], pruned)
    used = []
    flex = packed._flex
    monkeypatch.setattr(packed, "_flex", lambda *args, **kwargs: used.append(1) or flex(*args, **kwargs))
    monkeypatch.setattr(type(model), "kernel", "flex")
    np.testing.assert_allclose(PairScorer(model, prompt).score(tokens[0], pruned), expected, atol=2e-5, rtol=0)
    assert len(used) == 2 * 4  # prefix and suffixes, in every layer


def test_two_pruned_images_in_one_suffix(model, network, folder, photos, tokens):
    kept = [np.arange(16) % 3 == 1, np.arange(16) % 4 > 1]
    score = PairScorer(model, CANDIDATE_FIRST).score(tokens[0].take(kept[0]), [tokens[1].take(kept[1])])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        CANDIDATE_FIRST.messages(Answers()), add_generation_prompt=True, tokenize=False
    )
    logits = FAMILY.plain_pruned(network, tokenizer, folder, text, photos[1::-1], kept[::-1])
    assert score[0] == pytest.approx(difference(logits, tokenizer), abs=1e-4)


def plain(network, folder, photos, *, both_ways=True):
    """Run transformers' forward on the first two photos; without the kinds of the tokens it is plain causal."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = prompt_for("object").messages(Answers())
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = FAMILY._inputs(folder, text, photos[:2])
    names = ["input_ids", "pixel_values"] + ["token_type_ids"] * both_ways
    with torch.no_grad():
        return difference(network(**{name: inputs[name] for name in names}).logits[0, -1], tokenizer)


def test_images_that_are_seen_both_ways_and_windows_decide_scores(model, network, folder, photos, tokens, tmp_path):
    score = PairScorer(model, prompt_for("object")).score(tokens[0], tokens[1:2])[0]
    assert score == pytest.approx(plain(network, folder, photos), abs=1e-4)
    assert abs(plain(network, folder, photos, both_ways=False) - score) > 0.01
    wide = changed(folder, tmp_path, text={"sliding_window": 4096})
    network = transformers.Gemma3ForConditionalGeneration.from_pretrained(wide, dtype=torch.float32).eval()
    assert abs(plain(network, wide, photos) - score) > 0.01


@pytest.mark.skipif(
    not hasattr(modeling_gemma3, "create_masks_for_vision_model"), reason="older releases left images whole"
)
def test_a_window_shorter_than_an_image_cuts_it(folder, photos, tmp_path):
    narrow = changed(folder, tmp_path, text={"sliding_window": 6})
    network = transformers.Gemma3ForConditionalGeneration.from_pretrained(narrow, dtype=torch.float32).eval()
    model = load_mllm(str(narrow), device="cpu", dtype="float32")
    query, candidate = model.encode(photos[:2], **SIZES)
    score = PairScorer(model, prompt_for("object")).score(query, [candidate])[0]
    assert score == pytest.approx(plain(network, narrow, photos), abs=1e-4)


def test_no_layer_forgets_the_start_of_the_prefix(model, tokens):
    prefix = model.prefill(follow([model.text_segment(range(100)), model.image_segment(tokens[0])]))
    assert prefix.length == 116 > FAMILY.window
    assert [layer.keys.shape[2] for layer in prefix.cache.layers] == [116] * 4
    model.last_hidden(prefix, [model.text_segment([1, 2]), model.text_segment([3])])
    assert [layer.keys.shape[2] for layer in prefix.cache.layers] == [116] * 4


def test_a_checkpoint_in_the_published_layout_scores_the_same(model, folder, tokens, photos, tmp_path):
    published = changed(folder, tmp_path)
    config = json.loads((published / "config.json").read_text())
    text = config["text_config"]
    del text["layer_types"], text["rope_parameters"]
    text |= {"sliding_window_pattern": 3, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 1e6}
    text |= {"rope_local_base_freq": 1e4}
    (published / "config.json").write_text(json.dumps(config))
    weights = {
        re.sub(r"^(model\.)?vision_tower\.(vision_model\.)?", "vision_tower.vision_model.", name): values
        for name, values in load_file(published / "model.safetensors").items()
    }
    weights = {
        re.sub(r"^model\.(language_model|multi_modal_projector)\.", r"\1.", name): values
        for name, values in weights.items()
    }
    save_file(weights, published / "model.safetensors", metadata={"format": "pt"})
    other = load_mllm(str(published), device="cpu", dtype="float32")
    query, *candidates = other.encode(photos, **SIZES)
    expected = PairScorer(model, prompt_for("object")).score(tokens[0], tokens[1:])
    found = PairScorer(other, prompt_for("object")).score(query, candidates)
    np.testing.assert_array_equal(found, expected)


# Settings


def test_every_photo_becomes_as_many_tokens_whatever_the_longer_side(model, photos):
    (small,), (large,) = (model.encode([photos[3]], longer_side=side, max_tokens=16) for side in (1, 4000))
    np.testing.assert_array_equal(small.vectors, large.vectors)
    assert len(small) == 16
    with pytest.raises(SettingsError, match=r"16 visual tokens of every photo.*--max-tokens.*--prune"):
        model.encode(photos, longer_side=560, max_tokens=15)
    with pytest.raises(SettingsError, match="longer side"):
        model.encode(photos, longer_side=0, max_tokens=16)


def test_photos_are_decoded_large_enough_for_the_tower(model):
    side = model.settings["image_side"]
    assert model.decode_side(side // 2) == 3 * side // 2
    assert model.decode_side(10 * side) == 10 * side


def test_settings_name_what_decides_the_tokens(model):
    assert dict(model.settings) == {
        "family": "gemma3",
        "dtype": "float32",
        "image_side": 56,
        "token_side": 14,
        "mean": [0.5, 0.45, 0.4],
        "std": [0.5, 0.4, 0.6],
        "scale": 1 / 255,
        "resample": 2,
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text": {"attn_logit_softcapping": 50.0}}, "soft-capped attention"),
        ({"text": {"final_logit_softcapping": 30.0}}, "soft-capped logits"),
        ({"text": {"use_bidirectional_attention": True}}, "both ways"),
        ({"text": {"sliding_window": None}}, "without a window"),
        ({"config": {"mm_tokens_per_image": 15}}, "15 tokens"),
        ({"config": {"mm_tokens_per_image": 9}}, "9 tokens"),
        ({"preprocessor": {"do_pan_and_scan": True}}, "pan-and-scan"),
        ({"preprocessor": {"do_rescale": False}}, "do_rescale"),
        ({"preprocessor": {"size": {"height": 56, "width": 60}}}, "56 x 56"),
        ({"preprocessor": {"size": {"shortest_edge": 56}}}, "unusable.*height"),
        ({"preprocessor": {"image_mean": None}}, "unusable"),
        ({"preprocessor": {"image_std": [0.5, 0.5, 0.0]}}, "standard deviations"),
        ({"preprocessor": {"image_mean": [0.5]}}, "3 means"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(folder, tmp_path, change, reason):
    with pytest.raises(SettingsError, match=reason):
        load_mllm(str(changed(folder, tmp_path, **change)), device="cpu", dtype="float32")


def test_a_tokenizer_without_the_wrapping_tokens_is_refused(folder, tmp_path):
    with pytest.raises(MissingModelError, match="wraps images"):
        load_mllm(str(changed(folder, tmp_path, config={"eoi_token_index": 10**6})), device="cpu")
