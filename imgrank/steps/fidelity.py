"""`check --fidelity`: the proof of a token cache in, what compression did to its scores out; no photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgrank.bundle import file
from imgrank.bundle.tokens import TokenTable
from imgrank.errors import MismatchError, MissingGroupError
from imgrank.evaluation.fidelity import Fidelity, fidelity
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK
from imgrank.steps.features import VisualSource, kept_settings, stored_codebooks
from imgrank.steps.proof import proof_facts, proof_scorer, read_proof
from imgrank.steps.requantize import visual_table
from imgrank.tokens.recipe import recipe_text


@dataclass(frozen=True)
class CacheFidelity:
    """What compression did to one cache.

    Attributes:
        cache: its name.
        model: whose tokens it holds.
        recipe: how they were compressed.
        dtype: of the model, now.
        same_question: whether the model is asked just as when the proof was made; else the numbers hold that, too.
        scores: the comparison.
    """

    cache: str
    model: str
    recipe: str
    dtype: str
    same_question: bool
    scores: Fidelity


def check_fidelity(
    bundle: Path,
    *,
    cache: str | None = None,
    mllm: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    reporter: Reporter = SILENT,
) -> CacheFidelity:
    """Score the pairs of a cache's proof with its stored tokens.

    Args:
        bundle: with a cache of visual tokens.
        cache: its name; None takes the only one.
        mllm: where its model is now; None takes the one it names.
        device: for the model.
        dtype: of the model; None takes that of the proof.
        reporter: hears of progress.

    Raises:
        MissingGroupError: there is no such cache, or it has no proof.
        MismatchError: the model has other weights than those that made the cache.
    """
    from imgrank.mllm.registry import load_mllm

    with file.read(bundle) as opened:
        table = visual_table(opened, cache)
        queries, facts = read_proof(table)
        if not queries:
            raise MissingGroupError(
                bundle, f"tokens/{table.name}/proof", f"imgrank cache-tokens {bundle} --cache {table.name} --overwrite"
            )
        model = load_mllm(mllm or table.provenance.model, device=device, dtype=dtype or facts["dtype"])
        if model.revision != table.provenance.model_revision:
            raise MismatchError(
                bundle,
                f"cache {table.name!r} holds tokens of {table.provenance.model} ({table.provenance.model_revision}), "
                f"not of {model.name} ({model.revision}); give --mllm with those weights",
            )
        settings = kept_settings(table.provenance)
        source, scorer = VisualSource(model, settings, stored_codebooks(table)), proof_scorer(model)
        before, after = [], []
        with reporter.bar(sum(len(query.candidates) for query in queries), "fidelity", "pair") as advance:
            for query in queries:
                cached = _cached(table, query.candidates.tolist())
                tokens = (source.of_tokens(one) for one in table.read([query.candidates[i] for i in cached]))
                after.append(scorer.score(query.tokens, tokens))
                before.append(query.logits[cached])
                advance(len(query.candidates))
    return CacheFidelity(
        cache=table.name,
        model=model.name,
        recipe=recipe_text(settings),
        dtype=model.dtype,
        same_question=proof_facts(scorer) == table.proof.facts if table.proof is not None else False,
        scores=fidelity(before, after),
    )


def _cached(table: TokenTable, rows: list[int]) -> list[int]:
    """Return the places of the rows that have tokens: a run that was cut has not come to all of them."""
    status = table.images["status"].read()
    found = [i for i, row in enumerate(rows) if row < len(table) and status[row] == OK]
    lengths = np.diff(table.offsets)
    return [i for i in found if lengths[rows[i]]]
