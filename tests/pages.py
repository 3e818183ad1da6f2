"""Pages: names that try to break them, a parser, and a browser where there is one."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from imgrank.config import ThumbnailSettings
from imgrank.images.scan import display
from imgrank.images.thumbnails import make_thumbnail
from imgrank.report.shown import Picture

NAMES = [b"<script>alert(1)</script>.jpg", b"\"><img src=x onerror='alert(1)'>.jpg", b"caf\xe9\n.jpg", b"a&amp;b.jpg"]
RED, GREEN = (200, 0, 0), (0, 150, 0)


def picture(name: bytes, colour: tuple[int, int, int] = RED) -> Picture:
    pixels = np.full((30, 40, 3), colour, np.uint8)
    return Picture(display(name), make_thumbnail(pixels, ThumbnailSettings()))


class Parsed(HTMLParser):
    """Elements with their attributes, texts, and whether they are balanced."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.texts, self.open, self.wrong = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def chromium(path: Path, *options: str) -> None:
    home = path.parent / "profile"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={home}"]
    subprocess.run([*command, *options, path.as_uri()], check=True, capture_output=True, timeout=120)
