"""Product1M: photos of several cosmetic products as queries, photos of single ones as the database.

Zhan et al., "Product1M: Towards Weakly Supervised Instance-Level Product Retrieval via Cross-Modal Pretraining", ICCV
2021, arXiv:2107.14572. Lists and judgements are those of `CAPTURE/evaluate_suit.py` of the repository
zhanxlin/Product1M: right for a query are the photos of the gallery whose first label is one of the query's labels.
Only photos are used, no titles.

The score is that of ELViS (Suma et al., arXiv:2603.28603), which takes Product1M for instance-level retrieval: average
precision of the first 100, over min(100, relevant). The repository's own divides by what was found.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from imgrank.errors import InputError
from imgrank.evaluation.datasets.base import Dataset, Reader, Task
from imgrank.evaluation.datasets.textfiles import misfit, read_lines
from imgrank.evaluation.qrels import Qrels

GALLERY = "product1m_gallery_ossurl_v2.txt"
QUERIES = {"test": "product1m_test_ossurl_v2.txt", "dev": "product1m_dev_ossurl_v2.txt"}
_ITEM = re.compile(rb"[A-Za-z0-9_-]+")
_EXPECTED = (
    "a list of Product1M (product1m_*_ossurl_v2.txt): `ID#####TITLE#####URL#####URL#####LABELS`, labels between #;#"
)
Items = dict[bytes, tuple[bytes, ...]]  # photo -> labels


def read(folder: Path, distractors: str | None) -> Dataset:
    """Read Product1M; see `Reader.read`. It has no lists of distractors."""
    del distractors
    gallery = _items(folder / GALLERY)
    by_label = defaultdict(list)
    for photo, labels in gallery.items():
        by_label[labels[0]].append(photo)
    tasks = []
    for name, file in QUERIES.items():
        if name == "test" or (folder / file).exists():
            tasks.append(Task(name, _judged(_items(folder / file), by_label)))
            if not any(tasks[-1].qrels.values()):
                raise InputError(f"{folder / file} and {folder / GALLERY} have no label in common")
    strays = frozenset(query for task in tasks for query in task.qrels if query not in gallery)
    return Dataset("Product1M", folder, "top100", tuple(gallery), tuple(tasks), strays=strays)


def _judged(queries: Items, by_label: dict[bytes, list[bytes]]) -> Qrels:
    """Return what is right for each query; itself never, should it be in the gallery."""
    return {
        query: {photo: 1 for label in labels for photo in by_label.get(label, ()) if photo != query}
        for query, labels in queries.items()
    }


def _items(path: Path) -> Items:
    found: Items = {}
    for number, text in read_lines(path, _EXPECTED):
        cells = text.split(b"#####")  # a title may hold the separator: what counts stands at the ends
        labels = tuple(dict.fromkeys(label.strip() for label in cells[-1].split(b"#;#")))
        if len(cells) < 5 or not _ITEM.fullmatch(cells[0]) or b"://" not in cells[-2] or not all(labels):
            raise misfit(path, f"line {number}", _EXPECTED, text)
        name = b"images/%b.jpg" % cells[0]
        if name in found and found[name] != labels:
            raise misfit(path, f"line {number}", "each photo once, or with the same labels", text)
        found[name] = labels
    if not found:
        raise misfit(path, "", _EXPECTED)
    return found


READER = Reader(
    "Product1M",
    "Zhan et al., arXiv:2107.14572; zhanxlin/Product1M, CAPTURE/evaluate_suit.py; scored as pavelsuma/ELViS does",
    (
        f"{GALLERY} and {QUERIES['test']}; {QUERIES['dev']}, if that is wanted",
        "images/ID.jpg, fetched from the addresses in them",
    ),
    read,
)
