"""`imgrank tune-tokens`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgrank.cli import options
from imgrank.config import DecodeSettings, RerankSettings

if TYPE_CHECKING:
    from imgrank.steps.tune_tokens import TuneResult

_LEGEND = (
    "* on the Pareto curve. correlation, tau: of logit differences with those of all tokens. change: of the "
    "probability, mean."
)


@click.command(short_help="Measure ways to store tokens: bytes against quality.")
@options.bundle_argument
@click.option("--mllm", metavar="MODEL", help="Hugging Face id or folder.  [default: builtin]")
@click.option(
    "--qrels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Judgements (TREC, or `query photo`) whose queries are photos of the bundle: gives mAP.",
)
@click.option("--recipe", "recipes", multiple=True, metavar="STEPS", help="To measure.  [default: a grid of 17]")
@click.option("--queries", default=20, show_default=True, type=click.IntRange(min=1), help="At most so many.")
@click.option("--top", default=50, show_default=True, type=click.IntRange(min=1), help="Candidates of each query.")
@click.option(
    "--lambda",
    "lam",
    default=RerankSettings.lam,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Weight of the similarity in mAP.",
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write a plot: .svg, .png or .pdf.")
@click.option(
    "--format", "form", type=click.Choice(["table", "jsonl"]), help="[default: table on a terminal, jsonl elsewhere]"
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="Number type of the model.",
)
@options.device_option
@options.decode_options
@options.root_option
@options.quiet_option
def command(bundle: Path, **chosen: Any) -> None:
    """Measure what each way to store visual tokens costs in bytes, and what it does to scores.

    Photos of the bundle stand for queries, their nearest photos for candidates. Scores with all tokens, at the size of
    the first recipe, are what the others are held to: their correlation, Kendall's tau of the order of a query's
    candidates, and with judgements the mAP of the re-ranked shortlists. Recipes on the Pareto curve, which no other
    beats with fewer bytes, are marked. Nothing in the bundle changes.

    \b
    Example:
        imgrank tune-tokens db.h5 --mllm Qwen/Qwen3-VL-8B-Instruct --plot curve.svg
        imgrank tune-tokens db.h5 --qrels q.tsv --recipe "float16" --recipe "divprune:64 | pq:24"
    """
    from imgrank.cli.console import Console
    from imgrank.evaluation.qrels import read_qrels
    from imgrank.report.pareto import check_plot
    from imgrank.steps.tune_tokens import TuneSettings, marked, plot, tune_tokens

    if chosen["plot"] is not None:
        check_plot(chosen["plot"])
    console = Console(chosen["quiet"])
    qrels = None if chosen["qrels"] is None else read_qrels(chosen["qrels"])
    results = []
    for result in tune_tokens(
        bundle,
        mllm=chosen["mllm"],
        recipes=chosen["recipes"],
        qrels=qrels,
        settings=TuneSettings(chosen["queries"], chosen["top"], chosen["lam"]),
        decode=DecodeSettings(chosen["max_megapixels"], chosen["workers"]),
        root=chosen["root"],
        device=chosen["device"],
        dtype=chosen["dtype"],
        reporter=console,
    ):
        results.append(result)
        console.note(f"{result.recipe}: {result.bytes_per_image:.0f} bytes, Kendall's tau {result.scores.kendall_tau}")
    results = marked(results)
    if (chosen["form"] or ("table" if sys.stdout.isatty() else "jsonl")) == "table":
        _print_table(results)
    else:
        for result in results:
            click.echo(json.dumps(result.record()))
    if chosen["plot"] is not None:
        plot(results, chosen["plot"])


def _print_table(results: list[TuneResult]) -> None:
    from rich.console import Console as Screen
    from rich.table import Table

    from imgrank.cli.console import size

    judged = results[0].mean_average_precision is not None
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("a photo", "tokens", "correlation", "tau", "change", *(["mAP"] if judged else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("recipe", overflow="fold", ratio=1)
    for one in results:
        scores = one.scores
        numbers = [scores.correlation, scores.kendall_tau, scores.probability_change]
        numbers += [one.mean_average_precision] if judged else []
        cells = ["" if number is None else f"{number:.3f}" for number in numbers]
        table.add_row("*" if one.pareto else "", size(one.bytes_per_image), f"{one.tokens:.0f}", *cells, one.recipe)
    plain = bool(os.environ.get("NO_COLOR"))
    screen = Screen(file=sys.stdout, highlight=False, markup=False, color_system=None if plain else "auto")
    screen.print(table)
    screen.print(_LEGEND)
