"""Which hits of a search are copies of each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from imgrank.arrays import Floats, Ids
from imgrank.bundle.layout import LOCAL_CACHE
from imgrank.config import COPY_SIMILARITY, DedupSettings, SearchSettings
from imgrank.index.copies import fold_copies
from imgrank.local.features import LocalFeatures
from imgrank.local.overlay import overlay_score
from imgrank.steps.collection import Collection
from imgrank.steps.features import LocalSource, stored_tokens

ALIKE = 0.95  # similarity of copies where nothing else is known of them; no measured number


def fold_hits(photos: Collection, rows: Ids, settings: SearchSettings) -> list[list[int]]:
    """Fold each row into the first one before it that it is a copy of.

    Copies are told as `imgrank dedup` tells them, by the local features that bundles keep (`imgrank.local.overlay`);
    where there are none, or a similarity was given, by the similarity of descriptors.

    Args:
        photos: the collection.
        rows: (n,) of it, the most wanted first.
        settings: `copies_at`.

    Returns:
        Places of `rows`, each once: lists of a kept one and, after it, its copies; the kept ones in order.
    """
    vectors = photos.descriptors(rows)
    if settings.copies_at is not None:
        return fold_copies(vectors, settings.copies_at)
    return fold_copies(vectors, COPY_SIMILARITY, _overlaid(photos, rows, vectors))


def _overlaid(photos: Collection, rows: Ids, vectors: Floats) -> Callable[[int, int], bool]:
    digests = np.zeros((len(rows), 16), dtype=np.uint8)
    features: dict[int, LocalFeatures] = {}  # by place
    source = LocalSource()
    for part, places, own in photos.split(rows):
        held = photos.parts[part]
        digests[places] = held.digests[own]
        table = held.bundle.token_tables.get(LOCAL_CACHE)
        here = source.provenance
        if table is not None and (table.provenance.model_revision, table.provenance.settings) == (
            here.model_revision,
            here.settings,
        ):
            features |= {place: source.of_tokens(tokens) for place, tokens in stored_tokens(table, places, own)}

    def same_shot(kept: int, other: int) -> bool:
        if digests[kept].any() and (digests[kept] == digests[other]).all():
            return True
        if kept in features and other in features:
            return bool(overlay_score(features[kept], [features[other]])[0] >= DedupSettings.threshold)
        return bool(vectors[kept] @ vectors[other] >= ALIKE)

    return same_shot
