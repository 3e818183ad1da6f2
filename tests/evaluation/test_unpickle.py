"""Ground-truth pickles: what Python and numpy write is read back; what names anything else is refused and not run."""

import collections
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgrank.errors import InputError
from imgrank.evaluation import unpickle
from imgrank.evaluation.unpickle import read_pickle


@pytest.fixture
def read(tmp_path: Path):
    def one(data: bytes):
        path = tmp_path / "gnd.pkl"
        path.write_bytes(data)
        return read_pickle(path)

    return one


PLAIN = {
    "imlist": ["a_1", "ünïcode", "lone \udc80"],
    "gnd": [{"bbx": [136.5, 34.1, 648.5, 955.7], "easy": [1, 2, 300, 70_000, -5, 2**40, -(2**70)], "junk": []}],
    "rest": (
        None,
        True,
        False,
        (),
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
        b"",
        b"bytes \xff\x00",
        float("inf"),
        "x" * 300,
    ),
    "sets": ({1, 2}, frozenset({"a", "b"}), set(), frozenset()),
    (1, "tuple as a key"): 1.5,
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back(read, protocol: int) -> None:
    assert read(pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.array([3, 1, 2]),
        np.array([], dtype=np.int64),
        np.arange(6, dtype=">i2").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["paris_1", "ü"]),
        np.array([b"bytes", b""]),
        np.array([[True], [False]]),
        np.array(5.5, dtype=np.float32),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_numpy_arrays_come_back(read, array: np.ndarray, protocol: int) -> None:
    (found, again) = read(pickle.dumps([array, array], protocol))  # the second one by the memo
    np.testing.assert_array_equal(found, array, strict=True)
    np.testing.assert_array_equal(again, array, strict=True)
    assert not found.flags.writeable or not found.size


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_scalars_become_numbers_and_arrays_of_objects_lists(read, protocol: int) -> None:
    objects = np.empty(2, dtype=object)
    objects[:] = [[1, 2], "b"]
    data = pickle.dumps([np.int64(7), np.float32(0.5), np.str_("name"), np.bool_(True), objects], protocol)
    found = read(data)
    assert found == [7, 0.5, "name", True, [[1, 2], "b"]]
    assert [type(one) for one in found] == [int, float, str, bool, list]


@pytest.mark.parametrize("package", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_numpy_1_and_numpy_2_name_their_makers_differently(read, protocol: int, package: str) -> None:
    data = pickle.dumps({"easy": np.arange(4, dtype="<i8")}, protocol)
    spelled = {name: f"{package}.{name}".encode() for name in ("multiarray", "numeric")}
    for name, wanted in spelled.items():
        for written in (b"numpy.core." + name.encode(), b"numpy._core." + name.encode()):
            # Names end with a line feed in old protocols; in new ones their length goes before.
            data = data.replace(bytes([len(written)]) + written, bytes([len(wanted)]) + wanted)
            data = data.replace(b"c" + written + b"\n", b"c" + wanted + b"\n")
    assert any(wanted in data for wanted in spelled.values())
    assert read(data)["easy"].tolist() == [0, 1, 2, 3]


def test_python_2_wrote_bytes(read) -> None:
    # cPickle of Python 2, protocol 2: {'imlist': ['a\xe9'], 'easy': numpy.array([1, 2])}
    kind = b"cnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K\x02\x85" + kind + b"\x89"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R" + state
    array += b"U\x10" + struct.pack("<qq", 1, 2) + b"tb"
    found = read(b"\x80\x02}(U\x06imlist]U\x02a\xe9aU\x04easy" + array + b"u.")
    assert found[b"imlist"] == [b"a\xe9"]
    assert found[b"easy"].tolist() == [1, 2]
    # Protocol 0, with quotation marks and escapes, long integers and truth values as lines.
    assert read(b"(lp0\nS'it\\'s\\n\\xe9'\np1\naL12345678901234567890L\naI01\naF1.5\na.") == [
        b"it's\n\xe9",
        12345678901234567890,
        True,
        1.5,
    ]


class Runs:
    """Leaves a file behind when it is loaded by Python's own reader."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_refused_by_name_and_not_run(read, tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "ran"
    module = os.system.__module__  # posix or nt
    for function, arguments, name in (
        (os.system, (f"touch {proof}",), f"{module}.system"),
        (eval, (f"open({str(proof)!r}, 'w')",), "eval"),
        (exec, (f"open({str(proof)!r}, 'w')",), "exec"),
        (getattr, ("a", "upper"), "getattr"),
    ):
        data = pickle.dumps({"imlist": ["a"], "gnd": [Runs(function, *arguments)]}, protocol)
        with pytest.raises(InputError, match=name) as caught:
            read(data)
        assert "gnd.pkl" in str(caught.value)
        assert "nothing is run" in str(caught.value)
        assert not proof.exists()
    pickle.loads(pickle.dumps(Runs(os.system, f"touch {proof}"), protocol))
    assert proof.exists()  # such a file does run where it is let


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        pickle.dumps(collections.OrderedDict(a=1)),
        pickle.dumps(Path("x")),
        pickle.dumps(np.dtype([("a", "i4")])),
        pickle.dumps(np.zeros(2, dtype=[("a", "i4")])),
        pickle.dumps(np.array(["2020-01-01"], dtype="M8[D]")),
        pickle.dumps(np.random.default_rng(0)),
        b"Pname\n.",
        b"Vname\nQ.",
        b"\x82\x01.",
        b"\x80\x05\x97.",
        b"cnumpy\nndarray\n(I1000000000000\ntR.",
        b"cnumpy\nndarray\n.",
        b"cnumpy\nndarray\n)\x81.",
        b"(cnumpy\ndtype\nl.",
        b"cnumpy\ndtype\n(S'O'\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb.",
        b"c__builtin__\nbytes\n(I1000000000000\ntR.",
        b"}(]I1\nu.",
        b"}((((((tttttI1\nu.",
        b"\x8b" + struct.pack("<i", 5000) + b"1" * 5000 + b".",
    ],
    ids=range(22),
)
def test_what_is_not_plain_is_refused(read, data: bytes) -> None:
    with pytest.raises(InputError, match="only plain values and numpy arrays are read"):
        read(data)


def array_with(shape: bytes, kind: bytes, raw: bytes) -> bytes:
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    return head + b"(I1\n" + shape + b"cnumpy\ndtype\n(S'" + kind + b"'\nI0\nI1\ntRI00\n" + raw + b"tb."


@pytest.mark.parametrize(
    "data",
    [
        array_with(b"(I1000000000000\nt", b"f8", b"S'12345678'\n"),
        array_with(b"(I-1\nI-1\nt", b"f8", b"S'12345678'\n"),
        array_with(b"(I0\nI9000000000000000000\nt", b"f8", b"S''\n"),
        array_with(b"(I1\nt", b"f8", b"S'1234'\n"),
        array_with(b"(I1\nt", b"O8", b"S'12345678'\n"),  # pointers out of raw bytes
        array_with(b"(I1000000000000\nt", b"S0", b"S''\n"),
        b"\x8e" + struct.pack("<Q", 2**62) + b"x",
        b"\x96" + struct.pack("<Q", 2**40) + b"x",
        b"Nr\xff\xff\xff\xff" + b"j\xfe\xff\xff\xff.",  # a memo of 4 thousand million places
        b"cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"cnumpy.core.multiarray\n_reconstruct\n)R\x85.",
    ],
    ids=range(11),
)
def test_sizes_are_checked_before_anything_is_made(read, data: bytes) -> None:
    with pytest.raises(InputError, match=r"gnd\.pkl"):
        read(data)


def test_one_list_named_many_times_is_one_list(read) -> None:
    # Each level holds the one below ten times: 10^40 values in the open, 400 in memory.
    data = b"\x80\x04]\x94"
    for level in range(40):
        data += b"](" + b"h" + bytes([level]) + b"".join(b"h" + bytes([level]) for _ in range(9)) + b"e\x94"
    found = read(data + b".")
    for _ in range(40):
        assert len(found) == 10
        assert found[0] is found[9]
        found = found[0]


def test_depth_costs_no_stack(read) -> None:
    assert isinstance(read(b")" + b"\x85" * 200_000 + b"."), tuple)
    assert isinstance(read(b"]" * 100_000 + b"a" * 99_999 + b"."), list)


def test_limits(read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickle, "MAX_VALUES", 10)
    with pytest.raises(InputError, match="more than 10 instructions"):
        read(b"]" * 11 + b".")
    monkeypatch.setattr(unpickle, "MAX_BYTES", 3)
    with pytest.raises(InputError, match="12 bytes"):
        read(b"]" * 11 + b".")


@pytest.mark.parametrize("protocol", range(6))
def test_every_truncation_is_an_error(read, protocol: int) -> None:
    data = pickle.dumps({"imlist": ["a", "b"], "easy": np.arange(3)}, protocol)
    for end in range(len(data) - 1):
        with pytest.raises(InputError):
            read(data[:end])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_pickle(tmp_path / "none.pkl")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_give_a_value_or_an_error(read, data: st.DataObject) -> None:
    whole = bytearray(pickle.dumps([PLAIN, np.arange(5), np.float64(2)], data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(whole))
    except InputError:
        pass
