"""`imgrank config`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from imgrank.cli.prepare import SHARED, Place, commands, option_name, settable, variables


@click.command(short_help="Show settings of files and the environment.")
@click.option("--all", "everything", is_flag=True, help="Also what is built in.")
@click.option("--path", "paths", is_flag=True, help="Print the files that are looked at instead, the strongest first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def command(ctx: click.Context, everything: bool, paths: bool, as_json: bool) -> None:
    """Show each setting that is not built in, with its value and where it comes from.

    Options have their values from the command line, else from environment variables, else from imgrank.toml in the
    working directory, else from the user's, else they are built in. All values are checked.

    \b
    Example:
        imgrank config
        IMGRANK_SEARCH_TOP_K=20 imgrank config
        imgrank config --all --json | jq -r 'select(.command == "search") | .name'
    """
    from imgrank.cli.console import Console
    from imgrank.cli.settings import files, load, remember, unknown_variables

    root = ctx.find_root()
    group = root.command
    assert isinstance(group, click.Group)
    chosen = root.params.get("config")
    if paths:
        for path in files(chosen):
            there = path.exists()
            click.echo(json.dumps({"path": str(path), "exists": there}) if as_json else _path_line(str(path), there))
        return
    remember(root, load(group, chosen))
    for message in unknown_variables(group):
        Console().note(message)
    shown = [one for one in _records(root, group) if everything or one["source"] != "built-in"]
    for record in shown:
        click.echo(json.dumps(record) if as_json else _line(record))
    if not shown:
        Console().note("all settings are built in; docs/configuration.md says how to change them")


def _records(root: click.Context, group: click.Group) -> Iterator[dict[str, Any]]:
    """Yield the settings of all commands; a shared one that no command has in another way is one record."""
    found = [_record(_context(root, group, place), place, one) for place, one in _options(group)]
    for name in SHARED:
        same = [one for one in found if one["name"] == name]
        first = {**same[0], "command": None, "setting": name}
        if all((one["value"], one["source"]) == (first["value"], first["source"]) for one in same):
            yield first
            found = [one for one in found if one["name"] != name]
    yield from found


def _options(group: click.Group) -> Iterator[tuple[Place, click.Option]]:
    for place, one in commands(group, ()):
        for option in settable(one).values():
            yield place, option


def _context(root: click.Context, group: click.Command, place: Place) -> click.Context:
    """Return the context that a command would run in, for click to look its defaults up in."""
    context = root
    for name in place:
        assert isinstance(group, click.Group)
        below = group.get_command(context, name)
        assert below is not None
        context, group = click.Context(below, parent=context, info_name=name), below
    return context


def _record(context: click.Context, place: Place, option: click.Option) -> dict[str, Any]:
    from imgrank.cli.settings import origin

    name = option_name(option)
    value, source = option.consume_value(context, {})
    context.set_parameter_source(option.name or "", source)
    where = origin(context, option, name)
    if where is not None:
        option.type_cast_value(context, value)  # raises what the command would raise
    else:
        value = option.to_info_dict()["default"]
    if isinstance(value, tuple):
        value = list(value)
    command = ".".join(place)
    return {
        "setting": f"{command}.{name}",
        "command": command,
        "name": name,
        "value": value,
        "source": where or "built-in",
        "variable": variables(() if name in SHARED else place, name)[0],
    }


def _line(record: dict[str, Any]) -> str:
    value = record["value"]
    text = "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return f"{record['setting']} = {text}  ({record['source']})"


def _path_line(path: str, there: bool) -> str:
    return path if there else f"{path}  (not there)"
