"""`imgrank study lambda`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import study_options


@click.command(short_help="Quality against the weight of the similarity.")
@study_options.bundles_argument
@study_options.output_options
@study_options.trial_options
@study_options.method_option
@click.option(
    "--lambda", "weights", multiple=True, type=click.FloatRange(0, 1), metavar="X", help="[default: 0, 0.05, ..., 1]"
)
@study_options.machine_options
def command(bundles: tuple[Path, ...], **chosen: Any) -> int:
    """Measure each method with weights of the similarity from 0 to 1; pairs are scored once.

    The row "chosen" of the table is the honest number: the weight was chosen on other queries than it is measured on.

    \b
    Example:
        imgrank study lambda db.h5 --qrels q.tsv -o studies
        imgrank study lambda db.h5 --qrels q.tsv -o two-weights --method geometric --lambda 0.3 --lambda 0.5
    """
    from imgrank.cli.console import Console
    from imgrank.steps.studies.lam import WEIGHTS, lambda_study

    console = Console(chosen["quiet"])
    study_options.outputs_of(chosen).check("lambda")
    trials, measures = study_options.trials_of(console, bundles, chosen)
    methods = study_options.methods_of(trials, chosen)
    study = lambda_study(trials, methods, measures, sorted(set(chosen["weights"])) or WEIGHTS)
    return study_options.run(console, study, trials, chosen)
