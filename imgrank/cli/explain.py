"""`imgrank explain`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from imgrank.cli import options, scorer_options
from imgrank.config import DecodeSettings, ExplainMethod, ExplainSettings, RerankSettings

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(short_help="Show why a photo got its score.")
@options.bundle_argument
@click.argument("query", type=click.Path(path_type=bytes))
@click.argument("hit", type=click.Path(path_type=bytes))
@click.option(
    "-o",
    "--output",
    metavar="OUT.png|OUT.html",
    type=click.Path(path_type=Path),
    help="Draw both photos and what matches; .html holds the picture and the numbers in one page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on a terminal, too.")
@click.option(
    "--by",
    default=ExplainSettings.by,
    show_default=True,
    type=click.Choice(get_args(ExplainMethod)),
    help="What is shown: which parts match, or what a language model's answer attends to.",
)
@click.option(
    "--layers",
    metavar="FIRST-LAST",
    help="Attention layers that are averaged, counted from 1.  [default: all]",
)
@click.option(
    "--lines",
    default=ExplainSettings.lines,
    show_default=True,
    type=click.IntRange(min=0),
    help="Matches that are shown, the strongest.",
)
@click.option(
    "--top",
    default=RerankSettings.top,
    show_default=True,
    type=click.IntRange(min=1),
    help="Candidates of the query that are re-ranked, for the rank.",
)
@scorer_options.every_pair_options
@click.option("--encoder", metavar="MODEL", help="As for `imgrank search`.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@options.device_option
@options.decode_options
@options.root_option
@options.quiet_option
def command(bundle: Path, query: bytes, hit: bytes, output: Path | None, as_json: bool, **chosen: Any) -> None:
    """Show why HIT, a photo of the bundle, got its score for QUERY.

    QUERY is a photo, a part of one (photo.jpg#xywh=X,Y,W,H), or the id of a photo of the bundle. HIT is a photo of the
    bundle by path or id. Prints the numbers that `imgrank search --exact --rerank` gives of the pair, how its rank
    moved, and which parts match.

    \b
    Example:
        imgrank explain db.h5 vase.jpg photos/shelf.jpg -o why.png
        imgrank explain db.h5 7 2 --scorer mllm --mllm builtin --by attention -o why.html
        imgrank search db.h5 vase.jpg -k 1 | jq .id | xargs imgrank explain db.h5 vase.jpg
    """
    from imgrank.cli.console import Console
    from imgrank.steps.collection import open_collection
    from imgrank.steps.explain import Explainer, check_explanation_output, query_of, row_of, write_explanation

    console = Console(chosen["quiet"])
    if output is not None:
        check_explanation_output(output, force=chosen["force"])
    shown = ExplainSettings(chosen["by"], chosen["lines"], _layers(chosen["layers"], chosen["by"]))
    limits = DecodeSettings(chosen["max_megapixels"], chosen["workers"])
    roots = [] if chosen["root"] is None else [chosen["root"]]
    photos = open_collection([bundle], limits, roots)
    asked, row = query_of(photos, query), row_of(photos, hit)
    settings, request, score_cache = scorer_options.second_stage(chosen["top"], chosen)
    explainer = Explainer(
        photos,
        settings,
        shown,
        request,
        score_cache=score_cache,
        encoder=chosen["encoder"],
        stored_only=isinstance(asked, int),
        reporter=console,
    )
    explanation = explainer.explain(asked, row)
    if output is not None:
        write_explanation(explanation, output)
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(explanation.to_dict()))
    else:
        _print_table(explanation.table(), explanation.notes)
    console.scored(explainer.reranker.work, explainer.reranker.stage.scorer.name)


def _layers(text: str | None, by: str) -> tuple[int, int] | None:
    """Read `3-8`, or `5`.

    Raises:
        click.UsageError: it is something else, or nothing is averaged.
    """
    if text is None:
        return None
    if by != "attention":
        raise click.UsageError("--layers are of attention: give --by attention, too")
    first, _, last = text.partition("-")
    last = last or first
    if not all(part.isdecimal() and len(part) < 6 for part in (first, last)) or text.endswith("-"):
        raise click.UsageError(f"--layers {text}: give the first and the last layer, such as 3-8")
    return int(first), int(last)


def _print_table(rows: Sequence[tuple[str, str]], notes: Sequence[str]) -> None:
    from rich.console import Console as Screen
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(overflow="fold", ratio=1)
    for name, value in rows:
        table.add_row(name, Text(value))
    for note in notes:
        table.add_row("note", Text(note))
    plain = bool(os.environ.get("NO_COLOR"))
    Screen(file=sys.stdout, highlight=False, color_system=None if plain else "auto").print(table)
