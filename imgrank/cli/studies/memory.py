"""`imgrank study memory`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from imgrank.cli import study_options
from imgrank.config import BUILTIN, RerankSettings, Task


@click.command(short_help="Quality against the bytes of an image.")
@study_options.bundles_argument
@study_options.output_options
@study_options.trial_options
@click.option("--mllm", default=BUILTIN, show_default=True, metavar="MODEL", help="Hugging Face id or folder.")
@click.option("--recipe", "recipes", multiple=True, metavar="STEPS", help="To measure; several.  [default: a grid]")
@click.option(
    "--task",
    default=RerankSettings.task,
    show_default=True,
    type=click.Choice(get_args(Task)),
    help="What the model is asked.",
)
@click.option(
    "--lambda",
    "lam",
    default=RerankSettings.lam,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Weight of the similarity.",
)
@click.option(
    "--dtype",
    default=RerankSettings.dtype,
    show_default=True,
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="Number type of the model.",
)
@study_options.machine_options
def command(bundles: tuple[Path, ...], **chosen: Any) -> int:
    """Measure what each way to store visual tokens costs in bytes and in quality, over sizes of photos.

    All tokens of the candidates are computed once for each size, so the photos are needed; then each recipe is applied
    to them and the pairs are scored again. The grid is four sizes, each with all tokens, int8, DivPrune, pooling,
    merging and product quantization. `imgrank tune-tokens` is for a quick look: a few photos of one bundle.

    \b
    Example:
        imgrank study memory db.h5 --qrels q.tsv -o studies
        imgrank study memory db.h5 --qrels q.tsv -o few --recipe float16 --recipe "divprune:64 | pq:24" --rerank 5
    """
    from imgrank.cli.console import Console
    from imgrank.steps.second_stage import score_cache_path
    from imgrank.steps.studies.memory import MemoryRequest, memory_study

    console = Console(chosen["quiet"])
    outputs = study_options.outputs_of(chosen)
    outputs.check("memory")
    trials, measures = study_options.trials_of(console, bundles, chosen)
    settings = RerankSettings(
        top=chosen["top"], lam=chosen["lam"], scorer="mllm", task=chosen["task"], dtype=chosen["dtype"]
    )
    cache = score_cache_path(chosen["score_cache"])
    request = MemoryRequest(chosen["mllm"], chosen["recipes"], settings, chosen["device"], cache)
    study = memory_study(trials, measures, request, beside=outputs.folder / "memory", reporter=console)
    return study_options.run(console, study, trials, chosen)
