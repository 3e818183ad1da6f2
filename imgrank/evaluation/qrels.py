"""Relevance judgements: which photos are right for which queries."""

from __future__ import annotations

from pathlib import Path

from imgrank.errors import InputError

Qrels = dict[bytes, dict[bytes, int]]  # query -> photo -> relevance
_MAX_LINE = 2**16


def read_qrels(path: Path) -> Qrels:
    """Read TREC qrels: `query ignored photo relevance`, between tabs, or between spaces where there are none.

    Two columns (`query photo`) and three (`query photo relevance`) are read, too. Names are bytes.

    Raises:
        InputError: a line has another form, or there is none.
    """
    found: Qrels = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.rstrip(b"\r\n")
            if not text.strip():
                continue
            cells = text.split(b"\t") if b"\t" in text else text.split()
            if not 2 <= len(cells) <= 4 or len(text) > _MAX_LINE:
                raise InputError(
                    f"{path}, line {number}: expected `query 0 photo relevance`, found {len(cells)} columns"
                )
            query, photo = cells[0], cells[2] if len(cells) == 4 else cells[1]
            try:
                relevance = 1 if len(cells) == 2 else int(cells[-1])
            except ValueError as error:
                shown = cells[-1].decode(errors="replace")
                raise InputError(f"{path}, line {number}: relevance {shown!r} is not a whole number") from error
            found.setdefault(query, {})[photo] = relevance
    if not found:
        raise InputError(f"{path} holds no relevance judgements")
    return found
