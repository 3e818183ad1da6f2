"""Bad input: a clear message with the next step, the right code, nothing on stdout, and a bundle as it was."""

import os
import struct
import zlib
from pathlib import Path

import h5py
import pytest
from PIL import Image


def photo(path: Path, colour: tuple[int, int, int] = (200, 60, 20), size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def refuses(run, code: int, *words: str) -> None:
    message = run.stderr.decode()
    assert run.returncode == code, message
    assert run.stdout == b""
    assert "Traceback" not in message
    for word in words:
        assert word in message


def test_an_empty_folder(imgrank, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    run = imgrank("index", "photos", "-o", "db.h5", cwd=tmp_path)
    refuses(run, 5, "no photos found")
    assert not (tmp_path / "db.h5").exists()


def test_a_folder_without_photos(imgrank, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    refuses(imgrank("embed", ".", "-o", "db.h5", cwd=tmp_path), 5, "no photos found")


def test_no_paths_at_all(imgrank, tmp_path: Path) -> None:
    refuses(imgrank("embed", "-o", "db.h5", cwd=tmp_path), 5, "no photos given", "--files-from")
    refuses(imgrank("index", cwd=tmp_path), 2, "-o BUNDLE")


def test_a_path_that_does_not_exist(imgrank, tmp_path: Path) -> None:
    refuses(imgrank("index", "none.jpg", "-o", "db.h5", cwd=tmp_path), 5, "none.jpg")


def test_bad_photos_are_skipped_named_counted_and_recorded(imgrank, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photo(photos / "good.jpg")
    (photos / "text.jpg").write_text("this is no photo")
    whole = photo(photos / "whole.jpg", size=(640, 480)).read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    photo(photos / "one.png", size=(1, 1))
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    packed = zlib.compress(bytes(1000))
    (photos / "huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(packed)) + b"IDAT" + packed + struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    )  # fmt: skip
    run = imgrank("index", "photos", "-o", "db.h5", cwd=tmp_path)
    message = run.stderr.decode()
    assert run.returncode == 7, message
    assert run.stdout == b""
    assert "skipped (not-an-image) photos/text.jpg" in message
    assert "skipped (truncated) photos/cut.jpg" in message
    assert "skipped (too-large) photos/huge.png" in message
    assert "--max-megapixels" in message
    assert "3 photos embedded" in message
    assert "3 skipped (1 not-an-image, 1 too-large, 1 truncated)" in message
    with h5py.File(tmp_path / "db.h5") as root:
        assert sorted(root["images/status"][:] // 17) == [0, 0, 0, 3, 4, 5]
    # The same again: still told, nothing new in the bundle.
    before = (tmp_path / "db.h5").read_bytes()
    again = imgrank("index", "photos", "-o", "db.h5", cwd=tmp_path)
    assert again.returncode == 7
    assert "3 known already, 3 skipped" in again.stderr.decode()
    assert (tmp_path / "db.h5").read_bytes() == before
    found = imgrank("search", "db.h5", "photos/one.png", cwd=tmp_path)
    assert len(found.stdout.splitlines()) == 3  # -k larger than the collection gives all of it


def test_strict_stops_at_the_first(imgrank, tmp_path: Path) -> None:
    photo(tmp_path / "photos" / "good.jpg")
    (tmp_path / "photos" / "bad.jpg").write_text("x")
    refuses(imgrank("index", "photos", "-o", "db.h5", "--strict", cwd=tmp_path), 5, "bad.jpg")


def test_names_with_anything_in_them_survive(imgrank, tmp_path: Path) -> None:
    names = [b"sp ace.jpg", b"quo\"te's.jpg", b"new\nline.jpg", "søren 写真.jpg".encode(), b"latin\xe9.jpg"]
    source = photo(tmp_path / "source.jpg").read_bytes()
    folder = os.fsencode(tmp_path / "photos")
    os.mkdir(folder)
    for number, name in enumerate(names):
        with open(os.path.join(folder, name), "wb") as stream:
            stream.write(source + bytes(number))
    assert imgrank("index", "photos", "-o", "db.h5", cwd=tmp_path).returncode == 0
    run = imgrank("search", "db.h5", "source.jpg", "--format", "paths", "-0", cwd=tmp_path)
    assert sorted(run.stdout.split(b"\0")[:-1]) == sorted(b"photos/" + name for name in names)
    # As queries: by argument, and by a NUL-separated list on standard input.
    listed = imgrank("search", "db.h5", "-", "-0", "-k", 1, "--format", "jsonl", cwd=tmp_path, input=run.stdout)
    assert listed.returncode == 0, listed.stderr
    named = imgrank("search", "db.h5", b"photos/latin\xe9.jpg", "-k", 1, cwd=tmp_path)
    assert named.returncode == 0, named.stderr
    piped = imgrank("rerank", "db.h5", "--top", 3, "-q", cwd=tmp_path, input=named.stdout)
    assert piped.returncode == 0, piped.stderr


def test_a_bundle_that_is_not_hdf5(imgrank, tmp_path: Path) -> None:
    photo(tmp_path / "q.jpg")
    (tmp_path / "db.h5").write_text("hello")
    for command in (["search", "db.h5", "q.jpg"], ["info", "db.h5"], ["index", "db.h5"], ["cache-tokens", "db.h5"]):
        refuses(imgrank(*command, cwd=tmp_path), 4, "not an HDF5 file")
    refuses(imgrank("embed", "q.jpg", "-o", "db.h5", cwd=tmp_path), 4, "not an HDF5 file")
    assert (tmp_path / "db.h5").read_text() == "hello"


def test_a_bundle_that_is_not_there(imgrank, tmp_path: Path) -> None:
    photo(tmp_path / "q.jpg")
    for command in (["search", "db.h5", "q.jpg"], ["info", "db.h5"], ["index", "db.h5"], ["cache-tokens", "db.h5"]):
        refuses(imgrank(*command, cwd=tmp_path), 4, "no such file", "imgrank index")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.jpg"]


def test_a_bundle_of_a_newer_version(imgrank, collection: Path) -> None:
    with h5py.File(collection / "db.h5", "r+") as root:
        root.attrs["format-version"] = 3
    refuses(imgrank("search", "db.h5", "queries", cwd=collection), 4, "version 3", "up to 2")


def test_a_bundle_without_graph_or_descriptors(imgrank, collection: Path) -> None:
    with h5py.File(collection / "db.h5", "r+") as root:
        del root["graph"]
    refuses(imgrank("search", "db.h5", "queries", cwd=collection), 4, "run `imgrank index")
    assert imgrank("search", "db.h5", "queries", "--exact", cwd=collection).returncode == 0
    with h5py.File(collection / "db.h5", "r+") as root:
        del root["descriptors"]
    refuses(imgrank("search", "db.h5", "queries", cwd=collection), 4, "run `imgrank embed")
    refuses(imgrank("index", "db.h5", cwd=collection), 4, "run `imgrank embed")


def test_a_graph_of_other_descriptors(imgrank, collection: Path) -> None:
    with h5py.File(collection / "db.h5", "r+") as root:
        root["graph"].attrs["input-digest"] = "0" * 32
    refuses(imgrank("search", "db.h5", "queries", cwd=collection), 4, "older than what it was made from")
    assert imgrank("index", "db.h5", cwd=collection).returncode == 0
    assert imgrank("search", "db.h5", "queries", cwd=collection).returncode == 0


def test_a_hostile_graph_never_reaches_the_library(imgrank, collection: Path) -> None:
    with h5py.File(collection / "db.h5", "r+") as root:
        links = root["graph/links0"][:]
        links[:] = 2**30
        root["graph/links0"][:] = links
    refuses(imgrank("search", "db.h5", "queries", cwd=collection), 4, "links0", "imgrank index")
    with h5py.File(collection / "db.h5", "r+") as root:
        root["graph/links0"].attrs["crc32"] = zlib.crc32(links.tobytes())
    refuses(imgrank("search", "db.h5", "queries", cwd=collection), 4, "imgrank index")
    assert imgrank("index", "db.h5", cwd=collection).returncode == 0
    assert imgrank("search", "db.h5", "queries", cwd=collection).returncode == 0


def test_a_query_that_does_not_exist(imgrank, collection: Path) -> None:
    refuses(imgrank("search", "db.h5", "none.jpg", cwd=collection), 5, "none.jpg")
    # One bad among good ones: the good ones are answered, the bad one is named.
    (collection / "bad.jpg").write_text("x")
    run = imgrank("search", "db.h5", "bad.jpg", "queries/query-00.jpg", "-k", 1, cwd=collection)
    assert run.returncode == 7
    assert len(run.stdout.splitlines()) == 1
    assert "skipped (not-an-image) bad.jpg" in run.stderr.decode()
    refuses(imgrank("search", "db.h5", "bad.jpg", cwd=collection), 5, "bad.jpg", "no query photo could be read")


def test_an_mllm_folder_that_lacks_files(imgrank, collection: Path) -> None:
    (collection / "model").mkdir()
    before = (collection / "db.h5").read_bytes()
    refuses(imgrank("cache-tokens", "db.h5", "--mllm", "model", cwd=collection), 3, "config.json")
    assert (collection / "db.h5").read_bytes() == before
    refuses(imgrank("search", "db.h5", "queries", "--rerank", 5, "--mllm", "model", cwd=collection), 3, "config.json")
    refuses(imgrank("search", "db.h5", "queries", "--rerank", 5, "--scorer", "mllm", cwd=collection), 2, "--mllm")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--encoder", "buildin"], ["builtin"]),
        (["--encoder", "./no-such-folder"], ["no-such-folder"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--pooling", "cls"], ["builtin"]),
    ],
)
def test_unusable_encoder_options(imgrank, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    photo(tmp_path / "a.jpg")
    run = imgrank("embed", "a.jpg", "-o", "db.h5", *arguments, cwd=tmp_path)
    refuses(run, run.returncode, *words)
    assert run.returncode in (2, 3)
    assert not (tmp_path / "db.h5").exists()


def test_another_encoder_for_the_same_bundle(imgrank, collection: Path) -> None:
    before = (collection / "db.h5").read_bytes()
    photo(collection / "photos" / "new.jpg")
    run = imgrank("embed", "photos", "-o", "db.h5", "--encoder", "facebook/dinov2-small", cwd=collection)
    refuses(run, 4, "one bundle has one encoder")
    assert (collection / "db.h5").read_bytes() == before


def test_photos_gone_and_no_tokens(imgrank, collection: Path) -> None:
    with h5py.File(collection / "db.h5", "r+") as root:
        del root["tokens"]
    os.rename(collection / "photos", collection / "moved")
    run = imgrank("search", "db.h5", "queries/query-00.jpg", "--rerank", 5, cwd=collection)
    refuses(run, 5, "cache-tokens", "--root")
    refuses(imgrank("cache-tokens", "db.h5", cwd=collection), 5, "--root")


def test_photos_gone_but_tokens_kept(imgrank, collection: Path) -> None:
    whole = imgrank("search", "db.h5", "queries", "--rerank", 5, cwd=collection).stdout
    os.rename(collection / "photos", collection / "moved")
    assert imgrank("search", "db.h5", "queries", "--rerank", 5, cwd=collection).stdout == whole


def test_local_features_of_another_version(imgrank, collection: Path) -> None:
    with h5py.File(collection / "db.h5", "r+") as root:
        root["tokens/local"].attrs["model-revision"] = "0"
    search = ["search", "db.h5", "queries/query-00.jpg", "--rerank", 5]
    refuses(imgrank(*search, cwd=collection), 4, "version 0", "--overwrite")
    again = ["cache-tokens", "db.h5", "--cache", "local"]
    assert imgrank(*again, cwd=collection).returncode == 4
    assert imgrank(*again, "--overwrite", cwd=collection).returncode == 0
    assert imgrank(*search, cwd=collection).returncode == 0


def test_hits_of_another_bundle(imgrank, collection: Path) -> None:
    line = b'{"schema_version": 1, "query": "q.jpg", "rank": 1, "id": 999, "path": "x", "score": 1, "similarity": 1}\n'
    refuses(imgrank("rerank", "db.h5", cwd=collection, input=line), 5, "no photo with id 999")
    refuses(imgrank("rerank", "db.h5", cwd=collection, input=b"hello\n"), 5, "line 1")
    trec = b"queries/query-00.jpg Q0 unknown.jpg 1 0.5 tag\n"
    refuses(imgrank("rerank", "db.h5", cwd=collection, input=trec), 5, "unknown.jpg")


def test_a_photo_outside_the_root(imgrank, collection: Path, tmp_path: Path) -> None:
    outside = photo(tmp_path / "outside.jpg")
    refuses(imgrank("embed", outside, "-o", "db.h5", cwd=collection), 5, "outside.jpg", "--root")


def test_a_folder_as_bundle_without_output(imgrank, collection: Path) -> None:
    refuses(imgrank("index", "photos", cwd=collection), 2, "-o photos.h5")


def test_a_place_that_cannot_be_written(imgrank, collection: Path) -> None:
    run = imgrank("embed", "photos", "-o", "nowhere/db.h5", cwd=collection)
    refuses(run, 2, "nowhere", "folder does not exist")
