import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.tokens import kmeans
from imgrank.tokens.rotation import _bits, balanced_rotation, learn_rotation, nearest_rotation


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def correlated(n, hidden, seed=0):
    """Variances that fall by 100, along axes that have nothing to do with the numbers' own."""
    axes = torch.linalg.qr(normal(hidden, hidden, seed=77))[0]
    return normal(n, hidden, seed=seed) * torch.logspace(0, -1, hidden) @ axes + 3


def off_orthonormal(rotation):
    wide = rotation.double()
    return float((wide.T @ wide - torch.eye(len(wide))).abs().max())


def lost(vectors, subvectors, iterations=10):
    centroids = kmeans.train(vectors, subvectors, seed=0, iterations=iterations)
    nearest = kmeans.NearestCentroids(centroids)
    return float((nearest.vectors(nearest.codes(vectors)) - vectors).square().mean())


def test_bits_hand_worked():
    # with the level at 8 the first has log2(64 / 8) / 2 = 1.5 bits, and the second 0.5
    assert _bits([64, 16, 4, 1], 2) == pytest.approx([1.5, 0.5, 0, 0])
    # with the level at 2 they have 2.5, 1.5 and 0.5
    assert _bits([64, 16, 4, 1], 4.5) == pytest.approx([2.5, 1.5, 0.5, 0])
    assert _bits([64, 16, 4, 1], 10) == pytest.approx([4, 3, 2, 1])
    assert _bits([5, 0], 4) == pytest.approx([4, 0])
    assert _bits([0, 0], 4) == pytest.approx([2, 2])


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20), st.floats(0.5, 200))
def test_bits_are_all_given_away_and_leave_one_level(variances, budget):
    variances = sorted(variances, reverse=True)
    bits = _bits(variances, budget)
    assert sum(bits) == pytest.approx(budget)
    # what is left of each variance is the level, or all of it where that is less
    left = [variance * 2 ** (-2 * some) for variance, some in zip(variances, bits, strict=True)]
    assert left == pytest.approx([min(variance, left[0]) for variance in variances])


def test_axes_are_dealt_out_to_the_part_that_has_least():
    # Along the numbers' own axes; each of 6 axes has points at plus and minus its size, so nothing is correlated.
    sizes = torch.tensor([1.0, 32.0, 4.0, 2.0, 16.0, 8.0])
    points = torch.cat([torch.diag(sizes), -torch.diag(sizes)])
    rotation = balanced_rotation(points, 2)
    assert off_orthonormal(rotation) < 1e-6
    parts = [{int(axis) for axis in part} for part in rotation.abs().argmax(dim=0).view(2, 3)]
    # By size 32 | 16, then 8 joins 16, and 4 joins 32: they are equal, 2 goes to the first of them, and 1 to the other.
    assert parts == [{1, 2, 3}, {4, 5, 0}]


@pytest.mark.parametrize("hidden", [2, 6, 40])
def test_finds_a_rotation_again(hidden):
    rotation = torch.linalg.qr(normal(hidden, hidden))[0]
    vectors = normal(200, hidden, seed=1)
    found = nearest_rotation(vectors.T @ (vectors @ rotation))
    np.testing.assert_allclose(found, rotation, atol=1e-5)


def test_nearest_rotation_hand_worked():
    # a turn by 90 degrees, stretched unevenly: the stretch does not matter
    assert nearest_rotation(torch.tensor([[0.0, 3.0], [-0.1, 0.0]])).numpy() == pytest.approx(
        np.array([[0, 1], [-1, 0]]), abs=1e-6
    )


@settings(deadline=None, max_examples=15)
@given(
    n=st.integers(256, 600),
    subvectors=st.integers(1, 6),
    width=st.integers(1, 6),
    rank=st.integers(0, 3),
    iterations=st.integers(0, 3),
)
def test_is_orthonormal_whatever_the_vectors(n, subvectors, width, rank, iterations):
    hidden = subvectors * width
    vectors = 100 * normal(n, rank) @ normal(rank, hidden, seed=1) + 5  # of low rank, also all equal
    rotation = learn_rotation(vectors, subvectors, iterations=iterations)
    assert rotation.shape == (hidden, hidden)
    assert rotation.dtype == torch.float32
    assert off_orthonormal(rotation) < 1e-5


def test_loses_less_than_no_rotation():
    vectors = correlated(3000, 24)
    start = balanced_rotation(vectors - vectors.mean(dim=0), 4)
    assert lost(vectors @ start, 4) < 0.8 * lost(vectors, 4)
    assert lost(vectors @ learn_rotation(vectors, 4), 4) < 0.8 * lost(vectors, 4)


def test_iterations_lose_less_where_vectors_are_not_normal():
    # Corners of a turned cube: all axes have one variance, so the start knows nothing of where the corners are.
    corners = torch.sign(normal(3000, 12)) @ torch.linalg.qr(normal(12, 12, seed=1))[0]
    losses = [lost(corners @ learn_rotation(corners, 2, iterations=some), 2) for some in (0, 3, 6)]
    assert losses[1] < 0.9 * losses[0]
    assert losses[2] < 0.9 * losses[1]


def test_goes_on_from_the_centroids_of_the_iteration_before(monkeypatch):
    train, starts, ends = kmeans.train, [], []

    def spy(*arguments, **options):
        starts.append(options["start"])
        ends.append(train(*arguments, **options))
        return ends[-1]

    monkeypatch.setattr(kmeans, "train", spy)
    learn_rotation(correlated(400, 12), 3, iterations=3, steps=1)
    assert starts == [None, *ends[:2]]


def test_is_the_same_for_the_same_seed():
    vectors = correlated(600, 12)
    assert torch.equal(learn_rotation(vectors, 3, seed=4), learn_rotation(vectors, 3, seed=4))


def test_is_no_worse_than_that_of_faiss():
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)  # on busy cores its threads wait for each other most of the time
    vectors, unseen = correlated(4000, 32), correlated(2000, 32, seed=1)
    theirs = faiss.OPQMatrix(32, 4)
    theirs.niter = 20
    theirs.train(vectors.numpy())
    matrix = torch.from_numpy(faiss.vector_to_array(theirs.A).reshape(32, 32).T.copy())
    losses = []
    for rotation in (learn_rotation(vectors, 4), matrix):
        nearest = kmeans.NearestCentroids(kmeans.train(vectors @ rotation, 4, seed=0, iterations=15))
        turned = unseen @ rotation
        losses.append(float((nearest.vectors(nearest.codes(turned)) - turned).square().mean()))
    assert losses[0] < 1.02 * losses[1]
