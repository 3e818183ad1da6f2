import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.errors import InputError, SettingsError
from imgrank.tokens.product_quantization import Codebooks, CodebookSpec, ProductCodec, train_codebooks

SPECS = [
    CodebookSpec(4),
    CodebookSpec(4, stages=2),
    CodebookSpec(4, rotated=True),
    CodebookSpec(4, stages=2, rotated=True),
]


def correlated(n, levels, hidden, seed=0):
    """Tokens of falling variance along random axes, and noise."""
    axes = np.random.default_rng(77).standard_normal((levels, hidden // 2, hidden)) / np.sqrt(hidden)
    sizes = np.geomspace(3, 0.3, hidden // 2)
    rng = np.random.default_rng(seed)
    tokens = np.einsum("nlr,lrh->nlh", rng.standard_normal((n, levels, hidden // 2)) * sizes, axes)
    return (tokens + 0.1 * rng.standard_normal((n, levels, hidden)) + 1).astype(np.float32)


def lost(codec, tokens):
    return float(np.square(codec.decode(codec.encode(tokens)) - tokens.astype(np.float64)).mean())


def books(levels=1, stages=1, subvectors=2, width=2, seed=0):
    shape = (levels, stages, subvectors, 256, width)
    return Codebooks(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.fixture(scope="module")
def tokens():
    return correlated(1500, 2, 16)


@pytest.fixture(scope="module")
def trained(tokens):
    return {spec: train_codebooks(tokens, spec, iterations=8) for spec in SPECS}


@pytest.fixture
def plain():
    """Sub-vectors of two numbers: (k, 0) of the first, (0, -k) of the second."""
    centroids = np.zeros((1, 1, 2, 256, 2), dtype=np.float32)
    centroids[0, 0, 0, :, 0] = np.arange(256)
    centroids[0, 0, 1, :, 1] = -np.arange(256)
    return centroids


def test_hand_worked(plain):
    codec = ProductCodec(Codebooks(plain))
    assert codec.name == "pq:2"
    stored = codec.encode(np.array([[[3.2, 0.1, 0.3, -7.4]], [[-1, 9, 5, -300]]], dtype=np.float32))
    np.testing.assert_array_equal(stored["codes"], [[[3, 7]], [[0, 255]]])
    np.testing.assert_array_equal(codec.decode(stored), [[[3, 0, 0, -7]], [[0, 0, 0, -255]]])


def test_second_stage_hand_worked(plain):
    fine = np.zeros_like(plain)
    fine[..., 0, :, 0] = (np.arange(256) - 128) / 100  # hundredths, also below 0
    fine[..., 1, :, 0] = np.arange(256) / 10
    codec = ProductCodec(Codebooks(np.concatenate([plain, fine], axis=1)))
    assert codec.name == "rpq:2"
    stored = codec.encode(np.array([[[3.21, 0.1, 0.3, -7.4]]], dtype=np.float32))
    np.testing.assert_array_equal(stored["codes"], [[[3, 7, 128 + 21, 3]]])  # the first stage's, then the second's
    np.testing.assert_allclose(codec.decode(stored), [[[3.21, 0, 0.3, -7]]], rtol=1e-6)


def test_rotation_hand_worked(plain):
    # vectors @ rotation: number i goes to place i + 1, and the last to the first
    turn = np.roll(np.eye(4, dtype=np.float32), 1, axis=1)
    codec = ProductCodec(Codebooks(plain, turn[None]))
    assert codec.name == "opq:2"
    stored = codec.encode(np.array([[[0.1, 0.3, -7.4, 3.2]]], dtype=np.float32))
    np.testing.assert_array_equal(stored["codes"], [[[3, 7]]])
    np.testing.assert_array_equal(codec.decode(stored), [[[0, 0, -7, 3]]])


def test_levels_have_codebooks_of_their_own(plain):
    codec = ProductCodec(Codebooks(np.concatenate([plain, 10 * plain])))
    stored = codec.encode(np.array([[[3.2, 0, 0, -7.4], [31, 0, 0, -74]]], dtype=np.float32))
    np.testing.assert_array_equal(stored["codes"], [[[3, 7], [3, 7]]])
    np.testing.assert_array_equal(codec.decode(stored), [[[3, 0, 0, -7], [30, 0, 0, -70]]])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("n", [0, 1, 300, 2500])
def test_columns_are_as_announced(trained, spec, n):
    codec = ProductCodec(trained[spec])
    assert codec.name == spec.name == trained[spec].spec.name
    tokens = correlated(n, 2, 16, seed=1)
    stored = codec.encode(tokens)
    assert {name: (str(a.dtype), a.shape[1:]) for name, a in stored.items()} == codec.columns(2, 16)
    assert stored["codes"].shape == (n, 2, 4 * spec.stages)
    back = codec.decode(stored)
    assert back.dtype == np.float32
    assert back.shape == tokens.shape


@settings(deadline=None, max_examples=25)
@given(
    levels=st.integers(1, 3),
    stages=st.integers(1, 2),
    subvectors=st.integers(1, 6),
    width=st.integers(1, 9),
    n=st.integers(1, 80),
    seed=st.integers(0, 9),
)
def test_every_stage_takes_the_nearest(levels, stages, subvectors, width, n, seed):
    codebooks = books(levels, stages, subvectors, width, seed)
    tokens = np.random.default_rng(seed + 1).standard_normal((n, levels, subvectors * width)).astype(np.float32)
    codec = ProductCodec(codebooks)
    stored = codec.encode(tokens)
    codes = stored["codes"].reshape(n, levels, stages, subvectors)
    rest = tokens.astype(np.float64).reshape(n, levels, subvectors, 1, width)
    for stage in range(stages):
        distances = np.square(rest - codebooks.centroids[None, :, stage]).sum(axis=-1)  # (n, levels, M, 256)
        chosen = np.take_along_axis(distances, codes[:, :, stage, :, None].astype(int), axis=-1)[..., 0]
        assert (chosen <= distances.min(axis=-1) + 1e-5).all()
        for level in range(levels):
            for part in range(subvectors):
                rest[:, level, part, 0] -= codebooks.centroids[level, stage, part, codes[:, level, stage, part]]
    np.testing.assert_allclose(codec.decode(stored), tokens - rest.reshape(tokens.shape), atol=1e-5)


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[2]], ids=lambda spec: spec.name)
def test_what_was_decoded_is_stored_as_it_was(trained, tokens, spec):
    codec = ProductCodec(trained[spec])
    once = codec.encode(tokens)
    np.testing.assert_array_equal(codec.encode(codec.decode(once))["codes"], once["codes"])


def test_decoding_part_by_part_is_decoding_all(trained, tokens):
    for codebooks in trained.values():
        codec = ProductCodec(codebooks)
        codes = codec.encode(tokens)["codes"]
        whole = codec.decode({"codes": codes})
        np.testing.assert_allclose(codec.decode({"codes": codes[700:703]}), whole[700:703], atol=1e-5)
        # as a part of a wider array lies in memory
        wide = np.repeat(codes, 2, axis=2)[:, :, ::2]
        np.testing.assert_array_equal(codec.decode({"codes": wide}), whole)


def test_works_in_several_threads_at_a_time(trained, tokens):
    codec, found = ProductCodec(trained[SPECS[1]]), {}

    def work(i):
        found[i] = codec.encode(tokens)["codes"]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2, 3]
    for codes in found.values():
        np.testing.assert_array_equal(codes, found[0])


def test_arrays_that_cannot_be_written_to(trained, tokens, recwarn):
    codebooks = trained[SPECS[3]]
    for array in (codebooks.centroids, codebooks.rotation):
        array.setflags(write=False)
    some = tokens[:300].copy()
    some.setflags(write=False)
    codec = ProductCodec(codebooks)
    codec.decode(codec.encode(some))
    train_codebooks(some, SPECS[0], iterations=1)
    assert not list(recwarn)


def test_training_is_the_same_for_the_same_seed(tokens):
    first, again, other = (train_codebooks(tokens, SPECS[3], seed=seed, iterations=3).digest() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_each_level_is_trained_alone(trained, tokens):
    for spec in SPECS:
        alone = train_codebooks(tokens[:, 1:], spec, iterations=8)
        np.testing.assert_array_equal(alone.centroids[0], trained[spec].centroids[1])


def test_what_a_spec_asks_for_loses_less(trained):
    unseen = correlated(1000, 2, 16, seed=5)
    pq, rpq, opq, both = (lost(ProductCodec(trained[spec]), unseen) for spec in SPECS)
    assert rpq < pq / 2
    assert opq < 0.9 * pq
    assert both < rpq
    assert both < opq / 2


def test_says_what_it_does(tokens):
    said = []
    train_codebooks(tokens[:256], SPECS[3], iterations=1, note=said.append)
    assert said == [
        "rotation, level 1 of 2",
        "centroids, level 1 of 2, stage 1 of 2",
        "centroids, level 1 of 2, stage 2 of 2",
        "rotation, level 2 of 2",
        "centroids, level 2 of 2, stage 1 of 2",
        "centroids, level 2 of 2, stage 2 of 2",
    ]


@pytest.mark.parametrize(("hidden", "subvectors", "choice"), [(16, 3, "2 or 4"), (16, 90, "16"), (7, 3, "7")])
def test_refuses_parts_of_different_lengths(hidden, subvectors, choice):
    with pytest.raises(SettingsError, match=f"{subvectors} sub-vectors .* {hidden} numbers; take {choice}$"):
        train_codebooks(np.zeros((300, 1, hidden), dtype=np.float32), CodebookSpec(subvectors))


def test_refuses_too_few_tokens():
    with pytest.raises(InputError, match=r"255 tokens are too few.*256.*int8.*another bundle"):
        train_codebooks(np.zeros((255, 1, 8), dtype=np.float32), CodebookSpec(2))


@pytest.mark.parametrize(("subvectors", "stages"), [(0, 1), (-1, 1), (4, 0), (4, 3)])
def test_refuses_a_spec_that_means_nothing(subvectors, stages):
    with pytest.raises(SettingsError):
        CodebookSpec(subvectors, stages)


def test_refuses_tokens_of_another_kind():
    codec = ProductCodec(books(levels=2, subvectors=3, width=2))
    with pytest.raises(InputError, match="2 x 6 numbers a token do not suit tokens of 1 x 6"):
        codec.encode(np.zeros((4, 1, 6), dtype=np.float32))
    with pytest.raises(InputError, match="do not suit"):
        codec.columns(2, 8)
    with pytest.raises(InputError, match="levels"):
        codec.encode(np.zeros((4, 12), dtype=np.float32))
    for codes in (np.zeros((4, 2, 6), np.uint8), np.zeros((4, 1, 3), np.uint8), np.zeros((4, 2, 3), np.int64)):
        with pytest.raises(InputError, match="not of codebooks pq:3"):
            codec.decode({"codes": codes})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_numbers_that_are_not_finite(bad):
    tokens = np.zeros((256, 1, 4), dtype=np.float32)
    tokens[7, 0, 1] = bad
    for use in (ProductCodec(books()).encode, lambda tokens: train_codebooks(tokens, CodebookSpec(2))):
        with pytest.raises(InputError, match="wider --dtype"):
            use(tokens)
    for where in ("centroids", "rotation"):
        arrays = {"centroids": books().centroids, "rotation": np.eye(4, dtype=np.float32)[None]}
        arrays[where].reshape(-1)[3] = bad
        with pytest.raises(InputError, match="finite"):
            Codebooks(**arrays)


def test_refuses_centroids_too_large_to_compare():
    with pytest.raises(InputError, match="too large"):
        Codebooks(np.full((1, 1, 2, 256, 2), 1e25, dtype=np.float32))


@pytest.mark.parametrize(
    "shape", [(1, 2, 256, 2), (1, 1, 2, 255, 2), (1, 3, 2, 256, 2), (0, 1, 2, 256, 2), (1, 1, 2, 256, 0)]
)
def test_refuses_centroids_of_another_shape(shape):
    with pytest.raises(InputError, match="centroids of shape"):
        Codebooks(np.zeros(shape, dtype=np.float32))


def test_refuses_other_types():
    with pytest.raises(InputError, match="float64"):
        Codebooks(books().centroids.astype(np.float64))
    with pytest.raises(InputError, match="float64"):
        Codebooks(books().centroids, np.eye(4)[None])


@pytest.mark.parametrize(
    ("rotation", "message"),
    [
        (np.eye(4), "of shape"),
        (np.eye(6)[None], "of shape"),
        (np.repeat(np.eye(4)[None], 2, axis=0), "of shape"),
        (1.1 * np.eye(4)[None], "lengths and angles"),
        ((np.eye(4) + np.eye(4, k=1) / 9)[None], "lengths and angles"),
        (np.zeros((1, 4, 4)), "lengths and angles"),
    ],
)
def test_refuses_what_is_not_a_rotation(rotation, message):
    with pytest.raises(InputError, match=message):
        Codebooks(books().centroids, rotation.astype(np.float32))


def test_digest_tells_codebooks_apart():
    one = books(levels=1, stages=2)
    assert one.digest() == Codebooks(one.centroids.copy()).digest()
    nudged = one.centroids.copy()
    nudged[0, 1, 1, 200, 1] = np.nextafter(nudged[0, 1, 1, 200, 1], np.float32(9))
    others = [
        Codebooks(nudged),
        Codebooks(one.centroids.reshape(2, 1, 2, 256, 2)),  # the same bytes
        Codebooks(one.centroids, np.eye(4, dtype=np.float32)[None]),
        Codebooks(one.centroids, -np.eye(4, dtype=np.float32)[None]),
    ]
    assert len({codebooks.digest() for codebooks in [one, *others]}) == 5
    assert len(one.digest()) == 32


def test_decoding_needs_no_torch():
    code = (
        "import sys, numpy as np\n"
        "from imgrank.tokens.product_quantization import Codebooks, ProductCodec\n"
        "codec = ProductCodec(Codebooks(np.ones((2, 2, 3, 256, 2), np.float32)))\n"
        "print(codec.decode({'codes': np.zeros((5, 2, 6), np.uint8)}).sum(), 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["120.0", "False"]


@pytest.mark.parametrize(("hidden", "subvectors"), [(16, 4), (24, 3)])
def test_loses_what_faiss_loses(hidden, subvectors):
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)  # on busy cores its threads wait for each other most of the time
    tokens, unseen = correlated(6000, 1, hidden), correlated(3000, 1, hidden, seed=1)
    theirs = faiss.IndexPQ(hidden, subvectors, 8)
    theirs.train(tokens[:, 0])
    codec = ProductCodec(train_codebooks(tokens, CodebookSpec(subvectors)))
    back = theirs.sa_decode(theirs.sa_encode(unseen[:, 0]))
    assert lost(codec, unseen) < 1.02 * np.square(back - unseen[:, 0].astype(np.float64)).mean()


def test_codes_are_those_of_faiss():
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)  # on busy cores its threads wait for each other most of the time
    codebooks = books(subvectors=6, width=8)
    theirs = faiss.ProductQuantizer(48, 6, 8)
    faiss.copy_array_to_vector(codebooks.centroids.ravel(), theirs.centroids)
    tokens = correlated(2000, 1, 48)
    codec = ProductCodec(codebooks)
    codes = codec.encode(tokens)["codes"]
    # a few may be as near as float32 tells
    assert (codes[:, 0] != theirs.compute_codes(tokens[:, 0])).mean() < 1e-3
    np.testing.assert_array_equal(codec.decode({"codes": codes})[:, 0], theirs.decode(codes[:, 0]))
