"""Where a derived group comes from: its model, its settings, and a digest of what it was computed from.

"Older than its inputs" is then a comparison of two short strings, never of times.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py

from imgrank.bundle import layout
from imgrank.bundle.attributes import int_attribute, set_text, text_attribute
from imgrank.errors import DamagedBundleError, FormatVersionError
from imgrank.version import __version__

CREATED_BY = f"imgrank {__version__}"


@dataclass(frozen=True)
class Provenance:
    """The attributes that every derived group carries."""

    model: str  # what computed it: "builtin", a model id or folder, "hnswlib"
    model_revision: str
    settings: str  # JSON
    input_digest: str = ""  # of what it was computed from; see `digest_of`
    created_by: str = CREATED_BY


def write_provenance(group: h5py.Group, version: int, provenance: Provenance) -> None:
    """Write the attributes of a derived group, new or again."""
    group.attrs[layout.VERSION_ATTRIBUTE] = version
    set_text(group, "model", provenance.model)
    set_text(group, "model-revision", provenance.model_revision)
    set_text(group, "settings", provenance.settings)
    set_text(group, "input-digest", provenance.input_digest)
    set_text(group, "created-by", provenance.created_by)


def read_provenance(path: Path, group: h5py.Group, version: int) -> Provenance:
    """Read and check the attributes of a derived group.

    Raises:
        FormatVersionError: written by a newer imgrank.
        DamagedBundleError: an attribute is missing or of another type.
    """
    check_version(path, group, version)
    values = {name: text_attribute(path, group, name) for name in layout.PROVENANCE_ATTRIBUTES}
    try:
        settings = json.loads(values["settings"])
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise DamagedBundleError(path, f"{group.name}@settings", "is not a JSON object")
    return Provenance(
        model=values["model"],
        model_revision=values["model-revision"],
        settings=values["settings"],
        input_digest=values["input-digest"],
        created_by=values["created-by"],
    )


def check_version(path: Path, group: h5py.Group, supported: int) -> int:
    """Return the version of a group; refuse one that a newer imgrank wrote."""
    found = int_attribute(path, group, layout.VERSION_ATTRIBUTE)
    if found > supported:
        raise FormatVersionError(path, group.name, found, supported)
    return found


def digest_of(parts: Iterable[bytes | str]) -> str:
    """Return a 16-byte BLAKE2b digest of parts, as hexadecimal; the parts are kept apart by their lengths."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()
