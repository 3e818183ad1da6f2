"""`compact`, `merge` and `split`: the same photos in other files."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from imgrank.bundle import file
from imgrank.errors import DamagedBundleError, InputError, MismatchError, SettingsError
from imgrank.records import STATUS_NAMES
from imgrank.steps import copy_rows
from imgrank.steps.cache_tokens import cache_tokens
from imgrank.steps.compact import compact
from imgrank.steps.merge import merge
from imgrank.steps.proof import read_proof
from imgrank.steps.remove import remove
from imgrank.steps.split import split
from imgrank.tokens.recipe import parse_recipe

REMOVED = STATUS_NAMES.index("removed")


def photos_of(bundle: Path) -> dict[int, tuple]:
    """Everything that is kept of each photo that was not removed, by id."""
    with file.read(bundle) as opened:
        statuses = opened.images.statuses()
        rows = np.flatnonzero(statuses != REMOVED)
        ids = opened.images.ids()[rows].tolist()
        vectors = opened.descriptors.read()[rows]
        tokens = {
            name: [None if row >= len(table) else table.read([row])[0] for row in rows.tolist()]
            for name, table in opened.token_tables.items()
        }
        found = {}
        for place, (image_id, record) in enumerate(zip(ids, opened.images.records(rows), strict=True)):
            own = {
                name: None if some[place] is None
                else {key: column.tobytes() for key, column in some[place].columns.items()}
                for name, some in tokens.items()
            }  # fmt: skip
            place_on_disk = os.path.normpath(os.path.join(opened.root, record.path))
            facts = (record.size, record.mtime_ns, record.digest, record.status)
            found[image_id] = (place_on_disk, facts, vectors[place].tobytes(), own)
        return found


def hits(imgrank, folder: Path, bundle: str, *options: object) -> list[bytes]:
    run = imgrank("search", bundle, "queries", "-k", 30, "--format", "tsv", *options, cwd=folder)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.fixture
def bundle(collection: Path) -> Path:
    return collection / "db.h5"


def left_behind(bundle: Path) -> list[str]:
    return sorted(path.name for path in bundle.parent.glob("*.h5?*"))


def test_compact_keeps_everything_but_what_was_removed(imgrank, collection, bundle):
    shutil.copy(collection / "queries" / "query-00.jpg", collection / "photos" / "new.jpg")
    imgrank("add", "db.h5", "photos", cwd=collection)
    remove(bundle, [b"photos/object-00*", b"photos/new.jpg"])
    before, found = photos_of(bundle), hits(imgrank, collection, "db.h5", "--rerank", 5)
    with file.read(bundle) as opened:
        identity = opened.bundle_id
    summary = compact(bundle)
    assert (summary.kept, summary.dropped) == (17, 4)
    assert summary.bytes < summary.bytes_before
    assert photos_of(bundle) == before
    assert hits(imgrank, collection, "db.h5", "--rerank", 5) == found
    with file.read(bundle) as opened:
        assert opened.bundle_id == identity
        assert len(opened.images) == 17
        assert opened.images.next_id == 21  # also those of the rows that are gone are not used again
    assert left_behind(bundle) == []


def test_a_second_compact_changes_nothing_but_the_time(bundle):
    compact(bundle)
    before = photos_of(bundle), bundle.stat().st_size
    compact(bundle)
    assert (photos_of(bundle), bundle.stat().st_size) == before


def test_a_proof_keeps_the_pairs_whose_photos_are_left(bundle, model_folder):
    settings = parse_recipe("resize:160 | max-tokens:100 | int8")
    cache_tokens(bundle, mllm=str(model_folder("qwen3_vl")), settings=settings)
    with file.read(bundle) as opened:
        before, facts = read_proof(opened.tokens("default"))
        ids, paths = opened.images.ids(), opened.images.paths()
    query, other = before[0], before[1]
    remove(bundle, [paths[query.row], paths[int(other.candidates[0])]])
    compact(bundle)
    with file.read(bundle) as opened:
        after, same = read_proof(opened.tokens("default"))
        new_ids = opened.images.ids()
    assert same == facts
    assert len(after) == len(before) - 1
    assert int(new_ids[after[0].row]) == int(ids[other.row])
    np.testing.assert_array_equal(new_ids[after[0].candidates], ids[other.candidates[1:]])
    np.testing.assert_array_equal(after[0].logits, other.logits[1:])
    np.testing.assert_array_equal(after[0].tokens.vectors, other.tokens.vectors)


def test_a_damaged_row_is_told_and_the_bundle_left_alone(bundle):
    with file.read(bundle) as opened:
        offset = int(opened.descriptors.columns["vectors"].starts[0]) + 40
    content = bytearray(bundle.read_bytes())
    content[offset] ^= 1
    bundle.write_bytes(content)
    with pytest.raises(DamagedBundleError, match="checksum"):
        compact(bundle)
    assert bundle.read_bytes() == bytes(content)
    assert left_behind(bundle) == []


def test_what_a_killed_run_left_is_cleared(bundle):
    bundle.with_name("db.h5.incoming").write_bytes(b"half")
    bundle.with_name("db.h5.incoming.journal").write_bytes(b"half")
    compact(bundle)
    assert left_behind(bundle) == []


def test_a_disk_without_room_is_told_before(bundle, monkeypatch):
    before = bundle.read_bytes()
    monkeypatch.setattr(copy_rows.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(InputError, match="are free"):
        compact(bundle)
    assert bundle.read_bytes() == before


def test_a_reader_that_opened_before_compact_goes_on(bundle):
    with file.read(bundle) as opened:
        before = opened.descriptors.read()
        compact(bundle)
        np.testing.assert_array_equal(opened.descriptors.read(), before)


def test_shards_have_all_photos_and_merge_to_the_bundle(imgrank, collection, bundle):
    remove(bundle, [b"photos/object-01-view-1.jpg"])
    before = photos_of(bundle)
    shards = split(bundle, 3)
    assert [path.name for path in shards] == ["db-01-of-03.h5", "db-02-of-03.h5", "db-03-of-03.h5"]
    parts = [photos_of(path) for path in shards]
    assert [len(part) for part in parts] == [7, 6, 6]
    assert {key: value for part in parts for key, value in part.items()} == before
    summary = merge(shards, collection / "again.h5")
    assert (summary.images, summary.twice, summary.renumbered, summary.left_out) == (19, 0, [], {})
    assert photos_of(collection / "again.h5") == before
    assert hits(imgrank, collection, "again.h5", "--rerank", 5) == hits(imgrank, collection, "db.h5", "--rerank", 5)
    assert left_behind(bundle) == []


def test_bundles_with_a_photo_in_common_merge_to_one_of_each(imgrank, collection, bundle):
    for name, pattern in (("one.h5", "object-0[012]*"), ("two.h5", "object-0[234]*")):
        photos = sorted((collection / "photos").glob(pattern))
        assert imgrank("index", *photos, "-o", name, "--threads", 1, cwd=collection).returncode == 0
    summary = merge([collection / "one.h5", collection / "two.h5"], collection / "both.h5")
    assert (summary.images, summary.twice) == (15, 3)
    assert [path.name for path in summary.renumbered] == ["two.h5"]
    both = photos_of(collection / "both.h5")
    assert list(both) == list(range(15))
    expected = {value[0]: value[2:] for value in photos_of(bundle).values() if b"/object-" in value[0]}
    assert {value[0]: value[2:] for value in both.values()} == expected


def test_a_merged_bundle_finds_photos_of_other_folders(imgrank, collection, bundle, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(collection / "queries", other / "queries")
    assert imgrank("index", "queries", "-o", "q.h5", cwd=other).returncode == 0
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "all.h5"
    run = imgrank("merge", bundle, other / "q.h5", "-o", target, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = imgrank("search", target, other / "queries", "-k", 1, "--rerank", 5, "--format", "paths", cwd=tmp_path)
    assert [line.split(b"/")[-3:] for line in found.stdout.splitlines()] == [
        [b"other", b"queries", b"query-00.jpg"],
        [b"other", b"queries", b"query-01.jpg"],
    ]


def test_a_cache_that_not_all_have_alike_is_left_out(imgrank, collection, bundle, model_folder):
    shutil.copy(bundle, collection / "one.h5")
    mllm = str(model_folder("qwen3_vl"))
    shutil.copytree(collection / "photos", collection / "more")
    assert imgrank("index", "more", "-o", "two.h5", cwd=collection).returncode == 0
    one, two = collection / "one.h5", collection / "two.h5"
    small, smaller = (parse_recipe(f"resize:160 | max-tokens:100 | {step}") for step in ("int8", "float16"))
    cache_tokens(one, mllm=mllm, cache="a", settings=small, proof_pairs=0)
    cache_tokens(one, mllm=mllm, cache="b", settings=small, proof_pairs=6)
    cache_tokens(two, mllm=mllm, cache="b", settings=small, proof_pairs=6)
    cache_tokens(one, mllm=mllm, cache="c", settings=small, proof_pairs=0)
    cache_tokens(two, mllm=mllm, cache="c", settings=smaller, proof_pairs=0)
    summary = merge([one, two], collection / "both.h5")
    assert summary.left_out.keys() == {"a", "c"}
    assert "two.h5 has none" in summary.left_out["a"]
    assert "different ways" in summary.left_out["c"]
    with file.read(collection / "both.h5") as opened:
        assert sorted(opened.token_tables) == ["b", "local"]
        assert len(opened.tokens("b")) == 40
        queries, _ = read_proof(opened.tokens("b"))
        assert [query.row < 20 for query in queries] == [True] * 3 + [False] * 3


def test_a_cache_that_lags_behind_ends_where_it_ended(collection, bundle, model_folder):
    cache_tokens(
        bundle, mllm=str(model_folder("qwen3_vl")), settings=parse_recipe("resize:160 | max-tokens:100 | int8")
    )
    with file.Writer(bundle) as writer, writer.transaction() as h5:
        group = h5["tokens/default"]
        tokens = int(group["offsets"][12])
        for name in ("grid", "tiles", "status", "crc32"):
            group[name].resize(12, axis=0)
        group["offsets"].resize(13, axis=0)
        for column in group["columns"].values():
            column.resize(tokens, axis=0)
    remove(bundle, [b"photos/object-00*"])
    before = photos_of(bundle)
    compact(bundle)
    assert photos_of(bundle) == before
    with file.read(bundle) as opened:
        assert len(opened.tokens("default")) == sum(own["default"] is not None for *_, own in before.values())
        assert len(opened.tokens("local")) == 17


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["merge", "db.h5", "-o", "c.h5"], 2, b"two bundles or more"),
        (["merge", "db.h5", "db.h5", "-o", "c.h5"], 2, b"named twice"),
        (["merge", "db.h5", "./photos/../db.h5", "-o", "c.h5"], 2, b"named twice"),
        (["merge", "db.h5", "no.h5", "-o", "c.h5"], 4, b"no.h5: no such file"),
        (["merge", "db.h5", "other.h5", "-o", "db.h5"], 2, b"is one of the bundles"),
        (["merge", "db.h5", "other.h5", "-o", "qrels.tsv"], 2, b"is there already"),
        (["merge", "db.h5", "other.h5", "-o", "qrels.tsv", "--force"], 2, b"no bundle; --force does not replace it"),
        (["merge", "db.h5", "other.h5", "-o", "no/folder/c.h5"], 2, b"folder does not exist"),
        (["split", "db.h5", "--shards", "21"], 2, b"too few for 21 shards"),
        (["compact", "no.h5"], 4, b"no.h5: no such file"),
        (["compact", "qrels.tsv"], 4, b"not an HDF5 file"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(imgrank, collection, bundle, arguments, code, reason):
    shutil.copy(bundle, collection / "other.h5")
    before = {path.name: path.read_bytes() for path in collection.iterdir() if path.is_file()}
    run = imgrank(*arguments, cwd=collection)
    assert run.returncode == code, run.stderr
    assert reason in run.stderr
    assert b"Traceback" not in run.stderr
    assert {path.name: path.read_bytes() for path in collection.iterdir() if path.is_file()} == before


def test_bundles_of_two_encoders_do_not_merge(imgrank, collection, bundle):
    other = collection / "other.h5"
    shutil.copy(bundle, other)
    with file.Writer(other) as writer, writer.transaction() as h5:
        h5["descriptors"].attrs["model-revision"] = "another"
    with pytest.raises(MismatchError, match=r"other\.h5"):
        merge([bundle, other], collection / "c.h5")
    assert not (collection / "c.h5").exists()
    with pytest.raises(SettingsError):
        merge([bundle], collection / "c.h5")
