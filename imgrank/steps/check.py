"""`check`: everything in a bundle that is not as it should be.

Nothing is changed. Memory stays flat: rows are read block by block.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Ids
from imgrank.bundle import file, layout
from imgrank.bundle.graph import GraphTable
from imgrank.bundle.journal import journal_path
from imgrank.bundle.table import ColumnView
from imgrank.bundle.thumbnails import ThumbnailTable
from imgrank.bundle.tokens import TokenTable, schema_of
from imgrank.errors import BundleError, DamagedBundleError, ImageError, ImgrankError, InputError
from imgrank.images.thumbnails import check_thumbnail
from imgrank.index.graph import Graph, from_arrays, unreachable, validate
from imgrank.index.recall import sample_rows
from imgrank.local.features import COLUMNS
from imgrank.progress import SILENT, Advance, Reporter
from imgrank.records import NO_DIGEST, OK
from imgrank.steps.augment import searched_vectors
from imgrank.steps.build_index import GraphState
from imgrank.steps.calibration import read_calibration
from imgrank.steps.features import stored_codebooks
from imgrank.steps.findings import Finding, of_rows
from imgrank.steps.proof import read_proof

_BLOCK = 4096  # rows
_NORM = 1e-3  # how far the length of a descriptor may be from 1
_ASKED = 200  # photos that look for themselves
_SLACK = 8 * 2**20  # bytes: structure, and what is not worth a command
_BESIDE = (".journal", ".new", ".incoming", ".sample")  # ends of names of files that a cut run leaves


@dataclass
class CheckReport:
    """What `check` found.

    Attributes:
        findings: worst first.
        images: rows.
        damaged: rows of photos that cannot be kept: their own facts or their descriptors are damaged.
        damaged_tokens: name of a cache -> rows without sound tokens.
        lost: caches that cannot be kept at all.
        lost_proofs: caches whose proof cannot be kept.
        lost_calibrations: that cannot be kept.
        damaged_thumbnails: rows whose thumbnails cannot be kept.
    """

    findings: list[Finding] = field(default_factory=list)
    images: int = 0
    damaged: set[int] = field(default_factory=set)
    damaged_tokens: dict[str, set[int]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    lost_proofs: set[str] = field(default_factory=set)
    lost_calibrations: set[str] = field(default_factory=set)
    damaged_thumbnails: set[int] = field(default_factory=set)

    @property
    def errors(self) -> int:
        """Return how many findings are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def add(self, *findings: Finding) -> None:
        """Take findings."""
        self.findings += findings


def check(
    bundle: Path, *, fast: bool = False, photos: bool = True, root: Path | None = None, reporter: Reporter = SILENT
) -> CheckReport:
    """Look through a bundle.

    Args:
        bundle: the file.
        fast: structure, counts, offsets and ids only; no checksums of descriptors and tokens, no look at the photos.
        photos: whether the photos are looked for on the disk.
        root: folder of the photos, where it is not the one the bundle states.
        reporter: hears of progress.

    Raises:
        NotABundleError: there is no such file, or it is none.
        FormatVersionError: a newer imgrank wrote it.
    """
    report = CheckReport()
    faults: dict[str, BundleError] = {}
    try:
        opened = file.read(bundle, faults)
    except DamagedBundleError as error:
        code = "journal-foreign" if error.part == journal_path(bundle).name else "unreadable"
        report.add(Finding(code, error.part, detail=str(error)))
        return report
    with opened:
        report.images = len(opened.images)
        for part, fault in faults.items():
            report.add(Finding("part-unreadable", part, detail=str(fault)))
            if part.startswith(f"/{layout.TOKENS}/"):
                report.lost.add(part.removeprefix(f"/{layout.TOKENS}/"))
            if part.startswith(f"/{layout.CALIBRATION}/"):
                report.lost_calibrations.add(part.removeprefix(f"/{layout.CALIBRATION}/"))
        rows = len(opened.images)
        caches = {} if fast else {**opened.token_tables, **opened.unfinished}
        total = rows * (1 if fast else 2 + (photos and not fast)) + sum(map(len, caches.values()))
        if opened.thumbnail_table is not None and not fast:
            total += len(opened.thumbnail_table)
        with reporter.bar(total, "check", "row") as advance:
            _Check(opened, report, fast, advance).run(photos and not fast, root)
    for ending in _BESIDE:
        for left in sorted(bundle.parent.glob(f"{_escaped(bundle.name)}*{ending}")):
            report.add(Finding("leftover", left.name))
    order = {"error": 0, "warning": 1, "note": 2}
    report.findings.sort(key=lambda finding: order[finding.severity])
    return report


class _Check:
    def __init__(self, opened: file.Bundle, report: CheckReport, fast: bool, advance: Advance) -> None:
        self._bundle, self._report, self._fast, self._advance = opened, report, fast, advance
        self._ok: npt.NDArray[np.bool_] = np.zeros(0, dtype=bool)  # rows of photos that can be found

    def run(self, photos: bool, root: Path | None) -> None:
        opened, report = self._bundle, self._report
        if opened.version < layout.FORMAT_VERSION:
            report.add(Finding("version-old", "/", opened.version))
        self._images()
        if opened.descriptor_table is not None:
            self._descriptors()
            self._graph()
        for name, table in {**opened.token_tables, **opened.unfinished}.items():
            self._cache(name, table)
        for name, calibration in opened.calibrations.items():
            try:
                read_calibration(calibration)
            except DamagedBundleError as error:
                report.add(Finding("calibration-damaged", error.part, detail=str(error)))
                report.lost_calibrations.add(name)
        if opened.thumbnail_table is not None:
            self._thumbnails(opened.thumbnail_table)
        if photos:
            self._photos(root)
        self._space()

    def _images(self) -> None:
        images, report = self._bundle.images, self._report
        count = len(images)
        ids = images.columns["id"].read()
        if count and ((np.diff(ids.astype(np.int64)) <= 0).any() or images.next_id <= int(ids[-1])):
            report.add(Finding("image-ids", "/images/id"))
        self._ok = np.zeros(count, dtype=bool)
        places: Counter[bytes] = Counter()
        for start in range(0, count, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, count))
            for row, record in zip(rows.tolist(), images.intact_records(rows), strict=True):
                if record is None:
                    report.damaged.add(row)
                    continue
                self._ok[row] = record.status == OK
                if record.status == OK:
                    places[record.path] += 1
            self._advance(len(rows))
        report.add(*of_rows("image-checksum", "/images", sorted(report.damaged)))
        twice = [path for path, times in places.items() if times > 1]
        if twice:
            report.add(Finding("path-twice", "/images", len(twice), os.fsdecode(twice[0])))
        try:
            images.paths()
        except DamagedBundleError as error:
            report.add(Finding("image-paths", error.part, detail=str(error)))

    def _descriptors(self) -> None:
        table, report = self._bundle.descriptors, self._report
        if self._fast:
            return
        part = f"/{layout.DESCRIPTORS}/vectors"
        damaged, values, norms = [], [], []
        for start in range(0, len(table), _BLOCK):
            stop = min(start + _BLOCK, len(table))
            damaged += table.damaged(start, stop).tolist()
            vectors = table.columns["vectors"].read(start, stop).astype(np.float64)
            finite: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(vectors), axis=1)
            values += (start + np.flatnonzero(~finite)).tolist()
            lengths = np.sqrt((np.where(finite[:, None], vectors, 0) ** 2).sum(axis=1))
            usable: npt.NDArray[np.bool_] = self._ok[start:stop]
            wrong = finite & usable & (np.abs(lengths - 1) > _NORM)
            norms += (start + np.flatnonzero(wrong)).tolist()
            self._advance(stop - start)
        for code, rows in (("descriptor-checksum", damaged), ("descriptor-values", values), ("descriptor-norm", norms)):
            report.add(*of_rows(code, part, sorted(set(rows) - report.damaged)))
            report.damaged |= set(rows)
        try:
            table.projection()
        except DamagedBundleError as error:
            report.add(Finding("projection-checksum", error.part, detail=str(error)))

    def _graph(self) -> None:
        opened, report, part = self._bundle, self._report, f"/{layout.GRAPH}"
        table = opened.graph_table
        if table is None:
            if not any(finding.part == part for finding in report.findings):
                report.add(Finding("graph-missing", part, len(opened.images)))
            return
        try:
            graph = from_arrays(table.arrays())
            state = GraphState.from_json(table.provenance.settings)
        except (DamagedBundleError, InputError) as error:
            report.add(Finding("graph-damaged", part, detail=str(error)))
            return
        reasons = validate(graph, len(opened.images))
        if reasons:
            report.add(Finding("graph-damaged", part, detail="; ".join(reasons[:3])))
            return
        covered = min(max(state.rows, 0), len(opened.images))
        if table.provenance.input_digest != opened.descriptors.digest(opened.images.content_digest(covered)):
            report.add(Finding("graph-stale", part))
        inside = np.zeros(len(opened.images), dtype=bool)
        inside[graph.rows] = True
        report.add(*of_rows("graph-behind", part, np.flatnonzero(self._ok & ~inside)))
        if not self._fast:
            report.add(*of_rows("graph-unreachable", part, graph.rows[unreachable(graph)]))
            if not report.damaged:
                self._self_recall(graph, table)

    def _self_recall(self, graph: Graph, table: GraphTable) -> None:
        """Let some photos look for themselves."""
        try:
            from imgrank.index.hnsw import HnswIndex
        except ImgrankError:  # hnswlib is not here: what it would find is not known
            return
        opened = self._bundle
        nodes = np.zeros(len(opened.images), dtype=bool)
        nodes[graph.rows] = True
        rows = sample_rows(nodes, _ASKED, 0)
        if not len(rows):
            return
        try:
            descriptors = searched_vectors(opened.descriptors.read(), table, graph)
        except DamagedBundleError as error:
            self._report.add(Finding("graph-damaged", error.part, detail=str(error)))
            return
        found = HnswIndex(graph, descriptors).search(descriptors[rows], 1, 0)
        # Another photo with the same descriptor is as good.
        lost = rows[found.similarities[:, 0] < 1 - _NORM]
        self._report.add(*of_rows("graph-recall", f"/{layout.GRAPH}", lost, f"of {len(rows)} that were asked"))

    def _cache(self, name: str, table: TokenTable) -> None:
        opened, report, part = self._bundle, self._report, f"/{layout.TOKENS}/{name}"
        unfinished = name.startswith(layout.UNFINISHED)
        if unfinished:
            report.add(Finding("cache-unfinished", part, len(table)))
        try:
            table.offsets  # noqa: B018  # read and checked
        except DamagedBundleError as error:
            report.add(Finding("cache-offsets", part, detail=str(error)))
            report.lost.add(name)
            return
        try:
            if table.kind == "mllm" and not self._fast:
                stored_codebooks(table)
            elif table.kind == "local" and table.schema != schema_of(COLUMNS):
                raise DamagedBundleError(opened.path, part, "its columns are not those of local features")
        except DamagedBundleError as error:
            code = "cache-codebooks" if f"/{layout.CODEBOOKS}" in error.part else "cache-settings"
            report.add(Finding(code, error.part, detail=str(error)))
            report.lost.add(name)
        behind = np.flatnonzero(self._ok[len(table) :])
        if not unfinished:
            report.add(*of_rows("cache-behind", part, len(table) + behind))
        if self._fast:
            return
        try:
            read_proof(table)
        except DamagedBundleError as error:
            report.add(Finding("cache-proof", error.part, detail=str(error)))
            report.lost_proofs.add(name)
        damaged: list[int] = []
        for start in range(0, len(table), _BLOCK // 8):
            rows = range(start, min(start + _BLOCK // 8, len(table)))
            table.read(rows, damaged)
            self._advance(len(rows))
        report.add(*of_rows("cache-checksum", part, sorted(damaged)))
        report.damaged_tokens[name] = set(damaged)

    def _thumbnails(self, table: ThumbnailTable) -> None:
        report, part = self._report, f"/{layout.THUMBNAILS}"
        report.add(*of_rows("thumbnails-behind", part, len(table) + np.flatnonzero(self._ok[len(table) :])))
        if self._fast:
            return
        damaged: list[int] = []
        for start in range(0, len(table), _BLOCK):
            rows = range(start, min(start + _BLOCK, len(table)))
            for row, thumbnail in zip(rows, table.read(rows, damaged), strict=True):
                try:
                    if thumbnail is not None:
                        check_thumbnail(thumbnail, f"row {row}")
                except ImageError:
                    damaged.append(row)
            self._advance(len(rows))
        report.add(*of_rows("thumbnail-damaged", part, sorted(damaged)))
        report.damaged_thumbnails = set(damaged)

    def _photos(self, root: Path | None) -> None:
        opened = self._bundle
        base = opened.root if root is None else os.fsencode(root.resolve())
        missing, changed = [], []
        rows = np.flatnonzero(self._ok)
        for start in range(0, len(rows), _BLOCK):
            part: Ids = rows[start : start + _BLOCK]
            for row, record in zip(part.tolist(), opened.images.intact_records(part), strict=True):
                if record is None or record.digest == NO_DIGEST:  # imported descriptors: it was never seen
                    continue
                found = _stat(os.path.join(base, record.path))  # noqa: PTH118  # bytes
                if found is None:
                    missing.append(row)
                elif (found.st_size, found.st_mtime_ns) != (record.size, record.mtime_ns):
                    changed.append(row)
            self._advance(len(part))
        self._report.add(*of_rows("photo-missing", "/images", missing), *of_rows("photo-changed", "/images", changed))

    def _space(self) -> None:
        """Compare the length of the file with what its parts take; a part of a chunk is not counted as unused."""
        opened = self._bundle
        used = sum(view.allocated for view in _views(opened))
        size = opened.path.stat().st_size
        if size - used > max(_SLACK, size // 5):
            self._report.add(Finding("space", "/", size - used))


def _views(opened: file.Bundle) -> Iterator[ColumnView]:
    yield from opened.images.columns.values()
    if opened.descriptor_table is not None:
        yield from opened.descriptor_table.columns.values()
        if opened.descriptor_table.projection_arrays is not None:
            yield from opened.descriptor_table.projection_arrays.columns.values()
    if opened.graph_table is not None:
        yield from opened.graph_table.checked.columns.values()
    for calibration in opened.calibrations.values():
        yield from calibration.arrays.columns.values()
    if opened.thumbnail_table is not None:
        yield from opened.thumbnail_table.columns.values()
    for table in (*opened.token_tables.values(), *opened.unfinished.values()):
        yield from table.images.values()
        yield from table.columns.values()
        for arrays in (table.codebooks, table.proof):
            if arrays is not None:
                yield from arrays.columns.values()


def _stat(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116  # bytes
    except OSError:
        return None


def _escaped(name: str) -> str:
    """Return a name for `glob`, in which it stands for itself."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
