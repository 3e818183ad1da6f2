"""Token caches: scattered reads, codebooks and proofs, and what is unfinished."""

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.arrays import crc32
from imgrank.bundle import file, layout
from imgrank.bundle.images import append_images
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.table import read_scattered
from imgrank.bundle.tokens import ImageTokens, TokenColumn, append_tokens, create_tokens, write_proof
from imgrank.errors import DamagedBundleError, SettingsError
from imgrank.records import ImageRecord

WIDE = 40_000  # bytes of a token: a chunk holds 13
COLUMNS = [TokenColumn("codes", "|u1", (WIDE,)), TokenColumn("position", "<u2", (3,))]
LENGTHS = [3, 0, 30, 1, 13, 0, 25, 2, 14, 12]


def image(rng: np.random.Generator, tokens: int) -> ImageTokens:
    if not tokens:
        return ImageTokens({}, (0, 0), 2)
    codes = rng.integers(0, 256, (tokens, WIDE), dtype=np.uint8)
    return ImageTokens({"codes": codes, "position": rng.integers(0, 9, (tokens, 3)).astype("<u2")}, (9, tokens))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ImageTokens]]:
    """A bundle whose images lie over the ends of chunks in every way, two caches growing in turn."""
    path = tmp_path_factory.mktemp("tokens") / "db.h5"
    rng = np.random.default_rng(0)
    images = [image(rng, tokens) for tokens in LENGTHS]
    with file.Writer(path) as writer:
        file.create(path, root=b".")
        with writer.transaction() as root:
            records = [ImageRecord(b"%d" % i, 1, 1, bytes(16), 4, 3, 0) for i in range(len(images))]
            append_images(root, records)
            for name in ("a", "b"):
                create_tokens(root, name, "mllm", "made", COLUMNS, Provenance("m", "1", "{}"))
        for one in images:
            for name in ("a", "b"):  # so that the chunks of one are not side by side
                with writer.transaction() as root:
                    append_tokens(root, name, [one])
    return path, images


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.integers(-2, len(LENGTHS) + 1), max_size=25))
def test_scattered_images_are_read_as_they_were_written(made, rows):
    path, images = made
    with file.read(path) as bundle:
        found = bundle.tokens("a").read(rows)
    for row, tokens in zip(rows, found, strict=True):
        expected = images[row] if 0 <= row < len(images) else ImageTokens({})
        assert (tokens.grid, tokens.status) == (expected.grid, expected.status)
        assert tokens.columns.keys() == expected.columns.keys()
        for name in tokens.columns:
            np.testing.assert_array_equal(tokens.columns[name], expected.columns[name])


@settings(max_examples=40, deadline=None)
@given(ends=st.lists(st.tuples(st.integers(0, sum(LENGTHS)), st.integers(0, sum(LENGTHS))), max_size=12))
def test_any_ranges_of_a_column_are_those_of_hdf5(made, ends):
    path, _ = made
    ranges = np.array([sorted(pair) for pair in ends], dtype=np.int64).reshape(-1, 2)
    with h5py.File(path, "r") as root, file.read(path) as bundle:
        whole = root["tokens/b/columns/codes"][:]
        rows = read_scattered(bundle.tokens("b").columns["codes"], ranges[:, 0], ranges[:, 1])
    np.testing.assert_array_equal(rows, np.concatenate([whole[:0], *(whole[a:b] for a, b in ranges)]))


def test_a_changed_byte_is_noticed_and_named(made, tmp_path):
    path = tmp_path / "db.h5"
    path.write_bytes(made[0].read_bytes())
    with file.read(path) as bundle:
        table = bundle.tokens("a")
        start = int(table.offsets[4])
        ((offset, _),) = table.columns["codes"].extents(start, start + 1)
    with path.open("r+b") as raw:
        raw.seek(offset + 17)
        byte = raw.read(1)
        raw.seek(offset + 17)
        raw.write(bytes([byte[0] ^ 1]))
    with file.read(path) as bundle:
        assert len(bundle.tokens("a").read([3, 6])) == 2
        with pytest.raises(DamagedBundleError, match="image row 4"):
            bundle.tokens("a").read([3, 4, 6])
        assert bundle.tokens("b").read([4])[0].columns


def test_a_file_that_was_cut_is_noticed(made, tmp_path):
    with file.read(made[0]) as bundle:
        view = bundle.tokens("a").columns["codes"]
        bundle.file._size  # noqa: B018  # frozen
        starts = view.starts.copy()
        view.starts[0] = made[0].stat().st_size - 100
        with pytest.raises(DamagedBundleError, match="ends inside"):
            bundle.tokens("a").read([0])
        view.starts[:] = starts


@given(data=st.binary(max_size=300), value=st.integers(0, 2**32 - 1))
def test_checksums_are_those_of_zlib(data, value):
    assert crc32(np.frombuffer(data, np.uint8), value) == zlib.crc32(data, value)


@pytest.fixture
def grown(made, tmp_path) -> Path:
    path = tmp_path / "db.h5"
    path.write_bytes(made[0].read_bytes())
    rng = np.random.default_rng(1)
    centroids = rng.normal(size=(2, 1, 4, 256, 3)).astype("<f4")
    with file.Writer(path) as writer, writer.transaction() as root:
        create_tokens(
            root, "c", "mllm", "pq:4", COLUMNS[1:], Provenance("m", "1", "{}"), codebooks={"centroids": centroids}
        )
        write_proof(root, "c", {"logits": np.arange(3, dtype="<f4"), "pairs": np.ones((3, 2), "<u4")}, '{"a": 1}')
        create_tokens(root, ".d", "mllm", "pq:4", COLUMNS[1:], Provenance("m", "1", "{}"))
    return path


def test_codebooks_and_proofs_are_read_as_they_were_written(grown):
    with file.read(grown) as bundle:
        table = bundle.tokens("c")
        assert table.codebooks.read()["centroids"].shape == (2, 1, 4, 256, 3)
        assert table.codebooks.size == 2 * 4 * 256 * 3 * 4
        assert table.proof.read()["logits"].tolist() == [0, 1, 2]
        assert table.proof.facts == '{"a": 1}'
        assert bundle.tokens("a").codebooks is None
        assert bundle.tokens("a").proof is None


def test_an_unfinished_cache_is_nobody_s(grown):
    with file.read(grown) as bundle:
        assert sorted(bundle.token_tables) == ["a", "b", "c"]
        assert list(bundle.unfinished) == [".d"]
    with file.Writer(grown) as writer, pytest.raises(SettingsError), writer.transaction() as root:
        create_tokens(root, "..d", "mllm", "pq:4", COLUMNS[1:], Provenance("m", "1", "{}"))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("centroids", np.zeros((2, 4, 256, 3), "<f4")),
        ("centroids", np.zeros((2, 1, 4, 256, 3), "<f8")),
        ("rotation", np.zeros((2, 12), "<f4")),
    ],
)
def test_codebooks_of_another_form_are_refused(grown, name, array):
    with h5py.File(grown, "r+") as root:
        group = root[f"tokens/c/{layout.CODEBOOKS}"]
        if name in group:
            del group[name]
        group.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), maxshape=(None, *array.shape[1:]))
    with pytest.raises(DamagedBundleError, match=name):
        file.read(grown)


def test_a_changed_codebook_is_noticed(grown):
    with h5py.File(grown, "r+") as root:
        root["tokens/c/codebooks/centroids"][1, 0, 3, 100, 2] += 1
    with file.read(grown) as bundle, pytest.raises(DamagedBundleError, match="checksum"):
        bundle.tokens("c").codebooks.read()
