"""Measures by name, and the protocols of published benchmarks: which measures, computed how."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from imgrank.errors import SettingsError
from imgrank.evaluation import metrics
from imgrank.evaluation.metrics import Judged

Measure = Callable[[Judged], float]

_NAME = re.compile(r"(AP|ILIAS-AP|revisited-AP|revisited-P|P|R|RR|nDCG|oracle-AP|N-S)(?:@([1-9]\d{0,8}))?\Z")
NAMES = "AP, AP@K, P@K, R, R@K, RR, nDCG, nDCG@K, oracle-AP, oracle-AP@K, ILIAS-AP@K, revisited-AP, revisited-P@K, N-S"
_NEEDS_K = {"P", "ILIAS-AP", "revisited-P"}
_WITHOUT_K = {"RR", "revisited-AP", "N-S"}


@dataclass(frozen=True)
class Protocol:
    """How a benchmark is scored.

    Attributes:
        title: of the benchmark.
        measures: the first one is the benchmark's own.
        source: of the evaluator that is followed.
        whole: whether that evaluator ranks the whole database.
    """

    title: str
    measures: tuple[str, ...]
    source: str
    whole: bool = False


PROTOCOLS = {
    "trec": Protocol("photos and qrels of one's own", ("AP", "P@1", "R@100", "nDCG@10", "oracle-AP"), "trec_eval"),
    "revisited": Protocol(
        "revisited Oxford and Paris",
        ("revisited-AP", "revisited-P@1", "revisited-P@5", "revisited-P@10"),
        "Radenović et al., arXiv:1803.11285",
        whole=True,
    ),
    "gldv2": Protocol("Google Landmarks v2 retrieval", ("AP@100", "P@1", "R@100"), "Weyand et al., arXiv:2004.01804"),
    "top100": Protocol("retrieval, the first 100", ("AP@100", "P@1", "R@100"), "Suma et al., arXiv:2603.28603"),
    "ilias": Protocol(
        "ILIAS", ("ILIAS-AP@1000", "R@1000", "oracle-AP@1000"), "Kordopatis-Zilos et al., arXiv:2502.11748"
    ),
    "instre": Protocol(
        "INSTRE",
        ("revisited-AP", "revisited-P@1"),
        "Iscen et al., arXiv:1611.05113; compute_map as for Oxford",
        whole=True,
    ),
    "holidays": Protocol(
        "INRIA Holidays", ("revisited-AP", "P@1"), "Jégou et al., ECCV 2008, holidays_map.py", whole=True
    ),
    "ukbench": Protocol("UKBench", ("N-S", "AP"), "Nistér and Stewénius, CVPR 2006", whole=True),
}


def measure(name: str) -> Measure:
    """Return the measure of a name such as "AP", "AP@100" or "nDCG@10".

    Raises:
        SettingsError: there is none.
    """
    found = _NAME.match(name)
    if found is None:
        hint = (
            f"; the mean of {name[1:]} over the queries is taken anyway" if _NAME.match(name.removeprefix("m")) else ""
        )
        raise SettingsError(f"measure {name!r}: there are {NAMES}{hint}")
    kind, k = found[1], None if found[2] is None else int(found[2])
    if (k is None and kind in _NEEDS_K) or (k is not None and kind in _WITHOUT_K):
        raise SettingsError(f"measure {name!r}: there are {NAMES}")
    depth = k or 0
    table: dict[str, Measure] = {
        "AP": lambda judged: metrics.average_precision(judged.right, judged.relevant, k),
        "ILIAS-AP": lambda judged: metrics.tied_average_precision(judged, depth),
        "revisited-AP": lambda judged: metrics.trapezoid_average_precision(judged.right, judged.relevant),
        "revisited-P": lambda judged: metrics.revisited_precision(judged.right, depth),
        "P": lambda judged: metrics.precision(judged, depth),
        "R": lambda judged: metrics.recall(judged, k),
        "RR": metrics.reciprocal_rank,
        "N-S": metrics.nister_stewenius,
        "nDCG": lambda judged: metrics.ndcg(judged, k),
        "oracle-AP": lambda judged: metrics.average_precision(metrics.oracle(judged).right, judged.relevant, k),
    }
    return table[kind]
