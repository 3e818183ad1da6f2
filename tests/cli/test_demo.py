"""The demo ends with a table, a picture, and hits that are right."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def demo(imgrank, tmp_path: Path) -> tuple[str, str]:
    """What a demo printed and said, in the working directory `tmp_path`.

    It takes a minute. Who has just run it, as .ci/run has, names the folder in $IMGRANK_DEMO, with the two in files.
    """
    if done := os.environ.get("IMGRANK_DEMO"):
        shutil.copytree(Path(done, "imgrank-demo"), tmp_path / "imgrank-demo")
        return Path(done, "stdout").read_text(), Path(done, "stderr").read_text()
    run = imgrank("demo", cwd=tmp_path)
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout.decode(), run.stderr.decode()


@pytest.mark.slow
def test_demo(imgrank, demo: tuple[str, str], tmp_path: Path) -> None:
    shown, said = demo
    assert shown.count("query-") == 8
    assert "rank" in shown
    before, total, after = (
        int(word) for word in shown.split("right for ")[1].replace(",", "").split() if word.isdigit()
    )
    assert total == 8
    assert after >= max(before, 7)
    with Image.open(tmp_path / "imgrank-demo" / "results.png") as picture:
        assert picture.width > 1000
    next_command = said.rsplit("next: imgrank ", 1)[1].split()
    again = imgrank(*next_command, cwd=tmp_path)
    assert again.returncode == 0
    assert len(again.stdout.splitlines()) == 100
