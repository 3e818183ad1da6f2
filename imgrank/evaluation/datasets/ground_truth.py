"""Ground truth in the form of Oxford and Paris: photos, queries, and for each query a box and lists of positions.

`gnd_NAME.pkl` or, as it was published first, `gnd_NAME.mat`, with the variables `imlist`, `qimlist` and `gnd`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.boxes import Box
from imgrank.errors import InputError
from imgrank.evaluation.matfile import read_mat
from imgrank.evaluation.unpickle import read_pickle

_VARIABLES = ("imlist", "qimlist", "gnd")


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """What such a file says; names as they stand in it.

    Attributes:
        path: of the file.
        title: of the data set that it should be of, for messages.
        photos: names of the database, each once.
        queries: names of the query photos.
        judged: for each query, what is said of it.
        first: the position of the first photo: 0, or 1 in files of MATLAB.
    """

    path: Path
    title: str
    photos: tuple[bytes, ...]
    queries: tuple[bytes, ...]
    judged: tuple[Mapping[str, Any], ...]
    first: int

    def wrong(self, reason: str) -> InputError:
        """Return the error that says so."""
        return _wrong(self.path, self.title, reason)

    def positions(self, query: int, key: str) -> list[int]:
        """Return positions in `photos`, from 0.

        Raises:
            InputError: the list is missing, or is not one of positions.
        """
        try:
            numbers = np.asarray(self._of(query, key)).ravel()
            whole = numbers.astype(np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._bad(query, key, "no list of positions") from error
        if numbers.dtype.kind not in "iuf" or (whole != numbers).any():
            raise self._bad(query, key, "no list of positions")
        found = (whole - self.first).tolist()
        for place in found:
            if not 0 <= place < len(self.photos):
                raise self._bad(query, key, f"photo {place + self.first}, but there are {len(self.photos)}")
        return found

    def numbers(self, query: int, key: str) -> tuple[float, float, float, float]:
        """Return the four numbers of a box.

        Raises:
            InputError: they are missing, or are not four numbers.
        """
        try:
            x0, y0, x1, y1 = (float(number) for number in np.asarray(self._of(query, key)).ravel().tolist())
        except (TypeError, ValueError, OverflowError) as error:
            raise self._bad(query, key, "no box of four numbers") from error
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            raise self._bad(query, key, "no box of four numbers")
        return x0, y0, x1, y1

    def box(self, query: int, corners: tuple[float, float, float, float]) -> Box:
        """Return the box between two corners, each number rounded as Pillow's `crop` does: halves to the even.

        Raises:
            InputError: nothing is between them.
        """
        x0, y0, x1, y1 = (max(round(number), 0) for number in corners)
        if x1 <= x0 or y1 <= y0:
            raise self._bad(query, "bbx", f"an empty box {corners}")
        return Box(x0, y0, x1 - x0, y1 - y0)

    def _of(self, query: int, key: str) -> Any:
        if key not in self.judged[query]:
            known = ", ".join(sorted(map(str, self.judged[query]))) or "nothing"
            raise self.wrong(f"query {query + 1} has no {key!r} (it has {known})")
        return self.judged[query][key]

    def _bad(self, query: int, key: str, reason: str) -> InputError:
        return self.wrong(f"{key!r} of query {query + 1} holds {reason}")


def read_ground_truth(folder: Path, stem: str, title: str, layout: Sequence[str]) -> GroundTruth:
    """Read `STEM.pkl` of a folder, or `STEM.mat` where that is missing.

    Raises:
        InputError: there is neither, or it has another form.
    """
    pickled, matlab = folder / f"{stem}.pkl", folder / f"{stem}.mat"
    path = pickled if pickled.exists() or not matlab.exists() else matlab
    if not path.exists():
        raise InputError(f"{path}: there is no such file; {title} needs {'; '.join(layout)}")
    content = read_pickle(path) if path is pickled else read_mat(path, _VARIABLES)
    found = _text_keys(content)
    missing = [name for name in _VARIABLES if name not in found]
    if missing:
        raise _wrong(path, title, f"it has no {' and no '.join(map(repr, missing))}")
    photos, queries = (_names(path, title, name, found[name]) for name in ("imlist", "qimlist"))
    if len(set(photos)) != len(photos):
        raise _wrong(path, title, "'imlist' names a photo twice")
    judged = found["gnd"]
    if not isinstance(judged, (list, tuple)) or len(judged) != len(queries) or not queries:
        raise _wrong(path, title, f"'gnd' is not a list of as many entries as the {len(queries)} queries")
    return GroundTruth(path, title, photos, queries, tuple(map(_text_keys, judged)), int(path is matlab))


def _text_keys(value: Any) -> dict[str, Any]:
    """Return a dict with text for the bytes that Python 2 wrote; an empty one for something else."""
    if not isinstance(value, dict):
        return {}
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): item for key, item in value.items()}


def _names(path: Path, title: str, key: str, values: Any) -> tuple[bytes, ...]:
    listed = values.ravel().tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(listed, (list, tuple)):
        raise _wrong(path, title, f"{key!r} is no list of names")
    return tuple(_name(path, title, key, value) for value in listed)


def _name(path: Path, title: str, key: str, value: Any) -> bytes:
    try:
        name = value if isinstance(value, bytes) else os.fsencode(value if isinstance(value, str) else "")
    except UnicodeEncodeError:
        name = b""
    if not name or b"\0" in name or name.startswith(b"/") or b".." in name.split(b"/"):
        raise _wrong(path, title, f"{key!r} holds {str(value)[:60]!r}, which is no name of a photo below the folder")
    return name


def _wrong(path: Path, title: str, reason: str) -> InputError:
    return InputError(f"{path} is no ground truth of {title}, or is damaged: {reason}")
