"""`imgrank check`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from imgrank.cli import options


@click.command(short_help="Tell what compression of the tokens lost.")
@options.bundle_argument
@click.option("--fidelity", is_flag=True, required=True, help="Score the pairs of a cache's proof with its tokens.")
@click.option("--cache", metavar="NAME", help="Token cache.  [default: the only one]")
@click.option("--mllm", metavar="MODEL", help="Where the model is now.  [default: the one the cache names]")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="Number type of the model.  [default: that of the proof]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.  [default: where output is no terminal]")
@options.device_option
@options.quiet_option
def command(
    bundle: Path,
    fidelity: bool,
    cache: str | None,
    mllm: str | None,
    dtype: str | None,
    as_json: bool,
    device: str,
    quiet: bool,
) -> None:
    """Compare scores from cached tokens with those from all tokens, which were kept when the cache was made.

    Needs the model and no photos. What is compared: logit differences of pairs of a photo with all of its tokens and a
    photo with what the cache keeps.

    \b
    Example:
        imgrank check db.h5 --fidelity
        imgrank check db.h5 --fidelity --cache small --json | jq .kendall_tau
    """
    from imgrank.cli.console import Console
    from imgrank.steps.fidelity import check_fidelity

    console = Console(quiet)
    found = check_fidelity(bundle, cache=cache, mllm=mllm, device=device, dtype=dtype, reporter=console)
    scores = found.scores.record()
    if as_json or not sys.stdout.isatty():
        own = {"cache": found.cache, "model": found.model, "recipe": found.recipe, "dtype": found.dtype}
        click.echo(json.dumps({**own, "same_question": found.same_question, **scores}))
    else:
        click.echo(f"{found.cache}: {found.model}, {found.recipe}")
        for name, value in scores.items():
            click.echo(f"  {name.replace('_', ' '):20}{'not defined' if value is None else value}")
    if not found.same_question:
        console.note("the model is asked in another way, or in other numbers, than when the proof was made")
