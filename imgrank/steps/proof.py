"""The proof that a token cache carries: what the model said of some pairs while all of their tokens were at hand.

A few photos of the collection stand for queries; their nearest photos are their shortlists. The logit difference of
each pair is kept, and the query's tokens are, all of them in 8 bits. So the cached tokens can be scored against the
same queries later, anywhere and without photos; what differs is what leaving out and quantizing did to the candidates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids, offsets_of
from imgrank.bundle.tokens import TokenTable
from imgrank.config import RerankSettings
from imgrank.errors import DamagedBundleError
from imgrank.steps.second_stage import choose_prompt, fingerprint_of
from imgrank.tokens.scalar import Int8Codec

if TYPE_CHECKING:
    from imgrank.mllm.base import VisionLanguageModel, VisualTokens
    from imgrank.rerank.packing import PairScorer

PAIRS = 200
_QUERIES = 4
_FEWEST = 5  # candidates of a query, where there are so many photos

Arrays = dict[str, npt.NDArray[Any]]


def choose_pairs(descriptors: Floats, rows: Ids, pairs: int, seed: int = 0) -> list[tuple[int, Ids]]:
    """Choose queries among photos, and the nearest photos of each as its candidates, nearest first.

    No photo is in two groups, so that each is looked at once.

    Args:
        descriptors: (n, dim) float32 unit vectors of the photos.
        rows: (n,) their image rows.
        pairs: at most so many in all.
        seed: chooses the queries.

    Returns:
        (row of the query, rows of its candidates) for each query.
    """
    queries = max(1, min(_QUERIES, len(rows) // (_FEWEST + 1), pairs))
    each = min(-(-pairs // queries), len(rows) // queries - 1)
    if each < 1:
        return []
    free = np.ones(len(rows), dtype=bool)
    groups = []
    chosen = np.random.default_rng([0x9E0F, seed]).choice(len(rows), queries, replace=False)
    free[chosen] = False
    for query in chosen.tolist():
        similar = descriptors @ descriptors[query]
        similar[~free] = -np.inf
        nearest = np.argsort(-similar, kind="stable")[:each]
        free[nearest] = False
        groups.append((int(rows[query]), rows[nearest]))
    return groups


def proof_scorer(model: VisionLanguageModel) -> PairScorer:
    """Return the scorer whose answers a proof holds: the model with its usual prompt."""
    from imgrank.rerank.packing import PairScorer

    return PairScorer(model, *choose_prompt(model, RerankSettings(), None))


def proof_facts(scorer: PairScorer) -> str:
    """Return, as JSON, how the model was asked."""
    own = fingerprint_of(scorer, "").hex()
    return json.dumps({"task": RerankSettings.task, "dtype": scorer.model.dtype, "fingerprint": own})


def rounded(query: VisualTokens) -> tuple[VisualTokens, Arrays]:
    """Return a query as the proof will give it back, and the arrays that are kept of it."""
    from imgrank.mllm.base import VisualTokens

    codec = Int8Codec()
    columns = codec.encode(query.vectors.astype(np.float32))
    again = VisualTokens(codec.decode(columns), query.positions, query.grid, query.tiles)
    shape = {"grid": np.array([query.grid], "<u2"), "tiles": np.array([query.tiles], "<u2")}
    return again, {**columns, "position": query.positions, **shape}


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Make the arrays of a proof of those of its queries.

    Each part has the arrays of `rounded`, `queries` (1,), `candidates` (n,) image rows, and `logits` (n,).
    """
    pairs = [
        np.stack([np.full(len(part["candidates"]), number), part["candidates"]], axis=1)
        for number, part in enumerate(parts)
    ]
    together = {
        name: np.concatenate([part[name] for part in parts])
        for name in ("queries", "codes", "scales", "position", "grid", "tiles", "logits")
    }
    return together | {
        "offsets": offsets_of([len(part["codes"]) for part in parts]),
        "pairs": np.concatenate(pairs).astype("<u4"),
    }


@dataclass(frozen=True, eq=False)
class ProofQuery:
    """One query of a proof.

    Attributes:
        row: its image row.
        tokens: all of them.
        candidates: (n,) image rows, nearest first.
        logits: (n,) float32 logit differences with all tokens of the candidates.
    """

    row: int
    tokens: VisualTokens
    candidates: Ids
    logits: Floats


def read_proof(table: TokenTable) -> tuple[list[ProofQuery], dict[str, Any]]:
    """Return the queries of a cache's proof, and how the model was asked: keys task, dtype, fingerprint.

    Raises:
        DamagedBundleError: an array does not match its checksum, or the arrays do not fit together.
    """
    if table.proof is None:
        return [], {}
    arrays = table.proof.read()
    try:
        facts = json.loads(table.proof.facts)
        return list(_queries(arrays, len(table))), {str(key): value for key, value in facts.items()}
    except (KeyError, ValueError, IndexError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedBundleError(table.path, table.proof.name, f"cannot be read ({error})") from error


def _queries(arrays: Arrays, rows: int) -> Iterator[ProofQuery]:
    from imgrank.mllm.base import VisualTokens

    offsets, pairs = arrays["offsets"].astype(np.int64), arrays["pairs"].astype(np.int64)
    count = len(arrays["queries"])
    lengths = {len(arrays[name]) for name in ("codes", "scales", "position")}
    if lengths != {int(offsets[-1])} or not len(arrays["grid"]) == len(arrays["tiles"]) == count:
        raise ValueError("arrays have different lengths")
    if len(offsets) != count + 1 or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise ValueError("offsets do not ascend")
    if pairs.shape[1:] != (2,) or len(arrays["logits"]) != len(pairs) or (pairs[:, 0] >= count).any():
        raise ValueError("pairs name no query")
    vectors = Int8Codec().decode(arrays)
    for number, row in enumerate(arrays["queries"].tolist()):
        part, mine = slice(offsets[number], offsets[number + 1]), pairs[:, 0] == number
        grid, tiles = arrays["grid"][number].tolist(), arrays["tiles"][number].tolist()
        tokens = VisualTokens(vectors[part], arrays["position"][part], tuple(grid), tuple(tiles))
        yield ProofQuery(int(row), tokens, pairs[mine, 1], arrays["logits"][mine])
