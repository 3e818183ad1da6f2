"""The demo ends with a table, a picture, and hits that are right."""

from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.slow
def test_demo(imgrank, tmp_path: Path) -> None:
    run = imgrank("demo", cwd=tmp_path)
    assert run.returncode == 0, run.stderr.decode()
    shown = run.stdout.decode()
    assert shown.count("query-") == 8
    assert "rank" in shown
    before, total, after = (
        int(word) for word in shown.split("right for ")[1].replace(",", "").split() if word.isdigit()
    )
    assert total == 8
    assert after >= max(before, 7)
    with Image.open(tmp_path / "imgrank-demo" / "results.png") as picture:
        assert picture.width > 1000
    said = run.stderr.decode()
    next_command = said.rsplit("next: imgrank ", 1)[1].split()
    again = imgrank(*next_command, cwd=tmp_path)
    assert again.returncode == 0
    assert len(again.stdout.splitlines()) == 100
