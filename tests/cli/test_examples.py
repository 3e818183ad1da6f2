"""Every command's help ends in examples, and they run: in bash, in a folder that has what they name."""

import shutil
from pathlib import Path

import click
import pytest

from imgrank.cli import cli
from imgrank.training.collection import CollectionFiles
from tests.prepared import needs_a_download, prepare, run_line

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
    "imgrank study memory db.h5 --qrels q.tsv -o studies": "scores each pair 32 times; the next line names recipes",
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
    return prepare(drawn, tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("place", COMMANDS, ids=lambda place: "-".join(place) or "imgrank")
def test_the_examples_of_a_command_run(prepared: Path, tmp_path: Path, place: tuple[str, ...]) -> None:
    # Lines that a command below a group has, too, are run for that one.
    below = [line for other, one in COMMANDS.items() if len(other) > len(place) > 0 for line in examples(one)]
    lines = [line for line in examples(COMMANDS[place]) if line not in (*NOT_RUN, *NEED_A_DOWNLOAD, *below)]
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    for name in TO_BE_MADE.get(place, []):
        (folder / name).unlink()
    for line in lines:
        run_line(folder, line)


def test_the_lines_that_are_not_run_are_those_that_cannot() -> None:
    every = [line for command in COMMANDS.values() for line in examples(command)]
    assert [line for line in every if needs_a_download(line)] == NEED_A_DOWNLOAD
    assert set(NOT_RUN) <= set(every)
    assert len(every) - len(NEED_A_DOWNLOAD) - len(NOT_RUN) >= 45  # most do run
