"""Write docs/cli.md from the commands' own help.

python docs/generate_cli.py           writes it
python docs/generate_cli.py --check   fails when it is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from imgrank.cli import cli

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Command line

Made from `--help` by `docs/generate_cli.py`; do not edit. What all commands share is in
[shell.md](shell.md).
"""


def page() -> str:
    """Return the text of the page."""
    return "\n".join([HEAD, *sections(cli, "imgrank")])


def sections(command: click.Command, name: str) -> Iterator[str]:
    """Yield the section of a command, and those of the commands below it."""
    own = click.Context(
        command, info_name=name, help_option_names=["-h", "--help"], max_content_width=100, terminal_width=100
    )
    yield f"## {name}\n\n```text\n{command.get_help(own)}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(own):
            below = command.get_command(own, child)
            assert below is not None
            yield from sections(below, f"{name} {child}")


def main() -> None:
    """Write or check the page."""
    text = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.exists() or PAGE.read_text() != text:
            sys.exit("docs/cli.md is out of date; run: python docs/generate_cli.py")
    else:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
