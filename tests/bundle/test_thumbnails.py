"""`/thumbnails`: what is written is read, and nothing that is damaged or too large is."""

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from imgrank.bundle import file, layout
from imgrank.bundle.images import append_images
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.thumbnails import append_thumbnails, create_thumbnails
from imgrank.errors import BundleError, DamagedBundleError, FormatVersionError
from imgrank.records import ImageRecord, Thumbnail

KEPT = [Thumbnail(b"first file", 3, 2), None, Thumbnail(b"third one", 256, 7)]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "db.h5"
    with file.Writer(path) as writer:
        file.create(path, root=b".")
        with writer.transaction() as root:
            append_images(root, [ImageRecord(b"%d.jpg" % n, 9, 5, bytes(16), 4, 3, 0) for n in range(4)])
            create_thumbnails(root, Provenance("thumbnail", "1", "{}"))
            append_thumbnails(root, KEPT[:2])
        with writer.transaction() as root:
            append_thumbnails(root, KEPT[2:])
    return path


def change(path: Path, edit) -> None:
    with h5py.File(path, "r+") as root:
        edit(root["thumbnails"])


def test_what_was_written_is_read_in_any_order(bundle: Path) -> None:
    with file.read(bundle) as opened:
        table = opened.thumbnail_table
        assert len(table) == 3  # the fourth photo has no place yet
        assert table.read([2, 0, 1, 3, -1, 0]) == [KEPT[2], KEPT[0], None, None, None, KEPT[0]]
        assert table.read([]) == []


def test_the_checksum_is_the_documented_one(bundle: Path) -> None:
    with h5py.File(bundle) as root:
        group = root["thumbnails"]
        assert group["crc32"][2] == zlib.crc32(b"\x00\x01\x07\x00third one")
        assert group["crc32"][1] == zlib.crc32(bytes(4))
        assert group["offsets"][:].tolist() == [0, 10, 10, 19]


@pytest.mark.parametrize("column", ["bytes", "width", "height", "crc32"])
def test_a_changed_byte_is_found(bundle: Path, column: str) -> None:
    def edit(group) -> None:
        values = group[column][:]
        values[-1] ^= 1
        group[column][:] = values

    change(bundle, edit)
    with file.read(bundle) as opened:
        table = opened.thumbnail_table
        assert table.read([0, 1]) == KEPT[:2]
        with pytest.raises(DamagedBundleError, match=r"image row 2.*checksum"):
            table.read([2])
        damaged: list[int] = []
        assert table.read([0, 2], damaged) == [KEPT[0], None]
        assert damaged == [2]


@pytest.mark.parametrize("offsets", [[0, 10, 10, 2**63], [0, 10, 10, 10**12], [0, 10, 19, 4], [5, 2, 2, 19]])
def test_offsets_that_lead_elsewhere_cost_nothing(bundle: Path, offsets: list[int]) -> None:
    change(bundle, lambda group: group["offsets"].__setitem__(slice(None), np.array(offsets, np.uint64)))
    with file.read(bundle) as opened:
        damaged: list[int] = []
        assert opened.thumbnail_table.read([0, 1, 2], damaged).count(None) >= 1
        assert damaged


def test_a_thumbnail_beyond_the_limit_is_not_read(bundle: Path, monkeypatch) -> None:
    monkeypatch.setattr(layout, "MAX_THUMBNAIL", 9)
    with file.read(bundle) as opened:
        damaged: list[int] = []
        assert opened.thumbnail_table.read([0, 2], damaged) == [None, KEPT[2]]
        assert damaged == [0]


HOSTILE = {
    "more rows than photos": lambda group: [group[n].resize(9, axis=0) for n in ("width", "height", "crc32")],
    "one width too few": lambda group: group["width"].resize(2, axis=0),
    "an offset too few": lambda group: group["offsets"].resize(3, axis=0),
    "no bytes": lambda group: group.__delitem__("bytes"),
    "no settings": lambda group: group.attrs.__delitem__("settings"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_structure_is_a_typed_error_and_costs_only_the_thumbnails(bundle: Path, name: str) -> None:
    change(bundle, HOSTILE[name])
    with pytest.raises(BundleError):
        file.read(bundle).close()
    faults: dict[str, BundleError] = {}
    with file.read(bundle, faults) as opened:
        assert opened.thumbnail_table is None
        assert len(opened.images) == 4
    assert list(faults) == ["/thumbnails"]


def test_a_newer_version_is_refused(bundle: Path) -> None:
    change(bundle, lambda group: group.attrs.__setitem__("encoding-version", 2))
    with pytest.raises(FormatVersionError, match=r"/thumbnails has version 2, this imgrank reads up to 1"):
        file.read(bundle)
