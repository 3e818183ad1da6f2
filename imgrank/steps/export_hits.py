"""`export hits`: the records of `search` and `rerank` in, a Parquet table out."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from imgrank.errors import MissingExtraError
from imgrank.progress import SILENT, Reporter
from imgrank.results import SCHEMA_VERSION, Hit, read_hits
from imgrank.steps.outputs import check_output, replacing

_GROUP = 65_536  # hits in memory, and in a row group


@dataclass(frozen=True)
class HitExport:
    """What `export_hits` wrote."""

    output: Path
    hits: int
    bytes: int


def check_hits(output: Path, *, force: bool) -> None:
    """Find out whether hits can be written, before they are read.

    Raises:
        MissingExtraError: pyarrow is not installed.
        SettingsError: the file is there already, or its name does not end in .parquet.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", "parquet", "a Parquet file")
    check_output(output, ".parquet", force=force)


def export_hits(
    stream: BinaryIO,
    output: Path,
    *,
    source: str = "standard input",
    force: bool = False,
    reporter: Reporter = SILENT,
) -> HitExport:
    """Write hits as they come, a row each, in their order.

    Columns are the fields of the record (docs/shell.md): integers and float32, with null for a field that a record
    lacks. A name that is not UTF-8 has its other bytes as backslash-xNN, since Parquet's text must be UTF-8; `id` says
    which photo it is. Hits of a TREC run have no id.

    Args:
        stream: JSON lines of `search` or `rerank`, or a TREC run.
        output: OUT.parquet.
        source: name of the stream, for messages.
        force: replace a file that is there.
        reporter: hears of progress.

    Raises:
        MissingExtraError, SettingsError: as `check_hits`.
        RecordError: a line cannot be read.
    """
    check_hits(output, force=force)
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema(
        [
            pa.field("schema_version", pa.int32(), nullable=False),
            pa.field("query", pa.string(), nullable=False),
            pa.field("rank", pa.int64(), nullable=False),
            pa.field("id", pa.int64()),
            pa.field("path", pa.string(), nullable=False),
            pa.field("score", pa.float32(), nullable=False),
            pa.field("similarity", pa.float32(), nullable=False),
            pa.field("scorer", pa.string()),
            pa.field("probability", pa.float32()),
            pa.field("logit", pa.float32()),
            pa.field("calibrated", pa.float32()),
            pa.field("disagreement", pa.float32()),
        ]
    )
    count = 0
    hits = read_hits(stream, source=source)
    with (
        reporter.bar(None, "export", "hit") as advance,
        replacing(output) as incoming,
        ParquetWriter(incoming, schema) as writer,
    ):
        while rows := [_row(hit) for hit in itertools.islice(hits, _GROUP)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
            advance(len(rows))
    return HitExport(output, count, output.stat().st_size)


def _row(hit: Hit) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "query": hit.query.decode("utf-8", "backslashreplace"),
        "rank": hit.rank,
        "id": None if hit.id < 0 else hit.id,
        "path": hit.path.decode("utf-8", "backslashreplace"),
        "score": hit.score,
        "similarity": hit.similarity,
        "scorer": hit.scorer,
        "probability": hit.probability,
        "logit": hit.logit,
        "calibrated": hit.calibrated,
        "disagreement": hit.disagreement,
    }
