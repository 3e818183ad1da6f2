"""What every option of every command gets, whoever declared it: a variable, completion, errors that name the nearest.

A command is prepared once, when its file is loaded. Which options a file or the environment may set, and under which
names, is decided here; `imgrank.cli.settings` reads the files.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from imgrank.cli.types import CacheName, EncoderName, MllmName, NearestChoice

PREFIX = "IMGRANK"

# Options that mean the same in several commands: one setting for all of them, which that of a command goes before.
SHARED = ("device", "workers", "max-megapixels", "quiet", "strict", "score-cache", "log-file")

# These name files that are written. A folder's own file may have come with a download, so it does not choose them.
NOT_FROM_FOLDER = ("score-cache", "log-file")

# What may be set, by the name of the option. An option that is not here is given on the command line or not at all:
# what a run is about (paths, queries, lists, what to do), where it writes, and what throws something away.
SETTABLE = frozenset(SHARED).union(
    # photos and encoders
    ("batch-size", "encoder", "encoder-revision", "gem-p", "image-size", "pooling", "preset", "projection", "root"),
    ("dtype", "projection-dim", "scales", "whitening"),
    # graph and search
    ("augment", "augment-alpha", "ef", "ef-construction", "exact", "m", "threads", "thumbnails", "top-k", "with"),
    ("collapse", "collapse-at", "exclude-self", "expand", "expand-alpha"),
    # groups, copies, several rankings, pairs
    ("by", "layers", "linkage", "lines", "method", "min-similarity", "mutual", "neighbours", "rrf-k", "threshold"),
    # the second look
    ("answers", "cache", "compile", "lambda", "mllm", "profile", "prompt-file", "prompt-layout", "queries-root"),
    ("rerank", "scorer", "symmetric", "task", "time-budget", "top", "top-only"),
    # tokens
    ("bytes-per-image", "cache-tokens", "codebooks", "keep", "longer-side", "max-tokens", "model-dtype"),
    ("proof-pairs", "prune", "recipe", "token-dtype"),
    # measuring
    ("bins", "depth", "folds", "measure", "protocol", "seed"),
    ("candidates", "chunk-tokens", "compare", "queries", "query-tokens", "repeat", "tokens-per-image"),
    # checks and output
    ("check", "exit-status", "fast", "format", "kind", "no-photos"),
)

_TYPES = {"encoder": EncoderName(), "mllm": MllmName(), "cache": CacheName()}  # of text, by the name of the option

Place = tuple[str, ...]  # the names of a command, such as ("export", "tokens")


def prepare(command: click.Command, place: Place) -> None:
    """Give the options of a command, and of those below it, their variables and messages."""
    for below, one in commands(command, place):
        for option in one.params:
            if isinstance(option.type, click.Choice):
                option.type = NearestChoice(option.type.choices, option.type.case_sensitive)
            elif isinstance(option, click.Option) and option.type is click.STRING:
                option.type = _TYPES.get(option_name(option), option.type)
        for name, setting in settable(one).items():
            setting.envvar = variables(below, name)


def commands(command: click.Command, place: Place) -> Iterator[tuple[Place, click.Command]]:
    """Yield a command that is no group, or those of a group, with their names."""
    if not isinstance(command, click.Group):
        yield place, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is not None:
            yield from commands(child, (*place, name))


def settable(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command that may be set, by their names in a file."""
    options = [one for one in command.params if isinstance(one, click.Option) and not one.required]
    return {name: one for one in options if (name := option_name(one)) in SETTABLE}


def option_name(option: click.Option) -> str:
    """Return the long name of an option without its dashes: `top-k`."""
    return next((one for one in option.opts if one.startswith("--")), option.opts[0]).lstrip("-")


def variables(place: Place, name: str) -> list[str]:
    """Return the environment variables of a setting, the stronger first: IMGRANK_SEARCH_DEVICE, IMGRANK_DEVICE."""
    places = [place, ()] if name in SHARED else [place]
    return ["_".join([PREFIX, *one, name]).replace("-", "_").upper() for one in places]
