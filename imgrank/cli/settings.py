"""Defaults of options from files: `imgrank.toml` of the working directory, then that of the user.

Files give click its `default_map`, so a value goes the same way as one from the command line, and is checked by the
option itself. Here is checked what click cannot know: that tables and keys exist, and that TOML's types are those of
the options. docs/configuration.md is the description for users.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from imgrank.cli.prepare import NOT_FROM_FOLDER, PREFIX, SETTABLE, SHARED, Place, commands, settable
from imgrank.errors import SettingsError
from imgrank.nearest import did_you_mean
from imgrank.user_config import user_config

FILE = "imgrank.toml"
NO_FILES = "none"
_LIMIT = 2**20  # bytes
_META = "imgrank.settings"


@dataclass
class FileSettings:
    """What the files say.

    Attributes:
        files: that were looked at, the strongest first, and whether they are there.
        default_map: for click: nested by command, then by the parameter's name in Python.
        sources: the file and the key in it that a value is from, by command and option.
    """

    files: list[tuple[Path, bool]] = field(default_factory=list)
    default_map: dict[str, Any] = field(default_factory=dict)
    sources: dict[tuple[Place, str], str] = field(default_factory=dict)


def files(chosen: str | None) -> list[Path]:
    """Return the files to look at, the strongest first.

    Args:
        chosen: by `--config`: a file that takes the place of all others, or "none"; None: the usual ones.
    """
    if chosen is not None:
        return [] if chosen == NO_FILES else [Path(chosen)]
    return [Path(FILE), user_config() / FILE]


def load(root: click.Group, chosen: str | None) -> FileSettings:
    """Read the files.

    Raises:
        SettingsError: a file is no TOML, or has a table or key that is unknown or of another type than its option; or
            the file that was chosen is not there.
    """
    found = FileSettings([(path, path.exists()) for path in files(chosen)])
    if chosen not in (None, NO_FILES) and not found.files[0][1]:
        raise SettingsError(f"--config {chosen}: there is no such file")
    read = [(path, _read(path)) for path, there in found.files if there]
    if not read:
        return found
    known = {place: settable(one) for place, one in commands(root, ())}
    for path, values in reversed(read):  # what is read later goes over what was read before
        _apply(found, path, values, known, folder_file=chosen is None and path == Path(FILE))
    return found


def remember(context: click.Context, found: FileSettings) -> None:
    """Make the values of the files the defaults of the command that is about to run."""
    context.default_map = found.default_map
    context.meta[_META] = found


def origin(context: click.Context, option: click.Parameter, name: str) -> str | None:
    """Return where an option of a command got its value from, if not from the command line or the built-in defaults."""
    source = context.get_parameter_source(option.name or "")
    if source is click.core.ParameterSource.ENVIRONMENT:
        set_here = [one for one in option.envvar or [] if os.environ.get(one)]
        return f"environment variable {set_here[0]}" if set_here else None
    if source is click.core.ParameterSource.DEFAULT_MAP:
        found: FileSettings | None = context.meta.get(_META)
        return None if found is None else found.sources.get((place_of(context), name))
    return None


def place_of(context: click.Context) -> Place:
    """Return the names of the command that a context is of."""
    names: list[str] = []
    while context.parent is not None:
        names.insert(0, context.info_name or "")
        context = context.parent
    return tuple(names)


def unknown_variables(root: click.Group) -> list[str]:
    """Return what is wrong with variables of the environment that look like settings and are none."""
    known = {name for _, one in commands(root, ()) for option in settable(one).values() for name in option.envvar or []}
    known.add(f"{PREFIX}_CONFIG")
    odd = sorted(name for name in os.environ if name.startswith(f"{PREFIX}_") and name not in known)
    return [f"environment variable {name} sets nothing; {did_you_mean(name, known)}".rstrip("; ") for name in odd]


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise SettingsError(f"{path}: is not a file")
        if path.stat().st_size > _LIMIT:
            raise SettingsError(f"{path}: is larger than {_LIMIT} bytes; is it a file of settings?")
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise SettingsError(f"{path}: nested too deeply") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from error


def _apply(
    found: FileSettings,
    path: Path,
    values: Mapping[str, Any],
    known: Mapping[Place, Mapping[str, click.Option]],
    *,
    folder_file: bool,
) -> None:
    """Put the values of a file over those of weaker ones.

    Raises:
        SettingsError: a table or key is unknown, or a value of another type than its option.
    """
    shared: dict[str, Any] = {}
    by_command: dict[Place, dict[str, Any]] = {place: {} for place in known}

    def take(table: Mapping[str, Any], place: Place) -> None:
        groups = {one[len(place)] for one in known if len(one) > len(place) and one[: len(place)] == place}
        options = known.get(place, {})
        for key, value in table.items():
            where = f"{path}: {_key(place, key)}"
            if isinstance(value, dict) and key in groups:
                take(value, (*place, key))
                continue
            if folder_file and key in NOT_FROM_FOLDER:
                raise SettingsError(
                    f"{where} names a file that is written, which the file of a folder cannot: set it in "
                    f"{user_config() / FILE} or in the environment"
                )
            if not place and key in SHARED:
                shared[key] = value
            elif key in options:
                _check_type(where, value, options[key])
                by_command[place][key] = value
            else:
                raise SettingsError(_unknown(where, place, key, value, groups, options))

    take(values, ())
    for place, options in known.items():
        for name, option in options.items():
            own = by_command[place]
            if name in own or name in shared:
                key = _key(place, name) if name in own else name
                value = own.get(name, shared.get(name))
                _check_type(f"{path}: {key}", value, option)
                below = found.default_map
                for part in place:
                    below = below.setdefault(part, {})
                below[option.name or ""] = str(value) if _takes_text(option) and type(value) is int else value
                found.sources[place, name] = f"{path}: {key}"


def _unknown(
    where: str, place: Place, key: str, value: Any, groups: set[str], options: Mapping[str, click.Option]
) -> str:
    if isinstance(value, dict) and not options:
        hint, what = did_you_mean(key, groups, 1), "is no command"
    else:
        names = options or SHARED
        hint = did_you_mean(key, names, 1)
        what = "is no setting" if place else "is no setting that commands share"
        if key in groups:
            what = "is a command: give a table"
        elif not place and key in SETTABLE:
            hint = "put it below the table of a command, such as [search]"
        hint = hint or f"there are: {', '.join(sorted(names))}"
    return f"{where} {what}; {hint}".rstrip("; ")


def _key(place: Place, name: str) -> str:
    return f"[{'.'.join(place)}] {name}" if place else name


def _takes_text(option: click.Option) -> bool:
    return not option.is_flag and not isinstance(option.type, click.types.IntParamType | click.types.FloatParamType)


def _check_type(where: str, value: Any, option: click.Option) -> None:
    """Compare TOML's type of a value with what an option takes.

    Raises:
        SettingsError: they differ.
    """
    each = value if option.multiple and isinstance(value, list) else [value]
    if option.is_flag:
        wanted, fits = "true or false", isinstance(value, bool)
    elif isinstance(option.type, click.types.IntParamType):
        wanted, fits = "a whole number", all(type(one) is int for one in each)
    elif isinstance(option.type, click.types.FloatParamType):
        wanted, fits = "a number", all(type(one) in (int, float) for one in each)
    else:  # a number is text, too: `batch-size = 32`, `cache = 2024`
        wanted, fits = "a text in quotes", all(type(one) in (str, int) for one in each)
    if option.multiple:
        wanted, fits = f"a list, each {wanted}", fits and isinstance(value, list)
    if not fits:
        raise SettingsError(f"{where} = {value!r}: expected {wanted}")
