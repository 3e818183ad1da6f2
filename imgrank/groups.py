"""Groups of photos: the record that `group` and `dedup` write, and its text forms."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imgrank.results import SCHEMA_VERSION, short, tsv_field


@dataclass(frozen=True)
class Photo:
    """One photo of a group."""

    id: int  # of the photo in its bundle
    path: bytes  # that opens from the working directory
    bundle: bytes | None = None  # path of the bundle that the id is of, as given, where there are several

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the record; absent ones are left out."""
        record: dict[str, Any] = {"id": self.id, "path": os.fsdecode(self.path)}
        if self.bundle is not None:
            record["bundle"] = os.fsdecode(self.bundle)
        return record


@dataclass(frozen=True)
class Edge:
    """What is known of two photos of a group: why they are in it."""

    first: int  # place among the photos of the group, from 0
    second: int
    similarity: float  # cosine of the two descriptors
    score: float | None  # of the scorer, in [0, 1]; None: nobody looked at the pair

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the record; absent ones are left out."""
        record: dict[str, Any] = {"photos": [self.first, self.second], "similarity": short(self.similarity)}
        if self.score is not None:
            record["score"] = short(self.score)
        return record


@dataclass(frozen=True)
class Group:
    """Photos that belong together."""

    number: int  # 1 for the largest
    photos: tuple[Photo, ...]
    edges: tuple[Edge, ...] | None = None  # None: not asked for

    def to_dict(self) -> dict[str, Any]:
        """Return the record's fields in their documented order; absent ones are left out."""
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "group": self.number,
            "size": len(self.photos),
            "photos": [photo.to_dict() for photo in self.photos],
        }
        if self.edges is not None:
            record["edges"] = [edge.to_dict() for edge in self.edges]
        return record


def encode_groups(groups: Sequence[Group], form: str, *, nul: bool = False, duplicates: bool = False) -> bytes:
    """Return groups as lines of one of the formats but `table`.

    Args:
        groups: in their order.
        form: "jsonl", a line for each group; "tsv", a line for each photo, after a header; or "paths", a path a line,
            with an empty line between groups.
        nul: end each line with NUL instead of a newline (for `paths`, any name then survives).
        duplicates: leave out the first photo of each group, and write all others as one list: JSON lines are then of
            photos, `schema_version, group, id, path, duplicate_of`, and no empty line stands between groups.
    """
    if form == "tsv":
        lines = [_header(groups, duplicates)]
        lines += [_row(group, photo, duplicates) for group in groups for photo in group.photos[duplicates:]]
    elif form == "paths" and duplicates:
        lines = [photo.path for group in groups for photo in group.photos[1:]]
    elif form == "paths":
        lines = [path for group in groups for path in (b"", *(photo.path for photo in group.photos))][1:]
    elif duplicates:
        lines = [_duplicate(group, photo) for group in groups for photo in group.photos[1:]]
    else:
        lines = [json.dumps(group.to_dict()).encode() for group in groups]
    end = b"\0" if nul else b"\n"
    return b"".join(line + end for line in lines)


def _duplicate(group: Group, photo: Photo) -> bytes:
    own = photo.to_dict()
    record = {"schema_version": SCHEMA_VERSION, "group": group.number, **own, "duplicate_of": group.photos[0].id}
    return json.dumps(record).encode()


def _header(groups: Sequence[Group], duplicates: bool) -> bytes:
    names = ["group", "size", "id", "path"]
    if duplicates:
        names.append("duplicate_of")
    if any(photo.bundle is not None for group in groups for photo in group.photos):
        names.append("bundle")
    return "\t".join(names).encode()


def _row(group: Group, photo: Photo, duplicates: bool) -> bytes:
    fields = [b"%d" % number for number in (group.number, len(group.photos), photo.id)] + [tsv_field(photo.path)]
    if duplicates:
        fields.append(b"%d" % group.photos[0].id)
    if photo.bundle is not None:
        fields.append(tsv_field(photo.bundle))
    return b"\t".join(fields)
