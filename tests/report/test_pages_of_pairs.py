"""The pages of pairs and of queries that moved: order, frames, and that no name can change them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrank.images.scan import display
from imgrank.report.moved_page import Mean, Moved, MovedPage, Placed, Side
from imgrank.report.pairs_page import Block, Pair, write_pairs_page
from imgrank.report.shown import Picture
from tests.pages import CHROMIUM, GREEN, NAMES, RED, Parsed, chromium, picture

BLUE = (0, 60, 200)


def moved_page(*queries: bytes) -> str:
    stream = io.StringIO()
    page = MovedPage(stream, ("<b>a</b>.jsonl", "b.jsonl"))
    page.task("<i>hard", 7, [Mean("AP", 0.25, 0.75, 0.1, 0.9, 0.0312), Mean("P@1", 0.5, 0.25, -0.5, 0.1, 0.25)])
    for query in queries:
        first = [
            Placed(picture(NAMES[0], GREEN), 1, "wrong", 0.5),
            Placed(picture(NAMES[1], GREEN), None, "junk", 0.4),
            Placed(picture(NAMES[2], GREEN), None, "the query", 0.4),
            Placed(picture(NAMES[3], GREEN), 2, "right", 0.25),
        ]
        sides = (Side(0.25, first, (2, 40), 3), Side(0.75, [], (), 5))
        page.add(Moved(display(query), [picture(query)], sides))
    page.nothing()
    page.finish()
    return stream.getvalue()


def pair(photo: bytes, change: float, right: bool, better: bool) -> Pair:
    facts = [("similarity", "0.5"), ("<b>", "&amp;")]
    return Pair(picture(b"q<i>.jpg", BLUE), picture(photo, GREEN), right, (None, 3), change, better, facts)


def pairs_page(*blocks: Block) -> str:
    stream = io.StringIO()
    write_pairs_page(stream, "a <b> → b", ["AP <0.1>."], blocks)
    return stream.getvalue()


def all_pairs() -> str:
    return pairs_page(
        Block("Right", "About & more.", [pair(name, 0.5, True, True) for name in NAMES]),
        Block("Wrong", "", [pair(name, 0.25, False, False) for name in NAMES]),
        Block("None", "", []),
    )


@pytest.mark.parametrize("text", [moved_page(*NAMES), all_pairs()])
def test_names_cannot_change_the_page(text):
    parsed = Parsed(text)
    assert (parsed.open, parsed.wrong) == ([], [])
    allowed = {
        *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer", "nav", "b"),
        *("h1", "h2", "h3", "p", "div", "figure", "figcaption", "img", "ol", "li", "dl", "dt", "dd", "span", "a"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert {tag for tag, _ in parsed.elements} <= allowed
    assert not any(name.startswith("on") or name == "style" for _, attrs in parsed.elements for name in attrs)
    assert all(image["src"].startswith("data:image/jpeg;base64,") and image["alt"] for image in parsed.all("img"))
    assert any("http-equiv" in meta and "default-src 'none'" in meta["content"] for meta in parsed.all("meta"))
    for name in NAMES:
        assert display(name) in parsed.texts
    targets = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(targets)) == len(targets)
    assert {link["href"][1:] for link in parsed.all("a")} <= set(targets)
    assert {attributes["aria-labelledby"] for attributes in parsed.all("section") if attributes} <= set(targets)


def test_photos_say_what_they_are():
    parsed = Parsed(moved_page(b"q.jpg"))
    assert [item["class"] for item in parsed.all("li") if "class" in item] == ["wrong", "left-out", "left-out", "right"]
    assert [image["alt"].split(":")[0] for image in parsed.all("img")] == [
        *("Query", "Rank 1, wrong", "Not ranked, junk", "Not ranked, the query", "Rank 2, right")
    ]
    text = "".join(parsed.texts)
    for said in (
        *("AP 0.2500; right at ranks 2, 40; 3 not found", "AP 0.7500; no right photo found"),
        *("AP 0.2500 → 0.7500 +0.5000", "This run has no photo for it.", "No query moved.", "<b>a</b>.jsonl → b.jsonl"),
    ):
        assert said in text
    cells = [data for data in parsed.texts if data in ("0.2500", "+0.5000", "-0.2500", "[+0.1000, +0.9000]", "0.0312")]
    assert cells[:4] == ["0.2500", "+0.5000", "[+0.1000, +0.9000]", "0.0312"]
    assert [attrs["class"] for attrs in parsed.all("span") if attrs.get("class") in ("up", "down")] == [
        "up",
        "down",
        "up",
    ]


def test_pairs_stand_in_their_lists():
    parsed = Parsed(all_pairs())
    assert [item["class"] for item in parsed.all("li")] == ["right"] * 4 + ["wrong"] * 4
    assert [image["alt"] for image in parsed.all("img")][:2] == ["Query: q<i>.jpg", f"Right photo: {display(NAMES[0])}"]
    text = "".join(parsed.texts)
    for said in ("4 pairs. About & more.", "No pair.", "not found → 3", "+0.500", "&amp;", "AP <0.1>."):
        assert said in text
    scores = [attrs["class"] for attrs in parsed.all("span") if attrs.get("class", "").startswith("score")]
    assert scores == ["score up"] * 4 + ["score down"] * 4


def test_a_photo_that_cannot_be_shown_leaves_its_name_and_why():
    gone = Pair(Picture("q.jpg", None, "missing"), Picture("<b>.jpg", None, "truncated"), True, (1, 2), -0.5, False, [])
    parsed = Parsed(pairs_page(Block("Right", "", [gone])))
    assert not parsed.all("img")
    assert "<b>.jpg: no picture (truncated)" in parsed.texts
    assert "q.jpg: no picture (missing)" in parsed.texts


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to open the page in")
def test_a_browser_shows_the_pictures_at_every_width(tmp_path: Path):
    for name, text, queries in (("moved", moved_page(b"q.jpg"), RED), ("pairs", all_pairs(), BLUE)):
        path = tmp_path / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        for width in (1280, 390) if name == "pairs" else (390,):
            chromium(path, f"--window-size={width},1200", f"--screenshot={tmp_path}/{name}.png")
            pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
            query, found = (np.abs(pixels - colour).max(axis=2) < 12 for colour in (queries, GREEN))
            assert query.sum() > 5000
            assert found.sum() > 4000
            assert not (query | found)[:, -8:].any()  # nothing runs out of the page
