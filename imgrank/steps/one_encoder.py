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
    wanted = bundles[0].descriptors.dim, _decides(first)
    for other in bundles[1:]:
        held = other.descriptors.provenance
        if (held.model_revision, (other.descriptors.dim, _decides(held))) != (first.model_revision, wanted):
            raise MismatchError(
                other.path,
                f"holds descriptors of {_described(held)}, but {bundles[0].path} those of {_described(first)}; these "
                "cannot be compared: search the two one by one, or index the photos of one into a new file with the "
                "encoder of the other",
            )


def _decides(provenance: Provenance) -> tuple[object, ...]:
    """Return the settings that decide what a descriptor means.

    The model's name is not among them, since its folder may have moved, nor where the projection came from: the
    revision tells weights and projections apart. Nor is the number type, in which the descriptors of a photo are close.
    """
    settings = EncoderSettings.from_json(provenance.settings)
    return settings.pooling, settings.gem_p, settings.image_size, settings.scales


def _described(provenance: Provenance) -> str:
    settings = EncoderSettings.from_json(provenance.settings)
    facts = [provenance.model_revision, f"pooling {settings.pooling}"]
    if settings.image_size is not None:
        facts.append(f"{settings.image_size} pixels")
    if settings.scales is not None:
        facts.append(f"scales {', '.join(f'{scale:g}' for scale in settings.scales)}")
    if settings.projection == "collection":
        facts.append("a projection of its own")
    elif settings.projection != "default":
        facts.append(f"projection {settings.projection}")
    return f"{provenance.model} ({', '.join(facts)})"
