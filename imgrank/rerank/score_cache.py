"""Logit differences of pairs that were scored before, kept in one SQLite file so that a repeated search scores nothing.

A pair is known by digests alone: of whatever decides a score besides the photos (`fingerprint`), of the query's content
and of the candidate's content. The file holds no name, no photo and no text, and its rows cannot be turned back into
photos. Knows no model, no bundle and nothing of what a score means.

A search never fails because of its cache: trouble of any kind is reported once, and from then on the cache knows
nothing and keeps nothing. A file that is not a score cache is left as it is, and so is a damaged one, since another
process may have it open; the report says what to delete.

Rows live in two generations. New rows, and old ones that are asked for again, go to the young generation; when that
fills half of the limit, the old generation is dropped whole and the young one becomes old. So what goes is always what
was not used for the longest time, for the price of emptying a table and without writing a date at each use.

Write-ahead logging needs shared memory: processes of one machine may use one file together, several machines may not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from imgrank.arrays import Floats
from imgrank.errors import InputError
from imgrank.records import DIGEST_SIZE, NO_DIGEST
from imgrank.user_cache import user_cache

LIMIT_BYTES = 512 * 2**20
APPLICATION_ID = 0x696D6752  # "imgR", in the header of the SQLite file
SCHEMA_VERSION = 1
WAIT = 10.0  # seconds that another process may hold the file before the cache is given up
_NEAR = 4  # leading bytes of a key that all pairs of one query share, so that they lie on neighbouring pages
_AT_ONCE = 500  # keys of one SELECT; SQLite allowed 999 variables before version 3.32
_TROUBLE = (sqlite3.Error, OSError, UnicodeError)  # the last: SQLite quotes damaged text in its messages
_GENERATIONS = ("generation_0", "generation_1")


def default_path() -> Path:
    """Return the file in the user's cache folder."""
    return user_cache() / "pair-scores.sqlite"


def fingerprint(**parts: Any) -> bytes:
    """Return 16 bytes that change with any part.

    Args:
        parts: all that decides a score besides the content of the two photos: model, revision, dtype, prompt ids,
            answers, token settings, version of the engine. Values of JSON (tuples count as lists).

    Raises:
        TypeError: a part is not a value of JSON.
        ValueError: a part is NaN or infinite.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode("ascii"), digest_size=DIGEST_SIZE).digest()


class ScoreCache:
    """Logit differences by pair, in one file that several processes of one machine may share.

    Args:
        path: of the file, which is made, readable for its user only, where there is none.
        limit_bytes: how large the file may grow, about; the least recently used rows go.
        on_trouble: told once, in one sentence, when the cache cannot be used or cannot be used any longer.
    """

    def __init__(self, path: Path, *, limit_bytes: int = LIMIT_BYTES, on_trouble: Callable[[str], None]) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        self._on_trouble = on_trouble
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = _opened(path)
        except _TROUBLE as error:
            self._give_up(error)

    def get(self, fingerprint: bytes, query: bytes, images: Sequence[bytes]) -> Floats:
        """Return the logit differences that are known.

        Args:
            fingerprint: from the function of that name.
            query: 16 bytes, digest of the query photo's content.
            images: n digests of the candidates' contents, likewise.

        Returns:
            (n,) float32, the bits that `put` was given last; NaN where nothing is known.

        Raises:
            InputError: a digest has not 16 bytes.
        """
        keys = _pair_keys(fingerprint, query, images)
        found: dict[bytes, int] = {}
        with self._lock:
            if self._connection is not None:
                try:
                    self._look_up(self._connection, {key for key in keys if key}, found)
                except _TROUBLE as error:
                    self._give_up(error)
        places = [place for place, key in enumerate(keys) if key in found]
        logits = np.full(len(keys), np.nan, dtype=np.float32)
        # Kept as the integer with the same bits: a REAL column would turn -0.0 into 0.0.
        logits[places] = np.array([found[keys[place]] for place in places], dtype=np.int32).view(np.float32)
        return logits

    def put(self, fingerprint: bytes, query: bytes, images: Sequence[bytes], logits: Floats) -> None:
        """Keep logit differences; NaN, infinities and photos without a digest are passed over.

        Args:
            fingerprint: from the function of that name.
            query: 16 bytes, digest of the query photo's content.
            images: n digests of the candidates' contents, likewise.
            logits: (n,) float32.

        Raises:
            InputError: a digest has not 16 bytes, or there are more or fewer numbers than images.
        """
        logits = np.ascontiguousarray(logits, dtype=np.float32)
        if logits.shape != (len(images),):
            raise InputError(f"{len(images)} images but logit differences of shape {logits.shape}")
        keys = _pair_keys(fingerprint, query, images)
        kept = zip(keys, logits.view(np.int32).tolist(), np.isfinite(logits).tolist(), strict=True)
        rows = [(key, bits) for key, bits, finite in kept if finite and key]
        with self._lock:
            if self._connection is None or not rows:
                return
            try:
                with _transaction(self._connection) as connection:
                    young, old, old_pages = _state(connection)
                    connection.executemany(f"INSERT OR REPLACE INTO {young} VALUES (?, ?)", rows)
                    self._make_room(connection, old, old_pages)
            except _TROUBLE as error:
                self._give_up(error)

    def close(self) -> None:
        """Close the file; after that nothing is known and nothing kept."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):  # all that was put is in the log, merged or not
                    connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _look_up(self, connection: sqlite3.Connection, keys: set[bytes], found: dict[bytes, int]) -> None:
        """Fill `found`, and carry what was found in the old generation over to the young one."""
        aged: dict[bytes, int] = {}
        with _transaction(connection, write=False):
            young, old, _ = _state(connection)
            _select(connection, young, sorted(keys), found)
            _select(connection, old, sorted(keys.difference(found)), aged)
        found.update(aged)
        if aged:
            with _transaction(connection):
                young, old, old_pages = _state(connection)
                # Another process may have put a newer number since.
                connection.executemany(f"INSERT OR IGNORE INTO {young} VALUES (?, ?)", aged.items())
                self._make_room(connection, old, old_pages)

    def _make_room(self, connection: sqlite3.Connection, old: str, old_pages: int) -> None:
        """Drop the old generation when the young one fills half of the limit; inside a transaction that writes."""
        used = _pages_in_use(connection)
        if (used - old_pages) * _number(connection, "PRAGMA page_size") <= self._limit_bytes // 2:
            return
        connection.execute(f"DELETE FROM {old}")  # without WHERE: frees the pages, row by row is not looked at
        connection.execute("UPDATE state SET young = 1 - young, old_pages = ?", (_pages_in_use(connection),))

    def _give_up(self, error: Exception) -> None:
        self.close()  # so nothing can go wrong a second time
        self._on_trouble(
            f"score cache {self.path} {_reason(error)}; the search goes on without it. "
            "Another file, or none: --score-cache PATH|none"
        )


class _NotOurs(sqlite3.DatabaseError):
    """The file is a database of another program."""


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be opened: {error.strerror or error}"
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code is the plain one
    if isinstance(error, _NotOurs) or code == sqlite3.SQLITE_NOTADB:
        return "is not a score cache of imgrank, and is left as it is"
    if isinstance(error, UnicodeError) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
        return f"is damaged ({error}), and is left as it is: delete it to have a new one made"
    return f"cannot be used: {error}"


def _pair_keys(fingerprint: bytes, query: bytes, images: Sequence[bytes]) -> list[bytes]:
    """Return a 16-byte hash for each pair; none, b"", where a digest is missing: that could be any photo.

    All hashes of a query start with the same `_NEAR` bytes: a thousand new rows then change ten pages and not a
    thousand. The other 96 bits tell the candidates of a query apart.
    """
    if any(len(part) != DIGEST_SIZE for part in (fingerprint, query, *images)):
        raise InputError(f"fingerprints and content digests have {DIGEST_SIZE} bytes")
    if query == NO_DIGEST:
        return [b""] * len(images)
    start = hashlib.blake2b(fingerprint + query, digest_size=DIGEST_SIZE)
    near = start.digest()[:_NEAR]
    keys: list[bytes] = []
    for image in images:
        whole = start.copy()
        whole.update(image)
        keys.append(b"" if image == NO_DIGEST else near + whole.digest()[_NEAR:])
    return keys


def _opened(path: Path) -> sqlite3.Connection:
    """Open a score cache, made first where there is none.

    Raises:
        OSError: the folder or the file cannot be made.
        sqlite3.Error: it cannot be used, or is no score cache.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # SQLite would make it readable for everybody; its log takes this mode
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "not a regular file")
    connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")  # a file from elsewhere runs no functions of its own
        if _marks(connection) != (APPLICATION_ID, SCHEMA_VERSION):
            with _transaction(connection):
                _create(connection)
        connection.execute("PRAGMA synchronous = NORMAL")  # with the log, a power cut loses the last rows at most
        connection.execute("PRAGMA journal_size_limit = 4194304")
        # Fails where another process is just using the file: it has then set the mode, or a later one will.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables, in place of those of another version of ours; inside a transaction that writes."""
    marks = _marks(connection)
    if marks == (APPLICATION_ID, SCHEMA_VERSION):
        return  # another process was quicker
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if marks[0] != APPLICATION_ID and (tables or marks != (0, 0)):
        raise _NotOurs("a database of another program")
    for table in tables:
        connection.execute('DROP TABLE "{}"'.format(table.replace('"', '""')))
    for name in _GENERATIONS:
        connection.execute(f"CREATE TABLE {name} (pair BLOB PRIMARY KEY, bits INTEGER NOT NULL) WITHOUT ROWID")
    connection.execute("CREATE TABLE state (young INTEGER NOT NULL, old_pages INTEGER NOT NULL)")
    connection.execute("INSERT INTO state VALUES (0, 0)")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _marks(connection: sqlite3.Connection) -> tuple[int, int]:
    return _number(connection, "PRAGMA application_id"), _number(connection, "PRAGMA user_version")


def _number(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _pages_in_use(connection: sqlite3.Connection) -> int:
    return _number(connection, "PRAGMA page_count") - _number(connection, "PRAGMA freelist_count")


def _state(connection: sqlite3.Connection) -> tuple[str, str, int]:
    """Return the tables of the young and of the old generation, and the pages in use when the old one became old."""
    row = connection.execute("SELECT young, old_pages FROM state").fetchone()
    if row is None or not all(isinstance(number, int) for number in row) or row[0] not in (0, 1):
        raise _damaged("the table `state` makes no sense")
    return _GENERATIONS[row[0]], _GENERATIONS[1 - row[0]], row[1]


def _select(connection: sqlite3.Connection, table: str, keys: list[bytes], found: dict[bytes, int]) -> None:
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        marks = ",".join("?" * len(some))
        for pair, bits in connection.execute(f"SELECT pair, bits FROM {table} WHERE pair IN ({marks})", some):
            if not isinstance(bits, int) or not -(2**31) <= bits < 2**31:
                raise _damaged("a row holds no float32")
            found[pair] = bits


def _damaged(reason: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(reason)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, *, write: bool = True) -> Iterator[sqlite3.Connection]:
    """Commit what is done inside, or nothing of it; a writer waits for other writers first, not half-way."""
    connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
