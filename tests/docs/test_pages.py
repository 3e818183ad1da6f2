"""The commands of the documentation run: page by page, in bash, in a folder that has what they name.

Those are lines indented by four spaces that start with a program; the lines of a page run in order, in one folder.
Lines that need what a test does not have are listed or counted here, so that none is left out unseen.
"""

import re
import shutil
from pathlib import Path

import pytest

from imgrank.training.collection import CollectionFiles
from tests.prepared import needs_a_download, prepare, run_line

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in (
        "tutorial", "cookbook", "searching", "looking", "explain", "grouping", "calibration", "evaluation",
        "configuration", "bundles", "exchange", "tokens", "shell", "choosing", "troubleshooting", "first-stages",
    )),
]  # fmt: skip
PROGRAMS = ("imgrank", "find", "ls", "mkdir", "xargs", "[", "jq", "sort", "cat", "cp")

# Beginnings of lines that are not run, and why.
NOT_RUN = {
    "imgrank demo": "is run by tests/cli/test_demo.py",
    "imgrank explain demo.h5": "is of the demo's folder; tests/cli/test_explain.py runs the same",
    "imgrank eval dev.h5": "is of the development photos",
    "imgrank compare flat.jsonl": "likewise",
    "imgrank export projection db.h5 -o whitening": "is of a bundle of a model of the hub",
    "imgrank index ./new-photos -o other.h5 --projection": "likewise",
    "imgrank search db.h5 vase.jpg --preview": "needs a terminal; tests/cli/test_looking.py has one",
}
WITH_WEIGHTS = 14  # lines that name a model of the hub, or MODEL in its place


def commands(page: Path) -> list[str]:
    """Return the command lines of a page, without options that open a browser."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    lines = re.findall(r"^    (\S.*)$", text, re.M)
    return [line.replace(" --open", "") for line in lines if line.split()[0] in PROGRAMS]


def with_weights(line: str) -> bool:
    return needs_a_download(line) or " MODEL" in line


@pytest.fixture(scope="module")
def folder(drawn: CollectionFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(drawn, tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(folder: Path, tmp_path: Path, page: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(folder, work)
    for line in commands(page):
        if not with_weights(line) and not line.startswith(tuple(NOT_RUN)):
            run_line(work, line)


def test_the_lines_that_are_not_run_are_counted() -> None:
    every = [line for page in PAGES for line in commands(page)]
    assert sum(map(with_weights, every)) == WITH_WEIGHTS
    assert all(any(line.startswith(prefix) for line in every) for prefix in NOT_RUN)
    assert len(every) - WITH_WEIGHTS >= 75


def test_the_messages_that_troubleshooting_lists_are_said() -> None:
    source = "".join(path.read_text() for path in sorted((ROOT / "imgrank").rglob("*.py")))
    joined = re.sub(r'"\s*\n\s*f?"', "", source)  # strings that are written in several parts
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = [found for cell in re.findall(r"^\| (.*?) \|", page, re.M) for found in re.findall("`([^`]*)`", cell)]
    assert len(messages) > 15
    for message in messages:
        code = re.fullmatch(r"skipped \((.*)\)", message)
        text = f'"{code[1]}"' if code else message.strip("'")
        assert text in joined, message
