"""The specification and the program agree: the independent reader of docs/format.md, and hostile files."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from imgrank.arrays import unit_rows
from imgrank.bundle import file, layout, probe
from imgrank.bundle.descriptors import append_descriptors, create_descriptors
from imgrank.bundle.graph import write_graph
from imgrank.bundle.images import append_images
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import ImageTokens, TokenColumn, append_tokens, create_tokens
from imgrank.errors import BundleError, DamagedBundleError, FormatVersionError, MissingGroupError, NotABundleError
from imgrank.records import ImageRecord

DOCS = Path(__file__).parents[2] / "docs"
PROVENANCE = Provenance("test", "1", "{}")
PATHS = [b"a.jpg", b"caf\xe9 \n.jpg", b"sub/c.jpg", b"broken.jpg"]


def tokens(number: int) -> ImageTokens:
    count = number + 1
    codes = np.arange(count * 3, dtype=np.uint8).reshape(count, 3)
    return ImageTokens({"codes": codes, "place": np.full((count, 2), 7 * number, np.uint16)}, (number, 2))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "db.h5"
    vectors = unit_rows([[1, 0, 0], [1, 1, 0], [1, 0.1, 0], [0, 0, 0]])
    with file.Writer(path) as writer:
        file.create(path, root=b"photos")
        with writer.transaction() as root:
            create_descriptors(root, 3, PROVENANCE)
            columns = [TokenColumn("codes", "|u1", (3,)), TokenColumn("place", "<u2", (2,))]
            create_tokens(root, "local", "local", "test", columns, PROVENANCE)
            statuses = [0, 0, 0, 3]
            append_images(
                root, [ImageRecord(p, 9, 5, bytes(16), 4, 3, s) for p, s in zip(PATHS, statuses, strict=True)]
            )
            append_descriptors(root, vectors)
            append_tokens(root, "local", [tokens(0), tokens(1), ImageTokens({}, status=3)])
            arrays = {"links": np.array([[1], [0]], np.int32), "entry": np.array(1, np.int64)}
            write_graph(root, arrays, PROVENANCE)
    return path


def test_the_reader_of_the_specification_reads_a_bundle(bundle: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "format.md").read_text(), re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    script = tmp_path / "reader.py"
    script.write_text(code)
    run = subprocess.run([sys.executable, script, bundle], capture_output=True, check=True)
    lines = run.stdout.decode("utf-8", "surrogateescape")
    assert "0 a.jpg 0\n" in lines
    assert "3 broken.jpg 3\n" in lines
    assert "['sub/c.jpg', 'caf\\udce9 \\n.jpg']" in lines  # cosines 0.995 and 0.707
    assert "local test {'codes': (1, 3), 'place': (1, 2)}" in lines


def test_what_was_written_is_read(bundle: Path) -> None:
    with file.read(bundle) as opened:
        assert opened.images.paths() == PATHS
        assert opened.root == bytes(bundle.parent / "photos")
        assert opened.images.ids().tolist() == [0, 1, 2, 3]
        assert opened.images.statuses().tolist() == [0, 0, 0, 3]
        table = opened.tokens("local")
        assert len(table) == 3  # the fourth is not cached yet
        one, none, zero, newer = table.read([1, 2, 0, 3])
        np.testing.assert_array_equal(one.columns["codes"], tokens(1).columns["codes"])
        assert (one.grid, one.status) == ((1, 2), 0)
        assert (none.columns, none.status) == ({}, 3)
        np.testing.assert_array_equal(zero.columns["place"], tokens(0).columns["place"])
        assert newer.columns == {}
        np.testing.assert_array_equal(opened.graph.arrays()["links"], [[1], [0]])
        assert opened.graph.arrays()["entry"] == 1


def test_every_path_of_the_layout_is_documented() -> None:
    text = (DOCS / "format.md").read_text()
    columns = [*layout.IMAGE_COLUMNS, *layout.descriptor_columns(1), *layout.TOKEN_IMAGE_COLUMNS]
    columns += layout.THUMBNAIL_COLUMNS
    for name in [*(column.name for column in columns), *layout.PROVENANCE_ATTRIBUTES, layout.VERSION_ATTRIBUTE]:
        assert f"`{name}`" in text, name


def test_statuses_are_documented_with_their_numbers() -> None:
    from imgrank.records import STATUS_NAMES

    listed = ", ".join(f"{code} {name}" for code, name in enumerate(STATUS_NAMES))
    assert listed in (DOCS / "format.md").read_text()


def test_a_missing_group_names_the_command(tmp_path: Path) -> None:
    path = tmp_path / "db.h5"
    with file.Writer(path):
        file.create(path, root=b".")
    with file.read(path) as opened:
        with pytest.raises(MissingGroupError, match="run `imgrank embed"):
            _ = opened.descriptors
        with pytest.raises(MissingGroupError, match="run `imgrank index"):
            _ = opened.graph
        with pytest.raises(MissingGroupError, match="run `imgrank cache-tokens"):
            opened.tokens("x")


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("hello" * 100)
    with pytest.raises(NotABundleError, match="not an HDF5 file"):
        file.read(text)
    with pytest.raises(NotABundleError, match="no such file"):
        file.read(tmp_path / "none.h5")
    with pytest.raises(NotABundleError, match="not a file"):
        file.read(tmp_path)
    for name, version in (("other.h5", "latest"), ("old.h5", "earliest")):
        with h5py.File(tmp_path / name, "w", libver=version) as other:
            other["x"] = 1
        with pytest.raises(NotABundleError, match="not an imgrank bundle"):
            file.read(tmp_path / name)


def change(path: Path, edit) -> None:
    with h5py.File(path, "r+") as root:
        edit(root)


def test_a_newer_version_is_refused_with_both_numbers(bundle: Path) -> None:
    change(bundle, lambda root: root.attrs.__setitem__("format-version", 7))
    with pytest.raises(FormatVersionError, match="version 7, this imgrank reads up to 2") as caught:
        file.read(bundle)
    assert (caught.value.found, caught.value.supported) == (7, 2)


def test_a_newer_group_is_refused_with_both_numbers(bundle: Path) -> None:
    change(bundle, lambda root: root["descriptors"].attrs.__setitem__("encoding-version", 3))
    with pytest.raises(FormatVersionError, match=r"/descriptors has version 3"):
        file.read(bundle)


def replace_dataset(root: h5py.File, name: str, **new) -> None:
    del root[name]
    root.create_dataset(name, **new)


HOSTILE = {
    "images gone": lambda root: root.__delitem__("images"),
    "ids of floats": lambda root: replace_dataset(root, "images/id", data=np.zeros(4), maxshape=(None,), chunks=(4,)),
    "one id too many": lambda root: root["images/id"].resize(5, axis=0),
    "filtered": lambda root: replace_dataset(
        root, "descriptors/vectors", data=np.zeros((4, 3), "f4"), maxshape=(None, 3), chunks=(4, 3), compression="gzip"
    ),
    "contiguous": lambda root: replace_dataset(root, "descriptors/vectors", data=np.zeros((4, 3), "f4")),
    "a soft link": lambda root: (root.__delitem__("graph"), root.__setitem__("graph", h5py.SoftLink("/images"))),
    "an external link": lambda root: (
        root.__delitem__("tokens"),
        root.__setitem__("tokens", h5py.ExternalLink("/etc/passwd", "/")),
    ),
    "a huge shape": lambda root: root["images/id"].resize(2**60, axis=0),
    "unwritten chunks": lambda root: root["images/status"].resize(10**6, axis=0),
    "no settings": lambda root: root["descriptors"].attrs.__delitem__("settings"),
    "settings of numbers": lambda root: root["tokens/local"].attrs.__setitem__("settings", 3),
    "columns that are not JSON": lambda root: root["tokens/local"].attrs.__setitem__("columns", "]["),
    "columns of objects": lambda root: root["tokens/local"].attrs.__setitem__("columns", '[["codes", "O", []]]'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_structure_is_a_typed_error(bundle: Path, name: str) -> None:
    change(bundle, HOSTILE[name])
    with pytest.raises(BundleError):
        file.read(bundle).close()


def flip(path: Path, old: bytes) -> None:
    raw = bytearray(path.read_bytes())
    assert raw.count(old) == 1
    raw[raw.find(old)] ^= 0x10
    path.write_bytes(raw)


def test_a_flipped_bit_in_a_row_is_found_by_its_checksum(bundle: Path) -> None:
    flip(bundle, b"broken.jpg")
    with file.read(bundle) as opened, pytest.raises(DamagedBundleError, match=r"row 3.*checksum"):
        opened.images.record(3)


def test_a_flipped_bit_in_tokens_is_found_by_its_checksum(bundle: Path) -> None:
    flip(bundle, np.full((2, 2), 7, "<u2").tobytes())
    with file.read(bundle) as opened:
        opened.tokens("local").read([0])
        with pytest.raises(DamagedBundleError, match=r"image row 1.*checksum"):
            opened.tokens("local").read([1])


def forked(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
    """Stand in for `subprocess.run`: the same child without the start of an interpreter."""
    pid = os.fork()
    if pid == 0:
        try:
            sys.argv = command
            probe.child()
        finally:
            os._exit(0)
    return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@pytest.mark.slow
def test_mutated_files_give_a_bundle_or_a_typed_error(bundle: Path, monkeypatch) -> None:
    monkeypatch.setattr(probe.subprocess, "run", forked)
    whole = bundle.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        raw = bytearray(whole)
        # Most of a small bundle is empty chunks; aim at what is not zero, which is HDF5's structure.
        places = rng.choice(np.flatnonzero(np.frombuffer(whole, np.uint8)), size=3)
        for place in places:
            raw[place] = rng.integers(256)
        bundle.write_bytes(raw)
        try:
            with file.read(bundle) as opened:
                opened.images.paths()
                opened.images.ids()
                opened.descriptors.read()
                opened.tokens("local").read([0, 1, 2])
                opened.graph.arrays()
        except BundleError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("name", ["images", "images/id", "descriptors/vectors", "graph/links", "tokens/local"])
@pytest.mark.parametrize("link", [h5py.SoftLink("/images/id"), h5py.ExternalLink("other.h5", "/images/id")])
def test_links_are_not_followed(bundle: Path, monkeypatch, name: str, link: object) -> None:
    shutil.copy(bundle, bundle.with_name("other.h5"))
    monkeypatch.chdir(bundle.parent)

    def edit(root: h5py.File) -> None:
        del root[name]
        root[name] = link

    change(bundle, edit)
    opened: list[object] = []
    real = h5py.Group.get
    monkeypatch.setattr(h5py.Group, "get", lambda self, key, *rest, **how: opened.append((self.name, key, how))
                        or real(self, key, *rest, **how))  # fmt: skip
    with pytest.raises(DamagedBundleError, match="leads elsewhere"):
        file.parse(bundle)
    parent, _, own = f"/{name}".rpartition("/")
    assert (parent or "/", own, {}) not in opened  # only its kind was asked for
