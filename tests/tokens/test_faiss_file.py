"""Codebooks of faiss index files, against faiss itself."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.errors import InputError
from imgrank.tokens.faiss_file import read_faiss_codebooks
from imgrank.tokens.product_quantization import ProductCodec

faiss = pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(600, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def plain(vectors, tmp_path_factory):
    index = faiss.IndexPQ(12, 4, 8)
    index.train(vectors)
    index.add(vectors[:5])  # vectors in the index do not matter
    path = tmp_path_factory.mktemp("faiss") / "pq.faiss"
    faiss.write_index(index, str(path))
    return index, path


@pytest.fixture(scope="module")
def turned(vectors, tmp_path_factory):
    index = faiss.IndexPreTransform(faiss.OPQMatrix(12, 4), faiss.IndexPQ(12, 4, 8))
    index.train(vectors)
    path = tmp_path_factory.mktemp("faiss") / "opq.faiss"
    faiss.write_index(index, str(path))
    return index, path


@pytest.mark.parametrize("kind", ["plain", "turned"])
def test_codes_mean_what_they_mean_to_faiss(kind, vectors, request):
    index, path = request.getfixturevalue(kind)
    codebooks = read_faiss_codebooks(path)
    assert codebooks.centroids.shape == (1, 1, 4, 256, 3)
    assert (codebooks.rotation is None) == (kind == "plain")
    codec = ProductCodec(codebooks)
    assert codec.name == ("pq:4" if kind == "plain" else "opq:4")
    theirs = index.sa_encode(vectors)
    ours = codec.encode(vectors[:, None])["codes"][:, 0]
    assert (ours == theirs).mean() > 0.999  # but for ties in the last bit
    np.testing.assert_allclose(codec.decode({"codes": theirs[:, None]})[:, 0], index.sa_decode(theirs), atol=1e-5)


def test_a_metric_with_a_number_of_its_own_is_read(vectors, tmp_path):
    index = faiss.IndexPQ(12, 4, 8)
    index.train(vectors)
    index.metric_type, index.metric_arg = faiss.METRIC_Lp, 3.0
    faiss.write_index(index, str(tmp_path / "lp.faiss"))
    np.testing.assert_array_equal(
        read_faiss_codebooks(tmp_path / "lp.faiss").centroids.ravel(), faiss.vector_to_array(index.pq.centroids)
    )


def others(vectors):
    flat = faiss.IndexFlatL2(12)
    four_bits = faiss.IndexPQ(12, 4, 4)
    four_bits.train(vectors)
    pca = faiss.IndexPreTransform(faiss.PCAMatrix(12, 8), faiss.IndexPQ(8, 4, 8))
    pca.train(vectors)
    moved = faiss.LinearTransform(12, 12, True)
    faiss.copy_array_to_vector(np.eye(12, dtype=np.float32).ravel(), moved.A)
    faiss.copy_array_to_vector(np.ones(12, dtype=np.float32), moved.b)
    moved.is_trained = True
    biased = faiss.IndexPreTransform(moved, faiss.IndexPQ(12, 4, 8))
    biased.train(vectors)
    return {"flat": flat, "four bits": four_bits, "pca": pca, "biased": biased, "empty": faiss.IndexPQ(12, 4, 8)}


@pytest.mark.parametrize("kind", ["flat", "four bits", "pca", "biased", "empty"])
def test_other_indexes_are_refused(kind, vectors, tmp_path):
    faiss.write_index(others(vectors)[kind], str(tmp_path / "x"))
    with pytest.raises(InputError, match="faiss index"):
        read_faiss_codebooks(tmp_path / "x")


@pytest.mark.parametrize("content", [b"", b"IxPq", b"\x89HDF\r\n\x1a\n" + bytes(500), b"IxPq" + b"\xff" * 500])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match="x: not a faiss index"):
        read_faiss_codebooks(tmp_path / "x")
    with pytest.raises(InputError):
        read_faiss_codebooks(tmp_path / "nowhere")


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["plain", "turned"]))
def test_a_damaged_file_is_refused_or_read_as_it_is(data, kind, plain, turned, tmp_path_factory):
    whole = {"plain": plain, "turned": turned}[kind][1].read_bytes()
    path = tmp_path_factory.mktemp("damaged") / "x"
    if data.draw(st.booleans()):
        content = bytearray(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        content = bytearray(whole)
        place = data.draw(st.integers(0, 200 if data.draw(st.booleans()) else len(whole) - 8))
        content[place : place + 8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    path.write_bytes(content)
    try:
        found = read_faiss_codebooks(path)
    except InputError:
        return
    assert np.isfinite(found.centroids).all()
    assert found.hidden <= 2**16
