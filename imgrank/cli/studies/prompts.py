"""`imgrank study prompts`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import study_options


@click.command(short_help="Quality by the words of the question and of the answer.")
@study_options.bundles_argument
@study_options.output_options
@study_options.trial_options
@study_options.method_option
@click.option(
    "--prompt-file",
    "prompts",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of your own, beside the prompts of all tasks; several.",
)
@click.option(
    "--answers",
    multiple=True,
    metavar="digits|yes-no|ternary|grades|FILE",
    help="What the model may say; several.  [default: the four that have a name]",
)
@study_options.machine_options
def command(bundles: tuple[Path, ...], **chosen: Any) -> int:
    """Measure every prompt with every way to answer, for each method that asks a multimodal language model.

    The prompts are those of the tasks: object, landmark, artwork, product, category. A model that was tuned to re-rank
    is also asked with its own template; the built-in model knows no words, so it has one row. A wording that a model
    cannot be asked with stands in the table with the reason.

    \b
    Example:
        imgrank study prompts db.h5 --qrels q.tsv -o studies --rerank 5 --sample 2
    """
    from imgrank.cli.console import Console
    from imgrank.steps.studies.prompts import ANSWERS, prompts_study

    console = Console(chosen["quiet"])
    study_options.outputs_of(chosen).check("prompts")
    trials, measures = study_options.trials_of(console, bundles, chosen)
    methods = study_options.methods_of(trials, chosen)
    study = prompts_study(trials, methods, measures, prompts=chosen["prompts"], answers=chosen["answers"] or ANSWERS)
    return study_options.run(console, study, trials, chosen)
