"""`explain`: why a photo of the bundle got its score for a query.

The scores are those of the second stage itself, for the whole head of the shortlist; nothing is scored another way.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.config import ExplainSettings, RerankSettings, SearchSettings
from imgrank.errors import InputError, SettingsError
from imgrank.images.decode import read_photo
from imgrank.images.query import read_query
from imgrank.images.scan import display
from imgrank.index.base import Neighbours
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK, STATUS_NAMES
from imgrank.rerank.base import PairScores
from imgrank.rerank.fuse import fused_score
from imgrank.rerank.scorers import MllmScorer
from imgrank.results import Ranking
from imgrank.steps.collection import Collection
from imgrank.steps.explain_pair import (
    Evidence,
    SeenPhoto,
    TokenFacts,
    attention_evidence,
    legend,
    local_evidence,
    visual_evidence,
)
from imgrank.steps.explanation import Explanation
from imgrank.steps.features import VisualSource, stored_tokens
from imgrank.steps.outputs import check_free, replacing
from imgrank.steps.photos import BundlePhotos
from imgrank.steps.query_photo import QueryPhoto
from imgrank.steps.rerank import Reranker
from imgrank.steps.search import Searcher, ranking_of
from imgrank.steps.second_stage import Request

ENDINGS = (".png", ".html")
_SHOWN_SIDE = 760  # pixels to which a photo is decoded for the picture
_NAMES_COMPARED = 20_000  # at most, to find the nearest name
_UNSEEN = (4, 3)  # proportions of a photo that nobody has measured


class Explainer:
    """Explains pairs of one bundle, with its encoder and its second stage loaded once.

    Args:
        photos: of the bundle.
        settings: of the second stage; an early stop makes no sense here.
        shown: what is shown, and how much of it.
        request: model, cache, prompt and device.
        score_cache: where logits are kept between runs; None keeps none.
        encoder: as for `imgrank.steps.search.Searcher`.
        stored_only: all queries will be photos of the bundle by id, so no encoder is loaded.
        reporter: told once what re-ranks.

    Raises:
        SettingsError: no scorer suits what there is, or attention is asked of a scorer without a language model.
        BundleError: see `Searcher` and `Reranker`.
    """

    def __init__(
        self,
        photos: BundlePhotos | Collection,
        settings: RerankSettings,
        shown: ExplainSettings | None = None,
        request: Request | None = None,
        *,
        score_cache: Path | None = None,
        encoder: str | None = None,
        stored_only: bool = False,
        reporter: Reporter = SILENT,
    ) -> None:
        self.photos, self.shown = Collection.of(photos), shown or ExplainSettings()
        if settings.top_only is not None or settings.time_budget is not None:
            raise SettingsError("an explanation looks at all candidates; leave --top-only and --time-budget out")
        request = request or Request()
        self.reranker = Reranker(self.photos, settings, request, score_cache=score_cache, reporter=reporter)
        if self.shown.by == "attention" and not isinstance(self.reranker.stage.scorer, MllmScorer):
            raise SettingsError(
                f"--by attention is of a language model, and {self.reranker.stage.scorer.name} re-ranks here; give "
                "--mllm MODEL, or --scorer mllm"
            )
        shortlist = SearchSettings(top_k=settings.top, exact=True)
        self.searcher = Searcher(
            self.photos,
            shortlist,
            reranker=self.reranker,
            encoder=encoder,
            device=request.device,
            stored_only=stored_only,
        )

    def explain(self, query: bytes | int, row: int) -> Explanation:
        """Explain the score of one pair.

        Args:
            query: the name of a photo or of a part of one, or a row of the collection.
            row: of the candidate.

        Raises:
            InputError: the candidate cannot be found: it could not be read, was removed, or is the query itself; or a
                candidate before it has neither tokens nor a photo.
        """
        settings, stage = self.reranker.settings, self.reranker.stage
        name, near, look = self.searcher.whole(query)
        assert look is not None  # there is a second stage
        places = np.flatnonzero(near.rows[0] == row)
        if not len(places):
            raise InputError(self._not_searched(query, row))
        place = int(places[0])
        features: Any = stage.source.of_query(look.pixels) if look.features is None else look.features
        ready = replace(look, features=features)
        told: list[PairScores] = []
        if place < settings.top:
            head = Neighbours(near.rows[:, : settings.top], near.similarities[:, : settings.top])
            shortlist = ranking_of(self.photos, name, head)
            ranking = self.reranker.rerank(shortlist, head.rows[0].tolist(), ready, on_scores=told.append)
            judged = hit = next(hit for hit in ranking.hits if hit.id == shortlist.hits[place].id)
            scores = list(told[0].each())[place]
        else:
            alone = self.photos.hit(name, place + 1, row, float(near.similarities[0, place]))
            (judged,) = self.reranker.rerank(Ranking(name, (alone,)), [row], ready, on_scores=told.append).hits
            hit = replace(alone, score=fused_score(alone.similarity, 0.0, settings.lam))
            (scores,) = told
        notes: list[str] = []
        candidate, facts = self._candidate(row, notes)
        seen = self._query(query, name, look, features, notes)
        evidence, scorer = self._evidence(seen, candidate), stage.scorer
        return Explanation(
            hit=hit,
            scores=scores,
            scorer=scorer.name,
            calibrated=judged.calibrated,
            logits=_both_orders(scorer, scores, seen, candidate) if isinstance(scorer, MllmScorer) else {},
            answers=scorer.pairs.ways[0].answers if isinstance(scorer, MllmScorer) else None,
            shortlist_rank=place + 1,
            searched=len(near.rows[0]),
            settings=settings,
            shown=self.shown,
            tokens=replace(facts, query=len(features)),
            evidence=evidence,
            notes=(*legend(evidence), *notes),
        )

    # The photos

    def _query(self, query: bytes | int, name: bytes, look: QueryPhoto, features: Any, notes: list[str]) -> SeenPhoto:
        title = f"query: {display(name)}"
        if isinstance(query, int):
            photo = self._stored_photo(query, title, "the query", notes, known=True)
            return replace(photo, features=features, reduced=self._is_reduced(look))
        # The photo was read a moment ago.
        shown = read_query(query, self.photos.settings, _SHOWN_SIDE).pixels
        compared = look.pixels
        if compared is None and isinstance(self.reranker.stage.source, VisualSource):
            compared = read_query(query, self.photos.settings, self.reranker.stage.source.longer_side).pixels
        size = (shown.shape[1], shown.shape[0])
        return SeenPhoto(title, size, shown, compared, features, self._is_reduced(look))

    def _is_reduced(self, look: QueryPhoto) -> bool:
        """Return whether the features of the query are those that the bundle keeps."""
        return look.features is not None and isinstance(self.reranker.stage.source, VisualSource)

    def _candidate(self, row: int, notes: list[str]) -> tuple[SeenPhoto, TokenFacts]:
        part, own = self.photos.locate(row)
        held = self.reranker.stage.bundles[part]
        cached = bool(list(stored_tokens(held.table, np.array([0]), np.array([own]))))
        features = self.reranker.candidate(row)
        title = f"candidate: {display(self.photos.path(row))} (id {self.photos.parts[part].ids[own]})"
        photo = self._stored_photo(row, title, "the candidate", notes, known=cached)
        facts = TokenFacts.of(features, held.source, held.table.name if cached and held.table is not None else None)
        return replace(photo, features=features, reduced=isinstance(held.source, VisualSource)), facts

    def _stored_photo(self, row: int, title: str, whose: str, notes: list[str], *, known: bool) -> SeenPhoto:
        """Read a photo of the bundle as far as it is there.

        Args:
            row: of the photo.
            title: for the picture.
            whose: it is, for notes.
            notes: takes up why there is no photo.
            known: what was compared is of the photo that was embedded, and may not be of the one that is there now.
        """
        part, own = self.photos.locate(row)
        photos = self.photos.parts[part]
        record, path, digest = photos.bundle.images.record(own), photos.location(own), photos.digests[own]
        loaded = read_photo(path, photos.settings, _SHOWN_SIDE)
        reason = None if loaded.error is None else loaded.error.reason
        if reason is None and known and digest.any() and loaded.record.digest != digest.tobytes():
            reason = "it is not the photo that was embedded any more"
        if reason is not None or loaded.photo is None:
            size = (record.width, record.height) if min(record.width, record.height) > 0 else _UNSEEN
            notes.append(f"No photo of {whose} to draw ({reason}); what the bundle keeps of it was compared.")
            return SeenPhoto(title, size, None, None, None)
        shown = loaded.photo.pixels
        compared = photos.pixels(own, self.reranker.stage.bundles[part].source.longer_side)
        return SeenPhoto(title, (shown.shape[1], shown.shape[0]), shown, compared, None)

    # What matched

    def _evidence(self, query: SeenPhoto, candidate: SeenPhoto) -> Evidence:
        stage, most = self.reranker.stage, self.shown.lines
        if not isinstance(stage.source, VisualSource):
            return local_evidence(query, candidate, stage.scorer.name, most)
        if self.shown.by == "attention" and isinstance(stage.scorer, MllmScorer):
            way = stage.scorer.pairs.ways[0]
            return attention_evidence(query, candidate, stage.source, way, self.shown.layers)
        return visual_evidence(query, candidate, stage.source, stage.scorer.name, most)

    def _not_searched(self, query: bytes | int, row: int) -> str:
        part, own = self.photos.locate(row)
        photos = self.photos.parts[part]
        what = f"photo {photos.ids[own]} of {photos.bundle.path} ({display(photos.path(own))})"
        if query == row:
            return f"{what} is the query itself, which a search by id does not find; name another photo"
        if photos.statuses[own] != OK:
            return f"{what} is {STATUS_NAMES[photos.statuses[own]]}; no search finds it"
        return f"{what} has no descriptor that could be compared; no search finds it"


def _both_orders(scorer: MllmScorer, scores: PairScores, query: SeenPhoto, candidate: SeenPhoto) -> dict[str, float]:
    """Return the logit of each order of a pair; one that was not asked for is asked now."""
    ways = scorer.pairs.ways
    assert scores.ways is not None  # a language model gives logits
    found = dict(zip(map(_order, (way.rendered.query_first for way in ways)), scores.ways[:, 0].tolist(), strict=True))
    if len(ways) == 1:
        other = ways[0].swapped()
        found[_order(other.rendered.query_first)] = float(other.score(query.features, [candidate.features])[0])
    return found


def _order(query_first: bool) -> str:
    return "query_first" if query_first else "candidate_first"


# Names


def query_of(photos: Collection, name: bytes) -> bytes | int:
    """Return what a name of a query means: a photo, or a part of one, by its path; a whole number is an id.

    A file that is called so goes before an id.

    Raises:
        InputError: no photo has that id, or it has no descriptor.
    """
    if name.isdigit() and not os.path.lexists(name):
        return photos.row_of_query(_id_of(name))
    return name


def row_of(photos: Collection, name: bytes) -> int:
    """Return the row of a photo of the (first) bundle, by its stored path, a path that leads to it, or its id.

    A photo that is called so goes before an id.

    Raises:
        InputError: there is none; the message has the nearest name.
    """
    part = photos.parts[0]
    row = part.find(name)
    if row is not None:
        return row
    if name.isdigit():
        return part.row_of_id(_id_of(name))
    near = _nearest(name, part.stored_paths)
    advice = "give the path or the id of one" if near is None else f"did you mean {display(near)}?"
    raise InputError(f"{part.bundle.path} has no photo called {display(name)}; {advice}")


def _id_of(name: bytes) -> int:
    return min(int(name[:19]), 2**62) if len(name) <= 19 else 2**62  # no bundle has so many photos


def _nearest(name: bytes, paths: list[bytes]) -> bytes | None:
    """Return the stored path that is spelled most like a name; those of the same last part first."""
    last = os.path.split(name)[1]
    same = [path for path in paths if os.path.split(path)[1] == last]
    if same:
        return same[0]
    texts = {os.fsdecode(path): path for path in paths[:_NAMES_COMPARED]}
    close = difflib.get_close_matches(os.fsdecode(name), texts, n=1, cutoff=0.5)
    return texts[close[0]] if close else None


# Files


def check_explanation_output(path: Path, *, force: bool) -> None:
    """Find out whether a picture or a page can be written, before the work whose result it shows.

    Raises:
        SettingsError: the name ends otherwise than .png or .html, or the place is taken or not there.
    """
    if path.suffix.lower() not in ENDINGS:
        raise SettingsError(f"{path}: the name must end in {' or '.join(ENDINGS)}")
    check_free(path, force=force)


def write_explanation(explanation: Explanation, path: Path) -> None:
    """Write the picture, or the page with the picture inside; the ending of the name chooses."""
    with replacing(path) as incoming:
        if path.suffix.lower() == ".html":
            incoming.write_bytes(explanation.page())
        else:
            explanation.picture().image.save(incoming, "PNG")
