"""`fuse`: several rankings of the same queries in, one out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from imgrank.config import FusionSettings
from imgrank.errors import InputError
from imgrank.images.scan import display
from imgrank.progress import SILENT, Reporter
from imgrank.rerank.fuse import checked_weights, combined_scores, reciprocal_rank_fusion
from imgrank.results import Hit, Ranking, renumber

Run = dict[bytes, dict[bytes, Hit]]  # query -> path -> hit, best first


def fuse_runs(
    runs: Sequence[tuple[str, Iterable[Ranking]]],
    settings: FusionSettings,
    weights: Sequence[float] | None = None,
    reporter: Reporter = SILENT,
) -> list[Ranking]:
    """Fuse the rankings that several runs have of each query.

    Photos go by their paths: one path is one photo in all runs. A query is fused from the runs that have it. What a hit
    says beside its score is that of the first run that has it; but where runs disagree about ids, they are of different
    bundles, and no hit of the result has an id (-1), nor a bundle: `rerank` then finds photos by path.

    Args:
        runs: (name for messages, its rankings), in order.
        settings: how, and how many hits of a query.
        weights: one for each run; None: 1 each.
        reporter: told which runs lack queries.

    Returns:
        A ranking for each query, in the order in which queries are first met. All runs are held in memory.

    Raises:
        SettingsError: a setting or a weight cannot be used.
        InputError: a run has a query or a photo of a query twice, or a score that is not finite where scores count.
    """
    weights = checked_weights(weights, len(runs))
    held = [_read(name, rankings) for name, rankings in runs]
    queries = list(dict.fromkeys(query for run in held for query in run))
    for (name, _), run in zip(runs, held, strict=True):
        lacking = [query for query in queries if query not in run]
        if lacking:
            reporter.note(
                f"{name} lacks {len(lacking)} of {len(queries)} queries, such as {display(lacking[0])}; "
                "they are fused from the others"
            )
    one_bundle = _agree(held)
    if not one_bundle:
        reporter.note("the runs are of different bundles: photos go by path, and the result has no ids")
    return [_fused(query, held, settings, weights, one_bundle) for query in queries]


def _read(name: str, rankings: Iterable[Ranking]) -> Run:
    run: Run = {}
    for ranking in rankings:
        hits = {hit.path: hit for hit in ranking.hits}
        if len(hits) != len(ranking.hits):
            raise InputError(f"{name}: query {display(ranking.query)} has the same photo twice among its hits")
        run[ranking.query] = hits
    return run


def _hits(held: Sequence[Run]) -> Iterator[Hit]:
    return (hit for run in held for hits in run.values() for hit in hits.values())


def _agree(held: Sequence[Run]) -> bool:
    """Return whether one id stands for one path in all runs, and one path for one id."""
    ids: dict[bytes, tuple[bytes | None, int]] = {}
    paths: dict[tuple[bytes | None, int], bytes] = {}
    for hit in _hits(held):
        if hit.id >= 0:
            own = (hit.bundle, hit.id)
            if ids.setdefault(hit.path, own) != own or paths.setdefault(own, hit.path) != hit.path:
                return False
    return True


def _fused(
    query: bytes, held: Sequence[Run], settings: FusionSettings, weights: Sequence[float], one_bundle: bool
) -> Ranking:
    chosen = [(run[query], weight) for run, weight in zip(held, weights, strict=True) if query in run]
    own_weights = [weight for _, weight in chosen]
    if settings.method == "rrf":
        order = reciprocal_rank_fusion([list(hits) for hits, _ in chosen], settings.k, own_weights)
    else:
        scores = [{path: hit.score for path, hit in hits.items()} for hits, _ in chosen]
        order = combined_scores(scores, own_weights, times_found=settings.method == "combmnz")
    found: list[Hit] = []
    for path, score in order[: settings.top_k]:
        same = [hits[path] for hits, _ in chosen if path in hits]
        # A TREC run knows no ids; those of JSON lines beside it do as well.
        known = next((hit for hit in same if hit.id >= 0), same[0])
        hit = replace(same[0], id=known.id, bundle=known.bundle, score=score)
        found.append(hit if one_bundle else replace(hit, id=-1, bundle=None))
    return renumber(query, found)
