"""A graph over descriptors that were moved towards their neighbours: against numpy over the same descriptors."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from imgrank.arrays import unit_rows
from imgrank.bundle import file
from imgrank.config import GraphSettings, SearchSettings
from imgrank.errors import DamagedBundleError
from imgrank.steps.build_index import build_index
from imgrank.steps.check import check
from imgrank.steps.collection import open_collection
from imgrank.steps.search import Query, Searcher

AUGMENT = GraphSettings(augment=3, augment_alpha=1.0)


def moved(vectors: np.ndarray) -> np.ndarray:
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -1)
    out = []
    for row, own in enumerate(similarities):
        near = np.argsort(-own, kind="stable")[:3]
        out.append(vectors[row] + np.maximum(own[near], 0) @ vectors[near])
    return unit_rows(np.array(out))


@pytest.mark.parametrize("exact", [False, True])
def test_a_search_compares_with_the_moved_descriptors(collection: Path, exact: bool) -> None:
    bundle = collection / "db.h5"
    with file.read(bundle) as opened:
        before = opened.descriptors.read()
    assert build_index(bundle, AUGMENT, threads=1).action == "built"
    with open_collection([bundle]) as photos:
        np.testing.assert_array_equal(photos.parts[0].bundle.descriptors.read(), before)
        searcher = Searcher(photos, SearchSettings(top_k=6, exact=exact), stored_only=True)
        ranking = searcher.search(Query((2,)))
    expected = moved(before) @ before[2]
    expected[2] = -2
    assert [hit.id for hit in ranking.hits] == np.argsort(-expected)[:6].tolist()
    np.testing.assert_allclose([hit.similarity for hit in ranking.hits], np.sort(expected)[::-1][:6], atol=1e-6)
    assert check(bundle, photos=False).findings == []


def test_new_photos_are_found_before_and_after_the_graph_is_built_anew(imgrank, collection: Path) -> None:
    bundle = collection / "db.h5"
    build_index(bundle, AUGMENT, threads=1)
    added = imgrank("embed", "queries", "-o", "db.h5", cwd=collection)
    assert added.returncode == 0, added.stderr.decode()

    def first() -> bytes:
        with open_collection([bundle]) as photos:
            return (
                Searcher(photos, SearchSettings(top_k=1))
                .search(os.fsencode(collection / "queries/query-01.jpg"))
                .hits[0]
                .path
            )

    assert first().endswith(b"queries/query-01.jpg")
    assert build_index(bundle, threads=1).action == "built"  # the same settings, and every descriptor moved anew
    assert build_index(bundle, threads=1).action == "up to date"
    assert first().endswith(b"queries/query-01.jpg")
    with file.read(bundle) as opened:
        settings = json.loads(opened.graph.provenance.settings)
        assert (settings["augment"], opened.graph.vectors().shape[0]) == (3, 22)
    assert build_index(bundle, GraphSettings(), threads=1).action == "built"
    with file.read(bundle) as opened:
        assert opened.graph.vectors() is None


def test_a_compacted_bundle_is_augmented_again(imgrank, collection: Path) -> None:
    build_index(collection / "db.h5", AUGMENT, threads=1)
    for command in (["remove", "db.h5", "--", "photos/object-00-view-0.jpg"], ["compact", "db.h5"]):
        done = imgrank(*command, cwd=collection)
        assert done.returncode == 0, done.stderr.decode()
    with file.read(collection / "db.h5") as opened:
        np.testing.assert_allclose(
            opened.graph.vectors(), moved(opened.descriptors.read())[opened.graph.arrays()["rows"]], atol=1e-6
        )


def test_vectors_that_do_not_fit_are_refused(collection: Path) -> None:
    bundle = collection / "db.h5"
    build_index(bundle, AUGMENT, threads=1)
    with h5py.File(bundle, "r+") as h5:
        h5["graph/vectors"][3] = 0.5
    with open_collection([bundle]) as photos, pytest.raises(DamagedBundleError, match="checksum"):
        Searcher(photos, SearchSettings(), stored_only=True)
    assert [finding.code for finding in check(bundle, photos=False).findings] == ["graph-damaged"]
