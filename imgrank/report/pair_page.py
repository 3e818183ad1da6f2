"""A page of its own about one pair: the picture inside it, and the numbers as a table.

Knows text and pictures. Everything that may come from a file name is escaped; the page has no script.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

_STYLE = (
    "body{font:16px/1.45 system-ui,sans-serif;color:#1e1e1e;background:#fafaf8;margin:20px}"
    "h1{font-size:22px}img{max-width:100%;height:auto}"
    "th{text-align:left;font-weight:normal;color:#6e6e6e;padding-right:2em;vertical-align:top}"
    "td{overflow-wrap:anywhere}"
)


def pair_page(
    picture: Image.Image, *, title: str, numbers: Sequence[tuple[str, str]], notes: Sequence[str] = ()
) -> bytes:
    """Return an HTML document, UTF-8.

    Args:
        picture: of the pair.
        title: of the page.
        numbers: names and values.
        notes: what else is to be known.
    """
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    source = "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
    rows = "\n".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in numbers)
    paragraphs = "".join(f"<p>{escape(note)}</p>\n" for note in notes)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f'<img src="{source}" width="{picture.width}" height="{picture.height}" '
        f'alt="both photos with what matches">\n{paragraphs}<table>\n{rows}\n</table>\n</body>\n</html>\n'
    )
    return page.encode("utf-8")
