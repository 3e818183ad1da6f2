import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imgrank.errors import InputError
from imgrank.tokens.scalar import BFloat16Codec, Float16Codec, Int8Codec

CODECS = [BFloat16Codec(), Float16Codec(), Int8Codec()]
FLOAT32_MAX = float(np.finfo(np.float32).max)


def vectors(elements):
    shapes = st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 8))
    return hnp.arrays(np.float32, shapes, elements=elements)


finite = st.floats(-FLOAT32_MAX, FLOAT32_MAX, width=32)
# Without numbers so small that float32 keeps few bits of them.
usual = st.floats(-1000, 1000, width=32).map(lambda number: number if abs(number) > 2.0**-100 else 0.0)


def test_int8_hand_worked():
    tokens = np.array([[[1.27, -0.634, 0.0]], [[0.0, 0.0, 0.0]], [[-254.0, 127.0, 1.1]]], dtype=np.float32)
    stored = Int8Codec().encode(tokens)
    np.testing.assert_allclose(stored["scales"], [[0.01], [1.0], [2.0]], rtol=1e-6)
    np.testing.assert_array_equal(stored["codes"], [[[127, -63, 0]], [[0, 0, 0]], [[-127, 64, 1]]])
    back = Int8Codec().decode(stored)
    np.testing.assert_allclose(back, [[[1.27, -0.63, 0]], [[0, 0, 0]], [[-254, 128, 2]]], rtol=1e-6)


def test_float16_hand_worked():
    tokens = np.array([[[1.0, 1.0 + 2.0**-12, 65504.0, 1e5, -1e38]]], dtype=np.float32)
    stored = Float16Codec().encode(tokens)
    np.testing.assert_array_equal(stored["values"], np.float16([[[1, 1, 65504, 65504, -65504]]]))
    assert Float16Codec.clipped(tokens) == 2


def test_bfloat16_hand_worked():
    # Eight significant bits: above 1 the step is 2^-7. A tie goes to the even neighbour: 1, not 1 + 2^-7.
    step = 2.0**-7
    tokens = np.array([[[1, 1 + 0.5 * step, 1 + 0.51 * step, 1 + 1.5 * step, -1 - 0.51 * step, 0]]], dtype=np.float32)
    stored = BFloat16Codec().encode(tokens)
    np.testing.assert_array_equal(stored["values"], [[[0x3F80, 0x3F80, 0x3F81, 0x3F82, 0xBF81, 0]]])
    back = BFloat16Codec().decode(stored)
    np.testing.assert_array_equal(back, [[[1, 1, 1 + step, 1 + 2 * step, -1 - step, 0]]])


def test_bfloat16_is_never_infinite():
    most = np.array(0x7F7F0000, dtype=np.uint32).view(np.float32)
    tokens = np.array([[[FLOAT32_MAX, -FLOAT32_MAX, np.nextafter(most, np.float32(np.inf)), most]]], dtype=np.float32)
    stored = BFloat16Codec().encode(tokens)
    np.testing.assert_array_equal(stored["values"], [[[0x7F7F, 0xFF7F, 0x7F7F, 0x7F7F]]])
    np.testing.assert_array_equal(BFloat16Codec().decode(stored), [[[most, -most, most, most]]])


@given(tokens=vectors(usual))
def test_bfloat16_loses_at_most_half_a_step(tokens):
    back = BFloat16Codec().decode(BFloat16Codec().encode(tokens))
    wide = tokens.astype(np.float64)
    assert (np.abs(back - wide) <= np.abs(wide) * 2.0**-8).all()


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@given(tokens=vectors(finite))
def test_columns_are_as_announced_and_decode_to_finite_float32(codec, tokens):
    stored = codec.encode(tokens)
    announced = codec.columns(tokens.shape[1], tokens.shape[2])
    assert stored.keys() == announced.keys()
    for name, (dtype, tail) in announced.items():
        assert stored[name].dtype == dtype
        assert stored[name].shape == (len(tokens), *tail)
    back = codec.decode(stored)
    assert back.dtype == np.float32
    assert back.shape == tokens.shape
    assert np.isfinite(back).all()


@given(tokens=vectors(finite))
def test_int8_loses_at_most_half_a_scale(tokens):
    stored = Int8Codec().encode(tokens)
    assert (stored["codes"] != -128).all()
    assert (stored["scales"] > 0).all()
    scales = stored["scales"].astype(np.float64)[..., None]
    lost = np.abs(stored["codes"] * scales - tokens.astype(np.float64))
    assert (lost <= scales * (0.5 + 1e-9)).all()
    # decoding rounds once more, by at most 2^-24 of a number of at most 127 scales
    assert (np.abs(Int8Codec().decode(stored) - tokens.astype(np.float64)) <= scales * 0.50001).all()


@given(tokens=vectors(usual))
def test_int8_uses_the_whole_range_of_each_vector(tokens):
    codes = Int8Codec().encode(tokens)["codes"].astype(int)
    largest = np.abs(codes).max(axis=2)
    np.testing.assert_array_equal(largest, np.where(np.abs(tokens).max(axis=2) > 0, 127, 0))


@given(tokens=vectors(usual))
def test_float16_loses_at_most_half_a_step(tokens):
    back = Float16Codec().decode(Float16Codec().encode(tokens))
    wide = tokens.astype(np.float64)
    assert (np.abs(back - wide) <= np.maximum(np.abs(wide) * 2.0**-11, 2.0**-25)).all()
    assert Float16Codec.clipped(tokens) == 0


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@given(tokens=vectors(usual))
def test_a_token_is_stored_the_same_alone_and_among_others(codec, tokens):
    together = codec.encode(tokens)
    for i in range(len(tokens)):
        alone = codec.encode(tokens[i : i + 1])
        for name in together:
            np.testing.assert_array_equal(together[name][i : i + 1], alone[name])


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_numbers_that_are_not_finite(codec, bad):
    tokens = np.zeros((2, 1, 3), dtype=np.float32)
    tokens[1, 0, 2] = bad
    with pytest.raises(InputError, match="wider --dtype"):
        codec.encode(tokens)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_refuses_another_number_of_axes(codec):
    with pytest.raises(InputError, match="levels"):
        codec.encode(np.zeros((2, 3), dtype=np.float32))
