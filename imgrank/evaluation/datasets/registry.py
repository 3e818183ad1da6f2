"""From the name of a data set to what reads it. A new one is a module with a `READER`, and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from imgrank.errors import InputError, SettingsError
from imgrank.evaluation.datasets.base import DISTRACTORS_REST, Dataset, Reader
from imgrank.nearest import did_you_mean

_PACKAGE = "imgrank.evaluation.datasets"
DATASETS: Mapping[str, str] = {  # name -> module:reader
    "roxford5k": "revisited:OXFORD",
    "rparis6k": "revisited:PARIS",
    "instre": "instre:READER",
    "gldv2": "gldv2:READER",
    "holidays": "holidays:READER",
    "ukbench": "ukbench:READER",
    "ilias": "ilias:READER",
    "product1m": "product1m:READER",
    "sop": "sop:READER",
    "sop-1k": "sop:READER_1K",
    "met": "met:READER",
    "met-mini": "met:READER_MINI",
}


def reader(name: str) -> Reader:
    """Return what reads a data set.

    Raises:
        SettingsError: none is called so.
    """
    if name not in DATASETS:
        hint = did_you_mean(name, DATASETS, 1)
        known = f"{hint} " if hint else ""
        raise SettingsError(
            f"no data set {name!r}; {known}there are {', '.join(DATASETS)}; for another one, give --qrels"
        )
    module, _, attribute = DATASETS[name].partition(":")
    found: Reader = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), attribute)
    return found


def read_dataset(name: str, folder: Path, distractors: str | None = None) -> Dataset:
    """Read a data set from the folder in which it was published.

    Args:
        name: a key of `DATASETS`.
        folder: with what `Reader.layout` says.
        distractors: name of a list of distractors; "rest": every other photo that is searched; None: none.

    Raises:
        SettingsError: no such data set, or no such list.
        InputError: something is missing or damaged, or of another data set.
    """
    chosen = reader(name)
    if distractors not in (None, DISTRACTORS_REST, *chosen.distractors):
        known = ", ".join((*chosen.distractors, DISTRACTORS_REST))
        raise SettingsError(f"{chosen.title} has no distractors {distractors!r}: there are {known}")
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; {chosen.title} needs {'; '.join(chosen.layout)}")
    if distractors != DISTRACTORS_REST:
        return chosen.read(folder, distractors)
    return replace(chosen.read(folder, None), database=None)
