"""Reads a pickle as data: a small interpreter of pickle's instructions that can make plain values only.

A pickle is a program, and Python's own reader runs whatever function it names. This one has no way to import or to call
anything: what a file names is looked up in a table of a few of numpy's makers, and each of those is imitated here, with
its arguments checked. So a file can hold lists, tuples, dicts, sets, numbers, text, bytes, None, and numpy arrays of
those; everything else is refused with its name.

Sizes are checked before anything is made: an array is a view of bytes that are in the file, so that no file of a few
bytes can ask for gigabytes, and the number of values is limited.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from imgrank.errors import InputError
from imgrank.evaluation.unpickle_numpy import MAKERS, Pending, Refused

MAX_BYTES = 1 << 29  # of a file; published ground truth is far smaller
MAX_VALUES = 5_000_000  # instructions of a file, each of which makes one value at most
_MAX_INTEGER = 1024  # bytes of one integer
_SCALARS = (str, bytes, int, float, type(None))

_REFUSED = {  # instruction -> what it asks for
    b"P": "an object outside of the file (persistent id)",
    b"Q": "an object outside of the file (persistent id)",
    b"o": "an object of a class",
    b"\x81": "an object of a class",
    b"\x92": "an object of a class",
    b"\x82": "an object of a registered class",
    b"\x83": "an object of a registered class",
    b"\x84": "an object of a registered class",
    b"\x97": "a buffer outside of the file",
    b"\x98": "a buffer outside of the file",
}


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain values.

    Protocols 0 to 5, also those of Python 2, whose strings become bytes.

    Args:
        path: of the file.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, or a numpy array, which cannot be written
        to. Numpy's scalars become numbers of Python, its arrays of objects lists. Keys of dicts and members of sets are
        scalars, or tuples of scalars.

    Raises:
        InputError: the file names anything else, such as a function to run (it is not run); or it is damaged, larger
            than 512 MiB, or no pickle.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path} has {size} bytes; pickles of up to {MAX_BYTES} bytes are read")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    machine = _Machine(data)
    try:
        return machine.run()
    except Refused as error:
        raise InputError(f"{path}: {error}; only plain values and numpy arrays are read, and nothing is run") from error
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise InputError(
            f"{path} is damaged, or no pickle, at byte {machine.at} of {len(data)}: {error}; fetch it again"
        ) from error


class _Global:
    """A name that the file gives: an entry of the table, or nothing that can be used."""

    def __init__(self, module: str, name: str) -> None:
        self.title = f"{module}.{name}"
        if self.title not in MAKERS:
            raise Refused(f"it names {self.title}")
        self.make = MAKERS[self.title]


class _Machine:
    """The stack machine of `pickletools`, whose text says what each instruction does."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []  # lengths of the stack
        self.memo: dict[int, Any] = {}  # a dict: an array would be as long as a file wants it to be

    def run(self) -> Any:
        for _ in range(MAX_VALUES):
            code = self.take(1)
            if code == b".":
                return self.plain(self.stack.pop())
            action = _ACTIONS.get(code)
            if action is None:
                self.refuse(code)
            action(self)
        raise Refused(f"it has more than {MAX_VALUES} instructions")

    def refuse(self, code: bytes) -> NoReturn:
        if code == b"i":
            raise Refused(f"it names {self.line().decode('utf-8')}.{self.line().decode('utf-8')}")
        if code in _REFUSED:
            raise Refused(f"it asks for {_REFUSED[code]}")
        raise ValueError(f"there is no instruction {code!r}")

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) != count:
            raise ValueError("it ends in the middle")
        self.at += count
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def sized(self, form: str) -> bytes:
        count = self.number(form)
        if count < 0:
            raise ValueError(f"a length of {count}")
        return self.take(count)

    def line(self) -> bytes:
        end = self.data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise ValueError("a value is missing")
        return self.stack.pop()

    def top(self) -> Any:
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def integer(self, data: bytes) -> int:
        if len(data) > _MAX_INTEGER:
            raise Refused(f"it has an integer of {len(data)} bytes")
        return int.from_bytes(data, "little", signed=True)

    @staticmethod
    def plain(value: Any) -> Any:
        """Return a value that may stay: an array for what was to become one, and no function."""
        if type(value) is Pending:
            return value.value
        if type(value) is _Global or hasattr(type(value), "set_state"):
            raise Refused(f"it keeps {value.title} as a value")
        return value

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise ValueError(f"values are added to a {type(target).__name__}")
        target.extend(map(self.plain, values))

    def add(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not set:
            raise ValueError(f"members are added to a {type(target).__name__}")
        target.update(map(_key, values))

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(values) % 2:
            raise ValueError(f"keys and values are added to a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = self.plain(value)

    def last(self, count: int) -> list[Any]:
        values = [self.pop() for _ in range(count)]
        return values[::-1]

    def push_tuple(self, values: list[Any]) -> None:
        # The arguments of a function may be what a value may not: numpy.ndarray, a data type.
        self.push(tuple(value.value if type(value) is Pending else value for value in values))

    def push_list(self) -> None:
        values = self.since_mark()
        self.push([])
        self.extend(values)

    def push_dict(self) -> None:
        values = self.since_mark()
        self.push({})
        self.set_items(values)

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def put(self, place: int) -> None:
        self.memo[place] = self.top()

    def get(self, place: int) -> None:
        self.push(self.memo[place])

    def name_from_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a name that is no text")
        self.push(_Global(module, name))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not _Global or type(arguments) is not tuple:
            raise ValueError("something that is no function is called")
        self.push(function.make(*arguments))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if not hasattr(type(target), "set_state"):
            raise ValueError(f"a state for a {type(target).__name__}")
        target.set_state(state)


def _key(value: Any) -> Any:
    """Return a key of a dict; tuples of tuples are refused, since hashing deep ones overflows the C stack."""
    if isinstance(value, _SCALARS) or (type(value) is tuple and all(isinstance(part, _SCALARS) for part in value)):
        return value
    raise Refused(f"it has a key or a member of a set that is a {type(value).__name__}")


def _line_integer(machine: _Machine) -> int | bool:
    text = machine.line()
    return text == b"01" if text in (b"00", b"01") else int(text)


def _quoted(machine: _Machine) -> bytes:
    text = machine.line().strip()
    if len(text) < 2 or text[:1] not in (b'"', b"'") or text[-1] != text[0]:
        raise ValueError("a string without quotation marks")
    decoded: bytes = codecs.escape_decode(text[1:-1])[0]
    return decoded


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # the protocol
    b"\x95": lambda m: m.take(8),  # a frame: only how far to read ahead
    b"(": _Machine.mark,
    b"0": lambda m: m.marks.pop() if m.marks and m.marks[-1] == len(m.stack) else m.pop(),
    b"1": _Machine.since_mark,
    b"2": lambda m: m.push(m.top()),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.push(_line_integer(m)),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"L": lambda m: m.push(int(m.line().rstrip(b"L"))),
    b"\x8a": lambda m: m.push(m.integer(m.sized("<B"))),
    b"\x8b": lambda m: m.push(m.integer(m.sized("<i"))),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(m.number(">d")),
    b"S": lambda m: m.push(_quoted(m)),
    b"T": lambda m: m.push(m.sized("<i")),
    b"U": lambda m: m.push(m.sized("<B")),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"X": lambda m: m.push(_utf8(m.sized("<I"))),
    b"\x8c": lambda m: m.push(_utf8(m.sized("<B"))),
    b"\x8d": lambda m: m.push(_utf8(m.sized("<Q"))),
    b"B": lambda m: m.push(m.sized("<I")),
    b"C": lambda m: m.push(m.sized("<B")),
    b"\x8e": lambda m: m.push(m.sized("<Q")),
    b"\x96": lambda m: m.push(m.sized("<Q")),
    b"]": lambda m: m.push([]),
    b"l": _Machine.push_list,
    b"a": lambda m: m.extend(m.last(1)),
    b"e": lambda m: m.extend(m.since_mark()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push_tuple(m.since_mark()),
    b"\x85": lambda m: m.push_tuple(m.last(1)),
    b"\x86": lambda m: m.push_tuple(m.last(2)),
    b"\x87": lambda m: m.push_tuple(m.last(3)),
    b"}": lambda m: m.push({}),
    b"d": _Machine.push_dict,
    b"s": lambda m: m.set_items(m.last(2)),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"\x8f": lambda m: m.push(set()),
    b"\x90": lambda m: m.add(m.since_mark()),
    b"\x91": lambda m: m.push(frozenset(map(_key, m.since_mark()))),
    b"p": lambda m: m.put(int(m.line())),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(int(m.line())),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"c": lambda m: m.push(_Global(_utf8(m.line()), _utf8(m.line()))),
    b"\x93": _Machine.name_from_stack,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
