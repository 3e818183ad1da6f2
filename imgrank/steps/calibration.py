"""The calibrations that a bundle holds: which one is of a second stage, and what it says of itself."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Literal

from imgrank.bundle.calibration import CalibrationTable, calibration_advice
from imgrank.bundle.file import Bundle
from imgrank.bundle.provenance import digest_of
from imgrank.config import CalibrationSettings
from imgrank.errors import DamagedBundleError, InputError, SettingsError
from imgrank.evaluation.reliability import Quality, Reliability
from imgrank.progress import Reporter
from imgrank.rerank.calibration import ScoreMap, map_of
from imgrank.steps.features import LocalSource, VisualSource
from imgrank.steps.second_stage import ENGINE, SecondStage, tokens_text


@dataclass(frozen=True)
class CalibrationFacts(CalibrationSettings):
    """What a calibration says of itself; kept as the `settings` of its group.

    Attributes:
        scorer: that it is of.
        asked: what a language model is asked, for people; empty for the other scorers.
        evidence: what the map starts from.
        queries, pairs, same: that it was learned from; `same` of the pairs show the same thing.
    """

    scorer: str = ""
    asked: str = ""
    evidence: Literal["logit", "score"] = "score"
    queries: int = 0
    pairs: int = 0
    same: int = 0
    ece_before: float = 0.0
    ece: float = 0.0
    brier_before: float = 0.0
    brier: float = 0.0
    log_loss_before: float = 0.0
    log_loss: float = 0.0

    @property
    def before(self) -> Quality:
        """Return what the evidence itself is worth, taken for a probability."""
        return Quality(self.ece_before, self.brier_before, self.log_loss_before)

    @property
    def after(self) -> Quality:
        """Return what calibrated probabilities are worth, for queries that the map was not learned from."""
        return Quality(self.ece, self.brier, self.log_loss)


@dataclass(frozen=True, eq=False)
class Calibration:
    """A calibration as it was read.

    Attributes:
        facts: what it says of itself.
        map: from evidence to probability.
        table: its reliability, for queries that the map was not learned from.
    """

    facts: CalibrationFacts
    map: ScoreMap
    table: Reliability


def way_of(stage: SecondStage) -> str:
    """Return what the evidence of a second stage depends on beside the two photos, as 32 hexadecimal digits.

    That of the first bundle: where there are several, its calibration is used.
    """
    first = stage.bundles[0]
    parts: list[str | bytes] = [stage.scorer.name, str(ENGINE), *first.fingerprints]
    if isinstance(first.source, LocalSource):
        provenance = first.source.provenance
        parts += [provenance.model, provenance.model_revision, provenance.settings]
    elif isinstance(first.source, VisualSource) and not first.fingerprints:  # late interaction of visual tokens
        model = first.source.model
        parts += [model.revision, json.dumps(dict(model.settings), sort_keys=True)]
        parts.append(tokens_text(first.source, stage.source))  # type: ignore[arg-type]  # of one kind
    return digest_of(parts)


def calibration_of(bundle: Bundle, stage: SecondStage, reporter: Reporter) -> ScoreMap | None:
    """Return the map that a bundle has for a way of scoring; None where it has none.

    Raises:
        DamagedBundleError: it is damaged.
    """
    if not bundle.calibrations:
        return None
    way = way_of(stage)
    for _, table in sorted(bundle.calibrations.items()):
        if table.way == way:
            return read_calibration(table).map
    reporter.note(
        f"no calibration of {bundle.path} is of this way of scoring ({stage.scorer.name}); hits get no `calibrated`: "
        f"`imgrank calibrate {bundle.path} --list` names those it has"
    )
    return None


def facts_of(table: CalibrationTable) -> CalibrationFacts:
    """Read what a calibration says of itself.

    Raises:
        DamagedBundleError: it cannot be understood.
    """
    try:
        facts = CalibrationFacts.from_json(table.provenance.settings)
    except SettingsError as error:
        raise _damaged(table, str(error)) from error
    numbers = [*asdict(facts.before).values(), *asdict(facts.after).values()]
    if not all(map(math.isfinite, numbers)) or not 0 <= facts.same <= facts.pairs:
        raise _damaged(table, "its settings hold numbers that cannot be")
    return facts


def read_calibration(table: CalibrationTable) -> Calibration:
    """Read and check a calibration.

    Raises:
        DamagedBundleError: an array does not match its checksum, or is not what it should be.
    """
    facts, arrays = facts_of(table), table.arrays.read()
    try:
        score_map = map_of(arrays)
        counts, predicted, observed = (arrays[f"bin-{name}"] for name in ("count", "predicted", "observed"))
    except InputError as error:
        raise _damaged(table, str(error)) from error
    except KeyError as error:
        raise _damaged(table, f"{error} is missing") from error
    whole = len({len(counts), len(predicted), len(observed), facts.bins}) == 1
    # Negated, so that NaN fails.
    if not whole or not all(((side >= 0) & (side <= 1)).all() for side in (predicted, observed)):
        raise _damaged(table, "its reliability table is none")
    if [int(count) for count in counts if count > facts.pairs] or sum(counts.tolist()) != facts.pairs:
        raise _damaged(table, "its reliability table is of other pairs")
    return Calibration(facts, score_map, Reliability(counts.astype("int64"), predicted, observed))


def _damaged(table: CalibrationTable, reason: str) -> DamagedBundleError:
    return DamagedBundleError(table.path, table.part, f"{reason}; {calibration_advice(table.path, table.name)}")
