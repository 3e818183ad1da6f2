import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.tokens import kmeans
from imgrank.tokens.kmeans import NearestCentroids


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def distances(vectors, centroids):
    """Squared distances in float64, (n, m, 256)."""
    m, _, width = centroids.shape
    parts = vectors.double().view(len(vectors), m, 1, width)
    return (parts - centroids.double()).square().sum(dim=3)


def lost(vectors, centroids):
    return distances(vectors, centroids).amin(dim=2).mean(dim=0)  # of each sub-vector


@pytest.fixture
def _plain(monkeypatch):
    """What a GPU would do, on the CPU."""
    # with so little room that there are several pieces
    monkeypatch.setattr(kmeans, "_in_numpy", lambda device: False)
    monkeypatch.setattr(kmeans, "_GPU_SCORES", 300 * 256)
    monkeypatch.setattr(kmeans, "_GPU_ROWS", 100)


def test_hand_worked_numbers_on_a_line():
    line = torch.arange(256.0).view(1, 256, 1)
    # 0.5 and 254.5 are as near to the next number: the lower one has them
    numbers = torch.tensor([[-7.0], [0.4], [0.5], [0.6], [41.0], [254.5], [300.0]])
    found = NearestCentroids(line).codes(numbers)
    assert found.dtype == torch.uint8
    assert found[:, 0].tolist() == [0, 0, 0, 1, 41, 254, 255]
    assert NearestCentroids(line).vectors(found)[:, 0].tolist() == [0, 0, 0, 1, 41, 254, 255]


def test_each_sub_vector_has_its_own_centroids():
    centroids = torch.zeros(2, 256, 2)
    centroids[0, :, 0] = torch.arange(256.0)  # (k, 0)
    centroids[1, :, 1] = -2 * torch.arange(256.0)  # (0, -2 k)
    nearest = NearestCentroids(centroids)
    found = nearest.codes(torch.tensor([[3.2, 9.0, 0.3, -7.4], [200.0, -1.0, -1.0, 5.0]]))
    assert found.tolist() == [[3, 4], [200, 0]]
    assert nearest.vectors(found).tolist() == [[3, 0, 0, -8], [200, 0, 0, 0]]


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 300),
    m=st.integers(1, 40),
    width=st.integers(1, 20),
    offset=st.sampled_from([0.0, 1000.0]),
    seed=st.integers(0, 99),
)
def test_no_centroid_is_nearer_than_the_one_found(n, m, width, offset, seed):
    # Far from the origin squares are 10^6 times what distances are: without the middles taken off this fails.
    centroids = normal(m, 256, width, seed=seed) + offset
    vectors = normal(n, m * width, seed=seed + 100) + offset
    found = NearestCentroids(centroids).codes(vectors)
    assert found.shape == (n, m)
    every = distances(vectors, centroids)
    chosen = every.gather(2, found.long()[:, :, None])[:, :, 0]
    assert (chosen <= every.amin(dim=2) + 1e-5 * width).all()


def test_one_centroid_far_out_costs_the_others_nothing():
    centroids, vectors = normal(2, 256, 4) + 1000, normal(300, 8, seed=1) + 1000
    centroids[:, 17] = 3e6  # it moves the mean of 256 by 12,000, whose square float32 knows to 8
    every = distances(vectors, centroids)
    chosen = every.gather(2, NearestCentroids(centroids).codes(vectors).long()[:, :, None])[:, :, 0]
    assert (chosen <= every.amin(dim=2) + 1e-4).all()


@pytest.mark.usefixtures("_plain")
@pytest.mark.parametrize("width", [1, 8])
def test_no_centroid_is_nearer_on_a_gpus_path(width):
    test_no_centroid_is_nearer_than_the_one_found.hypothesis.inner_test(250, 7, width, 1000.0, 3)


@settings(deadline=None)
@given(n=st.integers(1, 200), m=st.integers(1, 5), most=st.sampled_from([1, 3, 50]), seed=st.integers(0, 99))
def test_both_ways_of_looking_take_the_lowest_of_equals(n, m, most, seed):
    # Whole numbers: products are exact, and most of them equal to others.
    numbers = np.random.default_rng(seed)
    weights = numbers.integers(-most, most + 1, (m, 256, 3)).astype(np.float32)
    points = numbers.integers(-2, 3, (m, 3, n)).astype(np.float32)
    expected = np.matmul(weights, points).argmax(axis=1)  # numpy's is the first
    np.testing.assert_array_equal(kmeans._nearest(weights, points, kmeans._Room()), expected)
    found = kmeans._nearest(torch.from_numpy(weights), torch.from_numpy(points), torch.empty(m * n * 256))
    np.testing.assert_array_equal(found, expected)


def test_the_number_of_threads_changes_nothing():
    vectors, usual = normal(5000, 5 * 4), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            centroids = kmeans.train(vectors, 5, seed=0, iterations=4)
            found.append((centroids, NearestCentroids(centroids).codes(vectors)))
    finally:
        torch.set_num_threads(usual)
    for centroids, codes in found[1:]:
        assert torch.equal(centroids, found[0][0])
        assert torch.equal(codes, found[0][1])


def reference(vectors, m, start, iterations):
    """Lloyd's steps in float64, one sub-vector and one centroid after the other."""
    parts = np.asarray(vectors, dtype=np.float64).reshape(len(vectors), m, -1)
    centroids = np.asarray(start, dtype=np.float64).copy()
    for _ in range(iterations):
        for i in range(m):
            nearest = ((parts[:, i, None] - centroids[i]) ** 2).sum(axis=2).argmin(axis=1)
            for k in range(256):
                assert (nearest == k).any()
                centroids[i, k] = parts[nearest == k, i].mean(axis=0)
    return centroids


def test_equals_the_reference():
    vectors = normal(2000, 3 * 2) + 5
    start = vectors[:256].view(256, 3, 2).transpose(0, 1)
    found = kmeans.train(vectors, 3, seed=0, iterations=3, start=start)
    np.testing.assert_allclose(found, reference(vectors, 3, start, 3), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("_plain")
def test_equals_the_reference_on_a_gpus_path():
    test_equals_the_reference()


def test_starts_from_different_vectors_that_the_seed_chooses():
    vectors = torch.arange(256.0).view(256, 1)
    found = kmeans.train(vectors, 1, seed=3, iterations=1)
    assert sorted(found.flatten().tolist()) == list(range(256))  # each is its own centroid, so each was chosen
    many = normal(900, 6)
    assert torch.equal(kmeans.train(many, 2, seed=3, iterations=2), kmeans.train(many, 2, seed=3, iterations=2))
    assert not torch.equal(kmeans.train(many, 2, seed=3, iterations=2), kmeans.train(many, 2, seed=4, iterations=2))


def test_every_step_loses_less():
    vectors = normal(1500, 4 * 3)
    losses = torch.stack([lost(vectors, kmeans.train(vectors, 4, seed=0, iterations=i)) for i in range(1, 6)])
    assert (losses.diff(dim=0) < 0).all()


def test_idle_centroids_go_where_most_is_lost():
    # 250 places, three vectors at each: a start of 256 vectors leaves places without a centroid, and has some twice.
    places = normal(250, 2 * 3) * 10
    vectors = places.repeat(3, 1)
    assert (lost(vectors, kmeans.train(vectors, 2, seed=0, iterations=1)) > 0).all()
    np.testing.assert_allclose(lost(vectors, kmeans.train(vectors, 2, seed=0, iterations=10)), 0, atol=1e-9)


def test_one_place_only():
    found = kmeans.train(torch.full((300, 4), 7.0), 2, seed=0, iterations=3)
    assert torch.equal(found, torch.full((2, 256, 2), 7.0))


def test_rows_may_lie_apart():
    wide = normal(400, 3, 8)
    apart = kmeans.train(wide[:, 1], 2, seed=0, iterations=3)
    assert torch.equal(apart, kmeans.train(wide[:, 1].contiguous(), 2, seed=0, iterations=3))


@pytest.mark.parametrize("room", [kmeans._Room(), torch.empty(2 * 256 * 3)], ids=["cpu", "gpu"])
def test_sums_hand_worked(room):
    points = torch.tensor([[[1.0, 2.0, 4.0, 8.0]], [[1.0, 1.0, 1.0, 1.0]]])
    codes = torch.tensor([[0, 255, 0, 7], [3, 3, 3, 3]])
    found = kmeans._sums(points, codes, room)  # a GPU with room for three of the four
    expected = torch.zeros(2, 1, 256)
    expected[0, 0, 0], expected[0, 0, 255], expected[0, 0, 7], expected[1, 0, 3] = 5, 2, 8, 4
    assert torch.equal(found, expected)


def test_an_error_in_a_thread_reaches_the_caller():
    def fail(piece, room):
        raise ValueError(piece)

    with pytest.raises(ValueError, match="0"):
        kmeans._each(fail, range(4), 2, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_what_the_cpu_finds():
    vectors = normal(5000, 16 * 8)
    there = kmeans.train(vectors.cuda(), 16, seed=0, iterations=5)
    assert torch.equal(there, kmeans.train(vectors.cuda(), 16, seed=0, iterations=5))
    here = kmeans.train(vectors, 16, seed=0, iterations=5)
    np.testing.assert_allclose(lost(vectors, there.cpu()), lost(vectors, here), rtol=1e-3)
    same = NearestCentroids(here.cuda()).codes(vectors.cuda()).cpu() == NearestCentroids(here).codes(vectors)
    assert same.float().mean() > 0.9999
