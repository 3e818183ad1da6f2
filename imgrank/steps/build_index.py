"""`index`: descriptors of a bundle in, its neighbour graph out, with the recall that it reaches."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.bundle import file
from imgrank.bundle.graph import VECTORS, write_graph
from imgrank.bundle.provenance import Provenance
from imgrank.config import GraphSettings
from imgrank.errors import DamagedBundleError, InputError, SettingsError
from imgrank.index.exact import ExactIndex
from imgrank.index.graph import Graph, arrays, from_arrays, validate
from imgrank.index.recall import sample_rows, self_recall
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK
from imgrank.steps.augment import augmented

HIDDEN_AT_MOST = 0.2  # share of nodes whose photos were removed; a search goes around them, until it is cheaper not to
RECALL_AT = 10
RECALL_SAMPLE = 200  # rows of the collection asked for their neighbours
RECALL_SEED = 0


@dataclass(frozen=True)
class IndexSummary:
    """What `build_index` did."""

    action: Literal["built", "extended", "up to date"]
    rows: int  # photos in the graph
    recall: float  # recall@RECALL_AT of the graph against exact search on a sample


@dataclass(frozen=True)
class GraphState:
    """The `settings` attribute of `/graph`."""

    graph: GraphSettings
    rows: int  # descriptor rows that existed when it was built; later ones are searched exactly
    recall: float

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(
            {**asdict(self.graph), "rows": self.rows, "recall_at": RECALL_AT, "recall": self.recall}, sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str) -> GraphState:
        """Read what `to_json` wrote.

        Raises:
            InputError: it is something else.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            known = {name: values[name] for name in asdict(GraphSettings()) if name in values}
            settings = GraphSettings.from_json(json.dumps(known))
            return cls(settings, max(0, int(values["rows"])), float(values["recall"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, SettingsError) as error:
            raise InputError(f"the settings of the graph cannot be read ({error})") from error


def build_index(
    bundle: Path,
    settings: GraphSettings | None = None,
    *,
    threads: int = 0,
    rebuild: bool = False,
    reporter: Reporter = SILENT,
) -> IndexSummary:
    """Build the graph of a bundle, or extend it by the photos that came since.

    Args:
        bundle: a bundle with descriptors.
        settings: None keeps those of the present graph, or takes the defaults.
        threads: 0 takes one per core; with 1 the same descriptors give the same graph, bit for bit.
        rebuild: do not extend the present graph.
        reporter: hears of progress.

    Raises:
        MissingGroupError: nothing has been embedded.
        MissingError: hnswlib is not installed; `search --exact` works without a graph.
    """
    with file.Writer(bundle) as writer:
        with file.read(bundle) as opened:
            descriptors = opened.descriptors.read()
            rows = len(descriptors)
            valid = opened.images.statuses() == OK
            digest = opened.descriptors.digest(opened.images.content_digest(rows))
            old, state = _reusable(opened, settings)
            wanted = settings or (state.graph if state is not None else GraphSettings())
        nodes = np.zeros(rows, dtype=bool)
        old = None if rebuild else old
        if old is not None:
            nodes[old.rows] = True
            if np.count_nonzero(nodes & ~valid) > HIDDEN_AT_MOST * len(old):
                old, nodes = None, np.zeros(rows, dtype=bool)
        new = np.flatnonzero(valid & ~nodes)
        if wanted.augment and len(new):
            old = None  # new neighbours move old descriptors, too
        if old is not None and state is not None and not len(new) and state.rows == rows:
            return IndexSummary("up to date", int(np.count_nonzero(valid)), state.recall)
        vectors = descriptors
        if old is not None:
            from imgrank.index import hnsw

            with reporter.bar(int(np.count_nonzero(valid)), "graph", "photo") as advance:
                graph = hnsw.extend(old, descriptors, new, threads=threads, advance=advance)
        else:
            graph = _built(descriptors, valid, wanted, threads, reporter)
            if wanted.augment and len(graph):
                vectors = augmented(descriptors, graph, wanted, reporter)
                graph = _built(vectors, valid, wanted, threads, reporter)
        recall = measure_recall(graph, vectors)
        provenance = Provenance("hnswlib", _library_version(), GraphState(wanted, rows, recall).to_json(), digest)
        parts = arrays(graph) | ({} if vectors is descriptors else {VECTORS: vectors[graph.rows]})
        with writer.transaction() as h5:
            write_graph(h5, parts, provenance)
    return IndexSummary("extended" if old is not None else "built", len(graph), recall)


def _reusable(opened: file.Bundle, settings: GraphSettings | None) -> tuple[Graph | None, GraphState | None]:
    """Return the present graph if it can be extended: same settings, same descriptors, undamaged."""
    table = opened.graph_table
    if table is None:
        return None, None
    try:
        state = GraphState.from_json(table.provenance.settings)
    except InputError:
        return None, None
    covered = min(state.rows, len(opened.images))
    if settings is not None and settings != state.graph:
        return None, None
    if table.provenance.input_digest != opened.descriptors.digest(opened.images.content_digest(covered)):
        return None, state
    try:
        graph = from_arrays(table.arrays())
    except (DamagedBundleError, InputError):
        return None, state  # the way out of a damaged graph is to build it again, which is what we are about to do
    return (graph if not validate(graph, len(opened.descriptors)) else None), state


def _built(
    vectors: Floats, valid: npt.NDArray[np.bool_], settings: GraphSettings, threads: int, reporter: Reporter
) -> Graph:
    from imgrank.index import hnsw

    with reporter.bar(int(np.count_nonzero(valid)), "graph", "photo") as advance:
        return hnsw.build(
            vectors,
            m=settings.m,
            ef_construction=settings.ef_construction,
            seed=settings.seed,
            threads=threads,
            valid=valid,
            advance=advance,
        )


def measure_recall(graph: Graph, descriptors: Floats) -> float:
    """Return recall@RECALL_AT of a graph on a fixed sample of its own rows."""
    from imgrank.index.hnsw import HnswIndex

    nodes = np.zeros(len(descriptors), dtype=bool)
    nodes[graph.rows] = True
    rows = sample_rows(nodes, RECALL_SAMPLE, RECALL_SEED)
    exact = ExactIndex.of_rows(descriptors, graph.rows)
    return self_recall(HnswIndex(graph, descriptors), exact, descriptors, rows, RECALL_AT)


def _library_version() -> str:
    from importlib.metadata import version

    return version("hnswlib")
