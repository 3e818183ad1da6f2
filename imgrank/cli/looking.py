"""What `--html`, `--open`, `--montage` and `--preview` do with each ranking of a command."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgrank.steps.looking import MONTAGE_HITS, MONTAGE_QUERIES, Montage, check_page, writing_page
from imgrank.steps.pictures import Pictures

if TYPE_CHECKING:
    from imgrank.cli.console import Console
    from imgrank.results import Ranking
    from imgrank.steps.collection import Collection

_LARGE = 100 * 2**20  # bytes of a page that browsers take long to show


class Looking:
    """Shows rankings as the options of `looking_options` ask; a command that fails leaves no half of a page.

    Args:
        chosen: the options.
        photos: of the bundles that are searched.
        console: hears where the page lies.
        queries_root: folder that relative query paths are below.

    Raises:
        SettingsError: a file cannot be written.
        MissingExtraError: what shows pictures in a terminal is not installed.
    """

    def __init__(
        self, chosen: Mapping[str, Any], photos: Collection, console: Console, *, queries_root: bytes | None = None
    ) -> None:
        self._console, self._open = console, chosen["open_page"]
        self._files = contextlib.ExitStack()
        self._temporary: Path | None = None
        click.get_current_context().call_on_close(self._abandon)
        self._preview = None
        if chosen["preview"]:
            from imgrank.cli.preview import Preview

            self._preview = Preview()
        self._montage = None if chosen["montage"] is None else Montage(chosen["montage"])
        self._path: Path | None = chosen["html"]
        if self._path is not None:
            check_page(self._path)
        elif self._open:
            self._temporary = Path(tempfile.mkdtemp(prefix="imgrank-"))
            self._path = self._temporary / "hits.html"
        self._page = None
        if self._path is not None:
            self._page = self._files.enter_context(writing_page(self._path, photos.title))
        self._pictures = Pictures(photos, queries_root)

    def show(self, ranking: Ranking) -> None:
        """Show one query."""
        if self._page is None and self._montage is None and self._preview is None:
            return
        few = MONTAGE_HITS + 1 if self._page is None else None  # one more, so that what is left out can be counted
        shown = self._pictures.shown(ranking, few)
        if self._preview is not None:
            self._preview.show(shown)
        if self._page is not None:
            self._page.add(shown)
        if self._montage is not None:
            self._montage.add(shown)

    def finish(self) -> None:
        """Put the files into their places, say where they are, and open the page if that is wanted."""
        self._files.close()
        if self._montage is not None:
            self._montage.save()
            if self._montage.left_out:
                self._console.note(
                    f"the montage shows the first {MONTAGE_QUERIES} queries and leaves {self._montage.left_out} out; "
                    "--html shows all"
                )
            if self._montage.cut:
                self._console.note(f"the montage shows the first {MONTAGE_HITS} hits of a query; --html shows all")
        if self._path is not None:
            size = self._path.stat().st_size
            if size > _LARGE:
                self._console.note(
                    f"{self._path} has {size / 2**20:.0f} MiB, which browsers take long to show; fewer hits (-k) make "
                    "it smaller"
                )
            if self._open:
                self._open_page(self._path)

    def _open_page(self, path: Path) -> None:
        opened = False
        if _browser_at_hand():
            with contextlib.suppress(webbrowser.Error):
                opened = webbrowser.open(path.absolute().as_uri())
        self._console.note(f"{path}: opened in the browser" if opened else f"{path}: no browser here could open it")

    def _abandon(self) -> None:
        """Drop the page where the command did not come to its end."""
        self._files.__exit__(GeneratorExit, GeneratorExit(), None)
        if self._temporary is not None:
            with contextlib.suppress(OSError):  # the page is in it
                self._temporary.rmdir()


def _browser_at_hand() -> bool:
    """Return whether a browser could show itself: one in the terminal would get in the way of what is printed."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))
