"""The command line in a real pseudo-terminal."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

OF_TERMINALS = ("NO_COLOR", "COLUMNS", "LINES")  # what a shell may have said of another terminal


def in_terminal(
    arguments: list[object],
    cwd: Path | None,
    columns: int,
    *,
    given: int | None = None,
    output: int | None = None,
    code: int = 0,
    answer: bytes | None = None,
    **environment: str,
) -> str:
    """Run the command with all its streams on a terminal of a size, which is the one that controls it.

    Args:
        arguments: of the command.
        cwd: its working directory.
        columns: of the terminal, which has 40 rows, and a picture of 10 x 20 pixels in each cell.
        given: standard input, where that is not the terminal.
        output: standard output, likewise.
        code: how the command has to end.
        answer: what the terminal says when it is asked what it can show.
        environment: variables.

    Returns:
        What it showed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 10 * columns, 800))
    clean = {name: value for name, value in os.environ.items() if name not in OF_TERMINALS}
    with subprocess.Popen(
        [sys.executable, "-m", "imgrank", *map(str, arguments)],
        cwd=cwd, env=clean | {"TERM": "xterm-256color"} | environment, start_new_session=True,
        stdin=theirs if given is None else given, stdout=theirs if output is None else output, stderr=theirs,
        preexec_fn=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),
    ) as child:  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # nobody has the other end any more
                break
            if not chunk:
                break
            shown += chunk
            if answer is not None and b"\x1b[c" in chunk:
                os.write(ours, answer)
    os.close(ours)
    text = shown.decode(errors="surrogateescape")
    assert child.returncode == code, text
    return text
