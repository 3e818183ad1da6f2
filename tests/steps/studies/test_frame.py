"""What studies share: parts that are measured once, and the files that hold the result."""

import csv
import json
import sys
from pathlib import Path

import pytest

from imgrank.errors import SettingsError
from imgrank.steps.studies.frame import Outputs, Study, run_study


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)

    def bar(self, total, description, unit):
        from imgrank.progress import SILENT

        return SILENT.bar(total, description, unit)


def counting(seen: list[str], facts: object = 1, stop_at: str = "", **more) -> Study:
    """A study of three parts that notes which of them are measured."""

    def part(name: str):
        if name == stop_at:
            raise KeyboardInterrupt
        seen.append(name)
        return [{"name": name, "value": len(name) / 3, "hidden": [1]}]

    parts = {name: lambda name=name: part(name) for name in ("one", "three", "fifteen")}
    return Study("toy", ("name", "value"), {"facts": facts}, parts, **more)


def test_the_table_and_the_facts_are_written(tmp_path: Path) -> None:
    seen: list[str] = []
    written = run_study(counting(seen, notes=["a note"]), Outputs(tmp_path / "out", "none", command=["imgrank", "x"]))
    assert [path.name for path in written] == ["toy.csv", "toy.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["toy.csv", "toy.json"]
    rows = list(csv.reader((tmp_path / "out" / "toy.csv").read_text().splitlines()))
    assert rows == [["name", "value"], *([name, str(len(name) / 3)] for name in ("one", "three", "fifteen"))]
    report = json.loads((tmp_path / "out" / "toy.json").read_text())
    assert report["settings"] == {"facts": 1}
    assert report["command"] == ["imgrank", "x"]
    assert report["notes"] == ["a note"]
    assert {"device", "threads", "imgrank"} <= report["environment"].keys()
    assert [row["name"] for row in report["rows"]] == seen == ["one", "three", "fifteen"]


@pytest.mark.parametrize("tail", ["", '{"part": "three", "ro', '{"part": "three", "rows": []}', "\0\0\0\0\n"])
def test_an_interrupted_study_goes_on(tmp_path: Path, tail: str) -> None:
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_study(counting(seen, stop_at="three"), Outputs(tmp_path, "none"))
    with (tmp_path / "toy.part").open("a") as file:
        file.write(tail)  # what a kill leaves of a line that is being written
    with pytest.raises(KeyboardInterrupt):
        run_study(counting(seen, stop_at="fifteen"), Outputs(tmp_path, "none"))
    notes = Notes()
    run_study(counting(seen), Outputs(tmp_path, "none"), notes)
    assert seen == ["one", "three", "fifteen"]  # none of them twice
    assert notes.told == ["2 of 3 parts of the study are known from an earlier run"]
    assert [row["name"] for row in csv.DictReader((tmp_path / "toy.csv").open())] == seen
    assert not (tmp_path / "toy.part").exists()


def test_other_settings_start_over(tmp_path: Path) -> None:
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_study(counting(seen, stop_at="fifteen"), Outputs(tmp_path, "none"))
    run_study(counting(seen, facts=2), Outputs(tmp_path, "none"))
    assert seen == ["one", "three", "one", "three", "fifteen"]


def test_a_finished_study_is_replaced_only_when_asked(tmp_path: Path) -> None:
    seen: list[str] = []
    run_study(counting(seen), Outputs(tmp_path, "none"))
    before = (tmp_path / "toy.json").read_bytes()
    with pytest.raises(SettingsError, match="--force"):
        run_study(counting(seen, facts=2), Outputs(tmp_path, "none"))
    assert (tmp_path / "toy.json").read_bytes() == before
    run_study(counting(seen, facts=2), Outputs(tmp_path, "none", force=True))
    assert json.loads((tmp_path / "toy.json").read_text())["settings"] == {"facts": 2}
    assert len(seen) == 6


def test_a_folder_that_cannot_be_made_is_named_before_the_work(tmp_path: Path) -> None:
    seen: list[str] = []
    (tmp_path / "file").write_text("")
    for folder, said in ((tmp_path / "file", "not a folder"), (tmp_path / "no" / "out", "around it does not exist")):
        with pytest.raises(SettingsError, match=said):
            run_study(counting(seen), Outputs(folder, "none"))
    assert seen == []
    assert not (tmp_path / "no").exists()


def test_parts_are_joined_once_all_are_known(tmp_path: Path) -> None:
    def finish(found):
        assert list(found) == ["one", "three", "fifteen"]
        return [{"name": "all", "value": sum(rows[0]["value"] for rows in found.values())}]

    run_study(counting([], table=finish), Outputs(tmp_path, "none"))
    assert (tmp_path / "toy.csv").read_text() == "name,value\nall,5.0\n"


def test_without_matplotlib_the_table_is_there(tmp_path: Path, monkeypatch) -> None:
    from imgrank.report.curves import Curve, Panel, plot_curves

    def plot(rows, path):
        plot_curves([Panel("", [Curve("a", [(1, row["value"]) for row in rows])])], path, x="x", y="y")

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    notes = Notes()
    written = run_study(counting([], plot=plot), Outputs(tmp_path), notes)
    assert [path.name for path in written] == ["toy.csv", "toy.json"]
    assert "pip install 'imgrank[plot]'" in notes.told[-1]
    assert str(tmp_path / "toy.csv") in notes.told[-1]


def test_the_plot_is_the_third_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from imgrank.report.curves import Curve, Panel, plot_curves

    def plot(rows, path):
        points = [(1.0, rows[0]["value"]), (10.0, rows[1]["value"])]
        curve = Curve("of a method", points, names=["first dot", "other dot"])
        plot_curves([Panel("task", [curve], {"level": 0.5})], path, x="x", y="y", log_x=True)

    written = run_study(counting([], plot=plot), Outputs(tmp_path))
    assert written[-1] == tmp_path / "toy.svg"
    assert written[-1].read_text().startswith("<?xml")
