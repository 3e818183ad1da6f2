"""The group of commands: loads a command's file on use, and turns errors into a message and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from imgrank.errors import ImgrankError

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class LazyGroup(click.Group):
    """A click group whose commands are named in a table of strings."""

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
        """Name the nearest command when there is none of that name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self._table, n=2, cutoff=0.65) if args else []
            if not close:
                raise
            raise click.UsageError(f"No command {args[0]!r}. Did you mean {' or '.join(close)}?", ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a closed pipe ends it without an error."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:  # caught here, because click would make a failure of it
            # The reader of our output has seen enough (`| head`). Python would complain again when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0

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
        try:
            result = super().main(args, prog_name or "imgrank", standalone_mode=False, **extra)
            sys.exit(result if isinstance(result, int) else 0)
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo(
                "imgrank: interrupted; what was committed is kept, run the same command again to go on", err=True
            )
            sys.exit(INTERRUPTED)
        except ImgrankError as error:
            _fail(str(error), error.exit_code)
        except MemoryError:
            _fail("out of memory; try fewer or smaller photos at a time, or a smaller model", 1)
        except OSError as error:  # full disk, no permission, read-only folder
            _fail(f"{error.strerror or error}{f': {error.filename!r}' if error.filename else ''}", 1)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"imgrank: error: {message}", err=True)
    sys.exit(code)
