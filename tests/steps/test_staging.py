"""Tokens that wait beside a bundle."""

import os

import numpy as np
import pytest

from imgrank.mllm.base import VisualTokens, full_positions
from imgrank.steps.staging import Staging


def tokens(seed: int, rows: int = 2) -> VisualTokens:
    vectors = np.random.default_rng(seed).normal(size=(rows * 3, 2, 8)).astype(np.float32)
    return VisualTokens(vectors, full_positions(1, rows, 3), (rows, 3))


@pytest.fixture
def bundle(tmp_path):
    return tmp_path / "db.h5"


def test_what_was_added_is_there_for_the_next_run(bundle):
    first = Staging(bundle, "default", "facts")
    first.add("a", {3: tokens(3), 8: tokens(8, 4)}, {"logits": np.arange(2, dtype=np.float32)})
    first.add("b", {5: tokens(5)})
    for staging in (first, Staging(bundle, "default", "facts")):
        assert len(staging) == 3
        assert [row in staging for row in (3, 4, 5, 8)] == [True, False, True, True]
        assert staging.parts["a"]["logits"].tolist() == [0, 1]
        assert staging.parts["b"] == {}
        found = staging.read(8)
        assert (found.grid, found.tiles, found.vectors.dtype) == ((4, 3), (1, 1), np.float16)
        np.testing.assert_array_equal(found.vectors, tokens(8, 4).vectors.astype(np.float16))
        np.testing.assert_array_equal(found.positions, tokens(8, 4).positions)


def test_large_numbers_stay_finite(bundle):
    staging = Staging(bundle, "default", "facts")
    one = tokens(0)
    one.vectors[0, 0, 0] = 1e6
    staging.add("a", {0: one})
    assert staging.read(0).vectors.max() == np.float16(65504)


def test_what_was_made_in_another_way_is_thrown_away(bundle):
    Staging(bundle, "default", "facts").add("a", {3: tokens(3)})
    assert 3 not in Staging(bundle, "other", "facts")
    assert 3 not in Staging(bundle, "default", "others")
    assert 3 not in Staging(bundle, "default", "facts")  # it is gone


@pytest.mark.parametrize("damage", [b"", b"x" * 50, None])
def test_what_was_cut_is_thrown_away(bundle, damage):
    staging = Staging(bundle, "default", "facts")
    staging.add("a", {3: tokens(3)})
    staging.add("b", {4: tokens(4)})
    (path,) = bundle.parent.glob("db.h5.default.sample/a.safetensors")
    path.write_bytes(path.read_bytes()[:-7] if damage is None else damage)
    again = Staging(bundle, "default", "facts")
    assert 3 not in again
    assert 4 in again
    assert not path.exists()


def test_a_part_that_was_being_written_is_not_there(bundle):
    staging = Staging(bundle, "default", "facts")
    staging.add("a", {3: tokens(3)})
    (bundle.parent / "db.h5.default.sample" / "b.new").write_bytes(b"half")
    assert len(Staging(bundle, "default", "facts")) == 1


def test_removing_leaves_nothing(bundle):
    staging = Staging(bundle, "default", "facts")
    staging.remove()
    staging.add("a", {3: tokens(3)})
    staging.remove()
    assert os.listdir(bundle.parent) == []
    assert 3 not in staging
