"""Options of a second look: who looks, what is asked, how deep, and what of the answer is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from imgrank.cli.options import together
from imgrank.config import ProfileChoice, PromptLayout, RerankSettings, ScorerName, Task

if TYPE_CHECKING:
    from imgrank.steps.second_stage import Request

_lambda_option = click.option(
    "--lambda",
    "lam",
    default=RerankSettings.lam,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Weight of the similarity; the rest is the weight of the second look.",
)

_depth_options = together(
    click.option(
        "--top-only",
        type=click.IntRange(min=1),
        metavar="K",
        help="Only the first K hits matter: stop as soon as no other candidate can be among them.",
    ),
    click.option(
        "--time-budget", metavar="TIME", help="For each query, such as 2s or 500ms: stop in time, in shortlist order."
    ),
)

_scorer_option = click.option(
    "--scorer",
    default=RerankSettings.scorer,
    show_default=True,
    type=click.Choice(get_args(ScorerName)),
    help="auto: mllm where the bundle has tokens of a model that was chosen, else geometric. mllm: the built-in "
    "model, too.",
)

# How a pair of photos is looked at.
pair_options = together(
    click.option("--mllm", metavar="MODEL", help="Hugging Face id or folder of a multimodal language model."),
    click.option("--cache", metavar="NAME", help="Token cache to read."),
    click.option(
        "--task",
        default=RerankSettings.task,
        show_default=True,
        type=click.Choice(get_args(Task)),
        help="What is the same: chooses the prompt.",
    ),
    click.option(
        "--prompt-file",
        type=click.Path(path_type=Path),
        help="A prompt of your own, with {query} and {candidate} where the photos go.",
    ),
    click.option(
        "--dtype",
        default=RerankSettings.dtype,
        show_default=True,
        type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
        help="Number type of the model.",
    ),
    click.option(
        "--prompt-layout",
        type=click.Choice(get_args(PromptLayout)),
        help="images-first, as in the paper; instruction-first: all words stand before the candidate, which is faster."
        "  [default: images-first]",
    ),
    click.option(
        "--answers",
        metavar="digits|yes-no|ternary|grades|FILE",
        help="What the model may say: 0 or 1, No or Yes, or how sure it is, from 0 to 2 or from 0 to 9. FILE has lines "
        "`different: WORD` and `same: WORD`, or `grade 0: WORD`, `grade 1: WORD` and so on.  [default: digits]",
    ),
    click.option(
        "--profile",
        default=RerankSettings.profile,
        show_default=True,
        type=click.Choice(get_args(ProfileChoice)),
        help="Template of a tuned re-ranker; auto knows it by its name.",
    ),
    click.option("--symmetric", is_flag=True, help="Ask in both orders and take the mean; twice the work and more."),
    click.option(
        "--score-cache",
        default=None,
        metavar="PATH|none",
        help="Where the model's answers are kept, so that no pair is scored twice.  [default: in the user's cache]",
    ),
    click.option("--compile", "compiled", is_flag=True, help="Compile layers first: a slow start, for a GPU."),
)

# What a second stage says of a pair depends on these alone.
evidence_options = together(_scorer_option, pair_options)
scorer_options = together(_lambda_option, evidence_options, _depth_options)
every_pair_options = together(_lambda_option, evidence_options)  # without an early stop

threshold_options = together(
    click.option("--min-score", type=float, metavar="S", help="Print only hits of at least this score."),
    click.option(
        "--min-probability",
        type=click.FloatRange(0, 1),
        metavar="P",
        help="Print only re-ranked hits of at least this probability: the calibrated one, where there is one.",
    ),
)


def second_stage(top: int, chosen: Mapping[str, Any]) -> tuple[RerankSettings, Request, Path | None]:
    """Return what the options of `scorer_options` and `device_option` ask for: settings, names, and the score cache.

    Those of `evidence_options` alone will do.
    """
    from imgrank.durations import parse_duration
    from imgrank.steps.second_stage import Request, score_cache_path

    budget = chosen.get("time_budget")
    settings = RerankSettings(
        top=top,
        lam=chosen.get("lam", RerankSettings.lam),
        scorer=chosen["scorer"],
        task=chosen["task"],
        dtype=chosen["dtype"],
        profile=chosen["profile"],
        prompt_layout=chosen["prompt_layout"],
        answers=chosen["answers"],
        symmetric=chosen["symmetric"],
        top_only=chosen.get("top_only"),
        time_budget=None if budget is None else parse_duration(budget),
    )
    request = Request(
        cache=chosen["cache"],
        mllm=chosen["mllm"],
        prompt_file=chosen["prompt_file"],
        device=chosen["device"],
        compile=chosen["compiled"],
    )
    return settings, request, score_cache_path(chosen["score_cache"])


def second_stage_of_pairs(chosen: Mapping[str, Any]) -> tuple[RerankSettings, Request, Path | None]:
    """Return what `pair_options`, a scorer and `device_option` ask for, where every pair is scored for itself."""
    return second_stage(RerankSettings.top, {"lam": 0.0, "top_only": None, "time_budget": None, **chosen})
