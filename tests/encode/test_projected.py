"""Descriptors through a projection of the user's own."""

from types import MappingProxyType

import numpy as np
import pytest

from imgrank.config import EncoderSettings
from imgrank.encode.base import Encoded
from imgrank.encode.projected import ProjectedEncoder
from imgrank.encode.registry import load_encoder
from imgrank.errors import InputError, MismatchError
from imgrank.local.projection import Projection


class Sums:
    """An encoder whose vector of a photo is its first pixel's three values."""

    name, revision, dim, longer_side, batch_size = "sums", "1", 3, 64, 4
    settings = MappingProxyType({})

    def encode(self, images) -> Encoded:
        return Encoded(np.array([image[0, 0] for image in images], np.float32))


def photo(*values: int) -> np.ndarray:
    return np.array([[values]], np.uint8)


PROJECTION = Projection(np.array([1, 1, 1], np.float32), np.array([[3, 0], [0, 4], [0, 0]], np.float32))


def test_centre_rotate_normalise() -> None:
    encoder = ProjectedEncoder(Sums(), PROJECTION)
    # (2, 2, 9) - 1 = (1, 1, 8); times the basis (3, 4); length 5.
    np.testing.assert_allclose(encoder.encode([photo(2, 2, 9)]).descriptors, [[0.6, 0.8]], rtol=1e-6)
    assert (encoder.dim, encoder.name, encoder.longer_side, encoder.batch_size) == (2, "sums", 64, 4)


def test_the_revision_names_the_projection() -> None:
    other = Projection(PROJECTION.mean, PROJECTION.basis * 2)
    revisions = {ProjectedEncoder(Sums(), one).revision for one in (PROJECTION, other)}
    assert len(revisions) == 2
    assert all(revision.startswith("1+") for revision in revisions)
    assert ProjectedEncoder(Sums(), PROJECTION).revision in revisions


def test_a_projection_for_other_vectors_is_refused() -> None:
    encoder = ProjectedEncoder(Sums(), Projection(np.zeros(4, np.float32), np.zeros((4, 2), np.float32)))
    with pytest.raises(MismatchError, match="takes 4 numbers, the encoder gives 3"):
        encoder.encode([photo(1, 2, 3)])


def test_a_bias_is_added_before_the_length_is_taken() -> None:
    biased = Projection(PROJECTION.mean, PROJECTION.basis, np.array([1, -7], np.float32))
    encoder = ProjectedEncoder(Sums(), biased)
    # As above (3, 4), and then (3 + 1, 4 - 7) = (4, -3).
    np.testing.assert_allclose(encoder.encode([photo(2, 2, 9)]).descriptors, [[0.8, -0.6]], rtol=1e-6)
    assert encoder.revision != ProjectedEncoder(Sums(), PROJECTION).revision


def test_the_builtin_encoder_takes_a_projection_of_its_raw_vectors_or_of_its_descriptors() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    settings = EncoderSettings(projection="file@1")
    vectors = [load_encoder(one).encode([image]).descriptors for one in (EncoderSettings(), settings)]
    for raw in vectors:
        dim = raw.shape[1]
        projection = Projection(np.zeros(dim, np.float32), rng.normal(size=(dim, 8)).astype(np.float32))
        found = load_encoder(settings, projection=projection).encode([image]).descriptors
        np.testing.assert_array_equal(found, projection.apply(raw))
    assert [raw.shape[1] for raw in vectors] == [1024, 3432]
    short = Projection(np.zeros(9, np.float32), np.ones((9, 2), np.float32))
    with pytest.raises(InputError, match="file@1 takes vectors of 9 numbers, and those of builtin have 3432"):
        load_encoder(settings, projection=short)
