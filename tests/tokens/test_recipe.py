"""Recipes: one line, read and written, and the strategies it names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrank.config import TokenSettings
from imgrank.errors import SettingsError
from imgrank.mllm.base import full_positions
from imgrank.tokens.product_quantization import CodebookSpec, train_codebooks
from imgrank.tokens.recipe import (
    averages,
    codebook_spec,
    codec_of,
    parse_recipe,
    pooled_blocks,
    recipe_text,
    reducers_of,
    tokens_left,
)

REDUCERS = ["divprune:5", "divprune:33%", "grid:2", "pool:2", "merge:4", "kmeans:5", "ward:5", "random:5"]


def test_a_recipe_is_read_from_left_to_right():
    assert parse_recipe("resize:448 | max-tokens:300 | pool:2 | divprune:20 | pq:448") == TokenSettings(
        longer_side=448, max_tokens=300, reduce="pool:2 | divprune:20", store="pq:448"
    )


def test_what_a_recipe_does_not_name_is_not_done_but_for_the_size():
    default = TokenSettings(longer_side=512, max_tokens=300, reduce="divprune:171", store="int8")
    assert parse_recipe("pq:24", default) == TokenSettings(512, 300, "", "pq:24")
    assert parse_recipe("resize:256", default) == TokenSettings(256, 300, "", "float16")


def test_usual_numbers_are_written_out():
    assert parse_recipe(" grid|pool |merge| bfloat16").reduce == "grid:2 | pool:2 | merge:4"


@given(
    st.integers(1, 4000),
    st.integers(1, 2000),
    st.lists(st.sampled_from(REDUCERS), max_size=3),
    st.sampled_from(["float16", "bfloat16", "int8", "pq:448", "opq:24", "rpq:8"]),
)
def test_what_is_written_is_read_again(longer_side, max_tokens, reducers, store):
    settings = TokenSettings(longer_side, max_tokens, " | ".join(reducers), store)
    assert parse_recipe(recipe_text(settings)) == settings
    assert TokenSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("divprune:64 | | pq:8", "called ''"),
        ("divprun:64", "divprun.*known: resize"),
        ("divprune", "how many"),
        ("divprune:0", "at least 1"),
        ("divprune:0%", "share"),
        ("divprune:101%", "share"),
        ("divprune:-3", "how many"),
        ("resize:0", "from 1"),
        ("resize", "from 1"),
        ("grid:x", "from 1"),
        ("pq", "sub-vectors"),
        ("pq:0", "from 1"),
        ("int8:3", "no number"),
        ("pq:8 | divprune:3", "too late"),
        ("divprune:3 | resize:400", "too late"),
        ("int8 | float16", "too late"),
    ],
)
def test_what_cannot_be_read_is_named(text, reason):
    with pytest.raises(SettingsError, match=reason):
        parse_recipe(text)


@pytest.mark.parametrize("step", REDUCERS)
def test_every_reducer_leaves_about_as_many_as_it_is_said_to(step):
    positions = full_positions(1, 4, 6)
    vectors = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
    (reducer,) = reducers_of(TokenSettings(reduce=step))
    left = len(reducer.reduce(vectors, positions, (4, 6)).places)
    assert left == tokens_left(TokenSettings(reduce=step), 24)
    assert 0 < left < 24


def test_reducers_follow_each_other():
    assert len(reducers_of(TokenSettings(reduce="grid:2 | divprune:3"))) == 2
    assert reducers_of(TokenSettings(reduce="")) == []
    assert tokens_left(TokenSettings(reduce="grid:2 | divprune:3"), 100) == 3
    assert tokens_left(TokenSettings(reduce="divprune:200"), 100) == 100


@pytest.mark.parametrize(
    ("store", "spec"),
    [
        ("float16", None),
        ("bfloat16", None),
        ("int8", None),
        ("pq:4", CodebookSpec(4)),
        ("opq:4", CodebookSpec(4, rotated=True)),
        ("rpq:4", CodebookSpec(4, stages=2)),
    ],
)
def test_every_quantizer_is_called_as_its_codec(store, spec):
    settings = TokenSettings(store=store)
    assert codebook_spec(settings) == spec
    vectors = np.random.default_rng(0).normal(size=(300, 1, 8)).astype(np.float32)
    codebooks = None if spec is None else train_codebooks(vectors, spec, iterations=2)
    codec = codec_of(settings, codebooks)
    assert codec.name == store
    again = codec.decode(codec.encode(vectors))
    assert ((again - vectors) ** 2).mean() < (vectors**2).mean() / 2


def test_codebooks_must_be_those_of_the_quantizer():
    with pytest.raises(SettingsError, match="codebooks"):
        codec_of(TokenSettings(store="pq:4"))
    vectors = np.random.default_rng(0).normal(size=(300, 1, 8)).astype(np.float32)
    codebooks = train_codebooks(vectors, CodebookSpec(2), iterations=1)
    with pytest.raises(SettingsError, match="own kind"):
        codec_of(TokenSettings(store="pq:4"), codebooks)


@pytest.mark.parametrize(
    ("recipe", "means", "blocks"),
    [
        ("divprune:5 | int8", False, None),
        ("grid:2", False, None),
        ("pool", True, 2),
        ("pool:3", True, 3),
        ("pool:2 | divprune:5", True, None),
        ("kmeans:5", True, None),
        ("int8", False, None),
    ],
)
def test_which_recipes_leave_means(recipe, means, blocks):
    settings = parse_recipe(recipe)
    assert (averages(settings), pooled_blocks(settings)) == (means, blocks)
