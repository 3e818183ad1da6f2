"""What the reliability benchmarks share: a drawn collection, the command line as a process, and states to compare."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.bundle import file
from imgrank.records import STATUS_NAMES

COMMAND = [sys.executable, "-m", "imgrank"]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    options.setdefault("capture_output", True)
    return subprocess.run([*COMMAND, *map(str, arguments)], stdin=subprocess.DEVNULL, check=False, **options)


def must(*arguments: object, **options: Any) -> bytes:
    """Run a command that has to end well; returns its output."""
    done = run(*arguments, **options)
    assert done.returncode == 0, (arguments, done.returncode, done.stderr.decode(errors="replace"))
    return done.stdout


def draw(folder: Path, objects: int, distractors: int) -> None:
    """Draw photos/, more/ and queries/ into a folder."""
    from imgrank.training.collection import draw_collection

    draw_collection(folder, seed=5, objects=objects, views=3, distractors=distractors, queries=2)
    (folder / "more").mkdir()
    for photo in sorted((folder / "photos").iterdir())[::4]:
        photo.rename(folder / "more" / photo.name)


def hits(bundle: Path, *options: object) -> bytes:
    """Return what a search finds, without ids, which depend on the order of work."""
    found = must("search", bundle, "queries", "-k", 1000, *options, cwd=bundle.parent)
    records = [json.loads(line) for line in found.splitlines()]
    kept = [{key: record[key] for key in ("query", "path", "score")} for record in records]
    return json.dumps(sorted(kept, key=lambda one: (one["query"], -one["score"], one["path"]))).encode()


def photos_of(bundle: Path) -> dict[str, str]:
    """Return a digest of all that is kept of each photo that was not removed, by its path."""
    with file.read(bundle) as opened:
        rows = np.flatnonzero(opened.images.statuses() != STATUS_NAMES.index("removed"))
        vectors = None if opened.descriptor_table is None else opened.descriptors.read()
        found = {}
        for row, record in zip(rows.tolist(), opened.images.records(rows), strict=True):
            own = hashlib.sha256(record.digest)
            if vectors is not None:
                own.update(vectors[row].tobytes())
            found[os.fsdecode(record.path)] = own.hexdigest()
        return found


def tokens_of(bundle: Path) -> dict[str, dict[str, str]]:
    """Return a digest of the tokens of each photo, by the name of the cache and the path."""
    with file.read(bundle) as opened:
        rows = np.flatnonzero(opened.images.statuses() != STATUS_NAMES.index("removed"))
        paths = [os.fsdecode(record.path) for record in opened.images.records(rows)]
        found: dict[str, dict[str, str]] = {}
        for name, table in opened.token_tables.items():
            found[name] = {}
            cached = [(row, path) for row, path in zip(rows.tolist(), paths, strict=True) if row < len(table)]
            for (_, path), image in zip(cached, table.read([row for row, _ in cached]), strict=True):
                own = hashlib.sha256()
                for column in image.columns.values():
                    own.update(np.ascontiguousarray(column).tobytes())
                found[name][path] = own.hexdigest()
        return found


def clean(bundle: Path) -> list[str]:
    """Return the codes of the errors that a check finds."""
    from imgrank.steps.check import check

    return [finding.code for finding in check(bundle, photos=False).findings if finding.severity == "error"]
