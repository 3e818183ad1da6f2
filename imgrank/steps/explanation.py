"""What `explain` found, as a record, as a table, and as a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imgrank.config import ExplainSettings, RerankSettings
from imgrank.images.scan import display, printable
from imgrank.report.pair_page import pair_page
from imgrank.report.pair_sheet import PairSheet, Side, pair_sheet
from imgrank.rerank.base import PairScores
from imgrank.rerank.fuse import fused_score
from imgrank.results import Hit, short
from imgrank.steps.explain_pair import Evidence, TokenFacts

if TYPE_CHECKING:
    from imgrank.mllm.answers import Answers

Table = list[tuple[str, str]]
_NAMED = ("query", "candidate", "rank")  # rows of the table that stand elsewhere in the picture


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a pair got its score.

    Attributes:
        hit: the record that `search --exact --rerank K` prints of it, where it is among the hits.
        scores: what the second look says of the pair, also where a search would not look.
        scorer: who looked.
        calibrated: the probability that a calibration of the bundle gives the pair; None: it has none.
        logits: of both orders of the pair, by which photo comes first, the one that was asked for first; empty without
            a language model.
        answers: the words that are compared; None without a language model.
        shortlist_rank: its rank by similarity, exact.
        searched: photos that were ranked.
        settings: of the second stage.
        shown: how much is shown.
        tokens: how many were compared.
        evidence: what matched.
        notes: what else is to be known.
    """

    hit: Hit
    scores: PairScores
    scorer: str
    calibrated: float | None
    logits: dict[str, float]
    answers: Answers | None
    shortlist_rank: int
    searched: int
    settings: RerankSettings
    shown: ExplainSettings
    tokens: TokenFacts
    evidence: Evidence
    notes: tuple[str, ...]

    @property
    def reranked(self) -> bool:
        """Return whether a search looks at the photo a second time."""
        return self.shortlist_rank <= self.settings.top

    @property
    def pair_score(self) -> float:
        """Return the score of the pair when it is looked at."""
        return fused_score(self.hit.similarity, float(self.scores.values[0]), self.settings.lam)

    def movement(self) -> str:
        """Return what re-ranking does to the rank, in words."""
        before = f"rank {self.shortlist_rank} of {self.searched} by similarity"
        if not self.reranked:
            return f"{before}, not among the first {self.settings.top} that are re-ranked"
        return f"{before}, rank {self.hit.rank} after re-ranking the first {min(self.settings.top, self.searched)}"

    # As a record

    def to_dict(self) -> dict[str, Any]:
        """Return the record of the hit, and beside it what explains it; docs/explain.md describes the fields."""
        value = short(float(self.scores.values[0]))
        judged: dict[str, Any] = {"scorer": self.scorer, "score": short(self.pair_score)}
        logits, disagreements = self.scores.logits, self.scores.disagreements
        if logits is None:
            judged["match_score"] = value
        else:
            judged |= {"probability": value, "logit": short(float(logits[0]))}
        if self.calibrated is not None:
            judged["calibrated"] = short(self.calibrated)
        if disagreements is not None:
            judged["disagreement"] = short(float(disagreements[0]))
        if self.logits:
            judged["logits"] = {order: short(logit) for order, logit in self.logits.items()}
        if self.answers is not None:
            judged["answers"] = {"same": self.answers.positive, "different": self.answers.negative}
            if self.answers.graded:
                judged["answers"]["grades"] = list(self.answers.grades)
        return {
            **self.hit.to_dict(),
            "shortlist_rank": self.shortlist_rank,
            "searched": self.searched,
            "top": self.settings.top,
            "reranked": self.reranked,
            "lambda": self.settings.lam,
            "pair": judged,
            "tokens": self.tokens.to_dict(),
            "evidence": self._evidence(),
            "notes": list(self.notes),
        }

    def _evidence(self) -> dict[str, Any]:
        found, sides = self.evidence, self.evidence.sides
        record: dict[str, Any] = {"method": found.name}
        if found.attention is not None:
            for name, side, shares in zip(("query", "candidate"), sides, found.attention, strict=True):
                record[f"{name}_share"] = short(float(shares.sum()))
                record[f"{name}_strongest"] = [
                    {"box": _box(side, place), "share": short(share)}
                    for place, share in strongest(shares, self.shown.lines)
                ]
            return record
        record["matches"] = found.found
        if found.inliers is not None:
            record["inliers"] = found.inliers
        matches = zip(found.lines, found.shown.strengths.tolist(), strict=True)
        record["lines"] = [
            {"query": _box(sides[0], one), "candidate": _box(sides[1], other), "strength": short(strength)}
            for (one, other), strength in matches
        ]
        return record

    # For people

    def table(self) -> Table:
        """Return names and values."""
        rows = [
            ("query", display(self.hit.query)),
            ("candidate", f"{display(self.hit.path)} (id {self.hit.id})"),
            ("rank", self.movement()),
            ("score", f"{self.hit.score:.4f}"),
            ("similarity", f"{self.hit.similarity:.4f}"),
            ("lambda", f"{self.settings.lam:g} (weight of the similarity)"),
            ("scorer", self.scorer),
        ]
        value = f"{self.scores.values[0]:.4f}"
        if not self.reranked:
            rows.append(("score if re-ranked", f"{self.pair_score:.4f}"))
        logits = self.scores.logits
        if logits is None:
            rows.append(("match score", value))
        else:
            rows += [("probability", value), *self._logits(float(logits[0]))]
        if self.calibrated is not None:
            rows.append(("calibrated", f"{self.calibrated:.4f} (share of such pairs that show the same thing)"))
        if self.answers is not None:
            words = f"{self.answers.positive!r} for the same, {self.answers.negative!r} for different"
            grades = f", of {len(self.answers.grades)} grades" if self.answers.graded else ""
            rows.append(("answers", printable(words + grades)))
        return [*rows, *self.tokens.table(), *self.evidence.table()]

    def _logits(self, logit: float) -> Table:
        """Return the logit that counts, and those of both orders."""
        orders = [(order.replace("_", " "), value) for order, value in self.logits.items()]
        if self.scores.disagreements is None:
            (used, _), (other, value) = orders
            note = f"{value:+.4f} ({other}; --symmetric takes the mean)"
            return [("logit", f"{logit:+.4f} ({used})"), ("the other order", note)]
        apart = f"{float(self.scores.disagreements[0]):.4f}"
        single = [(f"logit, {order}", f"{value:+.4f}") for order, value in orders]
        return [("logit", f"{logit:+.4f} (mean of both orders)"), *single, ("orders differ by", apart)]

    def picture(self) -> PairSheet:
        """Return both photos with what matches."""
        movement = self.movement()
        return pair_sheet(
            *self.evidence.sides,
            self.evidence.lines,
            heading=movement[0].upper() + movement[1:],
            method=self.evidence.method,
            numbers=[row for row in self.table() if row[0] not in _NAMED],
            notes=self.notes,
        )

    def page(self) -> bytes:
        """Return the picture and the numbers as an HTML page."""
        title = f"{display(os.path.split(self.hit.query)[1])} and {display(os.path.split(self.hit.path)[1])}"
        return pair_page(self.picture().image, title=title, numbers=self.table(), notes=self.notes)


def strongest(shares: Any, most: int) -> list[tuple[int, float]]:
    """Return the tokens with the largest shares of attention, the first of equal ones first."""
    order = np.argsort(-shares, kind="stable")[:most]
    return [(int(place), float(shares[place])) for place in order]


def _box(side: Side, place: int) -> list[float] | None:
    return None if side.boxes is None else [round(float(value), 4) for value in side.boxes[place]]
