"""Where the picture of a query or a hit comes from."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrank.arrays import crc32_of_bytes
from imgrank.bundle import file
from imgrank.records import Thumbnail
from imgrank.results import Hit, Ranking
from imgrank.steps.collection import Collection, open_collection
from imgrank.steps.embed import embed
from imgrank.steps.looking import MONTAGE_QUERIES, Montage
from imgrank.steps.pictures import Pictures, pixels_of

COLOURS = [(200, 0, 0), (0, 180, 0), (0, 0, 220)]
NAMES = [b"a.png", b"b\xe9\n.png", b"c.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in zip(NAMES, COLOURS, strict=True):
        pixels = np.full((60, 80, 3), colour, np.uint8)
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as stream:
            Image.fromarray(pixels).save(stream, "PNG")
    return tmp_path


def bundle(folder: Path, thumbnails: int | None = None, name: str = "db.h5") -> Collection:
    path = folder / name
    embed(path, [os.fsencode(folder)], thumbnails=thumbnails)
    return open_collection([path])


def ranking(photos: Collection, query: bytes) -> Ranking:
    return Ranking(query, tuple(photos.hit(query, row + 1, row, 0.5) for row in range(len(photos))))


def is_colour(picture, colour) -> bool:
    return bool((np.abs(pixels_of(picture).astype(int) - colour) < 6).all())


def test_from_the_bundle_also_when_the_photos_are_gone(folder: Path):
    photos = bundle(folder, 40)
    for name in NAMES:
        os.unlink(os.fsencode(folder) + b"/" + name)
    query = os.fsencode(folder) + b"/c.png"
    shown = Pictures(photos).shown(ranking(photos, query))
    assert all(is_colour(picture, colour) for picture, colour in zip(shown.hits, COLOURS, strict=True))
    assert {(one.thumbnail.width, one.thumbnail.height) for one in shown.hits} == {(40, 30)}
    assert shown.hits[1].name.endswith(r"b\xe9\n.png")
    assert is_colour(shown.query[0], COLOURS[2])  # the query is a photo of the bundle


def test_from_the_photos_where_the_bundle_has_none(folder: Path):
    photos = bundle(folder)
    (folder / "c.png").unlink()
    Image.new("RGB", (80, 60), (1, 2, 3)).save(folder / "a.png")
    shown = Pictures(photos).shown(ranking(photos, b"no such.jpg"))
    assert [one.reason for one in shown.hits] == ["changed", "", "missing"]
    assert is_colour(shown.hits[1], COLOURS[1])
    assert (shown.query[0].thumbnail, shown.query[0].reason) == (None, "missing")
    assert pixels_of(shown.query[0]) is None


def test_only_so_many_as_are_wanted(folder: Path):
    photos = bundle(folder)
    shown = Pictures(photos).shown(ranking(photos, b"x"), 2)
    assert len(shown.hits) == len(shown.ranking.hits) == 2


def test_the_query_lies_below_its_root_and_a_part_follows_the_whole(folder: Path):
    photos = bundle(folder)
    pixels = np.full((60, 80, 3), COLOURS[0], np.uint8)
    pixels[10:30, 20:60] = COLOURS[2]
    Image.fromarray(pixels).save(folder / "query.png")
    one = Hit(b"query.png#xywh=20,10,40,20", 1, 0, b"a.png", 0.5, 0.5)
    shown = Pictures(photos, os.fsencode(folder)).shown(Ranking(one.query, (one,)))
    assert [picture.name for picture in shown.query] == ["query.png", "query.png#xywh=20,10,40,20"]
    whole, part = (picture.thumbnail for picture in shown.query)
    assert ((whole.width, whole.height), (part.width, part.height)) == ((80, 60), (40, 20))
    assert is_colour(shown.query[1], COLOURS[2])
    several = Hit(b"a.png", 1, 0, b"a.png", 0.5, 0.5, photos=(b"a.png", b"c.png"), fuse="mean")
    shown = Pictures(photos, os.fsencode(folder)).shown(Ranking(b"a.png", (several,)))
    assert [picture.name for picture in shown.query] == ["a.png", "c.png"]


def test_hits_of_several_bundles(folder: Path):
    with bundle(folder, 40), bundle(folder, None, "other.h5"):
        photos = open_collection([folder / "db.h5", folder / "other.h5"])
    rows = [5, 0, 4]
    hits = tuple(photos.hit(b"x", rank, row, 0.5) for rank, row in enumerate(rows, 1))
    shown = Pictures(photos).shown(Ranking(b"x", hits))
    assert [is_colour(one, COLOURS[row % 3]) for one, row in zip(shown.hits, rows, strict=True)] == [True] * 3
    assert [one.thumbnail.width for one in shown.hits] == [80, 40, 80]


HOSTILE = [
    Thumbnail(b"<svg onload=alert(1)>", 4, 4),
    Thumbnail(b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01", 65535, 65535),
    Thumbnail(b"\xff\xd8\xff" + bytes(50), 40, 30),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_thumbnail_is_not_shown(folder: Path, number: int):
    one = HOSTILE[number]
    photos = bundle(folder, 40)
    with file.Writer(folder / "db.h5") as writer, writer.transaction() as h5:
        group = h5["thumbnails"]
        start = int(group["offsets"][1])
        group["bytes"][start : start + len(one.data)] = np.frombuffer(one.data, np.uint8)
        group["offsets"][2] = start + len(one.data)
        group["width"][1], group["height"][1] = one.width, one.height
        size = one.width.to_bytes(2, "little") + one.height.to_bytes(2, "little")
        group["crc32"][1] = crc32_of_bytes(size + one.data)
    photos = open_collection([folder / "db.h5"])
    with file.read(folder / "db.h5") as opened:
        assert opened.thumbnail_table.read([1]) == [one]  # its checksum is right
    shown = Pictures(photos).shown(ranking(photos, b"x"))
    assert is_colour(shown.hits[1], COLOURS[1])  # of the photo
    assert shown.hits[1].thumbnail.width == 80


def test_a_montage_has_a_limit_and_counts_what_is_beyond(folder: Path):
    photos = bundle(folder, 40)
    shown = Pictures(photos).shown(ranking(photos, b"gone.jpg"))
    montage = Montage(folder / "m.png")
    for _ in range(MONTAGE_QUERIES + 2):
        montage.add(shown)
    montage.save()
    assert (montage.left_out, montage.cut) == (2, 0)
    with Image.open(folder / "m.png") as picture:
        assert picture.height == MONTAGE_QUERIES * 192 + 10
        assert picture.getpixel((10 + 80, 10 + 80)) == (225, 225, 225)  # the query is gone
        assert np.abs(np.array(picture.getpixel((30 + 170 + 80, 10 + 80))) - COLOURS[0]).max() < 6
