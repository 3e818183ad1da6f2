"""Bundles of every format version are read; old ones are migrated before they are written."""

import json
import lzma
import shutil
from pathlib import Path

import pytest

from imgrank.bundle import file, layout
from imgrank.errors import OutdatedBundleError
from imgrank.steps.compact import compact
from imgrank.steps.migrate import migrate
from tests.golden.bundles.facts import digest_of, facts

GOLDEN = Path(__file__).parents[1] / "golden" / "bundles"
VERSIONS = sorted(int(path.name.split("-")[1].split(".")[0]) for path in GOLDEN.glob("version-*.h5.xz"))


@pytest.fixture(params=VERSIONS)
def golden(request, tmp_path: Path) -> tuple[Path, dict]:
    bundle = tmp_path / "old.h5"
    bundle.write_bytes(lzma.decompress((GOLDEN / f"version-{request.param}.h5.xz").read_bytes()))
    return bundle, json.loads((GOLDEN / f"version-{request.param}.json").read_text())


def test_there_is_a_golden_bundle_of_every_version():
    assert VERSIONS == list(range(1, layout.FORMAT_VERSION + 1))


def test_every_version_is_read(golden):
    bundle, expected = golden
    with file.read(bundle) as opened:
        rows = range(len(opened.images))
        assert opened.images.ids().tolist() == expected["ids"]
        assert opened.images.statuses().tolist() == expected["statuses"]
        assert [record.path.decode() for record in map(opened.images.record, rows)] == expected["paths"]
        assert digest_of(opened.descriptors.read()) == expected["vectors"]
        arrays = opened.graph.arrays()
        assert {name: digest_of(arrays[name]) for name in expected["graph"]} == expected["graph"]
        assert opened.token_tables.keys() == expected["caches"].keys()
        for name, cache in expected["caches"].items():
            table = opened.tokens(name)
            assert table.offsets.tolist() == cache["offsets"]
            images = table.read(rows)
            assert [list(image.grid) for image in images] == cache["grid"]
            for column, digest in cache["columns"].items():
                assert digest_of(table.columns[column].read()) == digest
            for group, name_of in ((table.codebooks, "codebooks"), (table.proof, "proof")):
                held = {} if group is None else {key: digest_of(array) for key, array in group.read().items()}
                assert held == cache[name_of]


def test_an_old_bundle_is_searched_and_migrated_before_it_is_written(imgrank, golden, drawn):
    bundle, expected = golden
    folder = bundle.parent
    search = ["search", bundle, drawn.photos.parent / "queries", "-k", 8]
    before = imgrank(*search, cwd=folder)
    assert before.returncode == 0, before.stderr
    with file.read(bundle) as opened:
        version = opened.version
    if version < layout.FORMAT_VERSION:
        with pytest.raises(OutdatedBundleError, match=r"imgrank migrate .*old\.h5"):
            compact(bundle)
    again = folder / "again.h5"
    shutil.copy(bundle, again)
    assert migrate(bundle) == version
    found = facts(str(bundle))
    for name in ("ids", "paths", "statuses", "digests", "vectors", "caches"):
        assert found[name] == expected[name]
    assert imgrank(*search, cwd=folder).stdout == before.stdout
    run = imgrank("migrate", again, cwd=folder)
    assert run.returncode == 0, run.stderr
    assert migrate(again) == layout.FORMAT_VERSION
    compact(bundle)
