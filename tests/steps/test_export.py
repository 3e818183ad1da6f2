"""`export`: what a bundle holds, in files that other programs read."""

import importlib.util
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from imgrank.bundle import file
from imgrank.bundle.descriptors import append_descriptors, create_descriptors
from imgrank.bundle.images import append_images, mark_images
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import ImageTokens, TokenColumn, append_tokens, create_tokens
from imgrank.config import TokenSettings
from imgrank.errors import DamagedBundleError, InputError, MissingGroupError, SettingsError
from imgrank.records import STATUS_NAMES, ImageRecord
from imgrank.results import from_tsv_field, tsv_field
from imgrank.steps import export_descriptors as descriptors_step
from imgrank.steps import export_tokens as tokens_step
from imgrank.steps.export_descriptors import export_descriptors
from imgrank.steps.export_tokens import export_tokens

NAMES = [b"a.jpg", b"tab\there.jpg", b"not\xffutf8.jpg", b"back\\slash.jpg"]
UNREADABLE, REMOVED = STATUS_NAMES.index("unreadable"), STATUS_NAMES.index("removed")
needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is an extra")


def record(path: bytes, status: int = 0) -> ImageRecord:
    return ImageRecord(path, 1, 2, bytes([7]) * 16, 3, 4, status)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Five rows, ids 0 to 4: row 1 was never readable, and row 4 was removed."""
    path = tmp_path / "db.h5"
    rows = [record(NAMES[0]), record(b"bad.jpg", UNREADABLE), *map(record, NAMES[1:])]
    vectors = np.eye(5, 3, dtype=np.float32)
    with file.Writer(path) as writer:
        file.create(path, root=b".")
        with writer.transaction() as h5:
            append_images(h5, rows)
            create_descriptors(h5, 3, Provenance("builtin", "1", "{}"))
            append_descriptors(h5, vectors)
            mark_images(h5, [4], REMOVED)
    return path


def add_tokens(bundle: Path, images: list[ImageTokens], levels: int = 1, hidden: int = 2) -> None:
    settings = TokenSettings(reduce="", store="bfloat16").to_json()
    columns = [TokenColumn("values", "uint16", (levels, hidden)), TokenColumn("position", "<u2", (3,))]
    with file.Writer(bundle) as writer, writer.transaction() as h5:
        create_tokens(h5, "small", "mllm", "bfloat16", columns, Provenance("some/model", "abc", settings))
        append_tokens(h5, "small", images)


def image(values: list[list[float]], **more: object) -> ImageTokens:
    upper = (np.array(values, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
    positions = np.array([[0, 0, place] for place in range(len(values))], dtype=np.uint16)
    return ImageTokens({"values": upper[:, None, :], "position": positions}, (2, 3), **more)


def listing(path: Path) -> list[tuple[int, bytes]]:
    head, *lines = path.read_bytes().splitlines()
    assert head == b"id\tpath"
    return [(int(number), from_tsv_field(name)) for number, name in (line.split(b"\t") for line in lines)]


def test_tsv_fields_come_back_and_are_as_search_writes_them() -> None:
    assert tsv_field(b"a\tb\\n\n\r") == rb"a\tb\\n\n\r"
    for name in [*NAMES, b"\\t", b"\\\\\t\\", bytes(range(1, 256))]:
        assert b"\t" not in tsv_field(name)
        assert from_tsv_field(tsv_field(name)) == name


def test_descriptors_of_photos_that_are_ok_in_row_order(bundle: Path, tmp_path: Path) -> None:
    found = export_descriptors(bundle, tmp_path / "d.npy")
    vectors = np.load(tmp_path / "d.npy", allow_pickle=False)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[1, 0, 0], [0, 0, 1], [0, 0, 0]])  # rows 0, 2 and 3
    assert listing(tmp_path / "d.tsv") == [(0, NAMES[0]), (2, NAMES[1]), (3, NAMES[2])]
    assert (found.rows, found.dim, found.encoder, found.revision) == (3, 3, "builtin", "1")
    assert found.bytes == sum((tmp_path / name).stat().st_size for name in ("d.npy", "d.tsv"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npy", "d.tsv", "db.h5"]


def test_blocks_join_to_the_same_file(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_descriptors(bundle, tmp_path / "one.npy")
    monkeypatch.setattr(descriptors_step, "_BLOCK", 24)  # two rows
    export_descriptors(bundle, tmp_path / "more.npy")
    for ending in (".npy", ".tsv"):
        assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"more{ending}").read_bytes()


def test_a_bundle_whose_photos_all_failed_gives_no_rows(bundle: Path, tmp_path: Path) -> None:
    with file.Writer(bundle) as writer, writer.transaction() as h5:
        mark_images(h5, range(5), REMOVED)
    export_descriptors(bundle, tmp_path / "d.npy")
    assert np.load(tmp_path / "d.npy").shape == (0, 3)
    assert listing(tmp_path / "d.tsv") == []


def test_a_damaged_row_is_named_and_nothing_is_left(bundle: Path, tmp_path: Path) -> None:
    with file.read(bundle) as opened:
        (offset, _) = next(opened.descriptors.columns["vectors"].extents(2, 3))
    with bundle.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\x01")
    with pytest.raises(DamagedBundleError, match="row 2: its checksum"):
        export_descriptors(bundle, tmp_path / "d.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db.h5"]


@pytest.mark.parametrize("there", ["d.npy", "d.tsv"])
def test_nothing_is_replaced_unasked(bundle: Path, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_bytes(b"mine")
    with pytest.raises(SettingsError, match=f"{there} is there already.*--force"):
        export_descriptors(bundle, tmp_path / "d.npy")
    assert (tmp_path / there).read_bytes() == b"mine"
    export_descriptors(bundle, tmp_path / "d.npy", force=True)
    assert np.load(tmp_path / "d.npy").shape == (3, 3)


def test_force_never_replaces_a_bundle(bundle: Path, tmp_path: Path) -> None:
    for name in ("other.npy", "other.tsv"):
        os.link(bundle, tmp_path / name)
        with pytest.raises(SettingsError, match="perhaps a bundle"):
            export_descriptors(bundle, tmp_path / "other.npy", force=True)
        (tmp_path / name).unlink()
    with pytest.raises(SettingsError, match=r"must end in \.npy"):
        export_descriptors(bundle, bundle, force=True)


@pytest.mark.parametrize(("name", "words"), [("no/d.npy", "folder does not exist"), ("d.txt", "must end in .npy")])
def test_a_name_that_cannot_be_written(bundle: Path, tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        export_descriptors(bundle, tmp_path / name)


def test_tokens_worked_by_hand(bundle: Path, tmp_path: Path) -> None:
    # Row 0 has two tokens, row 2 none, row 3 one; row 1 failed, row 4 has a token and was removed.
    rows = [image([[1, 2], [3, 4]]), ImageTokens({}, (0, 0), UNREADABLE), ImageTokens({}, (5, 6))]
    add_tokens(bundle, [*rows, image([[-0.5, 256]], tiles=(2, 1)), image([[9, 9]])])
    found = export_tokens(bundle, tmp_path / "t.safetensors")
    tensors = load_file(tmp_path / "t.safetensors")
    assert {name: (str(array.dtype), array.shape) for name, array in tensors.items()} == {
        "id": ("int64", (3,)),
        "offsets": ("int64", (4,)),
        "vectors": ("float16", (3, 1, 2)),
        "positions": ("uint16", (3, 3)),
        "grid": ("uint16", (3, 2)),
        "tiles": ("uint16", (3, 2)),
    }
    assert tensors["id"].tolist() == [0, 2, 3]
    assert tensors["offsets"].tolist() == [0, 2, 2, 3]
    assert tensors["vectors"].tolist() == [[[1, 2]], [[3, 4]], [[-0.5, 256]]]
    assert tensors["positions"].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert tensors["grid"].tolist() == [[2, 3], [5, 6], [2, 3]]
    assert tensors["tiles"].tolist() == [[1, 1], [1, 1], [2, 1]]
    assert listing(tmp_path / "t.tsv") == [(0, NAMES[0]), (2, NAMES[1]), (3, NAMES[2])]
    assert (found.cache, found.images, found.tokens, found.shape) == ("small", 3, 3, (1, 2))
    with safe_open(tmp_path / "t.safetensors", "np") as opened:
        metadata = opened.metadata()
    assert (metadata["contents"], metadata["version"]) == ("imgrank tokens", "1")
    assert (metadata["model"], metadata["model-revision"], metadata["codec"]) == ("some/model", "abc", "bfloat16")


def test_token_parts_join_to_the_same_file(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    add_tokens(bundle, [image(rng.normal(size=(count, 2)).tolist()) for count in (4, 1, 3, 2, 5)])
    export_tokens(bundle, tmp_path / "one.safetensors")
    monkeypatch.setattr(tokens_step, "_PART", 4 * 2 * 4)  # four tokens
    export_tokens(bundle, tmp_path / "more.safetensors")
    for ending in (".safetensors", ".tsv"):
        assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"more{ending}").read_bytes()


def test_a_number_beyond_float16_is_refused_and_float32_keeps_it(bundle: Path, tmp_path: Path) -> None:
    add_tokens(bundle, [image([[1, 2**17]])])
    with pytest.raises(InputError, match=r"a\.jpg holds a number too large for float16; give --dtype float32"):
        export_tokens(bundle, tmp_path / "t.safetensors")
    assert not (tmp_path / "t.safetensors").exists()
    export_tokens(bundle, tmp_path / "t.safetensors", dtype="float32")
    assert load_file(tmp_path / "t.safetensors")["vectors"].tolist() == [[[1, 2**17]]]


def test_which_cache_is_exported(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingGroupError, match="imgrank cache-tokens"):
        export_tokens(bundle, tmp_path / "t.safetensors")
    add_tokens(bundle, [])
    with pytest.raises(MissingGroupError, match="there is: small"):
        export_tokens(bundle, tmp_path / "t.safetensors", cache="large")
    with file.Writer(bundle) as writer, writer.transaction() as h5:
        h5.copy("tokens/small", "tokens/other")
    with pytest.raises(SettingsError, match=r"several token caches \(other, small\)"):
        export_tokens(bundle, tmp_path / "t.safetensors")


def test_local_features(imgrank, collection: Path) -> None:
    run = imgrank("export", "tokens", "db.h5", "-o", "t.safetensors", cwd=collection)
    assert run.returncode == 0, run.stderr
    assert run.stdout == b""
    assert b"from cache 'local', 48 numbers each" in run.stderr
    tensors = load_file(collection / "t.safetensors")
    with file.read(collection / "db.h5") as opened:
        table = opened.tokens("local")
        stored = table.columns["descriptors"].read()
        np.testing.assert_array_equal(tensors["offsets"], table.offsets)
    np.testing.assert_array_equal(tensors["vectors"] + np.float16(128), stored)  # exact: whole numbers below 256
    assert tensors["keypoints"].shape == (len(stored), 4)
    assert tensors["keypoints"][:, :3].max() <= 1
    assert 180 < tensors["keypoints"][:, 3].max() < 360


def test_the_command_says_what_it_wrote_and_stdout_stays_empty(imgrank, collection: Path) -> None:
    run = imgrank("export", "descriptors", "db.h5", "-o", "d.npy", cwd=collection)
    assert (run.returncode, run.stdout) == (0, b"")
    assert b"d.npy and d.tsv: 20 descriptors of 1024 numbers, made by builtin 1-" in run.stderr
    again = imgrank("export", "descriptors", "db.h5", "-o", "d.npy", cwd=collection)
    assert (again.returncode, again.stdout) == (2, b"")
    assert b"--force" in again.stderr
    assert b"Traceback" not in again.stderr
    assert imgrank("export", "descriptors", "db.h5", "-o", "d.npy", "--force", "-q", cwd=collection).stderr == b""


HIT = {
    "schema_version": 1,
    "query": "q.jpg",
    "rank": 1,
    "id": 5,
    "path": "a\udcff.jpg",
    "score": 0.5,
    "similarity": 0.25,
}


def table_of(lines: list[dict], folder: Path) -> list[dict]:
    import pyarrow.parquet as pq

    from imgrank.steps.export_hits import export_hits

    stream = BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    found = export_hits(stream, folder / "h.parquet", force=True)
    assert found.hits == len(lines)
    rows: list[dict] = pq.read_table(folder / "h.parquet").to_pylist()
    return rows


@needs_pyarrow
def test_hits_keep_every_field(tmp_path: Path) -> None:
    judged = HIT | {"query": "z.jpg", "scorer": "mllm", "probability": 0.75, "logit": -1.5}
    judged |= {"calibrated": 0.625, "disagreement": 0.125}
    plain = HIT | {"path": "a\\xff.jpg"}
    nothing = dict.fromkeys(("scorer", "probability", "logit", "calibrated", "disagreement"))
    # Queries need not stand together, unlike for `rerank`.
    assert table_of([HIT, judged, HIT], tmp_path) == [plain | nothing, judged | {"path": "a\\xff.jpg"}, plain | nothing]


@needs_pyarrow
def test_hits_have_the_types_of_the_record(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table_of([], tmp_path)
    schema = pq.read_schema(tmp_path / "h.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        "schema_version": "int32", "query": "string", "rank": "int64", "id": "int64", "path": "string",
        "score": "float", "similarity": "float", "scorer": "string", "probability": "float", "logit": "float",
        "calibrated": "float", "disagreement": "float",
    }  # fmt: skip


@needs_pyarrow
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "line 1: not JSON"),
        (b'{"a":' + b"[" * 100_000, "line 1: not JSON"),
        (json.dumps(HIT | {"id": 2**64}).encode(), "line 1: id is 18446744073709551616"),
        (json.dumps(HIT | {"logit": "high"}).encode(), "line 1: logit is 'high'"),
        (json.dumps(HIT | {"path": "\ud800"}).encode(), "no file can be called"),
        (
            b'{"schema_version": 1, "query": "q", "rank": 1, "id": 1, "path": "p", "score": 1' + b"0" * 400 + b"}",
            "score",
        ),
        (b"q Q0 doc", "line 1: neither JSON nor a TREC run line"),
    ],
)
def test_a_line_that_is_no_hit(imgrank, tmp_path: Path, line: bytes, words: str) -> None:
    run = imgrank("export", "hits", "-o", "h.parquet", cwd=tmp_path, input=line)
    assert run.returncode == 5
    assert words.encode() in run.stderr
    assert b"Traceback" not in run.stderr
    assert list(tmp_path.glob("h.parquet*")) == []


@needs_pyarrow
def test_search_piped_into_a_table(imgrank, collection: Path) -> None:
    import pyarrow.parquet as pq

    hits = imgrank("search", "db.h5", "queries", "-k", 4, "--rerank", 2, cwd=collection).stdout
    run = imgrank("export", "hits", "-o", "h.parquet", cwd=collection, input=hits)
    assert (run.returncode, run.stdout) == (0, b"")
    assert b"h.parquet: 8 hits" in run.stderr
    wanted = [json.loads(line) for line in hits.splitlines()]
    table = pq.read_table(collection / "h.parquet")
    assert table["id"].to_pylist() == [hit["id"] for hit in wanted]
    assert table["scorer"].to_pylist() == [hit.get("scorer") for hit in wanted]
    np.testing.assert_array_equal(table["score"].to_numpy(), np.array([hit["score"] for hit in wanted], np.float32))
    # A TREC run has no ids.
    (collection / "run.trec").write_bytes(b"q Q0 a%20b.jpg 1 0.5 tag\n")
    assert imgrank("export", "hits", "run.trec", "-o", "t.parquet", cwd=collection).returncode == 0
    (row,) = pq.read_table(collection / "t.parquet").to_pylist()
    assert (row["id"], row["path"], row["score"]) == (None, "a b.jpg", 0.5)


def test_without_pyarrow_the_command_to_install_it(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, sys\nreal = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'pyarrow' else real(name, *more)\n"
        "from imgrank.cli import cli\ncli.main(['export', 'hits', '-o', 'h.parquet'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False, stdin=subprocess.PIPE
    )
    assert run.returncode == 3
    assert b"pip install 'imgrank[parquet]'" in run.stderr
