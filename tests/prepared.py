"""A folder that has everything that the examples of help texts and pages name."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from imgrank.encode import catalogue as encoders
from imgrank.mllm import catalogue as mllms
from imgrank.mllm.folder import BUILTIN_FOLDER
from imgrank.training.collection import CollectionFiles
from tests.conftest import run_imgrank

MODELS = {one.name for one in (*encoders.KNOWN, *mllms.KNOWN) if "/" in one.name}


def needs_a_download(line: str) -> bool:
    """Tell whether a line names a model of the Hugging Face hub, which tests never download."""
    return any(name in line for name in MODELS) or "--preset best" in line


def prepare(drawn: CollectionFiles, folder: Path) -> Path:
    """Fill an empty folder with photos, queries, judgements, bundles, runs and a program `imgrank`."""
    views = [path for path in drawn.images if "object" in path.name]
    others = [path for path in drawn.images if "object" not in path.name]
    places = {"photos": views[:6], "photos/holiday": views[6:7], "new-photos": views[9:10], "paintings": others[:1]}
    for inside, photos in places.items():
        (folder / inside).mkdir()
        for photo in photos:
            shutil.copy(photo, folder / inside)
    for name, photo in {"one-draft": others[1], "one": others[2], "shelf": others[3]}.items():
        shutil.copy(photo, folder / "photos" / f"{name}.jpg")
    shutil.copytree(folder / "photos", folder / "ilias")
    shutil.copytree(folder / "photos", folder / "archive" / "photos")
    shutil.copytree(drawn.queries[0].parent, folder / "queries")
    for name in ("query.jpg", "vase.jpg", "logo.png", "front.jpg", "more.jpg", "ilias/query.jpg"):
        shutil.copy(drawn.queries[0], folder / name)
    shutil.copy(drawn.queries[1], folder / "back.jpg")
    with Image.open(drawn.queries[0]) as photo:
        photo.resize((800, 600)).save(folder / "room.jpg")

    def run(*arguments: object) -> bytes:
        done = run_imgrank(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    run("index", "photos", "-o", "db.h5")
    run("index", "paintings", "-o", "paintings.h5")
    for name in ("2023", "2024", "2025", "museum-a", "museum-b", "a", "b"):
        shutil.copy(folder / "db.h5", folder / f"{name}.h5")
    run("cache-tokens", "db.h5", "--cache", "small", "--recipe", "divprune:64 | float16", "--proof-pairs", 6)
    hits = run("search", "db.h5", "photos")
    for name in ("run", "a", "dino", "siglip"):
        (folder / f"{name}.jsonl").write_bytes(hits)
    for name in ("b", "first"):
        (folder / f"{name}.trec").write_bytes(run("search", "db.h5", "photos", "--format", "trec"))
    run("export", "descriptors", "db.h5", "-o", "d.npy")
    vectors = np.load(folder / "d.npy")
    names = [line.split("\t")[1] for line in (folder / "d.tsv").read_text().splitlines()[1:]]
    for file, rows, below in (
        ("features", vectors, [n.removeprefix("photos/") for n in names]),
        ("queries", vectors[:1], ["query.jpg"]),
    ):
        with h5py.File(folder / f"{file}.hdf5", "w") as h5:
            h5["features"], h5["index"] = rows, below
    run("import", "features.hdf5", "-o", "ilias.h5", "--root", "ilias", "--encoder", "builtin")
    run("index", "ilias.h5")
    # Views of one object show the same thing.
    kinds = {name: name.rsplit("-view-")[0] for name in names if "-view-" in name}
    same = [f"{q}\t{p}\n" for q, a in kinds.items() for p, b in kinds.items() if a == b and p != q]
    for name in ("q.tsv", "qrels.tsv"):
        (folder / name).write_text("".join(same))
    np.savez(folder / "layer.npz", weight=np.eye(64, vectors.shape[1], dtype=np.float32))
    (folder / "list.txt").write_text("query.jpg\n")
    (folder / "my-finetuned-model").mkdir()
    shutil.copy(BUILTIN_FOLDER / "config.json", folder / "my-finetuned-model")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "imgrank").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imgrank "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    return folder


def run_line(folder: Path, line: str) -> None:
    """Run a line in bash, in a folder that was prepared.

    Raises:
        AssertionError: it fails, or says "Traceback".
    """
    if "parquet" in line and find_spec("pyarrow") is None:
        return
    if shutil.which("jq") is None:
        line = line.split(" | jq ")[0]
    environment = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    script = "set -o pipefail; " + line.replace("/mnt/archive/photos", "archive").replace("/mnt/photos", "archive")
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, timeout=200, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout.decode()[-300:]}{done.stderr.decode()}"
    assert b"Traceback" not in done.stderr
