"""What `check` can find in a bundle: codes that stay the same, how bad each is, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Severity = Literal["error", "warning", "note"]

# code -> (severity, what it means, what mends it; {bundle} and {part} are filled in)
CODES: dict[str, tuple[Severity, str, str]] = {
    "unreadable": ("error", "the file cannot be opened as a bundle", "restore a copy"),
    "part-unreadable": ("error", "a part has no sound structure", "imgrank check {bundle} --repair"),
    "journal-foreign": ("error", "the journal beside the file is of another file", "delete the journal"),
    "image-checksum": ("error", "rows of photos do not match their checksums", "imgrank check {bundle} --repair"),
    "image-ids": ("error", "ids do not ascend, or the next one is in use", "restore a copy"),
    "image-paths": ("error", "paths are damaged, or lead out of the root", "imgrank check {bundle} --repair"),
    "path-twice": ("warning", "two live rows have one path", "imgrank index PHOTOS -o {bundle}"),
    "descriptor-checksum": ("error", "descriptors do not match their checksums", "imgrank check {bundle} --repair"),
    "descriptor-values": ("error", "descriptors are not finite", "imgrank check {bundle} --repair"),
    "descriptor-norm": ("error", "descriptors of photos do not have length 1", "imgrank check {bundle} --repair"),
    "projection-checksum": ("error", "the projection is damaged", "restore a copy, or index into a new file"),
    "graph-damaged": ("error", "the graph is damaged", "imgrank index {bundle}"),
    "graph-stale": ("error", "the graph is older than the descriptors", "imgrank index {bundle}"),
    "graph-behind": ("note", "photos are not in the graph yet, and are searched exactly", "imgrank index {bundle}"),
    "graph-unreachable": ("warning", "a search cannot reach photos of the graph", "imgrank index {bundle} --rebuild"),
    "graph-recall": ("warning", "photos do not find themselves", "imgrank index {bundle} --rebuild --m 32"),
    "graph-missing": ("note", "there is no graph: only --exact works", "imgrank index {bundle}"),
    "cache-offsets": ("error", "the offsets of a cache are damaged", "imgrank check {bundle} --repair"),
    "cache-checksum": ("error", "cached tokens do not match their checksums", "imgrank check {bundle} --repair"),
    "cache-codebooks": ("error", "the codebooks of a cache are damaged", "imgrank check {bundle} --repair"),
    "cache-proof": ("error", "the proof of a cache is damaged", "imgrank check {bundle} --repair"),
    "cache-settings": ("error", "what a cache says of itself cannot be understood", "imgrank check {bundle} --repair"),
    "cache-behind": ("note", "photos are not cached yet", "imgrank cache-tokens {bundle} --cache {part}"),
    "cache-unfinished": ("note", "a cache was begun and is not complete", "run the command that made it again"),
    "calibration-damaged": ("error", "a calibration is damaged", "imgrank check {bundle} --repair"),
    "thumbnail-damaged": ("error", "thumbnails are damaged", "imgrank check {bundle} --repair"),
    "thumbnails-behind": ("note", "photos have no thumbnails yet", "imgrank index {bundle} --thumbnails N"),
    "photo-missing": ("warning", "photos are not on the disk", "imgrank remove {bundle} --missing, or relocate"),
    "photo-changed": ("warning", "photos have another size or time than when they were embedded",
                      "imgrank index PHOTOS -o {bundle}"),
    "space": ("note", "bytes of the file that nothing uses", "imgrank compact {bundle}"),
    "leftover": ("note", "files of runs that were cut lie beside the bundle", "run the command that made them again"),
    "version-old": ("note", "the bundle is of an older format version", "imgrank migrate {bundle}"),
}  # fmt: skip
_LISTED = 20  # rows of one finding


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        code: one of CODES.
        part: HDF5 path, or a file.
        count: how many rows, photos, bytes or files it is about.
        detail: in words; empty where code and count say it all.
        rows: of the images it is about, the first few.
    """

    code: str
    part: str
    count: int = 1
    detail: str = ""
    rows: tuple[int, ...] = ()

    @property
    def severity(self) -> Severity:
        """Return how bad it is."""
        return CODES[self.code][0]

    def meaning(self) -> str:
        """Return what the code means."""
        return CODES[self.code][1]

    def mend(self, bundle: str) -> str:
        """Return the command, or the words, that mend it."""
        return CODES[self.code][2].format(bundle=bundle, part=self.part.rsplit("/", 1)[-1])

    def record(self, bundle: str) -> dict[str, Any]:
        """Return it as plain values."""
        own = {**asdict(self), "rows": list(self.rows)}
        return {**own, "severity": self.severity, "meaning": self.meaning(), "mend": self.mend(bundle)}


def of_rows(code: str, part: str, rows: Iterable[int] | npt.NDArray[np.int64], detail: str = "") -> list[Finding]:
    """Return one finding about rows; none where there are no rows."""
    found = [int(row) for row in rows]
    return [Finding(code, part, len(found), detail, tuple(found[:_LISTED]))] if found else []
