"""What every global-descriptor encoder looks like to the rest of imgrank.

This module knows no model and no library. A new encoder is one class with these members and one line in `registry`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from imgrank.arrays import Floats, Pixels

if TYPE_CHECKING:
    from imgrank.local.features import LocalFeatures

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None


@dataclass(frozen=True, eq=False)
class Encoded:
    """What one batch of photos became.

    Attributes:
        descriptors: (n, dim) float32, unit rows, in the order of the photos.
        local: the local features behind each descriptor, n of them, where the encoder has any.
    """

    descriptors: Floats
    local: list[LocalFeatures] | None = None


class Encoder(Protocol):
    """Turns photos into global descriptors whose dot product is the similarity."""

    @property
    def name(self) -> str:
        """As the user named it: "builtin", or a Hugging Face id or folder."""
        ...

    @property
    def revision(self) -> str:
        """Which weights: a commit hash, or a digest of the weight files. Descriptors of two revisions do not mix."""
        ...

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        ...

    @property
    def settings(self) -> Mapping[str, JSON]:
        """Everything else that decides the descriptors, as it goes into the bundle."""
        ...

    @property
    def longer_side(self) -> int | None:
        """Pixels to which the longer side of a photo may be reduced while it is decoded; None: full size only."""
        ...

    @property
    def batch_size(self) -> int:
        """How many photos the caller should pass at a time. It may fall while encoding, when memory runs out."""
        ...

    def encode(self, images: Sequence[Pixels]) -> Encoded:
        """Compute the descriptors of one batch.

        The same photos in the same batch give the same bits. A photo in another batch may differ in the last bits,
        because matrix products sum in an order that depends on their size: cut batches at fixed places.

        Args:
            images: n photos, each (height, width, 3) uint8 sRGB after the EXIF turn; the sizes may differ.

        Returns:
            n descriptors, in the order of the photos.

        Raises:
            InputError: a photo has another shape or type.
            ImgrankError: the model gave NaN or infinite values.
            MissingDeviceError: one photo alone does not fit into the device's memory.
        """
        ...


def same_space(settings: Mapping[str, JSON], others: Mapping[str, JSON]) -> bool:
    """Tell whether descriptors made under two settings can be compared, given the same model and revision.

    The number type may differ: a collection indexed in bfloat16 on a server is searched in float32 on a laptop, and
    the two descriptors of a photo are then close, not equal. Everything else must be the same.
    """
    return {**settings, "dtype": None} == {**others, "dtype": None}
