"""`imgrank doctor`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from imgrank.cli import options
from imgrank.config import RerankSettings

if TYPE_CHECKING:
    from imgrank.steps.doctor import Examination


@click.command(short_help="Check this machine, and a model on it.")
@click.option("--mllm", metavar="MODEL", help="Hugging Face id or folder of a multimodal language model to check.")
@click.option(
    "--dtype",
    default=RerankSettings.dtype,
    show_default=True,
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="Number type of the model.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), help="[default: text on a terminal, json else]")
@options.device_option
@options.quiet_option
def command(mllm: str | None, dtype: str, form: str | None, device: str, quiet: bool) -> int:
    """Say what this machine computes with; with --mllm, check that re-ranking by that model is right here.

    Pairs of drawn photos are scored as a search does it, and by the model's own forward pass on their pixels; packed,
    one by one, in another order, and from tokens rounded for the cache. The logits must agree. Exits with 1 when
    they do not.

    \b
    Example:
        imgrank doctor
        imgrank doctor --mllm Qwen/Qwen3-VL-2B-Instruct --dtype bfloat16
    """
    from imgrank.cli.console import Console
    from imgrank.steps.doctor import examine

    console = Console(quiet)
    found = examine(mllm, device=device, dtype=dtype, reporter=console)
    if (form or ("text" if sys.stdout.isatty() else "json")) == "json":
        checks = [
            {"check": c.name, "difference": c.difference, "allowed": c.allowed, "passed": c.passed}
            for c in found.checks
        ]
        click.echo(json.dumps(found.facts | {"checks": checks, "healthy": found.healthy}))
    else:
        for line in _lines(found):
            click.echo(line)
    if not found.healthy:
        console.alarm(
            "the model does not score here as it was published; try --dtype float32 or --device cpu, and report this "
            "output"
        )
    return 0 if found.healthy else 1


def _lines(found: Examination) -> list[str]:
    width = max(map(len, found.facts))
    lines = [f"{name.replace('_', ' '):<{width}}  {_shown(name, value)}" for name, value in found.facts.items()]
    if found.checks:
        widest = max(len(check.name) for check in found.checks)
        lines.append("")
        lines.append(f"{'check':<{widest}}  {'largest difference':>18}  allowed")
        for check in found.checks:
            verdict = "" if check.passed else "  FAILED"
            lines.append(f"{check.name:<{widest}}  {check.difference:>18.1e}  {check.allowed:.0e}{verdict}")
    return lines


def _shown(name: str, value: Any) -> str:
    from imgrank.cli.console import size

    if value is None:
        return "not installed" if name != "free_memory" else "unknown"
    if name == "free_memory":
        return size(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
