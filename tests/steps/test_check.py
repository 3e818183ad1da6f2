"""What `check` finds, and what `--repair` makes of it: one kind of damage at a time."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imgrank.bundle import file, probe
from imgrank.errors import DamagedBundleError
from imgrank.steps.cache_tokens import cache_tokens
from imgrank.steps.check import check
from imgrank.steps.findings import CODES
from imgrank.steps.repair import repair
from imgrank.tokens.recipe import parse_recipe


@pytest.fixture(scope="module")
def _cached(_indexed: Path, model_folder, tmp_path_factory) -> Path:
    """The indexed collection with a product-quantized cache and its proof."""
    folder = tmp_path_factory.mktemp("cached") / "collection"
    shutil.copytree(_indexed.parent, folder, copy_function=os.link)
    (folder / "db.h5").unlink()
    shutil.copy2(_indexed, folder / "db.h5")
    settings = parse_recipe("resize:160 | max-tokens:100 | pq:16")
    cache_tokens(folder / "db.h5", mllm=str(model_folder("qwen3_vl")), settings=settings, proof_pairs=6)
    return folder / "db.h5"


@pytest.fixture
def bundle(_cached: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "collection"
    shutil.copytree(_cached.parent, folder, copy_function=os.link)
    (folder / "db.h5").unlink()
    shutil.copy2(_cached, folder / "db.h5")
    probe.remember(folder / "db.h5")
    return folder / "db.h5"


def codes(bundle: Path, **options) -> set[str]:
    return {finding.code for finding in check(bundle, **options).findings}


def flip(bundle: Path, view: Callable, row: int, byte: int = 0, bit: int = 1) -> None:
    """Change a bit of a row of a column."""
    with file.read(bundle) as opened:
        column = view(opened)
        chunk, inside = divmod(row, column.chunk_rows)
        offset = int(column.starts[chunk]) + inside * column.row_bytes + byte
    content = bytearray(bundle.read_bytes())
    content[offset] ^= bit
    bundle.write_bytes(content)


def change(bundle: Path, edit: Callable) -> None:
    with file.Writer(bundle) as writer, writer.transaction() as h5:
        edit(h5)


def test_a_sound_bundle_has_nothing_to_find(bundle):
    assert check(bundle).findings == []
    assert check(bundle, fast=True).findings == []


IMAGES = {
    "id": lambda opened: opened.images.columns["id"],
    "size": lambda opened: opened.images.columns["size"],
    "digest": lambda opened: opened.images.columns["digest"],
    "status": lambda opened: opened.images.columns["status"],
    "path": lambda opened: opened.images.columns["path-bytes"],
    "offsets": lambda opened: opened.images.columns["path-offsets"],
    "crc": lambda opened: opened.images.columns["crc32"],
}


@pytest.mark.parametrize("column", IMAGES)
def test_a_flipped_bit_in_the_facts_of_a_photo_is_found_and_its_row_dropped(imgrank, bundle, column):
    flip(bundle, IMAGES[column], 5)
    report = check(bundle)
    assert "image-checksum" in {finding.code for finding in report.findings}
    done = repair(bundle, report)
    assert done.after.errors == 0, done.after.findings
    assert 1 <= done.dropped <= 2  # an offset is the end of one path and the start of the next
    run = imgrank("index", "photos", "-o", "db.h5", cwd=bundle.parent)
    assert run.returncode == 0, run.stderr
    assert f"{done.dropped} photos embedded, {20 - done.dropped} known".encode() in run.stderr
    assert codes(bundle) <= {"cache-behind"}


@pytest.mark.parametrize("byte", [0, 3, 1999])
def test_a_flipped_bit_in_a_descriptor_is_found_and_never_searched(imgrank, bundle, byte):
    flip(bundle, lambda opened: opened.descriptors.columns["vectors"], 7, byte, 0x40)
    run = imgrank("search", "db.h5", "queries", "--exact", cwd=bundle.parent)
    assert run.returncode == 4
    assert b"row 7" in run.stderr
    report = check(bundle)
    assert [finding.rows for finding in report.findings if finding.code == "descriptor-checksum"] == [(7,)]
    done = repair(bundle, report)
    assert (done.after.errors, done.dropped) == (0, 1)
    with file.read(done.backup) as before, file.read(bundle) as after:
        kept = [row for row in range(20) if row != 7]
        assert after.images.ids().tolist() == before.images.ids()[kept].tolist()
        images = before.tokens("default").read(kept)
        for one, other in zip(images, after.tokens("default").read(range(19)), strict=True):
            np.testing.assert_array_equal(one.columns["codes"], other.columns["codes"])
    assert imgrank("search", "db.h5", "queries", "--rerank", 5, cwd=bundle.parent).returncode == 0


@pytest.mark.parametrize(
    ("vector", "code"), [(np.full(1024, 0.5), "descriptor-norm"), (np.full(1024, np.nan), "descriptor-values")]
)
def test_descriptors_of_another_kind_are_found(bundle, vector, code):
    from imgrank.arrays import crc32

    def edit(h5) -> None:
        h5["descriptors/vectors"][3] = vector
        h5["descriptors/crc32"][3] = crc32(vector.astype("<f4"))

    change(bundle, edit)
    report = check(bundle)
    assert [(finding.code, finding.rows) for finding in report.findings if finding.severity == "error"] == [
        (code, (3,))
    ]
    assert repair(bundle, report).after.errors == 0


GRAPH = ("rows", "levels", "links0")


@pytest.mark.parametrize("array", GRAPH)
def test_a_damaged_graph_is_found_and_built_again(imgrank, bundle, array):
    flip(bundle, lambda opened: opened.graph.checked.columns[array], 2)
    run = imgrank("search", "db.h5", "queries", cwd=bundle.parent)
    assert run.returncode == 4
    assert b"imgrank index" in run.stderr
    report = check(bundle)
    assert {finding.code for finding in report.findings} == {"graph-damaged"}
    done = repair(bundle, report)
    assert done.after.findings == []
    assert done.dropped == 0


def test_a_stale_graph_is_found_and_built_again(bundle):
    change(bundle, lambda h5: h5["graph"].attrs.__setitem__("input-digest", np.bytes_("0" * 32)))
    report = check(bundle)
    assert {finding.code for finding in report.findings} == {"graph-stale"}
    assert repair(bundle, report).after.findings == []


def test_nodes_without_links_to_them_are_found(bundle):
    from imgrank.bundle.graph import write_graph

    with file.read(bundle) as opened:
        arrays, provenance = opened.graph.arrays(), opened.graph.provenance
    links = arrays["links0"].copy()
    lost = 6 if int(arrays["entry_point"]) != 6 else 7
    for node in range(len(links)):
        kept = links[node][(links[node] >= 0) & (links[node] != lost)]
        links[node] = np.pad(kept, (0, links.shape[1] - len(kept)), constant_values=-1)
    change(bundle, lambda h5: write_graph(h5, {**arrays, "links0": links}, provenance))
    report = check(bundle)
    (finding,) = [finding for finding in report.findings if finding.code == "graph-unreachable"]
    assert finding.rows == (int(arrays["rows"][lost]),)
    assert "--rebuild" in finding.mend("db.h5")


TOKENS = {
    "codes": lambda opened: opened.tokens("default").columns["codes"],
    "position": lambda opened: opened.tokens("default").columns["position"],
    "grid": lambda opened: opened.tokens("default").images["grid"],
    "tiles": lambda opened: opened.tokens("default").images["tiles"],
    "status": lambda opened: opened.tokens("default").images["status"],
    "crc32": lambda opened: opened.tokens("default").images["crc32"],
}


@pytest.mark.parametrize("column", TOKENS)
def test_a_flipped_bit_in_a_cache_is_found_never_used_and_dropped(imgrank, bundle, column):
    flip(bundle, TOKENS[column], 0)
    run = imgrank("search", "db.h5", "queries", "--rerank", 20, "--score-cache", "none", cwd=bundle.parent)
    assert run.returncode == 4, run.stderr
    assert b"/tokens/default, image row 0" in run.stderr
    report = check(bundle)
    assert [(finding.code, finding.rows) for finding in report.findings] == [("cache-checksum", (0,))]
    done = repair(bundle, report)
    assert done.after.findings == []
    with file.read(bundle) as opened:
        (lost,) = opened.tokens("default").read([0])
        assert lost.columns == {}
    run = imgrank("search", "db.h5", "queries", "--rerank", 20, "--score-cache", "none", cwd=bundle.parent)
    assert run.returncode == 0, run.stderr
    assert b"1 of 20 candidates have no cached tokens" in run.stderr


def test_damaged_offsets_lose_a_cache_and_nothing_else(bundle):
    flip(bundle, lambda opened: opened.tokens("default").images["offsets"], 4, 7)
    report = check(bundle)
    assert {finding.code for finding in report.findings} == {"cache-offsets"}
    done = repair(bundle, report)
    assert done.caches == ["default"]
    assert done.after.findings == []
    with file.read(bundle) as opened:
        assert sorted(opened.token_tables) == ["local"]
        assert len(opened.images) == 20


def test_damaged_codebooks_lose_a_cache_and_a_damaged_proof_itself(bundle):
    flip(bundle, lambda opened: opened.tokens("default").proof.columns["logits"], 2)
    report = check(bundle)
    assert {finding.code for finding in report.findings} == {"cache-proof"}
    assert repair(bundle, report).after.findings == []
    with file.read(bundle) as opened:
        assert opened.tokens("default").proof is None
    flip(bundle, lambda opened: opened.tokens("default").codebooks.columns["centroids"], 0)
    report = check(bundle)
    assert {finding.code for finding in report.findings} == {"cache-codebooks"}
    assert repair(bundle, report).caches == ["default"]


def test_a_part_of_another_shape_is_named_and_the_rest_kept(bundle):
    change(bundle, lambda h5: h5["tokens/local/columns"].__delitem__("keypoints"))
    with pytest.raises(DamagedBundleError, match="keypoints"):
        file.read(bundle)
    report = check(bundle)
    assert [(finding.code, finding.part) for finding in report.findings] == [("part-unreadable", "/tokens/local")]
    done = repair(bundle, report)
    assert done.after.findings == []
    with file.read(bundle) as opened:
        assert sorted(opened.token_tables) == ["default"]


def test_a_cut_file_is_told_and_cannot_be_repaired(imgrank, bundle):
    os.truncate(bundle, bundle.stat().st_size // 2)
    assert codes(bundle) == {"unreadable"}
    run = imgrank("check", "db.h5", "--repair", cwd=bundle.parent)
    assert run.returncode == 4
    assert b"restore a copy" in run.stderr


def test_photos_on_the_disk_are_looked_for(bundle):
    photos = sorted((bundle.parent / "photos").iterdir())
    photos[0].unlink()
    content = photos[1].read_bytes()
    photos[1].unlink()
    photos[1].write_bytes(content)
    os.utime(photos[1], ns=(0, 0))
    found = {finding.code: finding.rows for finding in check(bundle).findings}
    assert found == {"photo-missing": (0,), "photo-changed": (1,)}
    assert check(bundle, photos=False).findings == []
    moved = bundle.parent.rename(bundle.parent.with_name("elsewhere"))
    assert {finding.code for finding in check(moved / "db.h5", root=moved).findings} == set(found)


def test_what_a_cut_run_left_is_named(bundle, monkeypatch):
    bundle.with_name("db.h5.incoming").write_bytes(b"")
    bundle.with_name("db.h5.default.sample").mkdir()
    found = [(finding.code, finding.part) for finding in check(bundle).findings]
    assert found == [("leftover", "db.h5.incoming"), ("leftover", "db.h5.default.sample")]


def test_photos_that_came_later_are_notes_and_no_errors(imgrank, bundle):
    shutil.copy(bundle.parent / "queries" / "query-00.jpg", bundle.parent / "photos" / "new.jpg")
    assert imgrank("embed", "photos", "-o", "db.h5", cwd=bundle.parent).returncode == 0
    report = check(bundle)
    assert {(finding.code, finding.rows) for finding in report.findings} == {
        ("graph-behind", (20,)),
        ("cache-behind", (20,)),
    }
    assert report.errors == 0
    run = imgrank("check", "db.h5", "--json", cwd=bundle.parent)
    assert run.returncode == 0
    assert {finding["code"] for finding in json.loads(run.stdout)["findings"]} == {"graph-behind", "cache-behind"}


def test_fast_does_not_read_rows(bundle):
    flip(bundle, TOKENS["codes"], 0)
    flip(bundle, lambda opened: opened.descriptors.columns["vectors"], 7)
    assert check(bundle, fast=True).findings == []


def test_ids_that_come_again_are_found(bundle):
    change(bundle, lambda h5: h5["images"].attrs.__setitem__("next-id", np.uint64(3)))
    assert codes(bundle) == {"image-ids"}


def test_every_code_says_what_to_do():
    for severity, meaning, mend in CODES.values():
        assert severity in ("error", "warning", "note")
        assert meaning
        assert mend.format(bundle="db.h5", part="small")


def test_a_repair_keeps_every_backup(bundle):
    for _ in range(2):
        flip(bundle, lambda opened: opened.graph.checked.columns["levels"], 2)
        assert repair(bundle, check(bundle)).after.findings == []
    assert sorted(path.name for path in bundle.parent.glob("db.h5*")) == ["db.h5", "db.h5.backup-1", "db.h5.backup-2"]


def test_a_table_for_people(imgrank, bundle):
    flip(bundle, lambda opened: opened.descriptors.columns["vectors"], 7)
    run = imgrank("check", "db.h5", "--repair", cwd=bundle.parent)
    assert run.returncode == 0, run.stderr
    text = run.stdout.decode()
    assert text.startswith("error descriptor-checksum /descriptors/vectors: descriptors do not match their checksums\n")
    assert "    rows 7\n    mend: imgrank check db.h5 --repair\n" in text
    assert b"repaired: 1 photos dropped; db.h5.backup-1 is the bundle as it was" in run.stderr


def test_the_documentation_lists_every_code():
    text = (Path(__file__).parents[2] / "docs" / "bundles.md").read_text()
    for code, (severity, meaning, mend) in CODES.items():
        command = mend.format(bundle="db.h5", part="NAME")
        assert f"| `{code}` | {severity} | {meaning} | {command} |" in text
