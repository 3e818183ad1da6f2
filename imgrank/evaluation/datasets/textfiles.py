"""Text files of data sets, read with care: an error says which file and line, what was expected, and what the file is.

Ground truth of one data set is easily put into the folder of another, and a download that failed leaves a web page. So
a line of another form is compared with the forms that are known.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from imgrank.errors import InputError

MAX_LINE = 2**16  # bytes; the longest published line is below 2,000
MAX_JSON = 2**30  # bytes; the largest published file has about 30 million
_BLOCK = 2**22
_HEAD = 4096  # bytes that a file is recognised by
_FORMS = (  # what begins so -> what it is
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (rb"\s*<(!doctype|html|\?xml|head)", "a web page; the download may have failed"),
    (rb"\x80[\x02-\x05]", "a Python pickle, such as the ground truth of revisited Oxford and Paris"),
    (rb"\x1f\x8b", "compressed with gzip"),
    (rb"\x89HDF|\x89PNG|\xff\xd8|PK\x03\x04", "binary"),
    (rb"image_id class_id super_class_id path", "a list of Stanford Online Products (Ebay_*.txt)"),
    (rb"\d+\#{5}", "a list of Product1M (product1m_*_ossurl_v2.txt)"),
    (rb"[^/,\s]+/(query|pos)/[^/,\s]+", "a list of ILIAS (image_ids/)"),
    (rb"yfcc100m[^/\s]*\.tar/|[0-9a-f]{30,32}\s", "a list of distractors of ILIAS"),
    (rb"id,(images|landmark|url|Usage)", "a table of Google Landmarks v2"),
    (rb"\d+\.jpg \d+\s", "a list of INRIA Holidays"),
    (rb"[^,\s]+\.(jpe?g|png),\d+", "a list `path,class` of ELViS"),
    (rb'\s*\[\s*\{[^}]*"MET_id"', "a list of queries of The Met (testset.json, valset.json)"),
    (rb'\s*\[\s*\{[^}]*"id"[^}]*"MET/', "a database of The Met (MET_database.json)"),
    (rb'\s*\[\s*\{[^}]*"path": *"test_', "a list of queries of The Met (testset.json, valset.json)"),
    (rb"\s*[\[{]", "JSON"),
)
_KNOWN = tuple((re.compile(pattern, re.IGNORECASE), kind) for pattern, kind in _FORMS)


def kind_of(path: Path) -> str | None:
    """Return what a file looks like, in words; None where its form is not known."""
    try:
        with _opened(path) as file:
            head = file.read(_HEAD)
    except (OSError, EOFError, zlib.error):
        return None
    return next((kind for pattern, kind in _KNOWN if pattern.match(head)), None)


def misfit(path: Path, place: str, expected: str, text: bytes = b"") -> InputError:
    """Return the error of a place that has another form.

    Args:
        path: of the file.
        place: such as "line 3"; or nothing.
        expected: what should have been there.
        text: what is there; it is shown.
    """
    found = f"; found {shown(text)}" if text else ""
    kind = kind_of(path)
    looks = f"; the file looks like {kind}" if kind and kind not in expected else ""
    return InputError(f"{path}{', ' if place else ''}{place}: expected {expected}{found}{looks}")


def shown(text: bytes) -> str:
    """Return a line for a message."""
    return ascii(text[:60].decode(errors="backslashreplace") + ("..." if len(text) > 60 else ""))


def read_blocks(path: Path, expected: str) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines, some megabytes at a time, with the number of the first one, from 1. The last one ends, too.

    Args:
        path: of the file; one that ends in .gz is decompressed.
        expected: what a line is, for messages.

    Raises:
        InputError: there is no such file, it cannot be read, it is not text, or a line is very long.
    """
    number, rest = 1, b""
    try:
        with _opened(path) as file:
            while data := file.read(_BLOCK):
                block = rest + data
                end = block.rfind(b"\n") + 1
                block, rest = block[:end], block[end:]
                if len(rest) > MAX_LINE or b"\0" in block:
                    raise misfit(path, f"line {number}, or one soon after", expected)
                if block:
                    yield number, block
                number += block.count(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, expected, error) from error
    if rest:
        yield number, rest + b"\n"


def read_lines(path: Path, expected: str) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the text of each line that is not blank, without spaces at its ends; see `read_blocks`."""
    for first, block in read_blocks(path, expected):
        for number, line in enumerate(block.split(b"\n"), first):
            if len(line) > MAX_LINE:
                raise misfit(path, f"line {number}", expected)
            if text := line.strip():
                yield number, text


def read_records(path: Path, expected: str) -> list[dict[str, Any]]:
    """Read a JSON list of objects.

    Args:
        path: of the file.
        expected: what it is, for messages.

    Raises:
        InputError: there is no such file, it cannot be read, or holds something else.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise misfit(path, "", f"{expected}, of less than {MAX_JSON >> 20} MiB")
        records = json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, expected, error) from error
    except json.JSONDecodeError as error:
        raise misfit(path, f"line {error.lineno}", f"{expected} ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or a number of thousands of digits
        raise misfit(path, "", expected) from error
    if not isinstance(records, list) or not records:
        raise misfit(path, "", f"{expected}, with at least one entry")
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise misfit(path, f"entry {number}", expected, str(record).encode(errors="replace"))
    return records


def is_name(name: bytes) -> bool:
    """Say whether a text can be the name of a photo below the folder of a data set."""
    parts = name.split(b"/")
    return not {b"", b".", b".."} & {*parts} and b"\\" not in name and not any(byte < 32 for byte in name)


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _unreadable(path: Path, expected: str, error: BaseException) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: there is no such file; expected {expected}")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return InputError(f"{path} cannot be read: {reason}; expected {expected}")
