"""`imgrank bench`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import click

from imgrank.cli import options
from imgrank.config import PromptLayout, RerankSettings


@click.group(short_help="Measure how fast this machine is.")
def command() -> None:
    """Measure how fast this machine is at a step of a search.

    \b
    Example:
        imgrank bench rerank --mllm Qwen/Qwen3-VL-2B-Instruct
    """


@command.command("rerank", short_help="Re-ranking by a multimodal language model.")
@click.option("--mllm", metavar="MODEL", help="Hugging Face id or folder of a multimodal language model.")
@click.option(
    "--random-weights",
    metavar="CONFIG",
    type=click.Path(path_type=Path),
    help="A config.json, or a folder with one, instead: a model of that shape with random weights; nothing is loaded.",
)
@click.option(
    "--tokens-per-image", default=96, show_default=True, type=click.IntRange(min=1), metavar="N",
    help="Visual tokens of a candidate.",
)  # fmt: skip
@click.option(
    "--query-tokens", default=300, show_default=True, type=click.IntRange(min=1), metavar="N",
    help="Visual tokens of the query.",
)  # fmt: skip
@click.option(
    "--candidates", default=100, show_default=True, type=click.IntRange(min=1), metavar="K",
    help="Candidates of the query.",
)  # fmt: skip
@click.option("--prompt-layout", type=click.Choice(get_args(PromptLayout)), help="As for a search.")
@click.option(
    "--dtype",
    default=RerankSettings.dtype,
    show_default=True,
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="Number type of the model.",
)
@options.device_option
@click.option(
    "--token-dtype",
    default="float16",
    show_default=True,
    metavar="STEP",
    help="How the token cache keeps numbers: float16, int8, pq:M, or another last step of a recipe.",
)
@click.option(
    "--chunk-tokens", type=click.IntRange(min=1), metavar="N",
    help="Tokens packed into one forward pass.  [default: as a search chooses]",
)  # fmt: skip
@click.option(
    "--repeat", default=3, show_default=True, type=click.IntRange(min=1), metavar="R",
    help="Runs, after one to warm up; medians count.",
)  # fmt: skip
@click.option("--compile", "compiled", is_flag=True, help="Compile the model first.")
@click.option("--compare", is_flag=True, help="Time the model's published forward pass on pairs of photos, too.")
@click.option(
    "--format", "form", type=click.Choice(["table", "jsonl"]), help="[default: table on a terminal, jsonl else]"
)
@options.quiet_option
def rerank(
    mllm: str | None, random_weights: Path | None, form: str | None, quiet: bool, compiled: bool, **chosen: Any
) -> None:
    """Measure how fast a model re-ranks the candidates of one query on this machine.

    Seconds are those of four parts: vision (encoding the query's photo, a drawn one of 560 x 420 pixels), prefix (what
    all candidates share), suffix (all candidates), and read (their tokens from a bundle just written, so from the
    page cache and not from a disk). Pairs a second count all four; tokens a second are the packed tokens of the
    suffixes over the time of that part. Candidates are random tokens; scores are not looked at.

    The share of the peak compares prefix and suffix with a large square matrix product in the model's number type,
    measured in the same run. Their operations are counted, not measured: for each token, 2 for each weight in the
    language model's matrices (without embeddings and output layer; of a mixture of experts only the active ones), and
    for each layer with attention 4 x heads x dim x the tokens seen (prefix, and half of one's own; a sliding window's
    at most). The recurrence of linear-attention layers is not counted.

    Memory is the most that a CUDA device held, weights included; on other devices, by how much the process grew once
    the weights were loaded. --compare runs the pixels of whole pairs of photos, with all their tokens, through the
    model as it was published.

    \b
    Example:
        imgrank bench rerank --mllm Qwen/Qwen3-VL-2B-Instruct --compare
        imgrank bench rerank --random-weights config.json --dtype bfloat16
    """
    from imgrank.cli.console import Console
    from imgrank.steps.bench import BenchSettings, bench_rerank

    settings = BenchSettings(compile=compiled, **chosen)
    found = bench_rerank(mllm, random_weights, settings=settings, reporter=Console(quiet))
    if (form or ("table" if sys.stdout.isatty() else "jsonl")) == "jsonl":
        click.echo(json.dumps({"bench": "rerank"} | found))
        return
    for line in _lines(found):
        click.echo(line)


def _lines(found: Mapping[str, Any]) -> list[str]:
    from imgrank.cli.console import size

    parts = cast(Mapping[str, float], found["seconds"])
    compiled = ", compiled" if found["compiled"] else ""
    pairs = {
        "model": f"{found['model']} ({found['family']})",
        "device": f"{found['device']} ({found['device_name']}), {found['dtype']}, {found['kernel']}{compiled}, "
        f"{found['threads']} threads",
        "versions": ", ".join(f"{name} {found[name]}" for name in ("imgrank", "torch", "transformers")),
        "work": f"{found['candidates']} candidates of {found['tokens_per_image']} tokens "
        f"({found['suffix_rows']} with text), a query of {found['query_tokens']} ({found['prefix_rows']} shared)",
        "": "",
        "pairs a second": f"{found['pairs_per_second']:g}",
        "tokens a second": f"{found['tokens_per_second']:.0f}",
        "memory": "unknown"
        if found["peak_memory"] is None
        else f"{size(found['peak_memory'])} ({found['peak_memory_counts']})",
        "matrix product": f"{found['matmul_tflops']:g} TFLOP/s",
    }
    if "plain_ratio" in found:
        pairs["published way"] = (
            f"{found['plain_seconds_per_pair']:g} s a pair with {found['plain_tokens_per_image']} tokens a photo, "
            f"{found['plain_ratio']:.1f} times ours"
        )
    width = max(map(len, pairs))
    lines = [f"{name:<{width}}  {value}".rstrip() for name, value in pairs.items()]
    lines += ["", f"{'part':<{width}}  {'seconds':>9}  {'share':>6}  {'TFLOP/s':>8}  of peak"]
    for name, seconds in parts.items():
        line = f"{name:<{width}}  {seconds:>9.4f}  {seconds / found['total_seconds']:>6.1%}"
        if name in found["tflops"]:
            line += f"  {found['tflops'][name]:>8g}  {found['share_of_matmul'][name]:>7.1%}"
        lines.append(line)
    return lines
