import numpy as np
import pytest

from imgrank.errors import InputError
from imgrank.local.projection import Projection, fit_projection, pack, unpack


def rows(count=40, dim=12, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, dim)) * np.linspace(3, 0.5, dim) + 1).astype(np.float32)


def test_the_directions_are_those_of_the_covariance():
    raw = rows()
    projection = fit_projection(raw, 5)
    values, vectors = np.linalg.eigh(np.cov(raw.T.astype(np.float64), bias=True))
    values, vectors = values[::-1][:5], vectors[:, ::-1][:, :5]
    assert projection.basis.shape == (12, 5)
    unit = projection.basis / np.linalg.norm(projection.basis, axis=0)
    assert np.abs(np.abs((unit * vectors).sum(axis=0)) - 1).max() < 1e-4
    # Half-whitened: the deviation of a projected column is the fourth root of the variance, up to one factor.
    deviations = ((raw - projection.mean) @ projection.basis).std(axis=0)
    assert np.ptp(deviations / values**0.25) / deviations[0] < 1e-3


def test_projected_rows_have_length_one_even_where_nothing_is_left():
    projection = fit_projection(rows(), 5)
    projected = projection.apply(np.vstack([rows(seed=1), projection.mean[None]]))
    assert np.abs(np.linalg.norm(projected, axis=1) - 1).max() < 1e-6
    assert projected[-1].tolist() == [1, 0, 0, 0, 0]


def test_it_is_the_same_twice_and_smaller_for_few_photos():
    assert np.array_equal(fit_projection(rows(), 5).basis, fit_projection(rows(), 5).basis)
    assert fit_projection(rows(4), 1024).basis.shape == (12, 3)


@pytest.mark.parametrize("raw", [rows(1), np.ones((5, 12), np.float32)])
def test_too_little_to_fit_on_is_refused(raw):
    with pytest.raises(InputError):
        fit_projection(raw, 4)


def test_packing_costs_one_half_step_or_the_clipped_tail():
    basis = np.random.default_rng(0).standard_normal((199, 7)).astype(np.float32)
    basis[:, 3] = 0
    codes, steps = pack(basis)
    assert codes.shape == (100, 7)
    assert codes.dtype == np.uint8
    again = unpack(codes, steps, 199)
    assert again.shape == basis.shape
    inside = np.abs(basis) < 7 * steps
    assert np.abs(again - basis)[inside].max() <= steps.max() / 2 + 1e-6
    assert np.corrcoef(again[:, :3].ravel(), basis[:, :3].ravel())[0, 1] > 0.99
    assert not again[:, 3].any()
    assert isinstance(Projection(basis[0], again), Projection)
