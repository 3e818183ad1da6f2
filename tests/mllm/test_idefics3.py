"""The adapter of Idefics3 and SmolVLM against transformers' own classes, and worked by hand."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from imgrank.errors import ImgrankError, InputError, MissingModelError, SettingsError
from imgrank.mllm.answers import Answers
from imgrank.mllm.base import VisualTokens, full_positions
from imgrank.mllm.idefics3_tiles import TileSettings, cut, tile_grid
from imgrank.mllm.prompts import prompt_for, render
from imgrank.mllm.registry import load_mllm
from imgrank.rerank.packing import PairScorer
from tests.families import idefics3

FAMILIES = [family.name for family in idefics3.FAMILIES]
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
# The published checkpoints: pixels per tile, patch and merge.
IDEFICS3_8B, SMOLVLM_2B, SMOLVLM_500M = (364, 14, 2), (384, 14, 3), (512, 16, 4)


def numbers(side=28, patch=7, merge=2, most=4, splits=True):
    return TileSettings(side, patch, merge, most * side, splits, 1, 1 / 255, MEAN, STD)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, model_folder):
    return load_mllm(str(model_folder(request.param)), device="cpu", dtype="float32")


def photos(*sizes):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


def changed(folder, target, name, **values):
    """Copy a model folder, with other values at the top of one of its JSON files."""
    shutil.copytree(folder, target)
    old = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps(old | values))
    return str(target)


# How a photo is cut


@pytest.mark.parametrize(
    ("checkpoint", "longer_side", "tiles", "tokens"),
    [
        (IDEFICS3_8B, 560, (1, 1), 169),
        (SMOLVLM_2B, 560, (1, 1), 81),
        (SMOLVLM_500M, 560, (1, 1), 64),
        (SMOLVLM_500M, 1024, (2, 2), 5 * 64),
        (SMOLVLM_500M, 2047, (3, 3), 10 * 64),
        (SMOLVLM_500M, 2048, (3, 4), 13 * 64),
        (SMOLVLM_500M, 10**6, (3, 4), 13 * 64),  # what the family itself does with every photo of 4:3
        (IDEFICS3_8B, 756, (2, 2), 5 * 169),
    ],
)
def test_tiles_of_a_large_photo_with_the_published_numbers(checkpoint, longer_side, tiles, tokens):
    values = numbers(*checkpoint)
    rows, columns = tile_grid(3000, 4000, longer_side=longer_side, max_tokens=1280, settings=values)
    assert (rows, columns) == tiles
    assert (rows * columns + (rows * columns > 1)) * values.token_rows**2 == tokens


@pytest.mark.parametrize(
    ("size", "tiles"),
    [
        ((10, 20), (1, 1)),  # smaller than a tile
        ((10, 41), (1, 1)),  # 41 / 28 = 1.46 tiles
        ((10, 42), (1, 2)),  # 1.5 tiles: enlarged to 2; the shorter side is one tile
        ((42, 10), (2, 1)),
        ((70, 84), (3, 3)),
        ((1, 5000), (1, 4)),
        ((5000, 1), (4, 1)),
        ((5000, 5000), (4, 4)),
    ],
)
def test_small_photos_get_no_more_tiles_than_their_pixels_fill(size, tiles):
    assert tile_grid(*size, longer_side=1000, max_tokens=10**6, settings=numbers()) == tiles


def test_fewer_tokens_are_fewer_tiles():
    # 4 tokens a tile. 4:3 at 4, 3, 2 and 1 tiles along the longer side: 13, 10, 5 and 1 tiles.
    grids = {
        limit: tile_grid(300, 400, longer_side=1000, max_tokens=limit, settings=numbers())
        for limit in (52, 51, 40, 39, 20, 19, 4)
    }
    assert grids == {52: (3, 4), 51: (3, 3), 40: (3, 3), 39: (2, 2), 20: (2, 2), 19: (1, 1), 4: (1, 1)}


@pytest.mark.parametrize(("longer_side", "max_tokens"), [(0, 100), (100, 3), (100, 0)])
def test_less_than_one_tile_is_refused_with_its_tokens(longer_side, max_tokens):
    with pytest.raises(SettingsError, match="at least 4: one tile"):
        tile_grid(30, 40, longer_side=longer_side, max_tokens=max_tokens, settings=numbers())


@given(height=st.integers(1, 400), width=st.integers(1, 400), count=st.integers(1, 4), splits=st.booleans())
@settings(max_examples=100, deadline=None)
def test_tiles_are_those_of_transformers_at_the_same_size(height, width, count, splits):
    values = numbers(splits=splits)
    (photo,) = photos((height, width))
    rows, columns = tile_grid(height, width, longer_side=28 * count, max_tokens=10**6, settings=values)
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": 28 * max(rows, columns)},
        max_image_size={"longest_edge": 28},
        do_image_splitting=splits,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    expected = processor([photo], return_row_col_info=True, return_tensors="np", input_data_format="channels_last")
    found = cut(photo, (rows, columns), values)
    split = (rows, columns) if rows * columns > 1 else (0, 0)
    assert (expected["rows"][0][0], expected["cols"][0][0]) == split
    np.testing.assert_allclose(found[None], expected["pixel_values"], atol=2e-6, rtol=0)


# How its text and its tokens are laid out


def spaced_tokens(folder, flags):
    """Return a tokenizer whose special tokens swallow white space as the flags say, as some published ones do."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for token in ("<fake_token_around_image>", "<image>"):
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False, **flags)], special_tokens=True)
    return tokenizer


@pytest.mark.parametrize("flags", [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}])
@pytest.mark.parametrize("order", [(0, 1), (2, 3), (4, 0)])
def test_the_prompt_has_the_ids_of_transformers_own_processor(model, model_folder, monkeypatch, flags, order):
    # The whole prompt tokenized at once, with every placeholder in it.
    family = {family.name: family for family in idefics3.FAMILIES}[model.family]
    folder = model_folder(model.family)
    tokenizer = spaced_tokens(folder, flags)
    monkeypatch.setattr(model, "_tokenizer", tokenizer)
    monkeypatch.setattr(model, "_expansions", {})
    side = family.tile
    sizes = [(2 * side, 4 * side), (side, 4 * side), (4 * side, 3 * side), (3 * side, 4 * side), (4 * side, side)]
    pair = photos(*(sizes[i] for i in order))
    prompt = prompt_for("object")
    text = tokenizer.apply_chat_template(prompt.messages(Answers()), add_generation_prompt=True, tokenize=False)
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil.from_pretrained(folder), tokenizer, image_seq_len=family.tile_tokens
    )
    expected = processor(text=text, images=pair, add_special_tokens=False)["input_ids"][0]
    rendered = render(prompt, Answers(), model)
    _, expansions = model._plain_inputs(pair, 4 * side, 10**6)
    found = [*rendered.before, *expansions[0], *rendered.between, *expansions[1], *rendered.after]
    # "Assistant:" and, as in a reply, the space that stands before a digit.
    assert found == [*expected, *tokenizer(" ", add_special_tokens=False)["input_ids"]]


def test_the_two_kinds_of_tokenizers_differ(model_folder):
    lengths = {}
    for family in FAMILIES:
        model = load_mllm(str(model_folder(family)), device="cpu", dtype="float32")
        lengths[family] = model._expansion((1, 2)).index(model.image_token)
    assert lengths["smolvlm"] == 1  # <row_1_col_1>
    assert lengths["idefics3"] > 5  # its letters


def test_the_layout_of_pruned_tiles(model_folder):
    # Worked by hand. Two tiles side by side and the whole, 9 tokens each, between edge tokens that the prompt has:
    # 0 <row_1_col_1>, 1-9, 10 edge, 11 <row_1_col_2>, 12-20, 21 (and 22) line ends, edge, <global-img>, 9 tokens.
    model = load_mllm(str(model_folder("smolvlm")), device="cpu", dtype="float32")
    newlines = len(model.tokenize("\n\n"))
    whole = 21 + newlines + 2
    vectors = np.arange(27 * 64, dtype=np.float32).reshape(27, 1, 64)
    tokens = VisualTokens(vectors, full_positions(3, 3, 3), (3, 3), (1, 2)).take([0, 8, 13, 26])
    segment = model.image_segment(tokens)
    text = [0, 10, 11, *range(21, 21 + newlines), whole - 2, whole - 1]
    visual = [1, 9, 16, whole + 8]
    assert segment.positions.tolist() == [sorted(text + visual)]
    assert segment.positions[0, segment.visual].tolist() == visual
    np.testing.assert_array_equal(segment.inputs[segment.visual], vectors[[0, 8, 13, 26], 0])
    names = ["<row_1_col_1>", "<fake_token_around_image>", "<row_1_col_2>", "<fake_token_around_image>", "<global-img>"]
    ids = model._tokenizer.convert_tokens_to_ids(names)
    ids[3:3] = model.tokenize("\n\n")
    np.testing.assert_array_equal(segment.inputs[~segment.visual], model.text_segment(ids).inputs)
    assert segment.span == whole + 9
    assert segment.deepstack.shape == (0, 4, 64)


def test_a_photo_of_one_tile_has_only_its_name(model_folder):
    model = load_mllm(str(model_folder("smolvlm")), device="cpu", dtype="float32")
    (tokens,) = model.encode(photos((50, 60)), longer_side=76, max_tokens=9)
    segment = model.image_segment(tokens)
    assert tokens.tiles == (1, 1)
    assert segment.positions.tolist() == [list(range(10))]
    assert segment.visual.tolist() == [False] + [True] * 9


def test_chat_has_the_published_form(model):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi."}]}]
    edge = "<fake_token_around_image>"
    assert model.chat(messages) == f"<|im_start|>User:{edge}<image>{edge}Hi.<end_of_utterance>\nAssistant:"


@pytest.mark.parametrize(("tiles", "grid"), [((5, 1), (3, 3)), ((1, 1), (2, 3)), ((60000, 60000), (3, 3))])
def test_tokens_in_tiles_that_the_model_never_makes_are_refused(model, tiles, grid):
    tokens = VisualTokens(np.zeros((1, 1, 64), np.float32), np.zeros((1, 3), np.uint16), grid, tiles)
    with pytest.raises(InputError, match="at most 4 x 4 tiles of 3 x 3"):
        model.image_segment(tokens)


# What the tower makes of them


def test_visual_tokens_are_what_the_model_gives(model, model_folder):
    network = getattr(transformers, model.model_class).from_pretrained(model_folder(model.family)).eval()
    side = model._tiling.side
    (photo,) = photos((2 * side, 3 * side))
    (tokens,) = model.encode([photo], longer_side=4 * side, max_tokens=1280)
    assert (tokens.tiles, tokens.grid, tokens.vectors.shape) == ((2, 3), (3, 3), (7 * 9, 1, 64))
    np.testing.assert_array_equal(tokens.index, np.arange(63))
    with torch.no_grad():
        features = network.get_image_features(cut(photo, (2, 3), model._tiling)[None]).pooler_output
    expected = torch.cat([part.reshape(-1, 64) for part in features])
    np.testing.assert_allclose(tokens.vectors[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("tile", "table"),
    [
        (64, 6),  # 8 patches over 6 places
        (400, 50),  # a size at which float32 puts patches beside their places
        (208, 26),  # as Idefics3-8B has
        (256, 32),
    ],
)
def test_patches_take_the_places_that_transformers_gives_them(model_folder, tmp_path, tile, table):
    folder = tmp_path / "model"
    shutil.copytree(model_folder("idefics3"), folder)
    config = transformers.Idefics3Config.from_pretrained(folder)
    config.vision_config.image_size = 8 * table
    torch.manual_seed(0)
    network = transformers.Idefics3ForConditionalGeneration(config).eval()
    network.model.vision_model.embeddings.position_embedding.weight.data.normal_()
    network.save_pretrained(folder)
    values = json.loads((folder / "preprocessor_config.json").read_text()) | {"max_image_size": {"longest_edge": tile}}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    model = load_mllm(str(folder), device="cpu", dtype="float32")
    (photo,) = photos((tile, tile))
    (tokens,) = model.encode([photo], longer_side=tile, max_tokens=10**6)
    with torch.no_grad():
        features = network.get_image_features(cut(photo, (1, 1), model._tiling)[None]).pooler_output
    np.testing.assert_allclose(tokens.vectors[:, 0], torch.cat(list(features)).reshape(-1, 64), atol=1e-5)


def test_other_photos_never_change_the_tokens_of_one(model):
    several = photos((100, 230), (64, 64), (200, 90))
    together = model.encode(several, longer_side=228, max_tokens=90)
    for photo, tokens in zip(several, together, strict=True):
        (alone,) = model.encode([photo], longer_side=228, max_tokens=90)
        np.testing.assert_array_equal(alone.vectors, tokens.vectors)
        assert 9 <= len(tokens) <= 90


def test_a_tile_of_the_mean_colour_is_not_lost(model_folder, tmp_path):
    # transformers takes tiles of zeros for padding.
    folder = changed(
        model_folder("idefics3"),
        tmp_path / "model",
        "preprocessor_config.json",
        image_mean=[0, 0, 0],
        image_std=[1] * 3,
    )
    photo = np.zeros((48, 96, 3), np.uint8)
    photo[:, 60:] = 200
    (tokens,) = load_mllm(folder, device="cpu", dtype="float32").encode([photo], longer_side=96, max_tokens=99)
    assert len(tokens) == 27


def test_nan_tokens_are_an_error_with_advice(model, monkeypatch):
    monkeypatch.setattr(model, "dtype", "bfloat16")
    monkeypatch.setattr(model, "_vision", lambda pixels: torch.full((1, 9, 64), torch.nan))
    with pytest.raises(ImgrankError, match="--dtype float32"):
        model.encode(photos((40, 40)), longer_side=40, max_tokens=9)


def test_encode_refuses_what_is_not_a_photo(model):
    with pytest.raises(InputError):
        model.encode([np.zeros((50, 50), np.uint8)], longer_side=100, max_tokens=50)


# Variants of checkpoints


def test_input_and_output_embeddings_may_be_one_matrix(model_folder, tmp_path):
    folder = tmp_path / "tied"
    shutil.copytree(model_folder("smolvlm"), folder)
    config = transformers.SmolVLMConfig.from_pretrained(folder)
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    network = transformers.SmolVLMForConditionalGeneration(config).eval()
    network.save_pretrained(folder)
    assert network.lm_head.weight is network.get_input_embeddings().weight
    model = load_mllm(str(folder), device="cpu", dtype="float32")
    pair = photos((76, 150), (40, 70))
    tokens = model.encode(pair, longer_side=152, max_tokens=50)
    prompt = prompt_for("object")
    rendered = render(prompt, Answers(), model)
    ids = [*rendered.before, model.image_token, *rendered.between, model.image_token, *rendered.after]
    no, yes = model.plain_logits(ids, pair, rendered.answer_ids, longer_side=152, max_tokens=50).tolist()
    score = PairScorer(model, prompt).score(tokens[0], tokens[1:])
    assert abs(yes - no - score[0]) < 1e-4


def test_a_checkpoint_that_does_not_cut_sees_single_tiles(model_folder, tmp_path):
    folder = changed(model_folder("idefics3"), tmp_path / "model", "preprocessor_config.json", do_image_splitting=False)
    (tokens,) = load_mllm(folder, device="cpu").encode(photos((300, 400)), longer_side=1000, max_tokens=1000)
    assert (tokens.tiles, len(tokens)) == ((1, 1), 9)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"image_std": [0, 1, 1]}, "not positive"),
        ({"image_mean": None}, "unusable"),
        ({"size": {"height": 96, "width": 96}}, "longest_edge"),
        ({"max_image_size": {}}, "longest_edge"),
        ({"max_image_size": {"longest_edge": 47}}, "must be even"),
        ({"max_image_size": {"longest_edge": 56}}, "multiple of 2"),  # 7 patches
        ({"max_image_size": {"longest_edge": 8}}, "multiple of 2"),  # 1 patch
        ({"max_image_size": {"longest_edge": 10**6}}, "at most 4096"),
        ({"size": None}, "unusable"),
        ({"do_rescale": False}, "do_rescale off"),
        ({"resample": 77}, "unknown resampling 77"),
    ],
)
def test_an_unusable_image_processor_is_refused(model_folder, tmp_path, damage, message):
    folder = changed(model_folder("idefics3"), tmp_path / "model", "preprocessor_config.json", **damage)
    with pytest.raises(SettingsError, match=message):
        load_mllm(folder, device="cpu")


def test_other_text_models_are_refused(model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder("idefics3"), folder)
    config = transformers.Idefics3Config.from_pretrained(folder)
    text = config.text_config.to_dict() | {"model_type": "mistral", "sliding_window": 8}
    other = transformers.Idefics3Config(
        text_config=text, vision_config=config.vision_config, image_token_id=config.image_token_id
    )
    transformers.Idefics3ForConditionalGeneration(other).save_pretrained(folder)
    with pytest.raises(SettingsError, match="'mistral' is not supported"):
        load_mllm(str(folder), device="cpu")


def test_a_tokenizer_without_the_edge_token_is_refused(model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder("idefics3"), folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace("<fake_token_around_image>", "<another_token>"))
    with pytest.raises(MissingModelError, match="<fake_token_around_image>"):
        load_mllm(str(folder), device="cpu")


def test_settings_tell_what_decides_the_tokens(model):
    assert json.loads(json.dumps(model.settings)) == {
        "family": model.family,
        "dtype": "float32",
        "tile_side": {"idefics3": 48, "smolvlm": 76}[model.family],
        "token_rows": 3,
        "most_tiles": 4,
        "resample": 1,
        "scale": 1 / 255,
        "mean": model.settings["mean"],
        "std": model.settings["std"],
    }
