"""The photos of one or several bundles as one collection: what a search and a second stage work on.

Rows are numbered through: those of the first bundle, then those of the second, and so on, as in the bundle that all of
them would make together. With one bundle these are its own rows.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids, Pixels
from imgrank.config import DecodeSettings
from imgrank.errors import InputError, SettingsError
from imgrank.images.scan import display
from imgrank.records import OK, STATUS_NAMES
from imgrank.results import Hit
from imgrank.steps.photos import BundlePhotos, open_photos
from imgrank.steps.selection import Selection


class Collection:
    """Photos of bundles, in the order in which the bundles are given.

    A photo that several bundles list, the same file with the same content, counts once: the first of them has it.

    Args:
        parts: the photos of each bundle, at least one.
        selection: which of them are searched.
        only: (n,) bool, which rows may be found at all; None: all.

    Raises:
        SettingsError: a bundle is among them twice.
    """

    def __init__(
        self,
        parts: Sequence[BundlePhotos],
        selection: Selection | None = None,
        only: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        bundles = [part.bundle.path for part in parts]
        _refuse_twice(bundles)
        self.parts, self._selection, self._only = tuple(parts), selection, only
        self._names = [os.fsencode(bundle) for bundle in bundles]
        self._starts = [0, *accumulate(map(len, self.parts))]  # rows of part i: starts[i] to starts[i + 1]

    @classmethod
    def of(cls, photos: BundlePhotos | Collection) -> Collection:
        """Take the photos of one bundle for a collection."""
        return photos if isinstance(photos, Collection) else cls([photos])

    def selecting(self, selection: Selection) -> Collection:
        """Return the same photos, of which others are searched."""
        if selection == (self._selection or Selection()):
            return self
        return Collection(self.parts, selection, self._only)

    def restricted(self, rows: npt.NDArray[np.bool_]) -> Collection:
        """Return the same photos, of which only those of some rows may be found, by a (n,) mask."""
        return self if rows.all() else Collection(self.parts, self._selection, rows)

    def __len__(self) -> int:
        """Return how many rows there are, those that are not searched included."""
        return self._starts[-1]

    @property
    def settings(self) -> DecodeSettings:
        """Return the limits for decoding."""
        return self.parts[0].settings

    @property
    def several(self) -> bool:
        """Return whether hits have to say which bundle they are of."""
        return len(self.parts) > 1

    @property
    def selected(self) -> bool:
        """Return whether a selection of the photos is searched."""
        return bool(self._selection) or self._only is not None

    @property
    def title(self) -> str:
        """Return the names of the bundles, for messages."""
        return " with ".join(os.fspath(part.bundle.path) for part in self.parts)

    # From rows to photos

    def first_row(self, part: int) -> int:
        """Return the number of a bundle's row 0."""
        return self._starts[part]

    def locate(self, row: int) -> tuple[int, int]:
        """Return the number of the bundle that a row is of, and its row there."""
        part = bisect_right(self._starts, row) - 1  # the last of several equal starts: empty bundles have no rows
        return part, row - self._starts[part]

    def split(self, rows: Ids) -> Iterator[tuple[int, Ids, Ids]]:
        """Yield for each bundle that has some of the rows: its number, their places among `rows`, and its own rows.

        Args:
            rows: (n,) int64, in any order.
        """
        for part, start in enumerate(self._starts[:-1]):
            places = np.flatnonzero((rows >= start) & (rows < self._starts[part + 1]))
            if len(places):
                yield part, places, rows[places] - start

    def descriptors(self, rows: Ids) -> Floats:
        """Read the (n, dim) float32 descriptors of rows, as they were computed."""
        vectors = np.empty((len(rows), self.parts[0].bundle.descriptors.dim), dtype=np.float32)
        for part, places, own in self.split(rows):
            vectors[places] = self.parts[part].bundle.descriptors.read_rows(own)
        return vectors

    def pixels(self, row: int, longer_side: int | None) -> Pixels:
        """Decode the photo of a row; see `BundlePhotos.pixels`."""
        part, own = self.locate(row)
        return self.parts[part].pixels(own, longer_side)

    def path(self, row: int) -> bytes:
        """Return a path to the photo of a row that opens from the working directory."""
        part, own = self.locate(row)
        return self.parts[part].path(own)

    def hit(self, query: bytes, rank: int, row: int, similarity: float) -> Hit:
        """Return the record of a photo that was found."""
        return self.hits(query, np.array([row], dtype=np.int64), [similarity], rank)[0]

    def hits(self, query: bytes, rows: Ids, similarities: Sequence[float], first: int = 1) -> list[Hit]:
        """Return the records of photos that were found, best first; `first` is the rank of the first of them."""
        found: list[Hit | None] = [None] * len(rows)
        for part, places, own in self.split(rows):
            photos, label = self.parts[part], self._label(part)
            facts = zip(places.tolist(), photos.ids[own].tolist(), photos.paths(own), strict=True)
            for place, image_id, path in facts:
                similarity = similarities[place]
                found[place] = Hit(query, first + place, image_id, path, similarity, similarity, bundle=label)
        return [hit for hit in found if hit is not None]

    def named(self, hit: Hit, row: int) -> Hit:
        """Return a hit that was read with the id and the bundle of its row; where it had no id, also with its path."""
        part, own = self.locate(row)
        photos = self.parts[part]
        path = photos.path(own) if hit.id < 0 else hit.path
        return replace(hit, id=int(photos.ids[own]), path=path, bundle=self._label(part))

    def _label(self, part: int) -> bytes | None:
        return self._names[part] if self.several else None

    # From records to rows

    def row_of_hit(self, hit: Hit) -> int:
        """Return the row of a hit: by its id in its bundle, or, for one of a TREC run, by its path.

        A hit that names no bundle is of the first.

        Raises:
            InputError: there is no such photo, or the bundle is not among those that were given.
        """
        if hit.id < 0:
            return self._row_of_name(hit.path)
        part = 0 if hit.bundle is None else self._part_called(hit.bundle)
        return self._starts[part] + self.parts[part].row_of_id(hit.id)

    def row_of_query(self, image_id: int) -> int:
        """Return the row of a photo of the first bundle that is to be searched for.

        Raises:
            InputError: no photo has that id, or it has no descriptor.
        """
        photos = self.parts[0]
        row = photos.row_of_id(image_id)
        if photos.statuses[row] != OK:
            status = STATUS_NAMES[photos.statuses[row]]
            raise InputError(
                f"photo {image_id} of {photos.bundle.path} ({display(photos.path(row))}) is {status}; "
                "it has no descriptor to search with"
            )
        return self._starts[0] + row

    def _part_called(self, name: bytes) -> int:
        if name in self._names:
            return self._names.index(name)
        for number, photos in enumerate(self.parts):
            if _same_file(photos.bundle.path, name):
                return number
        raise InputError(
            f"a hit is of the bundle {display(name)}, which is not among those given ({self.title}); "
            f"add it: --with {display(name)}"
        )

    def _row_of_name(self, name: bytes) -> int:
        if not self.several:
            return self.parts[0].row_of_name(name)
        # Not by what is stored first, as in one bundle: a name may be stored in two, and a path, which is what search
        # prints, leads to one photo.
        for part, photos in enumerate(self.parts):
            row = photos.row_lying_at(name)
            if row is not None:
                return self._starts[part] + row
        stored = [
            (part, row) for part, photos in enumerate(self.parts) if (row := photos.row_stored_as(name)) is not None
        ]
        if len({self.parts[part].absolute_path(row) for part, row in stored}) > 1:
            raise InputError(
                f"{self.title}: several bundles have a photo called {display(name)}; give a path that opens"
            )
        if not stored:
            raise InputError(f"{self.title}: no photo is called {display(name)}")
        part, row = stored[0]
        return self._starts[part] + row

    # What is searched

    def searched(self, part: int) -> npt.NDArray[np.bool_]:
        """Return (n,) which rows of a bundle may be found.

        Those are photos that could be read, that no earlier bundle has, and that were selected.
        """
        photos = self.parts[part]
        readable: npt.NDArray[np.bool_] = photos.statuses == OK
        if self.several:
            readable &= ~self._copies[self._starts[part] : self._starts[part + 1]]
        if self._selection:
            readable &= self._selection.mask(photos.stored_paths)
        if self._only is not None:
            readable &= self._only[self._starts[part] : self._starts[part + 1]]
        return readable

    def rows_like(self, path: bytes, digest: bytes) -> Ids:
        """Return the rows of a photo in all bundles: those that lie at a path, and those that have a content."""
        found = [self._starts[part] + photos.rows_like(path, digest) for part, photos in enumerate(self.parts)]
        return np.concatenate(found)

    @cached_property
    def _copies(self) -> npt.NDArray[np.bool_]:
        """Return (n,) True for photos that an earlier bundle has."""
        copies = np.zeros(len(self), dtype=np.bool_)
        # Few photos share their content with another one, so paths are read for those alone.
        heads = np.concatenate([part.digest_words[:, 0] for part in self.parts])
        readable = np.flatnonzero(np.concatenate([part.statuses == OK for part in self.parts]))
        order = readable[np.argsort(heads[readable], kind="stable")]
        equal = heads[order[1:]] == heads[order[:-1]]
        twins = np.union1d(order[1:][equal], order[:-1][equal])
        known: set[tuple[bytes, bytes]] = set()
        for row in twins.tolist():
            part, own = self.locate(row)
            photos = self.parts[part]
            photo = (photos.digests[own].tobytes(), photos.absolute_path(own))
            copies[row] = photo in known
            known.add(photo)
        return copies

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bundles."""
        for part in self.parts:
            part.bundle.close()


def open_collection(
    bundles: Sequence[Path],
    decode_settings: DecodeSettings | None = None,
    roots: Sequence[Path] = (),
    selection: Selection | None = None,
) -> Collection:
    """Open bundles, each once, as one collection.

    Args:
        bundles: the files; a photo of several of them is that of the first.
        decode_settings: limits and workers.
        roots: folders of the photos, one for each bundle, where they are not those that the bundles state; else none.
        selection: which photos are searched; None: all.

    Raises:
        SettingsError: a bundle is named twice, or the number of roots is another one.
        BundleError: one cannot be read.
    """
    if roots and len(roots) != len(bundles):
        raise SettingsError(
            f"--root is given {len(roots)} times for {len(bundles)} bundle{'s' if len(bundles) > 1 else ''}; "
            "give it once for each bundle, in their order"
        )
    opened: list[BundlePhotos] = []
    try:
        for place, bundle in enumerate(bundles):
            opened.append(open_photos(bundle, decode_settings, roots[place] if roots else None))
        return Collection(opened, selection)
    except BaseException:
        for photos in opened:
            photos.bundle.close()
        raise


def _refuse_twice(bundles: Sequence[Path]) -> None:
    for place, bundle in enumerate(bundles):
        for earlier in bundles[:place]:
            if _same_file(earlier, os.fsencode(bundle)):
                raise SettingsError(f"{earlier} and {bundle} are the same bundle; name it once")


def _same_file(bundle: Path, name: bytes) -> bool:
    try:
        return bundle.samefile(os.fsdecode(name))
    except (OSError, ValueError):  # it is not there, or no file can have such a name
        return False
