"""Options that all studies share, and what they come to: trials, methods, and where the result goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgrank.cli import judged_options, options
from imgrank.config import DecodeSettings

if TYPE_CHECKING:
    from imgrank.steps.studies.frame import Outputs, Study
    from imgrank.steps.studies.method import Method
    from imgrank.steps.studies.trials import Trials

PLOT_FORMATS = ("svg", "png", "pdf", "none")

bundles_argument = click.argument(
    "bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE..."
)

folder_options = options.together(
    click.option(
        "-o",
        "--output",
        required=True,
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="Where table, facts and plot or page are written; an interrupted study goes on from there.",
    ),
    click.option("--force", is_flag=True, help="Replace a finished study of that folder."),
)

output_options = options.together(
    folder_options,
    click.option(
        "--plot-format",
        default="svg",
        show_default=True,
        type=click.Choice(PLOT_FORMATS),
        help="Of the plot, which needs the extra imgrank[plot].",
    ),
)

_sample_options = options.together(
    click.option("--sample", type=click.IntRange(min=1), metavar="N", help="At most N queries, by chance."),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of that chance."),
)

_rerank_option = click.option(
    "--rerank",
    "top",
    default=50,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="K",
    help="Candidates of the second stage.",
)

query_options = options.together(
    judged_options.judgement_options,
    judged_options.searched_options,
    judged_options.measure_options,
    _sample_options,
)

trial_options = options.together(query_options, _rerank_option)

pair_options = options.together(  # for studies of pairs, which measure no rankings
    judged_options.judgement_options, judged_options.searched_options, _sample_options, _rerank_option
)

boxes_option = click.option(
    "--boxes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Where objects are: lines `photo left top width height`, or with the query first.  [default: the data set's]",
)


def methods_option(how_many: str, default: str) -> Callable[[Any], Any]:
    """Return the option that names what is compared."""
    return click.option(
        "--method",
        "methods",
        multiple=True,
        metavar="LINE",
        help="To compare: none, geometric, maxsim or mllm, then settings such as cache=NAME mllm=MODEL task=product "
        f"lambda=0.3 label=NAME; {how_many}.  [default: {default}]",
    )


method_option = methods_option("several", "none, geometric, and mllm with each cache")

machine_options = options.together(
    click.option("--encoder", metavar="MODEL", help="Where the encoder of the bundle lies here, if it moved."),
    click.option(
        "--score-cache",
        default=None,
        metavar="PATH|none",
        help="Where the model's answers are kept, so that no pair is scored twice.  [default: in the user's cache]",
    ),
    options.device_option,
    options.decode_options,
    options.roots_option,
    options.quiet_option,
)


def outputs_of(chosen: Mapping[str, Any]) -> Outputs:
    """Return where the study writes."""
    from imgrank.steps.studies.frame import Outputs

    form = chosen.get("plot_format", "none")  # a study with a page has no plot
    return Outputs(chosen["output"], form, chosen["force"], ["imgrank", *sys.argv[1:]])


def trials_of(console: Any, bundles: Sequence[Path], chosen: Mapping[str, Any]) -> tuple[Trials, tuple[str, ...]]:
    """Open the bundles, read the judgements and find the shortlists.

    Returns:
        the trials, and the names of the measures that are asked for; none for a study without any.
    """
    from imgrank.steps.collection import open_collection
    from imgrank.steps.evaluate import check_missing
    from imgrank.steps.judged_photos import JudgedPhotos
    from imgrank.steps.second_stage import score_cache_path
    from imgrank.steps.studies.trials import Trials, TrialSettings

    dataset = judged_options.dataset_of(chosen)
    measures = judged_options.measures_of(chosen, dataset) if "measures" in chosen else ()
    limits = DecodeSettings(chosen["max_megapixels"], chosen["workers"])
    photos = open_collection(bundles, limits, chosen["roots"])
    judged = JudgedPhotos(photos, dataset, chosen["queries"])
    check_missing(judged, allow=chosen["allow_missing"], reporter=console)
    # Without measures nothing looks beyond the candidates of the second stage.
    depth = judged_options.depth_of(chosen, judged, kept=True) if measures else chosen["depth"] or chosen["top"]
    settings = TrialSettings(depth, **{name: chosen[name] for name in ("top", "exact", "sample", "seed")})
    trials = Trials(
        judged,
        settings,
        encoder=chosen["encoder"],
        device=chosen["device"],
        score_cache=score_cache_path(chosen["score_cache"]),
        reporter=console,
    )
    return trials, measures


def methods_of(trials: Trials, chosen: Mapping[str, Any]) -> list[Method]:
    """Return the methods that are asked for, or the usual ones."""
    from imgrank.steps.second_stage import Request
    from imgrank.steps.studies.method import check_labels, parse_method, usual_methods

    lines = chosen["methods"] or usual_methods(trials.judged.photos)
    request = Request(device=chosen["device"])
    methods = [parse_method(line, top=chosen["top"], request=request) for line in lines]
    check_labels(methods)
    return methods


def run(console: Any, study: Study, trials: Trials | None, chosen: Mapping[str, Any]) -> int:
    """Run a study and print the files that it wrote; returns the exit code."""
    from imgrank.steps.studies.frame import run_study

    for path in run_study(study, outputs_of(chosen), console):
        click.echo(path)
    return options.IMAGES_SKIPPED if trials is not None and trials.skipped else 0
