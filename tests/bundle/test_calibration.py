"""`/calibration/NAME`: what is written is read, and what is damaged or hostile is a typed error."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from imgrank.bundle import file, layout
from imgrank.bundle.calibration import delete_calibration, write_calibration
from imgrank.bundle.provenance import Provenance
from imgrank.errors import BundleError, DamagedBundleError, FormatVersionError
from imgrank.steps.calibration import CalibrationFacts, facts_of, read_calibration
from imgrank.steps.check import check

FACTS = CalibrationFacts(bins=2, scorer="geometric", queries=3, pairs=30, same=9, ece_before=0.25, ece=0.125)
BINS = {
    "bin-count": np.array([20, 10], "<u8"),
    "bin-predicted": np.array([0.1, 0.75]),
    "bin-observed": np.array([0.05, 0.8]),
}
KNOTS = {"knots-x": np.array([0.0, 0.5, 1.0]), "knots-y": np.array([0.1, 0.1, 0.9])}


def provenance(facts: CalibrationFacts = FACTS, **settings: object) -> Provenance:
    return Provenance("builtin-local", "1", json.dumps({**json.loads(facts.to_json()), **settings}))


def kept(path: Path, arrays=None, name: str = "geometric-1", own: Provenance | None = None) -> None:
    with file.Writer(path) as writer, writer.transaction() as root:
        write_calibration(root, name, {**KNOTS, **BINS} if arrays is None else arrays, own or provenance(), "ab" * 16)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "db.h5"
    with file.Writer(path):
        file.create(path, root=b".")
    kept(path)
    return path


def test_what_was_written_is_read(bundle: Path):
    with file.read(bundle) as opened:
        (table,) = opened.calibrations.values()
        assert (table.name, table.way, table.provenance) == ("geometric-1", "ab" * 16, provenance())
        found = read_calibration(table)
    assert found.facts == FACTS
    assert found.map([0.25, 0.75]).tolist() == pytest.approx([0.1, 0.5])
    assert found.table.counts.tolist() == [20, 10]
    assert found.table.error == pytest.approx((20 * 0.05 + 10 * 0.05) / 30)
    assert check(bundle, photos=False).errors == 0


def test_one_takes_the_place_of_another_of_its_name(bundle: Path):
    with file.read(bundle) as before:  # goes on reading what it opened
        kept(bundle, {"coefficients": np.array([2.0, -1.0]), **BINS})
        kept(bundle, name="mllm-2")
        with file.read(bundle) as opened:
            assert sorted(opened.calibrations) == ["geometric-1", "mllm-2"]
            assert read_calibration(opened.calibrations["geometric-1"]).map([0.5]).tolist() == [0.5]
        assert read_calibration(before.calibrations["geometric-1"]).map([1.0]).tolist() == [0.9]
    with file.Writer(bundle) as writer, writer.transaction() as root:
        delete_calibration(root, "geometric-1")
    with file.read(bundle) as opened:
        assert sorted(opened.calibrations) == ["mllm-2"]


def test_a_bundle_without_any_has_none(tmp_path: Path):
    with file.Writer(tmp_path / "db.h5"):
        file.create(tmp_path / "db.h5", root=b".")
    with file.read(tmp_path / "db.h5") as opened:
        assert opened.calibrations == {}


def test_the_layout_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    for name in layout.CALIBRATION_ARRAYS:
        assert f"`{name}`" in text, name


def edited(path: Path, edit) -> None:
    with h5py.File(path, "r+") as root:
        edit(root, root["calibration/geometric-1"])


def replaced(group: h5py.Group, name: str, **new) -> None:
    del group[name]
    group.create_dataset(name, **new).attrs["crc32"] = np.uint32(0)


STRUCTURE = {
    "no way": lambda root, group: group.attrs.__delitem__("way"),
    "a way of numbers": lambda root, group: group.attrs.__setitem__("way", 3),
    "no settings": lambda root, group: group.attrs.__delitem__("settings"),
    "no checksum": lambda root, group: group["knots-x"].attrs.__delitem__("crc32"),
    "whole numbers": lambda root, group: replaced(group, "knots-x", data=[1, 2], maxshape=(None,), chunks=(2,)),
    "two axes": lambda root, group: replaced(group, "knots-y", data=np.eye(2), maxshape=(None, 2), chunks=(2, 2)),
    "a huge shape": lambda root, group: group["knots-x"].resize(2**60, axis=0),
    "more than there may be": lambda root, group: group["knots-x"].resize(layout.MAX_KNOTS + 1, axis=0),
    "nothing": lambda root, group: group["bin-count"].resize(0, axis=0),
    "filtered": lambda root, group: replaced(
        group, "knots-x", data=np.zeros(3), maxshape=(None,), chunks=(3,), compression="gzip"
    ),
    "a group for an array": lambda root, group: (group.__delitem__("knots-x"), group.create_group("knots-x")),
    "an array for a group": lambda root, group: root["calibration"].create_dataset("x", data=[1.0]),
    "a name that is none": lambda root, group: root["calibration"].create_group("a b"),
    "a link": lambda root, group: root["calibration"].__setitem__("x", h5py.SoftLink("/images")),
    "a link for all": lambda root, group: (
        root.__delitem__("calibration"),
        root.__setitem__("calibration", h5py.ExternalLink("other.h5", "/")),
    ),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_a_damaged_structure_is_a_typed_error(bundle: Path, name: str):
    edited(bundle, STRUCTURE[name])
    with pytest.raises(BundleError):
        file.read(bundle).close()
    report = check(bundle, photos=False)
    assert [finding.code for finding in report.findings if finding.severity == "error"] == ["part-unreadable"]


def test_a_newer_one_is_refused_with_both_numbers(bundle: Path):
    edited(bundle, lambda root, group: group.attrs.__setitem__("encoding-version", 5))
    with pytest.raises(FormatVersionError, match="version 5, this imgrank reads up to 1"):
        file.read(bundle)


def test_more_than_there_may_be_are_refused(bundle: Path, monkeypatch):
    monkeypatch.setattr(layout, "MAX_CALIBRATIONS", 1)
    kept(bundle, name="mllm-2")
    with pytest.raises(DamagedBundleError, match="holds 2 calibrations"):
        file.parse(bundle)


NAN = float("nan")
CONTENT = {
    "knots that fall": {"knots-y": [0.5, 0.4, 0.9]},
    "knots that stand": {"knots-x": [0.0, 0.0, 1.0]},
    "no probability": {"knots-y": [0.5, 0.6, 1.5]},
    "a knot that is no number": {"knots-x": [0.0, 0.5, NAN]},
    "lengths that differ": {"knots-x": [0.0, 1.0]},
    "bins that differ": {"bin-observed": [0.1]},
    "bins of another number": {"bin-count": [10, 10, 10], "bin-observed": [0.0] * 3, "bin-predicted": [0.0] * 3},
    "a share above 1": {"bin-observed": [0.05, 1.2]},
    "a share that is no number": {"bin-predicted": [0.05, NAN]},
    "too many pairs": {"bin-count": [2**64 - 1, 31]},
    "pairs of another fit": {"bin-count": [20, 11]},
    "no map": {"knots-x": None, "knots-y": None},
    "half a map": {"knots-y": None},
    "no table": {"bin-count": None},
    "a slope that falls": {"coefficients": [-1.0, 0.0]},
}


@pytest.mark.parametrize("name", CONTENT)
def test_arrays_that_mean_nothing_are_a_typed_error(bundle: Path, name: str):
    arrays = {**KNOTS, **BINS}
    for key, values in CONTENT[name].items():
        if values is None:
            del arrays[key]
        else:
            arrays[key] = np.array(values, dtype=layout.CALIBRATION_ARRAYS[key][0])
    kept(bundle, arrays)
    with file.read(bundle) as opened, pytest.raises(DamagedBundleError, match="--remove geometric-1"):
        read_calibration(opened.calibrations["geometric-1"])
    assert [finding.code for finding in check(bundle, photos=False).findings if finding.severity == "error"] == [
        "calibration-damaged"
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"unknown": 1},
        {"method": "guess"},
        {"pairs": "30"},
        {"pairs": -1},
        {"same": 31},
        {"ece": NAN},
        {"log_loss_before": float("inf")},
        {"evidence": "hearsay"},
    ],
)
def test_settings_that_mean_nothing_are_a_typed_error(bundle: Path, settings):
    kept(bundle, own=provenance(**settings))
    with file.read(bundle) as opened, pytest.raises(DamagedBundleError):
        facts_of(opened.calibrations["geometric-1"])


def test_a_flipped_bit_is_found_by_its_checksum(bundle: Path):
    raw = bytearray(bundle.read_bytes())
    wanted = KNOTS["knots-y"].tobytes()
    assert raw.count(wanted) == 1
    raw[raw.find(wanted) + 1] ^= 0x10
    bundle.write_bytes(raw)
    with file.read(bundle) as opened, pytest.raises(DamagedBundleError, match="checksum"):
        read_calibration(opened.calibrations["geometric-1"])


def test_facts_come_back():
    facts = replace(FACTS, asked="object, both orders", evidence="logit", method="logistic", log_loss=0.1 + 0.2)
    assert CalibrationFacts.from_json(facts.to_json()) == facts
