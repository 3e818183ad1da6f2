"""`imgrank models`."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

_LEGEND = {
    "mllm": "px: side of a token in a photo. tokens: of a 4:3 photo at --longer-side {longer_side}, before pruning. "
    "KiB: what cache-tokens keeps of a photo by default ({reduce} | {store}).",
    "encoder": "dim: length of a descriptor. px: side of what the model sees.",
}
_BOTH = "GB: download. offline: all of it is on this machine."


@click.command(short_help="List models to choose from, or describe some.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--kind", type=click.Choice(["encoder", "mllm"]), help="List only what this option takes.")
@click.option(
    "--format", "form", type=click.Choice(["table", "jsonl"]), help="[default: table on a terminal, jsonl elsewhere]"
)
def command(models: tuple[str, ...], kind: Any, form: str | None) -> None:
    """List known models for --encoder and --mllm with their size, cost and licence, and whether they are here already.

    The list is a start: other checkpoints of these families do as well. They are expected to work; the code that loads
    them was tested on small random models of the same architecture. With MODEL, a folder or a Hugging Face id, say
    whether that model is supported and what its tokens cost; only its config.json is read.

    \b
    Example:
        imgrank models --kind mllm
        imgrank models ./my-finetuned-model
        imgrank models | jq -r 'select(.offline) | .name'
    """
    from imgrank.errors import SettingsError
    from imgrank.steps.models import describe_model, list_models

    if models and kind is not None:
        raise SettingsError("--kind chooses from the list; leave it out where you name models")
    as_table = (form or ("table" if sys.stdout.isatty() else "jsonl")) == "table"
    if models:
        for name in models:
            for record in describe_model(name):
                if as_table:
                    _print_model(record)
                else:
                    click.echo(json.dumps(record))
        return
    records = list_models(kind)
    if as_table:
        _print_list(records)
    else:
        for record in records:
            click.echo(json.dumps(record))


def _screen() -> Any:
    from rich.console import Console

    # Without a colour system rich writes no escape codes at all, not even bold ones.
    plain = bool(os.environ.get("NO_COLOR"))
    return Console(file=sys.stdout, highlight=False, markup=False, color_system=None if plain else "auto")


def _print_list(records: list[dict[str, Any]]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from imgrank.config import TokenSettings

    screen = _screen()
    for kind in ("encoder", "mllm"):
        chosen = [record for record in records if record["kind"] == kind]
        if not chosen:
            continue
        screen.print(_table(kind, chosen))
        screen.print(_LEGEND[kind].format(**vars(TokenSettings())), _BOTH)
        for record in chosen:
            if remark := _remark(record):
                screen.print(Padding(Text(f"{record['name']}: {remark}"), (0, 0, 0, 2)))
        screen.print()


def _table(kind: str, records: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title=f"--{kind}", title_justify="left", box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    numbers = ("GB", "px", "tokens", "KiB") if kind == "mllm" else ("GB", "px", "dim")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    table.add_column("offline", no_wrap=True)
    for record in records:
        cells = [record["name"], f"{record['download_bytes'] / 1e9:.1f}"]
        if kind == "mllm":
            kept = record["bytes_per_photo"]["float16"] / 1024
            cells += [_or(record["token_side"], "any"), str(record["tokens_per_photo"]), f"{kept:.0f}"]
        else:
            cells += [_or(record["image_size"], "any"), str(record["dim"])]
        cells += [_licence(record), "yes" if record["offline"] else ""]
        table.add_row(*cells)
    return table


def _print_model(record: dict[str, Any]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from imgrank.cli.console import size
    from imgrank.images.scan import display

    lines = [f"architecture: {record['family']}"]
    if "adapter_of" in record:
        lines.insert(0, f"adapter of: {record['adapter_of']}")
    if not record["supported"]:
        lines.append(f"not supported: {record['reason']}")
    elif record["kind"] == "encoder":
        lines += [
            "use: --encoder",
            f"descriptor: {record['dim']} numbers",
            f"sees: {_or(record['image_size'], 'any')} px",
        ]
    else:
        per_token, per_photo = record["bytes_per_token"], record["bytes_per_photo"]
        vectors = f"{record['levels']} vectors of {record['hidden']}" if record["levels"] > 1 else record["hidden"]
        lines += [
            "use: --mllm" + (f", with the prompt profile {record['profile']}" if record["profile"] else ""),
            f"token: {_or(record['token_side'], 'any number of')} px a side, {vectors} numbers; "
            f"{size(per_token['float16'])} in float16, {size(per_token['int8'])} in int8",
            f"4:3 photo: {record['tokens_per_photo']} tokens, {record['tokens_kept']} after pruning; "
            f"{size(per_photo['float16'])} in float16, {size(per_photo['int8'])} in int8",
        ]
    if record["supported"]:
        if record["licence"] is not None:
            lines.append(f"licence: {_licence(record)}; download: {record['download_bytes'] / 1e9:.1f} GB")
        lines.append(f"offline: {'yes' if record['offline'] else 'no, files are missing here'}")
        if remark := _remark(record):
            lines.append(f"note: {remark}")
    screen = _screen()
    screen.print(Text(display(os.fsencode(record["name"]))))
    for line in lines:
        screen.print(Padding(Text(line), (0, 0, 0, 2)))


def _licence(record: dict[str, Any]) -> str:
    return f"{record['licence']}, gated" if record["gated"] else str(record["licence"])


def _remark(record: dict[str, Any]) -> str:
    presets = [f"--preset {name}" for name in record["presets"]]
    return "; ".join([*presets, *filter(None, [record["note"]])])


def _or(value: int | None, otherwise: str) -> str:
    return otherwise if value is None else str(value)
