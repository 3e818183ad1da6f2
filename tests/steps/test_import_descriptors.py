"""`import`: descriptors that another program computed become a bundle that can be searched."""

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from imgrank.bundle import file, foreign
from imgrank.config import EncoderSettings, RerankSettings
from imgrank.errors import ImgrankError, InputError, SettingsError
from imgrank.images.content import read_digest
from imgrank.records import NO_DIGEST
from imgrank.results import Hit, Ranking
from imgrank.steps import import_descriptors as step
from imgrank.steps.check import check
from imgrank.steps.export_descriptors import export_descriptors
from imgrank.steps.import_descriptors import import_descriptors
from imgrank.steps.photos import open_photos
from imgrank.steps.remove import remove
from imgrank.steps.rerank import Reranker
from imgrank.steps.second_stage import Request

ROWS = np.array([[3, 4], [0, 2], [-1, 0]], dtype=np.float32)
UNIT = np.array([[0.6, 0.8], [0, 1], [-1, 0]], dtype=np.float32)  # the same, worked by hand
NAMES = ["a.jpg", "sub/b.jpg", "sub/c.jpg"]


def write_ilias(path: Path, rows: np.ndarray = ROWS, names: list[str] = NAMES, **storage: object) -> Path:
    with h5py.File(path, "w") as root:
        root.create_dataset("features", data=rows, **storage)
        root.create_dataset("index", data=names, dtype=h5py.string_dtype("ascii"))
    return path


def write_hloc(path: Path, rows: np.ndarray = ROWS, names: list[str] = NAMES) -> Path:
    with h5py.File(path, "w", libver="latest") as root:
        for row, name in zip(rows, names, strict=True):
            group = root.create_group(name)
            group.create_dataset("global_descriptor", data=row)
            group.create_dataset("image_size", data=np.array([640, 480]))
    return path


def write_npy(path: Path, rows: np.ndarray = ROWS, names: list[str] = NAMES) -> Path:
    np.save(path, rows)
    path.with_suffix(".txt").write_text("".join(f"{name}\n" for name in names))
    return path


def contents(bundle: Path) -> tuple[np.ndarray, list[bytes]]:
    with file.read(bundle) as opened:
        assert (opened.images.statuses() == 0).all()
        for row in range(len(opened.images)):
            opened.images.record(row)  # checks its checksum
        return opened.descriptors.read(), opened.images.paths()


@pytest.mark.parametrize("write", [write_ilias, write_hloc])
def test_hdf5_worked_by_hand(tmp_path: Path, write) -> None:
    found = import_descriptors(write(tmp_path / "f.h5"), tmp_path / "db.h5")
    vectors, paths = contents(tmp_path / "db.h5")
    np.testing.assert_array_equal(vectors, UNIT)
    assert paths == [name.encode() for name in NAMES]
    assert found.layout == write.__name__.removeprefix("write_")
    assert (found.rows, found.dim, found.unseen) == (3, 2, 3)
    assert (found.rescaled, found.shortest, found.longest) == (2, 1, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db.h5", "f.h5"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_worked_by_hand(tmp_path: Path, order: str) -> None:
    write_npy(tmp_path / "f.npy", np.asarray(ROWS, order=order))
    import_descriptors(tmp_path / "f.npy", tmp_path / "db.h5", paths=tmp_path / "f.txt")
    vectors, paths = contents(tmp_path / "db.h5")
    np.testing.assert_array_equal(vectors, UNIT)
    assert paths == [name.encode() for name in NAMES]


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "|i1", "<u2"])
def test_any_type_of_number(tmp_path: Path, dtype: str) -> None:
    rows = np.abs(ROWS).astype(dtype)
    for name, source in (("i", write_ilias(tmp_path / "i.h5", rows)), ("h", write_hloc(tmp_path / "h.h5", rows))):
        import_descriptors(source, tmp_path / f"{name}-db.h5")
        np.testing.assert_array_equal(contents(tmp_path / f"{name}-db.h5")[0], np.abs(UNIT))


def test_blocks_join_to_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows, names = rng.normal(size=(50, 8)).astype(np.float16), [f"{n:02}.jpg" for n in range(50)]
    packed = {"compression": "gzip", "chunks": (7, 3)}
    sources = [
        write_ilias(tmp_path / "i.h5", rows, names, **packed),
        write_hloc(tmp_path / "h.h5", rows, names),
        write_npy(tmp_path / "n.npy", rows, names),
    ]
    monkeypatch.setattr(step, "_MOST_ROWS", 7)
    monkeypatch.setattr(foreign, "_NAMES_AT_ONCE", 3)
    wide = rows.astype(np.float64)
    wanted = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    for number, source in enumerate(sources):
        bundle = tmp_path / f"{number}.db.h5"
        import_descriptors(source, bundle, paths=tmp_path / "n.txt" if source.suffix == ".npy" else None)
        vectors, paths = contents(bundle)
        np.testing.assert_array_equal(vectors, wanted)
        assert paths == [name.encode() for name in names]


def test_photos_below_the_root_are_known_and_the_others_have_never_been_seen(tmp_path: Path) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    (tmp_path / "photos" / "sub" / "b.jpg").write_bytes(b"what it holds does not matter")
    found = import_descriptors(write_ilias(tmp_path / "f.h5"), tmp_path / "db.h5", root=tmp_path / "photos")
    assert found.unseen == 2
    assert found.first_unseen == str(tmp_path / "photos" / "a.jpg")
    with file.read(tmp_path / "db.h5") as opened:
        assert opened.images.root == b"photos"
        first, second = opened.images.record(0), opened.images.record(1)
    assert (first.size, first.mtime_ns, first.digest) == (0, 0, NO_DIGEST)
    seen = read_digest(os.fsencode(tmp_path / "photos" / "sub" / "b.jpg"), "b")
    assert (second.size, second.mtime_ns, second.digest) == (seen.size, seen.mtime_ns, seen.digest)


def test_photos_that_were_never_seen_are_not_missing(tmp_path: Path) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    (tmp_path / "photos" / "sub" / "b.jpg").write_bytes(b"what it holds does not matter")
    (tmp_path / "photos" / "c.jpg").write_bytes(b"nor here")
    names = ["sub/b.jpg", "a.jpg", "c.jpg"]
    import_descriptors(write_ilias(tmp_path / "f.h5", names=names), tmp_path / "db.h5", root=tmp_path / "photos")
    (tmp_path / "photos" / "c.jpg").unlink()
    found = remove(tmp_path / "db.h5", missing=True)
    assert [os.path.basename(path) for path in found.paths] == [b"c.jpg"]  # bytes
    assert found.left == 2
    assert {finding.code for finding in check(tmp_path / "db.h5").findings} == {"graph-missing"}


def test_names_are_stored_relative_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    os.symlink(tmp_path / "photos", tmp_path / "link")
    names = [str(tmp_path / "photos" / "a.jpg"), str(tmp_path / "link" / "b.jpg"), "./sub//../c.jpg"]
    import_descriptors(write_ilias(tmp_path / "f.h5", names=names), tmp_path / "db.h5", root=tmp_path / "link")
    assert contents(tmp_path / "db.h5")[1] == [b"a.jpg", b"b.jpg", b"c.jpg"]


def test_names_that_are_not_utf8_and_the_escapes_of_ilias(tmp_path: Path) -> None:
    (tmp_path / "caf\u00e9.jpg").write_bytes(b"x")
    names = ["caf#U00e9.jpg", "not-there#U00e9.jpg", "odd#Uzzzz.jpg"]
    import_descriptors(write_ilias(tmp_path / "f.h5", names=names), tmp_path / "db.h5")
    assert contents(tmp_path / "db.h5")[1] == ["caf\u00e9.jpg".encode(), b"not-there#U00e9.jpg", b"odd#Uzzzz.jpg"]
    np.save(tmp_path / "n.npy", ROWS)
    (tmp_path / "list").write_bytes(b"a\nb\0\xff.jpg\0#U00e9.jpg\0")
    import_descriptors(tmp_path / "n.npy", tmp_path / "n.h5", paths=tmp_path / "list", nul=True)
    assert contents(tmp_path / "n.h5")[1] == [b"a\nb", b"\xff.jpg", b"#U00e9.jpg"]


def broken(change) -> object:
    """A file with the ILIAS layout, changed by a function."""

    def write(folder: Path) -> Path:
        path = write_ilias(folder / "f.h5")
        with h5py.File(path, "r+") as root:
            change(root)
        return path

    return write


def replaced(name: str, data: object, **more: object) -> object:
    def change(root: h5py.File) -> None:
        del root[name]
        root.create_dataset(name, data=data, **more)

    return broken(change)


def linked(link: object) -> object:
    def change(root: h5py.File) -> None:
        root.move("features", "elsewhere")
        root["features"] = link

    return broken(change)


def arrays_as_names(root: h5py.File) -> None:
    del root["index"]
    made = root.create_dataset("index", shape=(3,), dtype=h5py.vlen_dtype(np.float32))
    made[0] = np.ones(2)


def claims_much(root: h5py.File) -> None:
    for name, shape, kind in (("features", (10**9, 4), "f4"), ("index", (10**9,), h5py.string_dtype())):
        del root[name]
        root.create_dataset(name, shape=shape, dtype=kind, chunks=(1024, *shape[1:]))


def claims_a_large_chunk(root: h5py.File) -> None:
    del root["features"]
    made = root.create_dataset(
        "features", shape=(3, 2), maxshape=(None, 2), chunks=(2**28, 2), dtype="f4", compression=9
    )
    made.id.write_direct_chunk((0, 0), b"x" * 2**22)


def elsewhere(root: h5py.File) -> None:
    del root["features"]
    root.create_dataset("features", shape=(3, 2), dtype="f4", external=[("/etc/hostname", 0, 24)])


def virtual(root: h5py.File) -> None:
    del root["features"]
    made = h5py.VirtualLayout(shape=(3, 2), dtype="f4")
    made[:] = h5py.VirtualSource("other.h5", "features", shape=(3, 2))
    root.create_virtual_dataset("features", made)


def around(root: h5py.File) -> None:
    del root["features"], root["index"]
    group = root.create_group("folder")
    group["again"] = group


def lengths_differ(root: h5py.File) -> None:
    del root["features"], root["index"]
    for number in (2, 3):
        root.create_group(f"{number}.jpg").create_dataset("global_descriptor", data=np.ones(number))


def local_only(root: h5py.File) -> None:
    del root["features"], root["index"]
    root.create_group("a.jpg").create_dataset("keypoints", data=np.ones((5, 2)))


def npy(data: np.ndarray, names: bytes = b"a\nb\nc\n", **more: object) -> object:
    def write(folder: Path) -> Path:
        np.save(folder / "f.npy", data, **more)
        (folder / "f.tsv").write_bytes(names)  # found beside it
        return folder / "f.npy"

    return write


def raw(data: bytes, name: str = "f.npy") -> object:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        (folder / "f.tsv").write_bytes(b"a\nb\nc\n")
        return folder / name

    return write


def header(text: str) -> bytes:
    body = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


WRONG = {
    "nan": (replaced("features", [[1, np.nan], [1, 1], [1, 1]]), "descriptor of a.jpg holds NaN or infinity"),
    "too long": (replaced("features", np.full((3, 2), 1e300)), "descriptor of a.jpg holds NaN or infinity"),
    "zeros": (replaced("features", [[1.0, 1], [0, 0], [1, 1]]), "descriptor of sub/b.jpg is all zeros"),
    "one axis": (replaced("features", [1.0, 2, 3]), r"expected numbers \(n, dim\)"),
    "no numbers": (replaced("features", np.array([[b"x"]] * 3)), r"expected numbers \(n, dim\)"),
    "complex": (replaced("features", np.ones((3, 2), complex)), r"expected numbers \(n, dim\)"),
    "no rows": (replaced("features", np.ones((0, 2))), "0 rows of /features but 3 names"),
    "fewer rows": (replaced("features", np.ones((2, 2))), "2 rows of /features but 3 names"),
    "no names": (replaced("index", [1, 2, 3]), r"expected \(n,\) names"),
    "arrays as names": (broken(arrays_as_names), r"expected \(n,\) names"),
    "long names": (replaced("index", np.array([b"a" * 70_000] * 3)), "names of more than 65536 bytes"),
    "twice": (replaced("index", ["a", "sub/../a", "b"]), "a names rows 0 and 1"),
    "out of the root": (replaced("index", ["a", "../b", "c"]), r"\.\./b leads out of"),
    "absolute": (replaced("index", ["a", "/etc/passwd", "c"]), "/etc/passwd leads out of"),
    "the root": (replaced("index", ["a", ".", "c"]), r"\. leads out of"),
    "empty name": (replaced("index", ["a", "", "c"]), r"\(an empty name\) cannot be the path of a photo"),
    "soft link": (linked(h5py.SoftLink("/elsewhere")), "link that leads elsewhere"),
    "external link": (linked(h5py.ExternalLink("o.h5", "/features")), "link that leads elsewhere"),
    "claims": (broken(claims_much), "but is not all there"),
    "large chunk": (broken(claims_a_large_chunk), "chunks of more than"),
    "external data": (broken(elsewhere), "keeps its data in other files"),
    "virtual": (broken(virtual), "keeps its data in other files"),
    "around": (broken(around), "linked twice"),
    "hloc lengths": (broken(lengths_differ), "has 3 numbers, those before it 2"),
    "hloc local": (broken(local_only), "no layout that can be imported"),
    "bundle": (broken(lambda root: root.attrs.update({"format": "imgrank"})), "is a bundle already"),
    "cut hdf5": (raw(b"\x89HDF\r\n\x1a\n" + bytes(60)), "not a readable HDF5 file"),
    "pickle": (npy(np.array([[{}]] * 3), allow_pickle=True), "not a readable .npy of numbers"),
    "structured": (npy(np.zeros((3, 2), "f4,f4")), r"expected numbers \(n, dim\)"),
    "three axes": (npy(np.ones((3, 2, 2))), r"expected numbers \(n, dim\)"),
    "no columns": (npy(np.ones((3, 0))), "3 descriptors of 0 numbers"),
    "more paths": (npy(np.ones((2, 2))), "2 descriptors but more paths"),
    "fewer paths": (npy(np.ones((4, 2))), "4 descriptors but 3 paths"),
    "bad list": (npy(np.ones((1, 2)), b"id\tpath\n7\n"), "line 2: expected an id, a tab and a path"),
    "nul in a name": (npy(np.ones((1, 2)), b"a\0b\n"), "cannot be the path of a photo"),
    "claims npy": (
        raw(header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 8), }")), "not a readable .npy"),
    "negative npy": (raw(header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 8)}")), "not a readable .npy"),
    "code in a header": (raw(header("{'descr': __import__('os').abort()}")), "not a readable .npy"),
    "npz": (raw(b"PK\x03\x04rest"), "zip archive"),
    "text": (raw(b"1 2 3"), "what can be imported"),
    "empty": (raw(b""), "what can be imported"),
    "not there": (lambda folder: folder / "none.npy", "no such file"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_imported_is_said_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    write, words = WRONG[case]
    source = write(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match=words):
        import_descriptors(source, tmp_path / "db.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_many_rows_that_share_one_long_name_are_unpacked_a_few_at_a_time(tmp_path, monkeypatch) -> None:
    write_ilias(tmp_path / "f.h5", names=["a", "b", "c" * 60_000])
    monkeypatch.setattr(foreign, "_NAME_MEMORY", 100_000)
    asked: list[int] = []
    real = h5py.Dataset.__getitem__

    def counted(self: h5py.Dataset, key: object) -> object:
        found = real(self, key)
        if self.name == "/index":
            asked.append(len(found))
        return found

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    import_descriptors(tmp_path / "f.h5", tmp_path / "db.h5")
    assert asked == [1, 1, 1]


def test_a_present_file_is_never_replaced(tmp_path: Path) -> None:
    source = write_ilias(tmp_path / "f.h5")
    (tmp_path / "db.h5").write_bytes(b"mine")
    with pytest.raises(SettingsError, match="there already"):
        import_descriptors(source, tmp_path / "db.h5")
    assert (tmp_path / "db.h5").read_bytes() == b"mine"
    with pytest.raises(SettingsError, match="folder does not exist"):
        import_descriptors(source, tmp_path / "no" / "db.h5")


def test_a_list_where_none_is_wanted_and_the_other_way_round(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="leave --paths out"):
        import_descriptors(write_ilias(tmp_path / "f.h5"), tmp_path / "db.h5", paths=tmp_path / "list")
    np.save(tmp_path / "n.npy", ROWS)
    with pytest.raises(SettingsError, match="--paths LIST"):
        import_descriptors(tmp_path / "n.npy", tmp_path / "db.h5")
    with pytest.raises(InputError, match="no such file"):
        import_descriptors(tmp_path / "n.npy", tmp_path / "db.h5", paths=tmp_path / "list")


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    for name in ("db.h5.incoming", "db.h5.incoming.journal"):
        (tmp_path / name).write_bytes(b"half")
    import_descriptors(write_ilias(tmp_path / "f.h5"), tmp_path / "db.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db.h5", "f.h5"]


def test_an_encoder_of_another_length(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="they have 2 numbers, and its own 1024"):
        import_descriptors(write_ilias(tmp_path / "f.h5"), tmp_path / "db.h5", encoder=EncoderSettings())
    assert not (tmp_path / "db.h5").exists()


def hits(run) -> list[dict]:
    assert run.returncode == 0, run.stderr.decode()
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_an_export_comes_back_and_finds_the_same(imgrank, collection: Path) -> None:
    assert imgrank("export", "descriptors", "db.h5", "-o", "d.npy", cwd=collection).returncode == 0
    run = imgrank("import", "d.npy", "-o", "new.h5", "--encoder", "builtin", cwd=collection)
    assert (run.returncode, run.stdout) == (0, b"")
    assert b"8 descriptors computed again with builtin: cosine 1.0000 at least" in run.stderr
    assert b"not of length 1" not in run.stderr
    assert b"new.h5: 20 descriptors of 1024 numbers from npy" in run.stderr
    with file.read(collection / "db.h5") as old, file.read(collection / "new.h5") as new:
        np.testing.assert_array_equal(new.descriptors.read(), old.descriptors.read())
        assert new.descriptors.provenance.model_revision == old.descriptors.provenance.model_revision
        assert new.descriptors.imported_from == "npy"
        for name in ("path-bytes", "size", "mtime-ns", "digest"):
            np.testing.assert_array_equal(new.images.columns[name].read(), old.images.columns[name].read())
    search = ["queries", "-k", 20, "--exact"]
    wanted = hits(imgrank("search", "db.h5", *search, cwd=collection))
    assert hits(imgrank("search", "new.h5", *search, cwd=collection)) == wanted
    assert imgrank("index", "new.h5", "--threads", 1, cwd=collection).returncode == 0
    assert hits(imgrank("search", "new.h5", "queries", "-k", 20, cwd=collection)) == wanted
    # Re-ranking reads the photos: the bundle holds no local features yet.
    rerank = ["queries", "-k", 20, "--rerank", 5, "--exact"]
    assert hits(imgrank("search", "new.h5", *rerank, cwd=collection)) == hits(
        imgrank("search", "db.h5", *rerank, cwd=collection)
    )
    # The photos are known by size and time, so nothing is computed again.
    assert b"0 photos embedded, 20 known already" in imgrank("embed", "photos", "-o", "new.h5", cwd=collection).stderr


def test_photos_that_come_later(imgrank, collection: Path) -> None:
    assert imgrank("export", "descriptors", "db.h5", "-o", "d.npy", cwd=collection).returncode == 0
    (collection / "photos").rename(collection / "away")
    run = imgrank("import", "d.npy", "-o", "new.h5", "--encoder", "builtin", cwd=collection)
    assert run.returncode == 0, run.stderr
    assert b"no photo is at hand to check" in run.stderr
    assert b"20 of 20 photos are not there or cannot be read, such as" in run.stderr
    assert len(hits(imgrank("search", "new.h5", "queries", "-k", 3, "--exact", cwd=collection))) == 6
    facts = json.loads(imgrank("info", "new.h5", "--json", cwd=collection).stdout)
    assert (facts["images"], facts["unseen_images"]) == ({"ok": 20}, 20)
    assert b"20 of them were never seen" in imgrank("info", "new.h5", cwd=collection).stdout
    gone = imgrank("cache-tokens", "new.h5", "--cache", "local", cwd=collection)
    assert gone.returncode == 5
    assert b"give --root" in gone.stderr
    (collection / "away").rename(collection / "photos")
    # There is no digest that they could differ from.
    caching = imgrank("cache-tokens", "new.h5", "--cache", "local", cwd=collection)
    assert caching.returncode == 0, caching.stderr
    assert b"20 photos computed" in caching.stderr
    # Seen for the first time, they get rows of their own.
    again = imgrank("embed", "photos", "-o", "new.h5", cwd=collection)
    assert b"20 photos embedded, 0 known already" in again.stderr
    assert json.loads(imgrank("info", "new.h5", "--json", cwd=collection).stdout)["images"] == {"ok": 20, "removed": 20}


def test_scores_of_photos_without_a_digest_are_not_remembered(collection: Path) -> None:
    # All have the same digest, so one photo's score would be taken for another's.
    export_descriptors(collection / "db.h5", collection / "d.npy")
    (collection / "photos").rename(collection / "away")
    import_descriptors(collection / "d.npy", collection / "new.h5")
    (collection / "away").rename(collection / "photos")
    query, rows = os.fsencode(collection / "queries" / "query-00.jpg"), [0, 5, 9]
    hits = tuple(Hit(query, place + 1, row, b"", 0.5, 0.5) for place, row in enumerate(rows))
    settings, request = RerankSettings(top=3, scorer="mllm"), Request(mllm="builtin", device="cpu")
    for name, known in (("new.h5", 0), ("db.h5", 3)):
        with open_photos(collection / name) as photos:
            reranker = Reranker(photos, settings, request, score_cache=collection / "scores")
            twice = [reranker.rerank(Ranking(query, hits), rows, reranker.prepare(query)) for _ in range(2)]
        assert (reranker.work.scored, reranker.work.known) == (6 - known, known)
        assert twice[0] == twice[1]
        assert len({hit.logit for hit in twice[0].hits}) == 3


def test_descriptors_of_another_encoder_are_noticed(imgrank, collection: Path) -> None:
    assert imgrank("export", "descriptors", "db.h5", "-o", "d.npy", cwd=collection).returncode == 0
    np.save(collection / "d.npy", np.load(collection / "d.npy")[:, ::-1])
    options = ["d.npy", "-o", "new.h5", "--encoder", "builtin"]
    run = imgrank("import", *options, cwd=collection)
    assert run.returncode == 5
    assert b"these are not descriptors of builtin: computed again for 8 photos" in run.stderr
    assert not (collection / "new.h5").exists()
    assert imgrank("import", *options, "--no-check", cwd=collection).returncode == 0


def test_an_encoder_that_nobody_named(imgrank, collection: Path) -> None:
    assert imgrank("export", "descriptors", "db.h5", "-o", "d.npy", cwd=collection).returncode == 0
    run = imgrank("import", "d.npy", "-o", "new.h5", cwd=collection)
    assert run.returncode == 0
    assert b"the encoder is unknown" in run.stderr
    assert imgrank("index", "new.h5", "--threads", 1, cwd=collection).returncode == 0
    search = ["queries", "-k", 5]
    silent = imgrank("search", "new.h5", *search, cwd=collection)
    assert silent.returncode == 4
    assert b"nobody said what computed them" in silent.stderr
    assert b"--encoder MODEL" in silent.stderr
    named = hits(imgrank("search", "new.h5", *search, "--encoder", "builtin", cwd=collection))
    assert named == hits(imgrank("search", "db.h5", *search, cwd=collection))
    embedding = imgrank("embed", "photos", "-o", "new.h5", cwd=collection)
    assert embedding.returncode == 4
    assert b"an encoder that nobody named" in embedding.stderr
    import_descriptors(write_ilias(collection / "f.h5"), collection / "short.h5")
    short = imgrank("search", "short.h5", *search, "--exact", "--encoder", "builtin", cwd=collection)
    assert short.returncode == 4
    assert b"holds imported descriptors of 2 numbers, builtin computes 1024" in short.stderr


def test_queries_as_descriptors(imgrank, tmp_path: Path) -> None:
    write_ilias(tmp_path / "f.h5")
    assert imgrank("import", "f.h5", "-o", "db.h5", cwd=tmp_path).returncode == 0
    # (3, 4) and (0, 5): cosines with (0.6, 0.8), (0, 1), (-1, 0) are 1, 0.8, -0.6 and 0.8, 1, 0.
    write_npy(tmp_path / "q.npy", np.array([[3, 4], [0, 5]]), ["q/one.jpg", "q/two.jpg"])
    search = ["search", "db.h5", "--descriptors", "q.npy", "--files-from", "q.txt", "--exact", "--format", "tsv"]
    run = imgrank(*search, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    rows = [line.split(b"\t")[:6] for line in run.stdout.splitlines()[1:]]
    assert [(row[0], row[3]) for row in rows] == [
        (b"q/one.jpg", b"a.jpg"), (b"q/one.jpg", b"sub/b.jpg"), (b"q/one.jpg", b"sub/c.jpg"),
        (b"q/two.jpg", b"sub/b.jpg"), (b"q/two.jpg", b"a.jpg"), (b"q/two.jpg", b"sub/c.jpg"),
    ]  # fmt: skip
    np.testing.assert_allclose([float(row[5]) for row in rows], [1, 0.8, -0.6, 1, 0.8, 0], atol=1e-6)
    write_hloc(tmp_path / "h.h5")
    assert imgrank("index", "db.h5", cwd=tmp_path).returncode == 0
    assert imgrank("search", "db.h5", "--descriptors", "h.h5", "-k", 1, cwd=tmp_path).stdout.count(b'"rank": 1') == 3
    for wrong in (["photo.jpg"], ["--rerank", 3], ["--encoder", "builtin"]):
        assert imgrank(*search, *wrong, cwd=tmp_path).returncode == 2
    write_hloc(tmp_path / "long.h5", np.ones((3, 7)))
    long = imgrank("search", "db.h5", "--descriptors", "long.h5", "--exact", cwd=tmp_path)
    assert long.returncode == 5
    assert b"has descriptors of 7 numbers, those of db.h5 have 2" in long.stderr


def test_a_projection_of_imported_descriptors_and_of_their_queries(imgrank, tmp_path: Path) -> None:
    """The layer of ILIAS on its published features, worked by hand: (0.6, 0.8), (0, 1), (-1, 0) and (3, 4), (0, 5)."""
    write_ilias(tmp_path / "f.h5")
    # Outputs x, x, y + 1: (0.6, 0.6, 1.8), (0, 0, 2), (-1, -1, 1).
    np.savez(tmp_path / "layer.npz", weight=np.array([[1.0, 0], [1, 0], [0, 1]]), bias=np.array([0.0, 0, 1]))
    run = imgrank("import", "f.h5", "-o", "db.h5", "--projection", "layer.npz", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert b"3 descriptors of 3 numbers" in run.stderr
    rows = np.array([[1, 1, 3], [0, 0, 1], [-1, -1, 1]], dtype=float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with h5py.File(tmp_path / "db.h5") as root:
        np.testing.assert_allclose(root["descriptors/vectors"][:], rows, atol=1e-6)
    write_npy(tmp_path / "q.npy", np.array([[3, 4], [0, 5]]), ["q/one.jpg", "q/two.jpg"])
    search = ["search", "db.h5", "--descriptors", "q.npy", "--files-from", "q.txt", "--exact", "--format", "tsv"]
    run = imgrank(*search, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = {
        tuple(line.split(b"\t")[i] for i in (0, 3)): float(line.split(b"\t")[5]) for line in run.stdout.splitlines()[1:]
    }
    names = [b"a.jpg", b"sub/b.jpg", b"sub/c.jpg"]
    expected = rows[:2] @ rows.T  # the two queries are the first two photos
    for query, cosines in zip((b"q/one.jpg", b"q/two.jpg"), expected, strict=True):
        assert [found[query, name] for name in names] == pytest.approx(cosines.tolist(), abs=1e-6)
    np.savez(tmp_path / "long.npz", weight=np.ones((2, 7)))
    wrong = imgrank("import", "f.h5", "-o", "new.h5", "--projection", "long.npz", cwd=tmp_path)
    assert wrong.returncode == 5
    assert b"takes vectors of 7 numbers, and the descriptors of f.h5 have 2" in wrong.stderr


def test_imported_descriptors_of_an_encoder_go_through_a_projection_with_its_queries(imgrank, collection: Path) -> None:
    np.savez(collection / "layer.npz", weight=np.eye(64, 1024))
    assert imgrank("export", "descriptors", "db.h5", "-o", "d.npy", cwd=collection).returncode == 0
    for name, encoder in (("named.h5", ["--encoder", "builtin"]), ("unknown.h5", [])):
        run = imgrank("import", "d.npy", "-o", name, *encoder, "--projection", "layer.npz", cwd=collection)
        assert run.returncode == 0, run.stderr
    query = ["photos/" + sorted(os.listdir(collection / "photos"))[0], "-k", 1, "--exact"]
    named = hits(imgrank("search", "named.h5", *query, cwd=collection))
    assert named == hits(imgrank("search", "unknown.h5", *query, "--encoder", "builtin", cwd=collection))
    assert named[0]["path"] == query[0]
    assert named[0]["similarity"] == pytest.approx(1, abs=1e-6)


def test_options_of_an_encoder_need_one(imgrank, tmp_path: Path) -> None:
    write_ilias(tmp_path / "f.h5")
    run = imgrank("import", "f.h5", "-o", "db.h5", "--pooling", "cls", cwd=tmp_path)
    assert run.returncode == 2
    assert b"give --encoder MODEL" in run.stderr


def test_errors_are_of_the_tree(tmp_path: Path) -> None:
    shutil.copy(write_ilias(tmp_path / "f.h5"), tmp_path / "cut.h5")
    os.truncate(tmp_path / "cut.h5", (tmp_path / "f.h5").stat().st_size // 2)
    with pytest.raises(ImgrankError):
        import_descriptors(tmp_path / "cut.h5", tmp_path / "db.h5")
