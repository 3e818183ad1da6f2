"""A folder that has everything that the examples of help texts and pages name."""

import os
import pickle
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
    _lay_out_oxford(folder, kinds)
    run("index", "roxford5k/jpg", "-o", "ox.h5")
    run("index", "revisitop1m/jpg", "-o", "1m.h5")
    (folder / "my-finetuned-model").mkdir()
    shutil.copy(BUILTIN_FOLDER / "config.json", folder / "my-finetuned-model")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "imgrank").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imgrank "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    return folder


def _lay_out_oxford(folder: Path, kinds: dict[str, str]) -> None:
    """Lay views of objects out as ROxford5k is published, and other photos as its million distractors."""
    jpg, distractors = folder / "roxford5k" / "jpg", folder / "revisitop1m" / "jpg"
    jpg.mkdir(parents=True)
    distractors.mkdir(parents=True)
    views = sorted(kinds, key=lambda name: Path(name).stem)
    for name in views:
        shutil.copy(folder / name, jpg)
    stems = [Path(name).stem for name in views]
    same = [place for place, name in enumerate(views) if kinds[name] == kinds[views[0]] and place]
    right = [place - 1 for place in same]
    one = {"bbx": [0.0, 0.0, 200.0, 150.0], "easy": right[:1], "hard": right[1:], "junk": []}
    truth = {"imlist": stems[1:], "qimlist": stems[:1], "gnd": [one]}
    (folder / "roxford5k" / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth))
    for photo in sorted((folder / "photos").glob("one*.jpg")):
        shutil.copy(photo, distractors)
    listed = "".join(f"{photo.name}\n" for photo in sorted(distractors.iterdir()))
    (folder / "revisitop1m" / "revisitop1m.txt").write_text(listed)


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
