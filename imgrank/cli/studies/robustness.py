"""`imgrank study robustness`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgrank.cli import study_options

SAMPLE = 50


@click.command(short_help="Similarity and probability of positives against ten perturbations.")
@study_options.bundles_argument
@study_options.output_options
@study_options.pair_options
@study_options.method_option
@click.option(
    "--strength",
    "strengths",
    multiple=True,
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Of the perturbations; several.  [default: 0, 0.25, 0.5, 0.75, 1]",
)
@click.option("--perturbation", "names", multiple=True, metavar="NAME", help="Only this one; several.  [default: all]")
@study_options.boxes_option
@click.option(
    "--masks",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="PNG files named as the photos, black where the object is not; they go before boxes.",
)
@click.option(
    "--side",
    default=768,
    show_default=True,
    type=click.IntRange(min=16),
    metavar="PIXELS",
    help="Longer side at which photos are perturbed.",
)
@study_options.machine_options
def command(bundles: tuple[Path, ...], **chosen: Any) -> int:
    """Perturb one relevant photo of each query in ten ways, and measure what each method says of the pair.

    50 queries, unless --sample says otherwise. Levels to compare with are those of each query's hardest negatives: the
    5 % that the method likes best of the first K candidates (--rerank) that are neither relevant nor junk.

    Background scaling, clutter, occlusion and the middle of the rotation need to know where the object is: --masks,
    --boxes, the data set, or, where nothing says it, the middle half of the photo.

    \b
    Example:
        imgrank study robustness db.h5 --qrels q.tsv -o studies --sample 2 --perturbation blur --perturbation noise
    """
    from imgrank.cli.console import Console
    from imgrank.steps.studies.perturbed import Perturbed
    from imgrank.steps.studies.robustness import STRENGTHS, check_perturbations, robustness_study

    console = Console(chosen["quiet"])
    study_options.outputs_of(chosen).check("robustness")
    names = check_perturbations(chosen["names"])
    trials, _ = study_options.trials_of(console, bundles, {**chosen, "sample": chosen["sample"] or SAMPLE})
    methods = study_options.methods_of(trials, chosen)
    photos = Perturbed(trials, chosen["boxes"], chosen["masks"], side=chosen["side"], reporter=console)
    study = robustness_study(photos, methods, names, sorted(set(chosen["strengths"])) or STRENGTHS)
    return study_options.run(console, study, trials, chosen)
