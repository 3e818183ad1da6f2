"""An encoder whose descriptors go through a projection: fitted on one collection, or read from a file.

The projection lies in the bundle; descriptors of two projections do not mix, so its digest is part of the revision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from imgrank.arrays import Pixels
from imgrank.encode.base import JSON, Encoded, Encoder
from imgrank.errors import MismatchError
from imgrank.local.projection import Projection


class ProjectedEncoder:
    """Wraps an encoder.

    Args:
        base: gives the vectors that the projection was fitted on.
        projection: from `fit_projection` or `read_projection`.
    """

    def __init__(self, base: Encoder, projection: Projection) -> None:
        self._base, self._projection = base, projection
        self.revision = f"{base.revision}+{projection.digest}"
        self.dim = projection.basis.shape[1]

    @property
    def name(self) -> str:
        """Return the name of the wrapped encoder."""
        return self._base.name

    @property
    def settings(self) -> Mapping[str, JSON]:
        """Return the settings of the wrapped encoder."""
        return self._base.settings

    @property
    def longer_side(self) -> int | None:
        """Return what the wrapped encoder wants."""
        return self._base.longer_side

    @property
    def batch_size(self) -> int:
        """Return what the wrapped encoder wants."""
        return self._base.batch_size

    def encode(self, images: Sequence[Pixels]) -> Encoded:
        """Compute the descriptors of one batch; see `Encoder.encode`.

        Raises:
            MismatchError: the projection is for vectors of another length.
        """
        encoded = self._base.encode(images)
        if encoded.descriptors.shape[1] != len(self._projection.mean):
            raise MismatchError(
                self.name,
                f"the projection in the bundle takes {len(self._projection.mean)} numbers, the encoder gives "
                f"{encoded.descriptors.shape[1]}; index the photos into a new file",
            )
        return Encoded(self._projection.apply(encoded.descriptors), encoded.local)
