"""What a pickle may call, imitated: numpy's makers of arrays, and three of Python's.

None of numpy's own makers is called. Arrays are views of bytes that the file holds, of a data type from a short list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

_TYPE = re.compile(r"[<>|=]?(?:b1|\?|i[1248]|u[1248]|f[248]|[SU][1-9]\d{0,5}|O8?)\Z")
_MAX_AXES = 32


class Refused(Exception):
    """A pickle asks for something that is not plain; the text says what."""


class _Type:
    """A `numpy.dtype` in the making."""

    title = "numpy.dtype"

    def __init__(self, text: str) -> None:
        self.text = text.lstrip("<>|=")
        self.order = text[: len(text) - len(self.text)] or "="

    def set_state(self, state: Any) -> None:
        # (version, byte order, sub-array, field names, fields, ...): those of a record or sub-array are no plain type.
        if type(state) is not tuple or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise Refused("it has a numpy data type with fields")
        order = _text(state[1])
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {order!r}")
        self.order = order

    @property
    def is_object(self) -> bool:
        return self.text.startswith("O")

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.text).newbyteorder(self.order if self.order != "|" else "=")  # type: ignore[arg-type]


class Pending:
    """A numpy array in the making, until its state is set."""

    def __init__(self) -> None:
        self._value: Any = None

    @property
    def value(self) -> Any:
        """Return the array."""
        if self._value is None:
            raise ValueError("an array without content")
        return self._value

    def set_state(self, state: Any) -> None:
        """Take (version, shape, type, whether columns go first, bytes); old files lack the version."""
        if type(state) is not tuple or len(state) not in (4, 5):
            raise ValueError("an array with another state than numpy's")
        shape, kind, columns_first, raw = state[-4:]
        self._value = _array(raw, kind, shape, "F" if columns_first else "C")


def _array(raw: Any, kind: Any, shape: Any, order: str) -> Any:
    """Return an array on the bytes of the file, or the list of an array of objects."""
    if type(kind) is not _Type or type(shape) is not tuple or len(shape) > _MAX_AXES:
        raise ValueError("an array without a type or shape")
    if not all(type(length) is int and 0 <= length < 2**40 for length in shape):
        raise ValueError(f"an array of shape {shape}")
    count = math.prod(shape)
    if kind.is_object:
        if type(raw) is not list or len(raw) != count or count != max(shape, default=1):
            raise Refused("it has a numpy array of objects that is no list")
        return raw  # not copied: a file may name one list many times
    if type(raw) is str:  # bytes of Python 2 that went through text
        raw = raw.encode("latin-1")
    dtype = kind.dtype()
    if type(raw) is not bytes or len(raw) != count * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} and type {dtype} without as many bytes")
    if not count:
        return np.zeros(shape, dtype)
    return np.frombuffer(raw, dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _text(value: Any) -> str:
    if type(value) is bytes:
        return value.decode("latin-1")
    if type(value) is not str:
        raise ValueError(f"text expected, found a {type(value).__name__}")
    return value


def _make_type(name: Any = "", *_: Any) -> _Type:
    text = _text(name)
    if _TYPE.match(text) is None:
        raise Refused(f"it has the numpy data type {text[:40]!r}")
    return _Type(text)


def _reconstruct(*_: Any) -> Pending:
    return Pending()  # its class, shape and type are those of an empty array; the state has the real ones


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any = "C", axes: Any = None) -> Any:
    if _text(order) not in ("C", "F") or axes is not None:
        raise Refused("it has a numpy array with axes in another order")
    return _array(raw, kind, shape, _text(order))


def _scalar(kind: Any, raw: Any = None) -> Any:
    if type(kind) is not _Type or kind.is_object:
        raise Refused("it has a numpy scalar that is an object")
    return _array(raw, kind, (), "C").item()


def _encode(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    if _text(encoding) not in ("latin1", "latin-1"):
        raise Refused(f"it encodes text as {_text(encoding)[:40]!r}")
    return _text(text).encode("latin-1")


def _empty_bytes(*arguments: Any) -> bytes:
    if arguments:  # bytes(10**12) would make a terabyte
        raise Refused("it makes bytes out of something")
    return b""


def _set_of(kind: type) -> Callable[..., Any]:
    def make(members: Any = ()) -> Any:
        scalars = (str, bytes, int, float, type(None))
        if type(members) is not list or not all(isinstance(member, scalars) for member in members):
            raise Refused("it makes a set of something that is no list of scalars")
        return kind(members)

    return make


def _array_class(*_: Any) -> Any:
    raise Refused("it calls numpy.ndarray")


MAKERS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _array_class,  # named as an argument of _reconstruct
    "numpy.dtype": _make_type,
    "_codecs.encode": _encode,  # bytes of Python 3 in protocols 0 to 2
}
for _module in ("numpy.core", "numpy._core"):  # before and since numpy 2
    MAKERS[f"{_module}.multiarray._reconstruct"] = _reconstruct
    MAKERS[f"{_module}.multiarray.scalar"] = _scalar
    MAKERS[f"{_module}.numeric._frombuffer"] = _from_buffer
for _module in ("__builtin__", "builtins"):  # protocols 0 to 2 have no instruction for these
    MAKERS[f"{_module}.bytes"] = _empty_bytes
    MAKERS[f"{_module}.set"] = _set_of(set)
    MAKERS[f"{_module}.frozenset"] = _set_of(frozenset)
