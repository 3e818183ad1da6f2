"""Every command's help ends in examples, and they run: in bash, in a folder that has what they name."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import h5py
import numpy as np
import pytest

from imgrank.cli import cli
from imgrank.encode import catalogue as encoders
from imgrank.mllm import catalogue as mllms
from imgrank.mllm.folder import BUILTIN_FOLDER
from imgrank.training.collection import CollectionFiles
from tests.conftest import run_imgrank

MODELS = {one.name for one in (*encoders.KNOWN, *mllms.KNOWN) if "/" in one.name}

# Lines that name a model of the Hugging Face hub, which tests never download.
NEED_A_DOWNLOAD = """
imgrank cache-tokens db.h5 --mllm Qwen/Qwen3-VL-8B-Instruct --recipe "resize:560 | divprune:64 | pq:512"
imgrank cache-tokens db.h5 --mllm Qwen/Qwen3-VL-8B-Instruct --bytes-per-image 32KiB --dry-run
imgrank tune-tokens db.h5 --mllm Qwen/Qwen3-VL-8B-Instruct --plot curve.svg
imgrank doctor --mllm Qwen/Qwen3-VL-2B-Instruct --dtype bfloat16
imgrank import d.npy --paths list.txt -o db.h5 --root ./photos --encoder facebook/dinov2-base
imgrank bench rerank --mllm Qwen/Qwen3-VL-2B-Instruct
imgrank bench rerank --mllm Qwen/Qwen3-VL-2B-Instruct --compare
""".strip().splitlines()

NOT_RUN = {
    "inotifywait -m -e close_write --format %w%f photos | xargs -n 1 imgrank add db.h5": "waits for ever",
    "imgrank demo": "is run by test_demo.py",
    "imgrank bench rerank --random-weights config.json --dtype bfloat16": "is run by tests/steps/test_bench.py",
}

# Files of the prepared folder that a command's examples are to make.
TO_BE_MADE = {(): ["db.h5"], ("embed",): ["db.h5"], ("index",): ["db.h5"], ("import",): ["ilias.h5"]}


def walk(command: click.Command, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    found = {place: command}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found |= walk(command.get_command(context, name), (*place, name))
    return found


COMMANDS = walk(cli)


def examples(command: click.Command) -> list[str]:
    """The lines of the block `Example:`, which is the last of the help."""
    *_, last = (command.help or "").rstrip().split("\n\n")
    heading, *lines = last.replace("\b", "").strip().splitlines()
    assert heading.strip() == "Example:", f"the help of {command.name} does not end in examples"
    return [line.strip() for line in lines]


@pytest.fixture(scope="module")
def prepared(drawn: CollectionFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that examples name; read only."""
    folder = tmp_path_factory.mktemp("examples")
    images = [*drawn.images[:6], *drawn.images[-2:]]
    for inside, photos in {"photos": images[:4], "photos/holiday": images[4:5], "new-photos": images[5:6]}.items():
        (folder / inside).mkdir()
        for photo in photos:
            shutil.copy(photo, folder / inside)
    shutil.copy(images[6], folder / "photos" / "one-draft.jpg")
    shutil.copytree(folder / "photos", folder / "ilias")
    shutil.copytree(folder / "photos", folder / "archive" / "photos")
    shutil.copytree(drawn.queries[0].parent, folder / "queries")
    for name in ("query.jpg", "vase.jpg", "logo.png", "ilias/query.jpg"):
        shutil.copy(drawn.queries[0], folder / name)

    def run(*arguments: object) -> bytes:
        done = run_imgrank(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    run("index", "photos", "-o", "db.h5")
    for name in ("2023", "2024", "2025", "museum-a", "museum-b"):
        shutil.copy(folder / "db.h5", folder / f"{name}.h5")
    run("cache-tokens", "db.h5", "--cache", "small", "--recipe", "divprune:64 | float16", "--proof-pairs", 6)
    (folder / "run.jsonl").write_bytes(run("search", "db.h5", "query.jpg"))
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
    (folder / "q.tsv").write_text(f"{names[0]}\t{names[1]}\n")
    (folder / "my-finetuned-model").mkdir()
    shutil.copy(BUILTIN_FOLDER / "config.json", folder / "my-finetuned-model")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "imgrank").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imgrank "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    return folder


@pytest.mark.parametrize("place", COMMANDS, ids=lambda place: "-".join(place) or "imgrank")
def test_the_examples_of_a_command_run(prepared: Path, tmp_path: Path, place: tuple[str, ...]) -> None:
    lines = [line for line in examples(COMMANDS[place]) if line not in (*NOT_RUN, *NEED_A_DOWNLOAD)]
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    for name in TO_BE_MADE.get(place, []):
        (folder / name).unlink()
    environment = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
    for line in lines:
        if "parquet" in line and find_spec("pyarrow") is None:
            continue
        if shutil.which("jq") is None:
            line = line.split(" | jq ")[0]
        script = "set -o pipefail; " + line.replace("/mnt/archive/photos", "archive")
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr.decode()}"
        assert b"Traceback" not in done.stderr


def test_the_lines_that_are_not_run_are_those_that_cannot() -> None:
    every = [line for command in COMMANDS.values() for line in examples(command)]
    assert [line for line in every if any(name in line for name in MODELS)] == NEED_A_DOWNLOAD
    assert set(NOT_RUN) <= set(every)
    assert len(every) - len(NEED_A_DOWNLOAD) - len(NOT_RUN) >= 45  # most do run
