"""Groups on standard output: lines in a pipe, tables on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from imgrank.groups import Group, encode_groups


def write_groups(groups: Sequence[Group], form: str | None, *, nul: bool, duplicates: bool = False) -> None:
    """Write groups to standard output.

    Args:
        groups: in their order.
        form: one of `imgrank.config.GroupFormat`; None: a table on a terminal and JSON lines elsewhere.
        nul: end lines with NUL.
        duplicates: without the first photo of each group.
    """
    form = form or ("table" if sys.stdout.isatty() else "jsonl")
    if form == "table":
        _print_table(groups, duplicates)
        return
    sys.stdout.buffer.write(encode_groups(groups, form, nul=nul, duplicates=duplicates))
    sys.stdout.buffer.flush()


def _print_table(groups: Sequence[Group], duplicates: bool) -> None:
    from rich.console import Console as Screen
    from rich.table import Table
    from rich.text import Text

    from imgrank.images.scan import display

    table = Table(box=None, pad_edge=False)
    named = any(photo.bundle is not None for group in groups for photo in group.photos)
    for title in ("group", "size", "id"):
        table.add_column(title, justify="right")
    if named:
        table.add_column("bundle", overflow="fold")
    table.add_column("path", overflow="fold", ratio=1)
    for group in groups:
        for place, photo in enumerate(group.photos):
            if duplicates and place == 0:
                continue
            first = place == int(duplicates)
            cells: list[str | Text] = [str(group.number) if first else "", str(len(group.photos)) if first else ""]
            cells.append(str(photo.id))
            if named:
                cells.append(Text(display(photo.bundle or b"")))
            last = place == len(group.photos) - 1
            table.add_row(*cells, Text(display(photo.path)), end_section=last)
    if not groups:
        table.add_row(*[""] * (len(table.columns) - 1), "no groups")
    plain = bool(os.environ.get("NO_COLOR"))
    Screen(file=sys.stdout, highlight=False, color_system=None if plain else "auto").print(table)
