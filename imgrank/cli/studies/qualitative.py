"""`imgrank study qualitative`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import study_options

_PAIRS = 24


@click.command(short_help="Pairs that one method ranks better than another, as a page.")
@study_options.bundles_argument
@study_options.folder_options
@study_options.trial_options
@study_options.methods_option("two: the baseline, then what is held against it", "none, then mllm with the last cache")
@click.option(
    "--pairs", default=_PAIRS, show_default=True, type=click.IntRange(min=1), help="Pairs of each list on the page."
)
@study_options.machine_options
def command(bundles: tuple[Path, ...], pairs: int, **chosen: Any) -> int:
    """Show pairs of a query and a photo that one method ranks better than another, as a page with pictures.

    Four lists: right photos that gained most, right photos that lost most, wrong photos that climbed, wrong photos that
    sank. The table has all pairs of a query and a right photo. A right photo gains by 1 / (1 + wrong photos above it),
    so that right photos that change places with each other move nothing.

    \b
    Example:
        imgrank study qualitative db.h5 --qrels q.tsv -o studies
        imgrank study qualitative db.h5 --qrels q.tsv -o against --method maxsim --method geometric
    """
    from imgrank.cli.console import Console
    from imgrank.steps.studies.method import usual_methods
    from imgrank.steps.studies.qualitative import qualitative_study, usual_pair

    if len(chosen["methods"]) not in (0, 2):
        raise click.UsageError("give --method twice: first the baseline, then what is held against it")
    console = Console(chosen["quiet"])
    study_options.outputs_of(chosen).check("qualitative", page=True)
    trials, measures = study_options.trials_of(console, bundles, chosen)
    if not chosen["methods"]:
        chosen["methods"] = usual_pair(usual_methods(trials.judged.photos))
        console.note("{} is held against {}; --method chooses others".format(*reversed(chosen["methods"])))
    methods = study_options.methods_of(trials, chosen)
    study = qualitative_study(trials, methods, measures, pairs, console)
    return study_options.run(console, study, trials, chosen)
