"""Which photos of a bundle are searched: patterns over their stored paths."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_MAGIC = b"*?["


def matcher(patterns: Sequence[bytes]) -> re.Pattern[bytes]:
    """Return what matches the paths that one of the patterns means.

    A pattern with *, ? or [...] is of a whole stored path, and * goes through folders. Any other means the photo of
    that path, or all photos below the folder of that path.
    """
    sources = []
    for pattern in patterns:
        if any(character in pattern for character in _MAGIC):
            sources.append(fnmatch.translate(pattern.decode("latin-1")).encode("latin-1"))
        elif pattern.rstrip(b"/") in (b"", b"."):
            sources.append(rb"(?s:.*)\Z")
        else:
            sources.append(re.escape(pattern.rstrip(b"/")) + rb"(?s:/.*)?\Z")
    return re.compile(b"|".join(b"(?:%s)" % source for source in sources))


@dataclass(frozen=True)
class Selection:
    """Patterns over stored paths, which are relative to the root of their bundle.

    Attributes:
        include: a photo must fit one of them; none: all do.
        exclude: a photo must fit none of them.
    """

    include: tuple[bytes, ...] = ()
    exclude: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        """Return whether any photo may be left out."""
        return bool(self.include or self.exclude)

    def mask(self, paths: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """Return (n,) which of n stored paths are searched."""
        chosen = np.ones(len(paths), dtype=np.bool_)
        if self.include:
            wanted = matcher(self.include)
            chosen &= np.fromiter((wanted.match(path) is not None for path in paths), np.bool_, len(paths))
        if self.exclude:
            unwanted = matcher(self.exclude)
            chosen &= np.fromiter((unwanted.match(path) is None for path in paths), np.bool_, len(paths))
        return chosen
