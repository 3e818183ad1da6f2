"""`--log-file`: what goes to standard error, as plain lines with a time, in a file that grows.

One option serves every command that has `--quiet`: its callback opens the file before the work and leaves it in the
context, where the console and the group find it.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import TextIO

import click

_META = "imgrank.log"


class Log:
    """A file that lines are appended to; each is written at once.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        # Names of photos may hold bytes that are no text; they are printed escaped, but paths of bundles are not.
        self._file: TextIO = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def write(self, message: str) -> None:
        """Append one message, its lines joined, behind the local time with its offset."""
        now = time.localtime()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", now) + time.strftime("%z", now)
        self._file.write(f"{stamp} {os.getpid()} {' '.join(message.split())}\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_log(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Open the file that `--log-file` names, for as long as the command runs."""
    if path is None or context.resilient_parsing:
        return
    try:
        log = Log(path)
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be written: {error.strerror}", context, option) from error
    log.write(f"started: imgrank {shlex.join(sys.argv[1:])}")
    context.meta[_META] = log
    context.find_root().call_on_close(log.close)


def current_log() -> Log | None:
    """Return the log of the command that runs, if it has one."""
    context = click.get_current_context(silent=True)
    found: Log | None = None if context is None else context.meta.get(_META)
    return found
