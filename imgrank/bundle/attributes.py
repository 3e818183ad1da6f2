"""Attributes of HDF5 objects: text of a fixed length, and whole numbers.

Text of a fixed length lies in the object's header, which HDF5 guards by a checksum. Text of variable length, as h5py
writes it by itself, lies in a heap without one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from imgrank.errors import DamagedBundleError

MAX_TEXT = 2**20  # bytes of one attribute


def set_text(item: h5py.HLObject, name: str, value: str) -> None:
    """Write a text attribute inside a transaction."""
    raw = value.encode()
    item.attrs.create(name, raw, dtype=h5py.string_dtype("utf-8", max(1, len(raw))))


def text_attribute(path: Path, item: h5py.HLObject, name: str, default: str | None = None) -> str:
    """Read a text attribute of at most 1 MiB.

    Args:
        path: of the bundle, for messages.
        item: that has it.
        name: of the attribute.
        default: what to return when there is none.

    Raises:
        DamagedBundleError: there is none and no default, or it is no text.
    """
    value = _value(item, name)
    if value is None and default is not None:
        return default
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            value = None
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise DamagedBundleError(path, f"{item.name}@{name}", "missing or not a string")
    return value


def int_attribute(path: Path, item: h5py.HLObject, name: str) -> int:
    """Read an integer attribute.

    Raises:
        DamagedBundleError: there is none, or it is no whole number.
    """
    value = _value(item, name)
    try:
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(number)
    except (TypeError, ValueError) as error:
        raise DamagedBundleError(path, f"{item.name}@{name}", "missing or not a whole number") from error
    return number


def bytes_attribute(path: Path, item: h5py.HLObject, name: str, most: int) -> bytes:
    """Read an attribute of uint8 numbers as bytes.

    Raises:
        DamagedBundleError: there is none, it is of another type, or has more than `most` bytes.
    """
    value = _value(item, name)
    if getattr(value, "dtype", None) != "uint8" or value.ndim != 1 or value.size > most:
        raise DamagedBundleError(path, f"{item.name}@{name}", "missing or not bytes")
    return bytes(value.tobytes())


def _value(item: h5py.HLObject, name: str) -> Any:
    """Return an attribute's value, None where there is none or it is too large to be one of ours."""
    raw = name.encode()
    if not h5py.h5a.exists(item.id, raw):
        return None
    if h5py.h5a.open(item.id, raw).get_storage_size() > MAX_TEXT:
        return None
    return item.attrs[name]
