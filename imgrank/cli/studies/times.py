"""`imgrank study time`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import study_options


@click.command(short_help="Quality against the time that re-ranking takes.")
@study_options.bundles_argument
@study_options.output_options
@study_options.query_options
@click.option(
    "--rerank",
    "counts",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="K",
    help="Candidates of the second stage; several.  [default: 20, 50, 100, 200]",
)
@click.option(
    "--timed", default=10, show_default=True, type=click.IntRange(min=1), metavar="N", help="Queries that are timed."
)
@study_options.method_option
@study_options.machine_options
def command(bundles: tuple[Path, ...], **chosen: Any) -> int:
    """Measure each method with several numbers of candidates: what it is worth, and how long a query takes.

    Quality comes from all queries, with the score cache; time from --timed of them, without it, each number apart: from
    the query's photo to the new order, after a query that warms up. Nothing else should run beside it.

    \b
    Example:
        imgrank study time db.h5 --qrels q.tsv -o studies --timed 3
        imgrank study time db.h5 --qrels q.tsv -o geometric --method geometric --rerank 5 --timed 30
    """
    from imgrank.cli.console import Console
    from imgrank.errors import SettingsError
    from imgrank.steps.studies.times import CANDIDATES, time_study, usual_candidates

    console = Console(chosen["quiet"])
    study_options.outputs_of(chosen).check("time")
    counts, depth = sorted(set(chosen["counts"])), chosen["depth"]
    if counts and depth is not None and counts[-1] > depth:
        raise SettingsError(f"--rerank {counts[-1]}: shortlists have {depth} hits; give -k {counts[-1]}")
    chosen["top"] = min(max(counts or CANDIDATES), depth or max(CANDIDATES + tuple(counts)))
    trials, measures = study_options.trials_of(console, bundles, chosen)
    methods = study_options.methods_of(trials, chosen)
    study = time_study(trials, methods, measures, counts or usual_candidates(trials), chosen["timed"])
    return study_options.run(console, study, trials, chosen)
