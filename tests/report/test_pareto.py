"""The plot of quality against bytes."""

import sys
from pathlib import Path

import pytest

from imgrank.errors import MissingExtraError, SettingsError
from imgrank.report.pareto import Point, check_plot, plot_pareto


@pytest.mark.parametrize(("name", "reason"), [("c.gif", "must end"), ("c", "must end"), ("no/such/c.svg", "folder")])
def test_a_plot_that_cannot_be_written_is_told_before(tmp_path: Path, name: str, reason: str):
    pytest.importorskip("matplotlib")
    with pytest.raises(SettingsError, match=reason):
        check_plot(tmp_path / name)


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"imgrank\[plot\]"):
        check_plot(tmp_path / "c.svg")


def test_each_recipe_is_in_the_plot(tmp_path: Path):
    pytest.importorskip("matplotlib")
    plot_pareto([Point("first", 100, 0.5, True), Point("second", 5e6, 0.4, False)], "mAP", tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert "<!-- first -->" in text
    assert "<!-- second -->" in text
