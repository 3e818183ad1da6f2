"""The encoder that a bundle's descriptors were made with."""

from __future__ import annotations

from dataclasses import replace

from imgrank.bundle.file import Bundle
from imgrank.config import UNKNOWN, EncoderSettings
from imgrank.encode.base import Encoder
from imgrank.errors import MismatchError
from imgrank.steps.projections import bundle_projection


def load_bundle_encoder(bundle: Bundle, model: str | None, device: str) -> Encoder:
    """Load the encoder that a bundle's descriptors were made with.

    Raises:
        MismatchError: it is here in another revision; or the descriptors were imported, nobody said what computed
            them, and `model` does not say it either or makes descriptors of another length.
    """
    from imgrank.encode.registry import load_encoder

    provenance = bundle.descriptors.provenance
    if provenance.model == UNKNOWN:
        return _named_encoder(bundle, model, device)
    settings = EncoderSettings.from_json(provenance.settings)
    if model is not None:
        settings = replace(settings, model=model)
    encoder = load_encoder(settings, device=device, projection=bundle_projection(bundle), alike=[provenance.model])
    if encoder.revision != provenance.model_revision:
        raise MismatchError(
            bundle.path,
            f"holds descriptors of {provenance.model} ({provenance.model_revision}), but here it is "
            f"{encoder.name} ({encoder.revision}); search with the revision it was made with",
        )
    return encoder


def _named_encoder(bundle: Bundle, model: str | None, device: str) -> Encoder:
    """Load the encoder that the user says computed imported descriptors; its length is all that can be checked."""
    from imgrank.encode.registry import load_encoder

    if model is None:
        raise MismatchError(
            bundle.path,
            "its descriptors were imported, and nobody said what computed them; name the encoder that does the same "
            "with query photos (--encoder MODEL), or give the descriptors of the queries (--descriptors FILE)",
        )
    projection = bundle_projection(bundle)
    settings = EncoderSettings(model=model, projection="default" if projection is None else "in the bundle")
    encoder = load_encoder(settings, device=device, projection=projection)
    if encoder.dim != bundle.descriptors.dim:
        raise MismatchError(
            bundle.path,
            f"holds imported descriptors of {bundle.descriptors.dim} numbers, {encoder.name} computes {encoder.dim}; "
            "name the encoder that they are of",
        )
    return encoder
