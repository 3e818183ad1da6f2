"""Ranked hits: the one record that `search` writes and `rerank` reads, and its text forms.

A hit says `schema_version, query, rank, id, path, score, similarity`, and after re-ranking also `scorer`, and
`probability`, `logit` and `disagreement` where that scorer defines them, and `calibrated` where it is calibrated; where
several bundles were searched, `bundle`; where several photos are one query, `photos` and `fuse`; where copies of a
photo were folded into it, `collapsed`. Numbers are float32 and written with the fewest digits that read back as the
same float32, so a ranking survives a pipe bit for bit.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np

from imgrank.config import Thresholds
from imgrank.errors import RecordError

SCHEMA_VERSION = 1
MAX_LINE = 2**20  # bytes of one record; a longer line is refused before it is parsed


@dataclass(frozen=True)
class Hit:
    """One database photo in the ranking of one query."""

    query: bytes  # path of the query photo, as given; of a part of it, with a fragment (`imgrank.boxes`)
    rank: int  # 1 for the best
    id: int  # of the photo in the bundle
    path: bytes  # that can be opened from the working directory
    score: float  # what the list is ordered by
    similarity: float  # cosine of the two descriptors
    scorer: str | None = None  # set for re-ranked hits
    probability: float | None = None  # of "same", in [0, 1]
    logit: float | None = None  # of the probability: z_same - z_different, where a model has two answers
    calibrated: float | None = None  # in [0, 1]: the share of such pairs that show the same thing; docs/calibration.md
    disagreement: float | None = None  # of the logits of both orders of the pair
    bundle: bytes | None = None  # path of the bundle that the id is of, as given, where there are several
    photos: tuple[bytes, ...] = ()  # all photos of a query of several; `query` is then the first
    fuse: str | None = None  # one of `imgrank.config.Fuse`: how they were made one
    collapsed: tuple[bytes, ...] = ()  # paths of further photos that are copies of this one
    former_rank: int | None = field(default=None, compare=False)  # before re-ranking; not part of the record

    def but(self, **values: Any) -> Hit:
        """Return a copy with other values of some fields.

        As `dataclasses.replace` does, which takes five times as long; rankings are long.
        """
        copy = object.__new__(Hit)
        copy.__dict__.update(self.__dict__, **values)
        return copy

    @property
    def file(self) -> Path:
        """Return the path as a `pathlib.Path`."""
        return Path(os.fsdecode(self.path))

    def to_dict(self) -> dict[str, Any]:
        """Return the record's fields in their documented order; absent ones are left out."""
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "query": os.fsdecode(self.query),
            "rank": self.rank,
            "id": self.id,
            "path": os.fsdecode(self.path),
            "score": short(self.score),
            "similarity": short(self.similarity),
        }
        if self.scorer is not None:
            record["scorer"] = self.scorer
        if self.probability is not None:
            record["probability"] = short(self.probability)
        if self.logit is not None:
            record["logit"] = short(self.logit)
        if self.calibrated is not None:
            record["calibrated"] = short(self.calibrated)
        if self.disagreement is not None:
            record["disagreement"] = short(self.disagreement)
        if self.bundle is not None:
            record["bundle"] = os.fsdecode(self.bundle)
        if self.photos:
            record |= {"photos": [os.fsdecode(name) for name in self.photos], "fuse": self.fuse}
        if self.collapsed:
            record["collapsed"] = [os.fsdecode(path) for path in self.collapsed]
        return record

    def to_json(self) -> str:
        """Return the record as one line of ASCII JSON; undecodable bytes of a name are lone surrogates."""
        return json.dumps(self.to_dict())


@dataclass(frozen=True)
class Ranking:
    """The hits of one query, best first."""

    query: bytes
    hits: tuple[Hit, ...]

    def __len__(self) -> int:
        """Return how many hits there are."""
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        """Go through the hits, best first."""
        return iter(self.hits)

    def __getitem__(self, place: int) -> Hit:
        """Return a hit by its place, from 0."""
        return self.hits[place]


def short(value: float) -> float:
    """Return the float64 with the shortest decimal form that rounds to the same float32."""
    return float(str(np.float32(value)))


def encode_hits(ranking: Ranking, form: str, *, nul: bool = False, tag: str = "imgrank") -> bytes:
    """Return a ranking as lines of one of the formats but `table`.

    Args:
        ranking: hits of one query.
        form: "jsonl", "tsv", "trec" or "paths".
        nul: end each record with NUL instead of a newline (for `paths`, any name then survives).
        tag: run name in TREC lines.
    """
    end = b"\0" if nul else b"\n"
    lines: list[bytes] = []
    for hit in ranking.hits:
        if form == "jsonl":
            lines.append(hit.to_json().encode())
        elif form == "paths":
            lines.append(hit.path)
        elif form == "trec":
            score = str(short(hit.score))
            lines.append(f"{trec_id(hit.query)} Q0 {trec_id(hit.path)} {hit.rank} {score} {tag}".encode())
        else:
            values = [hit.score, hit.similarity, hit.probability, hit.logit, hit.calibrated]
            numbers = [b"" if value is None else str(short(value)).encode() for value in values]
            text = [tsv_field(hit.query), str(hit.rank).encode(), str(hit.id).encode(), tsv_field(hit.path)]
            fields = [*text, *numbers[:-1], (hit.scorer or "").encode(), numbers[-1]]
            lines.append(b"\t".join(fields if hit.bundle is None else [*fields, tsv_field(hit.bundle)]))
    return b"".join(line + end for line in lines)


def tsv_header(*, bundles: bool) -> bytes:
    """Return the first line of TSV output; with several `bundles`, hits have one column more."""
    names = ["query", "rank", "id", "path", "score", "similarity", "probability", "logit", "scorer", "calibrated"]
    return "\t".join([*names, "bundle"] if bundles else names).encode() + b"\n"


_UNESCAPED = {b"\\": b"\\", b"t": b"\t", b"n": b"\n", b"r": b"\r"}  # after a backslash -> what it stands for


def tsv_field(name: bytes) -> bytes:
    """Escape what would break a tab-separated line, as C does; undone by `from_tsv_field`."""
    return (
        name.replace(b"\\", b"\\\\").replace(b"\t", b"\\t").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    )  # fmt: skip


def from_tsv_field(field: bytes) -> bytes:
    """Return the name that `tsv_field` escaped; a backslash before any other character stands for itself."""
    return re.sub(rb"\\(.)", lambda found: _UNESCAPED.get(found[1], found[0]), field)


def trec_id(name: bytes) -> str:
    """Return a name without white space for a TREC run or qrels; percent-encoding, undone by `from_trec_id`."""
    return quote_from_bytes(name, safe="/!#$&'()*+,:;=?@[]~\"<>\\^`{|}")


def from_trec_id(text: str) -> bytes:
    """Return the name that `trec_id` encoded."""
    return unquote_to_bytes(text)


def read_rankings(stream: BinaryIO, *, source: str = "standard input") -> Iterator[Ranking]:
    """Read the JSON lines that `search` writes, or a TREC run, one query at a time as its lines come in.

    Lines of one query must be neighbours. A TREC run gives hits with id -1, whose paths are as written there and whose
    similarity is the run's score.

    Raises:
        RecordError: a line is neither, has an ill-typed field, or a query comes back after another one.
    """
    seen: set[bytes] = set()
    current: bytes | None = None
    hits: list[Hit] = []
    for number, hit in _hits(stream, source):
        # Said by who ranks next.
        hit = hit.but(scorer=None, probability=None, logit=None, calibrated=None, disagreement=None)
        if hit.query != current:
            if current is not None:
                yield Ranking(current, tuple(sorted(hits, key=lambda hit: hit.rank)))
            if hit.query in seen:
                raise RecordError(
                    source, number, f"query {os.fsdecode(hit.query)!r} comes back; sort the lines by query"
                )
            seen.add(hit.query)
            current, hits = hit.query, []
        hits.append(hit)
    if current is not None:
        yield Ranking(current, tuple(sorted(hits, key=lambda hit: hit.rank)))


def read_hits(stream: BinaryIO, *, source: str = "standard input") -> Iterator[Hit]:
    """Read the same lines one by one, in their order, with what a scorer said of each hit.

    Raises:
        RecordError: a line is neither, or has an ill-typed field.
    """
    return (hit for _, hit in _hits(stream, source))


def _hits(stream: BinaryIO, source: str) -> Iterator[tuple[int, Hit]]:
    for number, line in enumerate(_lines(stream, source), 1):
        if line.strip():
            read = _hit_of_json if line.lstrip().startswith(b"{") else _hit_of_trec
            yield number, read(line, source, number)


def _lines(stream: BinaryIO, source: str) -> Iterator[bytes]:
    number = 0
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise RecordError(source, number, f"longer than {MAX_LINE} bytes; is this the output of `imgrank search`?")
        yield line


def _hit_of_json(line: bytes, source: str, number: int) -> Hit:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(source, number, f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise RecordError(source, number, "not a JSON object")
    version = record.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise RecordError(source, number, f"schema_version {version!r}; this imgrank reads up to {SCHEMA_VERSION}")

    def field(name: str, *types: type) -> Any:
        value = record.get(name)
        if not isinstance(value, types) or isinstance(value, bool):
            raise RecordError(source, number, f"{name} is {value!r}; expected the records that `imgrank search` writes")
        return value

    def whole(name: str) -> int:
        value: int = field(name, int)
        if not -(2**63) <= value < 2**63:
            raise RecordError(source, number, f"{name} is {value}; no number of a photo or place is so large")
        return value

    def real(name: str) -> float:
        try:
            return float(field(name, int, float))
        except OverflowError as error:
            raise RecordError(source, number, f"{name} is a number beyond any floating-point number") from error

    def real_or_none(name: str) -> float | None:
        return None if record.get(name) is None else real(name)

    def path(name: str) -> bytes:
        return name_of(name, field(name, str))

    def name_of(name: str, text: str) -> bytes:
        try:
            return os.fsencode(text)
        except UnicodeEncodeError as error:  # a surrogate that stands for no byte
            raise RecordError(source, number, f"{name} is {text!r}, which no file can be called") from error

    def paths(name: str) -> tuple[bytes, ...]:
        values = field(name, list) if name in record else []
        if not all(isinstance(value, str) for value in values):
            raise RecordError(source, number, f"{name} is {values!r}; expected paths")
        return tuple(name_of(name, value) for value in values)

    return Hit(
        query=path("query"),
        rank=whole("rank"),
        id=whole("id"),
        path=path("path"),
        score=real("score"),
        similarity=real("similarity"),
        scorer=None if record.get("scorer") is None else field("scorer", str),
        probability=real_or_none("probability"),
        logit=real_or_none("logit"),
        calibrated=real_or_none("calibrated"),
        disagreement=real_or_none("disagreement"),
        bundle=path("bundle") if "bundle" in record else None,
        photos=paths("photos"),
        fuse=field("fuse", str) if "photos" in record else None,
        collapsed=paths("collapsed"),
    )


def _hit_of_trec(line: bytes, source: str, number: int) -> Hit:
    parts = line.split()
    if len(parts) != 6:
        raise RecordError(source, number, "neither JSON nor a TREC run line (query Q0 document rank score tag)")
    try:
        rank, score = int(parts[3]), float(parts[4])
    except ValueError as error:
        raise RecordError(source, number, f"rank or score is not a number: {error}") from error
    query, path = (from_trec_id(parts[place].decode("ascii", "replace")) for place in (0, 2))
    return Hit(query=query, rank=rank, id=-1, path=path, score=score, similarity=score)


def renumber(query: bytes, hits: Iterable[Hit]) -> Ranking:
    """Return hits in the order given, ranked from 1."""
    return Ranking(query, tuple(hit.but(rank=rank) for rank, hit in enumerate(hits, 1)))


def above(ranking: Ranking, thresholds: Thresholds) -> Ranking:
    """Return the hits that reach what is asked for, ranked from 1; a hit without a probability reaches none.

    Where a hit has a calibrated probability, that one counts.
    """
    score, probability = thresholds.min_score, thresholds.min_probability
    if score is None and probability is None:
        return ranking
    kept = [
        hit
        for hit in ranking.hits
        if (score is None or hit.score >= score) and (probability is None or _probability(hit) >= probability)
    ]
    return renumber(ranking.query, kept)


def _probability(hit: Hit) -> float:
    for value in (hit.calibrated, hit.probability):
        if value is not None:
            return value
    return -1.0


def read_ids(stream: BinaryIO, bundle: Path, *, source: str = "the list of ids") -> Iterator[int]:
    """Read ids of photos of a bundle, one a line: whole numbers, or JSON objects with a field `id`.

    Raises:
        RecordError: a line is neither, or names another bundle.
    """
    for number, line in enumerate(_lines(stream, source), 1):
        text = line.strip()
        if not text:
            continue
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if isinstance(value, dict):
            named = value.get("bundle")
            if isinstance(named, str) and os.path.realpath(named) != os.path.realpath(bundle):
                raise RecordError(source, number, f"is of {named!r}, not of {str(bundle)!r}; leave out those of others")
            value = value.get("id")
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise RecordError(source, number, f"{text[:40]!r} is no id: give whole numbers, or records with a field id")
        yield value
