"""`imgrank study groups`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import study_options


@click.command(short_help="Quality for small and large objects, or for clear and cluttered photos.")
@study_options.bundles_argument
@study_options.output_options
@study_options.trial_options
@study_options.method_option
@click.option(
    "--by",
    default="scale",
    show_default=True,
    metavar="scale|clutter|NAME",
    help="What groups are made by: the object's share of the photo, clutter, or another value of the data set or file.",
)
@click.option("--groups", "count", default=4, show_default=True, type=click.IntRange(min=2), help="How many.")
@click.option(
    "--values",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The value of each relevant photo: lines `photo number`, or with the query first.",
)
@study_options.boxes_option
@study_options.machine_options
def command(bundles: tuple[Path, ...], **chosen: Any) -> int:
    """Cut the relevant photos of all queries into equal groups by a value, and measure each group on its own.

    For a group, relevant photos of other groups are taken out of the rankings as junk is; queries with none of the
    group are left out. The group "all" is the plain evaluation.

    Values are those of --values, or for scale those of --boxes, else those of the data set. Where there are none, scale
    and clutter are estimated from matches of local features, which favours the geometric method.

    \b
    Example:
        imgrank study groups db.h5 --qrels q.tsv -o studies --method none --method geometric
        imgrank study groups db.h5 --qrels q.tsv -o clutter --by clutter --method geometric --plot-format none
    """
    from imgrank.cli.console import Console
    from imgrank.steps.studies.groups import groups_study
    from imgrank.steps.studies.values import values_of

    console = Console(chosen["quiet"])
    study_options.outputs_of(chosen).check("groups")
    trials, measures = study_options.trials_of(console, bundles, chosen)
    methods = study_options.methods_of(trials, chosen)
    values = values_of(trials, chosen["by"], boxes=chosen["boxes"], given=chosen["values"], reporter=console)
    study = groups_study(trials, methods, measures, values, chosen["count"])
    return study_options.run(console, study, trials, chosen)
