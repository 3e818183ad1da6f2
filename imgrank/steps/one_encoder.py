"""Whether the descriptors of several bundles can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from imgrank.bundle.file import Bundle
from imgrank.bundle.provenance import Provenance
from imgrank.config import EncoderSettings
from imgrank.errors import MismatchError


def check_one_encoder(bundles: Sequence[Bundle]) -> None:
    """Refuse bundles whose descriptors cannot be compared with each other.

    Raises:
        MismatchError: they were made with different encoders.
        MissingGroupError: a bundle has no descriptors.
    """
    first = bundles[0].descriptors.provenance
    wanted = _decides(first)
    for other in bundles[1:]:
        held = other.descriptors.provenance
        if (held.model_revision, _decides(held)) != (first.model_revision, wanted):
            raise MismatchError(bundles[0].path, f"{first.model} against {held.model} in {other.path}")


def _decides(provenance: Provenance) -> tuple[object, ...]:
    settings = EncoderSettings.from_json(provenance.settings)
    return settings.pooling, settings.image_size, settings.projection
