import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgrank.errors import InputError
from imgrank.tokens.faiss_file import read_faiss_codebooks
from imgrank.tokens.product_quantization import CodebookSpec, ProductCodec

HIDDEN, SUBVECTORS = 12, 3
SUPPORTED = "supported are IndexPQ"


def one_thread():
    """faiss, with a thread: on busy cores its threads wait for each other most of the time."""
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    return faiss


def tokens(n=300, seed=0):
    return np.random.default_rng(seed).standard_normal((n, HIDDEN)).astype(np.float32)


def vector(array):
    return struct.pack("<q", array.size) + np.ascontiguousarray(array).tobytes()


def header(d=HIDDEN, n=0, trained=1, metric=1):
    return struct.pack("<iqqqBi", d, n, 1 << 20, 1 << 20, trained, metric) + (b"\0" * 4 if metric > 1 else b"")


def index(centroids=None, codes=b"", *, bits=8, m=SUBVECTORS, d=HIDDEN, quantized=None, **head):
    """What faiss writes of an IndexPQ, by hand."""
    if centroids is None:
        centroids = np.arange(256 * HIDDEN, dtype="<f4")
    return (
        b"IxPq" + header(**({"d": d} | head)) + struct.pack("<qqq", quantized or d, m, bits) + vector(centroids)
        + struct.pack("<q", len(codes)) + codes + struct.pack("<iBi", 0, 0, 0)
    )  # fmt: skip


def rotated(matrix=None, bias=None, *, kind=b"LTra", d_in=HIDDEN, d_out=HIDDEN, transforms=1, then=None, **head):
    matrix = np.eye(HIDDEN, dtype="<f4") if matrix is None else matrix
    return (
        b"IxPT" + header(**head) + struct.pack("<i", transforms) + kind + struct.pack("<B", bias is not None)
        + vector(matrix) + vector(np.zeros(0, "<f4") if bias is None else bias) + struct.pack("<iiB", d_in, d_out, 1)
        + (index() if then is None else then)
    )  # fmt: skip


def read(folder, content):
    path = folder / "codebooks.faiss"
    path.write_bytes(content)
    return read_faiss_codebooks(path)


def test_hand_written_index(tmp_path):
    found = read(tmp_path, index())
    assert found.spec == CodebookSpec(SUBVECTORS)
    # sub-vector slowest, then centroid, then the numbers
    np.testing.assert_array_equal(found.centroids[0, 0].reshape(-1), np.arange(256 * HIDDEN))
    assert found.rotation is None
    assert read(tmp_path, index(codes=b"abcdef", n=2, metric=0)).digest() == found.digest()
    assert read(tmp_path, index(metric=4)).digest() == found.digest()  # with its argument


def test_hand_written_rotation(tmp_path):
    matrix = np.roll(np.eye(HIDDEN, dtype="<f4"), 1, axis=1)  # A x: number i + 1 goes to place i
    found = read(tmp_path, rotated(matrix))
    vectors = tokens()
    np.testing.assert_array_equal(vectors @ found.rotation[0], np.roll(vectors, -1, axis=1))
    assert read(tmp_path, rotated(matrix, np.zeros(HIDDEN, "<f4"))).digest() == found.digest()
    assert read(tmp_path, rotated(matrix, kind=b"rrot")).digest() == found.digest()


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("opq", [False, True])
def test_reads_what_faiss_writes(tmp_path, count, opq):
    faiss = one_thread()
    theirs = faiss.IndexPQ(HIDDEN, SUBVECTORS, 8)
    if opq:
        matrix = faiss.OPQMatrix(HIDDEN, SUBVECTORS)
        matrix.niter = 3
        theirs = faiss.IndexPreTransform(matrix, theirs)
    theirs.train(tokens(600))
    theirs.add(tokens(count, seed=1))
    path = tmp_path / "codebooks.faiss"
    faiss.write_index(theirs, str(path))
    codebooks = read_faiss_codebooks(path)
    assert codebooks.spec == CodebookSpec(SUBVECTORS, rotated=opq)
    assert (codebooks.levels, codebooks.hidden) == (1, HIDDEN)
    codec, vectors = ProductCodec(codebooks), tokens(400, seed=2)
    codes = codec.encode(vectors[:, None])["codes"]
    # a few may be as near as float32 tells
    assert (codes[:, 0] != theirs.sa_encode(vectors)).mean() < 0.005
    np.testing.assert_allclose(codec.decode({"codes": codes})[:, 0], theirs.sa_decode(codes[:, 0]), atol=1e-5)


def test_metric_and_offset_as_faiss_writes_them(tmp_path):
    faiss = one_thread()
    theirs = faiss.IndexPQ(HIDDEN, SUBVECTORS, 8, faiss.METRIC_Lp)
    theirs.metric_arg = 3.0
    theirs.train(tokens(600))
    faiss.write_index(theirs, str(tmp_path / "lp.faiss"))
    found = read_faiss_codebooks(tmp_path / "lp.faiss")
    np.testing.assert_array_equal(found.centroids.ravel(), faiss.vector_to_array(theirs.pq.centroids))
    for offset in (0, 1):
        move = faiss.LinearTransform(HIDDEN, HIDDEN, True)
        faiss.copy_array_to_vector(np.eye(HIDDEN, dtype=np.float32).ravel(), move.A)
        faiss.copy_array_to_vector(np.full(HIDDEN, offset, dtype=np.float32), move.b)
        move.is_trained = True
        faiss.write_index(faiss.IndexPreTransform(move, theirs), str(tmp_path / "moved.faiss"))
        if offset:
            with pytest.raises(InputError, match="offset"):
                read_faiss_codebooks(tmp_path / "moved.faiss")
        else:
            assert read_faiss_codebooks(tmp_path / "moved.faiss").spec.rotated


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (index(trained=0), "not trained"),
        (index(bits=4), "4 bits"),
        (rotated(transforms=2), "2 transforms"),
        (rotated(transforms=0), "0 transforms"),
        (rotated(np.zeros((HIDDEN, 24), "<f4"), d_in=24), "from 24 to 12"),
        (rotated(bias=np.ones(HIDDEN, "<f4")), "offset"),
        (rotated(kind=b"VNrm"), "NormalizationTransform"),
        (rotated(then=rotated()), "a rotation and then something that starts with b'IxPT'"),
        (b"IwPQ" + bytes(500), "IndexIVFPQ"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "HDF"),
    ],
)
def test_says_what_it_does_not_read(tmp_path, content, message):
    with pytest.raises(InputError, match=SUPPORTED) as caught:
        read(tmp_path, content)
    assert message in str(caught.value)
    assert "codebooks.faiss" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too early"),
        (index()[:-1], "file of this size"),
        (index() + b"\0", "file of this size"),
        (index(codes=b"abc", n=2), "file of this size"),
        (index(d=-12), "vectors of -12"),
        (index(n=-1), "-1 vectors"),
        (index(quantized=24), "3 sub-vectors of 24 numbers in an index of 12"),
        (rotated(then=index(np.zeros(256 * 24, "<f4"), d=24)), "a rotation of 12 numbers before an index of 24"),
        (index(m=0), "0 sub-vectors"),
        (index(m=5), "5 sub-vectors"),
        (index(np.zeros(256 * HIDDEN - 1, "<f4")), "numbers for the centroids"),
        (index()[:61] + struct.pack("<q", 1 << 60) + index()[69:], "cannot follow"),
        (index()[:61] + struct.pack("<q", -1) + index()[69:], "cannot follow"),
        (rotated(np.zeros((HIDDEN, 4), "<f4")), "48 numbers for vectors of 12"),
        (rotated(d=24), "for vectors of 24"),
    ],
)
def test_says_that_a_file_is_damaged(tmp_path, content, message):
    with pytest.raises(InputError, match="damaged") as caught:
        read(tmp_path, content)
    assert message in str(caught.value)


def test_refuses_a_matrix_that_is_no_rotation(tmp_path):
    with pytest.raises(InputError, match=r"codebooks\.faiss: .*lengths and angles"):
        read(tmp_path, rotated(2 * np.eye(HIDDEN, dtype="<f4")))


def test_says_that_a_file_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.faiss: cannot be read: No such file"):
        read_faiss_codebooks(tmp_path / "nothing.faiss")
    with pytest.raises(InputError, match="cannot be read"):
        read_faiss_codebooks(tmp_path)


@pytest.mark.parametrize("kind", ["Flat", "IVF4,PQ3x8", "PQ3x4", "SQ8", "PCA6,PQ3x8", "IVF4,Flat", "L2norm,PQ3x8"])
def test_refuses_what_else_faiss_writes(tmp_path, kind):
    faiss = one_thread()
    theirs = faiss.index_factory(HIDDEN, kind)
    quantizer = faiss.downcast_index(getattr(faiss.downcast_index(theirs), "index", theirs))
    if hasattr(quantizer, "do_polysemous_training"):  # seconds of sorting the centroids, whatever the form of the file
        quantizer.do_polysemous_training = False
    theirs.train(tokens(600))
    faiss.write_index(theirs, str(tmp_path / "other.faiss"))
    with pytest.raises(InputError, match=SUPPORTED):
        read_faiss_codebooks(tmp_path / "other.faiss")


CONTENTS = {"plain": index(codes=b"abcdef", n=2), "rotated": rotated(np.linalg.qr(tokens(HIDDEN))[0].astype("<f4"))}


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(sorted(CONTENTS)), cut=st.data())
def test_a_truncated_file_gives_an_input_error(tmp_path, which, cut):
    content = CONTENTS[which]
    # mostly where the small numbers are
    size = cut.draw(st.integers(0, 900) | st.integers(0, len(content) - 1))
    with pytest.raises(InputError):
        read(tmp_path, content[:size])


@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(sorted(CONTENTS)), change=st.data())
def test_a_changed_file_gives_codebooks_or_an_input_error(tmp_path, which, change):
    content = bytearray(CONTENTS[which])
    places = st.integers(0, 90) | st.integers(600, 740) | st.integers(0, len(content) - 8)
    values = st.binary(min_size=1, max_size=1) | st.binary(min_size=8, max_size=8)
    for place, value in change.draw(st.lists(st.tuples(places, values), min_size=1, max_size=6)):
        content[place : place + len(value)] = value
    try:
        found = read(tmp_path, bytes(content))
    except InputError:
        return
    assert found.hidden == HIDDEN
    assert np.isfinite(found.centroids).all()
