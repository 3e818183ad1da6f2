"""Bytes of a recipe, and recipes for bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrank.config import TokenSettings
from imgrank.errors import SettingsError
from imgrank.sizes import parse_bytes
from imgrank.tokens.budget import IMAGE_BYTES, codebook_bytes, fit_budget, token_bytes
from imgrank.tokens.recipe import tokens_left


@pytest.mark.parametrize(
    ("store", "levels", "hidden", "expected"),
    [
        ("float16", 1, 3584, 2 * 3584 + 6),
        ("bfloat16", 4, 8, 64 + 6),
        ("int8", 4, 8, 4 * (8 + 4) + 6),
        ("pq:448", 1, 3584, 448 + 6),
        ("pq:448", 4, 3584, 4 * 448 + 6),
        ("opq:64", 1, 512, 64 + 6),
        ("rpq:64", 2, 512, 2 * 2 * 64 + 6),
    ],
)
def test_bytes_of_a_token(store, levels, hidden, expected):
    assert token_bytes(TokenSettings(store=store), levels, hidden) == expected


def test_bytes_of_codebooks():
    # 256 centroids of all sub-vectors together are 256 x hidden float32: 3.7 MB for 3,584 numbers.
    assert codebook_bytes(TokenSettings(store="pq:448"), 1, 3584) == 256 * 3584 * 4
    assert codebook_bytes(TokenSettings(store="rpq:8"), 2, 64) == 2 * 2 * 256 * 64 * 4
    assert codebook_bytes(TokenSettings(store="opq:8"), 1, 64) == 256 * 64 * 4 + 64 * 64 * 4
    assert codebook_bytes(TokenSettings(store="int8"), 4, 64) == 0


def test_a_budget_is_spent_on_tokens_first():
    default = TokenSettings()
    # 32 KiB: (32768 - 21) // (448 + 6) = 72 tokens of 448 bytes.
    assert fit_budget(32 * 1024, 1, 3584, 300, default) == TokenSettings(reduce="divprune:72", store="opq:448")
    assert fit_budget(21 + 300 * 454, 1, 3584, 300, default) == TokenSettings(reduce="", store="opq:448")
    assert fit_budget(21 + 300 * (3584 + 10), 1, 3584, 300, default) == TokenSettings(reduce="", store="int8")
    assert fit_budget(10**7, 1, 3584, 300, default) == TokenSettings(reduce="", store="float16")
    assert fit_budget(21 + 15 * 454, 1, 3584, 300, default).store == "opq:224"


@given(st.integers(1, 5_000_000), st.sampled_from([1, 4]), st.sampled_from([64, 192, 1152, 3584]), st.integers(1, 1280))
def test_no_photo_takes_more_than_its_budget(budget, levels, hidden, full):
    try:
        settings = fit_budget(budget, levels, hidden, full, TokenSettings())
    except SettingsError as error:
        least = int(str(error).split("at least ")[1])
        assert least > budget
        settings = fit_budget(least, levels, hidden, full, TokenSettings())
        budget = least
    left = tokens_left(settings, full)
    assert IMAGE_BYTES + left * token_bytes(settings, levels, hidden) <= budget
    assert left >= min(full, 16)
    assert hidden % int(settings.store.partition(":")[2] or 1) == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [("4096", 4096), ("32KiB", 32768), ("32 kib", 32768), ("1.5 MB", 1_500_000), ("2MiB", 2 * 2**20), ("7b", 7)],
)
def test_sizes_as_people_write_them(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "KiB", "-3", "0", "0.2", "3 pounds", "1e9", "1,5MB", "nan"])
def test_other_texts_are_refused(text):
    with pytest.raises(SettingsError, match="--bytes-per-image"):
        parse_bytes(text)


def test_the_bytes_are_those_of_the_columns():
    from imgrank.tokens.recipe import codec_of

    for store in ("float16", "bfloat16", "int8"):
        columns = codec_of(TokenSettings(store=store)).encode(np.ones((5, 2, 16), np.float32))
        assert sum(column.nbytes for column in columns.values()) == 5 * (
            token_bytes(TokenSettings(store=store), 2, 16) - 6
        )
