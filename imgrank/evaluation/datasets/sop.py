"""Stanford Online Products: photos of 22,634 things offered on eBay; the 11,316 of the test split are searched.

Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016, arXiv:1511.06452. Each photo of
the test split is a query, and right are the other photos of its class, as in the paper; the list is read as in
`RRT_SOP/prepare_data.py` of the repository uvavision/RerankingTransformer.

The 1k split is that of ELViS (Suma et al., arXiv:2603.28603): the lists `test_query.txt` and `test_gallery.txt` that
`extract/prepare_topk_global.py` and `elvis/utils/revisited.py` of the repository pavelsuma/ELViS read, `path,class` in
a line. A query is one of the gallery's photos there, and not right for itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from imgrank.errors import InputError
from imgrank.evaluation.datasets.base import Dataset, Reader, Task
from imgrank.evaluation.datasets.textfiles import is_name, misfit, read_lines
from imgrank.evaluation.qrels import Qrels

TEST, QUERIES, GALLERY = "Ebay_test.txt", "test_query.txt", "test_gallery.txt"
_HEADER = b"image_id class_id super_class_id path"
_TRAINING_CLASSES = 11_318  # numbers up to this are of Ebay_train.txt
_EBAY = f"a list of Stanford Online Products (Ebay_*.txt): `{_HEADER.decode()}`, then a photo in each line"
_PAIR = "a list `path,class` of ELViS: such as `mug_final/261995659406_0.JPG,17836`"
Classes = dict[bytes, int]  # photo -> class


def read(folder: Path, distractors: str | None) -> Dataset:
    """Read the whole test split; see `Reader.read`. It has no lists of distractors."""
    del distractors
    photos = _test_split(folder / TEST)
    return Dataset(
        "Stanford Online Products", folder, "top100", tuple(photos), (Task("", _judged(photos, photos, photos)),)
    )


def read_1k(folder: Path, distractors: str | None) -> Dataset:
    """Read the 1k split; see `Reader.read`. It has no lists of distractors."""
    del distractors
    queries, gallery = _pairs(folder / QUERIES), _pairs(folder / GALLERY)
    for name in queries:
        if name in gallery and gallery[name] != queries[name]:
            raise InputError(f"{folder}: {QUERIES} and {GALLERY} give {name.decode(errors='replace')} two classes")
    qrels = _judged(queries, queries, gallery)
    if not any(qrels.values()):
        raise InputError(f"{folder / QUERIES} and {folder / GALLERY} have no class in common")
    strays = frozenset(query for query in queries if query not in gallery)
    return Dataset(
        "Stanford Online Products, 1k split", folder, "top100", tuple(gallery), (Task("", qrels),), strays=strays
    )


def _judged(queries: Iterable[bytes], classes: Classes, gallery: Classes) -> Qrels:
    members = defaultdict(list)
    for photo, number in gallery.items():
        members[number].append(photo)
    return {query: {photo: 1 for photo in members.get(classes[query], ()) if photo != query} for query in queries}


def _test_split(path: Path) -> Classes:
    found: Classes = {}
    for number, text in read_lines(path, _EBAY):
        if not found and text == _HEADER:
            continue
        cells = text.split()
        try:
            group = int(cells[1])
        except (ValueError, IndexError) as error:
            raise misfit(path, f"line {number}", _EBAY, text) from error
        if len(cells) != 4 or not is_name(cells[3]):
            raise misfit(path, f"line {number}", _EBAY, text)
        if group <= _TRAINING_CLASSES:
            raise InputError(f"{path}, line {number}: class {group} is of the training split; {TEST} is needed")
        if cells[3] in found:
            raise misfit(path, f"line {number}", "each photo once", text)
        found[cells[3]] = group
    if not found:
        raise misfit(path, "", _EBAY)
    return found


def _pairs(path: Path) -> Classes:
    found: Classes = {}
    for number, text in read_lines(path, _PAIR):
        cells = text.split(b",")
        try:
            group = int(cells[1])
        except (ValueError, IndexError) as error:
            raise misfit(path, f"line {number}", _PAIR, text) from error
        if not is_name(cells[0]):
            raise misfit(path, f"line {number}", _PAIR, text)
        if cells[0] in found:
            raise misfit(path, f"line {number}", "each photo once", text)
        found[cells[0]] = group
    if not found:
        raise misfit(path, "", _PAIR)
    return found


READER = Reader(
    "Stanford Online Products",
    "Song et al., arXiv:1511.06452; uvavision/RerankingTransformer, RRT_SOP/prepare_data.py",
    (TEST, "bicycle_final/*.JPG and the other eleven folders"),
    read,
)
READER_1K = Reader(
    "Stanford Online Products, 1k split",
    "Song et al., arXiv:1511.06452; Suma et al., arXiv:2603.28603; pavelsuma/ELViS, elvis/utils/revisited.py",
    (
        f"{QUERIES} and {GALLERY} of ELViS, `path,class` in each line",
        "bicycle_final/*.JPG and the other eleven folders",
    ),
    read_1k,
)
