"""The group of commands: loads a command's file on use, and turns errors into a message and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from imgrank.cli.log import current_log
from imgrank.cli.prepare import option_name, prepare
from imgrank.errors import ImgrankError
from imgrank.nearest import did_you_mean

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
COMPLETE = "_IMGRANK_COMPLETE"  # the variable by which a shell's script asks for completions
_WITHOUT_SETTINGS = ("config", "completion")  # the one reads the files itself, the other is run by shells that start
_ERRORS = (click.ClickException, click.Abort, KeyboardInterrupt, ImgrankError, MemoryError, OSError)


class TableGroup(click.Group):
    """A click group whose commands are named in a table of strings, and loaded on use."""

    def __init__(self, *args: Any, commands_table: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = commands_table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order they are used in."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the file of a command."""
        module = self._table.get(cmd_name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, naming the nearest when there is none of that name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = did_you_mean(args[0], self._table, 2) if args else ""
            if not hint:
                raise
            raise click.UsageError(f"No command {args[0]!r}. {hint[0].upper()}{hint[1:]}", ctx) from error


class LazyGroup(TableGroup):
    """The group of all commands: prepares what it loads, reads settings, and turns errors into exit codes."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the file of a command, and prepare its options."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            prepare(command, (cmd_name,))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, and read the files of settings for it."""
        name, command, rest = super().resolve_command(ctx, args)
        if not (ctx.resilient_parsing or name in _WITHOUT_SETTINGS or _asks_for_help(rest)):
            from imgrank.cli.settings import load, remember

            remember(ctx, load(self, ctx.params.get("config")))
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a closed pipe ends it without an error, and an error goes to its log."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:  # caught here, because click would make a failure of it
            # The reader of our output has seen enough (`| head`). Python would complain again when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
        except _ERRORS as error:  # logged here, where the context still has the log
            log = current_log()
            if log is not None:
                log.write(_told(error)[0])
            raise

    def main(  # type: ignore[override]  # narrower than click's overloads: always ends the process
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and exit: with its return value, or with the code of the error it raised."""
        extra.pop("standalone_mode", None)
        # Libraries speak to programmers; what a user must know, we say ourselves.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        # numpy's matrix products are small here, and photos already run side by side: more threads only get into
        # each other's way (docs/benchmarks.md). It also takes the number of cores out of the last bits.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        if COMPLETE in os.environ:  # somebody presses Tab: whatever goes wrong, there is nothing to say
            with contextlib.suppress(Exception):
                super().main(args, prog_name or "imgrank", standalone_mode=False, complete_var=COMPLETE, **extra)
            sys.exit(0)
        try:
            result = super().main(args, prog_name or "imgrank", standalone_mode=False, **extra)
            sys.exit(result if isinstance(result, int) else 0)
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except click.ClickException as error:
            _with_origin(error).show()
            sys.exit(error.exit_code)
        except _ERRORS as error:
            message, code = _told(error)
            click.echo(f"imgrank: {message}", err=True)
            sys.exit(code)


def _told(error: BaseException) -> tuple[str, int]:
    """Return what to say about an error, and the exit code of the process."""
    if isinstance(error, click.ClickException):
        return f"error: {_with_origin(error).format_message()}", error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "interrupted; what was committed is kept, run the same command again to go on", INTERRUPTED
    if isinstance(error, ImgrankError):
        return f"error: {error}", error.exit_code
    if isinstance(error, MemoryError):
        return "error: out of memory; try fewer or smaller photos at a time, or a smaller model", 1
    assert isinstance(error, OSError)  # full disk, no permission, read-only folder
    return f"error: {error.strerror or error}{f': {error.filename!r}' if error.filename else ''}", 1


def _with_origin(error: click.ClickException) -> click.ClickException:
    """Return an error that says where the value of an option came from, if nobody typed it."""
    if type(error) is click.BadParameter and error.ctx is not None and isinstance(error.param, click.Option):
        from imgrank.cli.settings import origin

        source = origin(error.ctx, error.param, option_name(error.param))
        if source is not None:
            return click.BadParameter(f"{error.message} (from {source})", error.ctx, error.param, error.param_hint)
    return error


def _asks_for_help(arguments: Sequence[str]) -> bool:
    """Tell whether a command is only asked for its help, which a broken file of settings must not hinder."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--help" in options or "-h" in options
