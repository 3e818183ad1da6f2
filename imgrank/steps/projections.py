"""Which projection a run takes: the one a bundle holds, one of a file, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from imgrank.bundle.file import Bundle
from imgrank.bundle.provenance import Provenance
from imgrank.config import UNKNOWN, EncoderSettings, ProjectionChoice
from imgrank.errors import InputError
from imgrank.images.scan import printable
from imgrank.local.projection import Projection
from imgrank.nearest import did_you_mean


def bundle_projection(opened: Bundle) -> Projection | None:
    """Return the projection that a bundle's descriptors went through, if there is one beside the encoder's own."""
    arrays = opened.descriptor_table.projection() if opened.descriptor_table is not None else None
    return None if arrays is None else Projection(*arrays)


def with_projection(
    asked: EncoderSettings | None, stored: Provenance | None, held: Projection | None
) -> tuple[EncoderSettings | None, Projection | None]:
    """Read the projection that is asked for, where it is a file.

    A bundle keeps the arrays, and of the file its name and the digest of the arrays: the file is not needed again.

    Args:
        asked: what a run is told.
        stored: what the bundle's descriptors were made with.
        held: the bundle's projection.

    Returns:
        what is asked, with the file as a bundle names it, `NAME@DIGEST`; and the projection, None where it is to be
        fitted or there is none.

    Raises:
        InputError: there is no such file, or it holds no projection.
    """
    if asked is None or asked.projection in get_args(ProjectionChoice):
        return asked, held
    known = None
    if stored is not None and stored.model != UNKNOWN:
        known = EncoderSettings.from_json(stored.settings).projection
    if asked.projection == known:
        return asked, held
    from imgrank.encode.projection_file import read_projection

    path = Path(asked.projection)
    if not path.exists():
        hint = did_you_mean(asked.projection, get_args(ProjectionChoice), 1)
        raise InputError(
            f"--projection {asked.projection}: no such file{f'; {hint}' if hint else ''}; it takes "
            f"{', '.join(get_args(ProjectionChoice))} or a file, and a bundle that has one needs neither"
        )
    projection = read_projection(path, dim=asked.projection_dim, whitening=asked.whitening)
    # The same projection under another name is no other one.
    same = known is not None and known.endswith(f"@{projection.digest}")
    return replace(asked, projection=known if known is not None and same else stored_name(path, projection)), projection


def stored_name(path: Path, projection: Projection) -> str:
    """Return how a bundle names the projection of a file: NAME@DIGEST."""
    return f"{printable(path.name)}@{projection.digest}"
