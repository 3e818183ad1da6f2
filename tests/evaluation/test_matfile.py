"""MATLAB files: what scipy writes is read back, and what is damaged or of another kind is refused."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from imgrank.errors import InputError
from imgrank.evaluation.matfile import read_mat

NAMES = ("imlist", "gnd", "qidx")


def cells(values: list) -> np.ndarray:
    found = np.empty((1, len(values)), dtype=object)
    found[0, :] = values
    return found


def structs(rows: list[dict]) -> np.ndarray:
    found = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for place, row in enumerate(rows):
        found[0, place] = tuple(row.values())
    return found


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def mat(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "gnd.mat"
    rows = [
        {"ok": np.array([[1, 300, 70_000]]), "bbx": np.array([[1.5, 2, 3, 4]])},
        {"ok": np.zeros((1, 0)), "bbx": np.array([[0.0, 0, 5, 5]])},
    ]
    content = {
        "imlist": cells(["INSTRE-S1/01a/001.jpg", "ü", "a"]),
        "other": np.arange(3),
        "gnd": structs(rows),
        "qidx": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8),
    }
    scipy.io.savemat(path, content, do_compression=request.param)
    return path


def test_what_scipy_writes_is_read(mat: Path) -> None:
    found = read_mat(mat, NAMES)
    assert sorted(found) == sorted(NAMES)
    assert found["imlist"] == ["INSTRE-S1/01a/001.jpg", "ü", "a"]
    assert found["gnd"][0]["ok"].tolist() == [[1, 300, 70_000]]
    assert found["gnd"][0]["bbx"].tolist() == [[1.5, 2, 3, 4]]
    assert found["gnd"][1]["ok"].size == 0
    assert found["qidx"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found["qidx"].dtype == np.uint8


def test_every_truncation_inside_a_variable_is_an_error_or_a_variable_less(mat: Path) -> None:
    whole = mat.read_bytes()
    for end in range(0, len(whole), 13):
        mat.write_bytes(whole[:end])
        try:
            found = read_mat(mat, NAMES)
        except InputError:
            continue
        assert len(found) < len(NAMES)


def test_damage_gives_a_value_or_an_error(mat: Path) -> None:
    whole = mat.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        changed[rng.integers(128, len(whole))] = rng.integers(0, 256)
        mat.write_bytes(bytes(changed))
        try:
            read_mat(mat, NAMES)
        except InputError:
            pass


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    for content, message in (
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "version 7.3"),
        (b"x" * 200, "no MATLAB file"),
        (b"", "no MATLAB file"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_mat(path, NAMES)
    scipy.io.savemat(path, {"gnd": np.array([1j])})
    with pytest.raises(InputError, match="complex"):
        read_mat(path, NAMES)
    with pytest.raises(InputError, match="cannot be read"):
        read_mat(tmp_path / "none.mat", NAMES)
