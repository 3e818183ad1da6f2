"""Trials over the drawn collection: every view of an object is a query, its other views are right."""

import shutil
from pathlib import Path

import pytest

from imgrank.evaluation.qrels import Qrels
from imgrank.steps.collection import open_collection
from imgrank.steps.judged_photos import JudgedPhotos, own_dataset
from imgrank.steps.studies.trials import Trials, TrialSettings


@pytest.fixture(scope="session")
def own_bundle(_indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn collection, indexed; read only."""
    folder = tmp_path_factory.mktemp("studied") / "collection"
    shutil.copytree(_indexed.parent, folder)
    return folder / "db.h5"


def own_qrels(folder: Path) -> Qrels:
    names = sorted(f"photos/{path.name}".encode() for path in (folder / "photos").glob("object*.jpg"))
    kinds = {name: name.split(b"-view")[0] for name in names}
    return {query: {name: 1 for name in names if name != query and kinds[name] == kinds[query]} for query in names}


@pytest.fixture(scope="session")
def trials(own_bundle: Path) -> Trials:
    judged = JudgedPhotos(open_collection([own_bundle]), own_dataset(own_qrels(own_bundle.parent), "trec"))
    return Trials(judged, TrialSettings(depth=20, top=6, exact=True))
