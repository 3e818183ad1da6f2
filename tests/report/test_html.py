"""The page of hits: what it says, that no name can change it, and what a browser makes of it."""

import base64
import hashlib
import io
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrank.images.scan import display
from imgrank.report.html import Page
from imgrank.report.shown import Picture, Shown
from imgrank.results import Hit, Ranking
from tests.pages import CHROMIUM, GREEN, NAMES, RED, Parsed, chromium, picture


def hit(rank: int, name: bytes, **more) -> Hit:
    return Hit(b"q.jpg", rank, 7 * rank, name, 0.5, 0.25, **more)


def page_of(*shown: Shown) -> str:
    stream = io.StringIO()
    page = Page(stream, "db.h5")
    for one in shown:
        page.add(one)
    page.finish()
    return stream.getvalue()


def shown(*hits: Hit, query: bytes = b"q.jpg") -> Shown:
    return Shown(Ranking(query, hits), [picture(query)], [picture(one.path, GREEN) for one in hits])


def test_names_cannot_change_the_page():
    parsed = Parsed(page_of(*(shown(*(hit(n, name) for n, name in enumerate(NAMES, 1)), query=name) for name in NAMES)))
    assert (parsed.open, parsed.wrong) == ([], [])
    allowed = {
        *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer", "nav"),
        *("h1", "h2", "p", "div", "figure", "figcaption", "img", "ol", "li", "dl", "dt", "dd", "span", "a"),
    }
    assert {tag for tag, _ in parsed.elements} == allowed
    assert len(parsed.all("img")) == 4 * 5
    assert not any(name.startswith("on") or name == "style" for _, attrs in parsed.elements for name in attrs)
    for name in NAMES:
        assert display(name) in parsed.texts
        assert any(image["alt"] == f"Hit 1: {display(NAMES[0])}" for image in parsed.all("img"))
    assert r"caf\xe9\n.jpg" in parsed.texts


def test_it_loads_nothing_from_elsewhere_and_says_so_to_the_browser():
    text = page_of(shown(hit(1, b"a.jpg")))
    parsed = Parsed(text)
    assert parsed.all("meta")[0] == {"charset": "utf-8"}
    (policy,) = [meta["content"] for meta in parsed.all("meta") if "http-equiv" in meta]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in parsed.all("img"))
    assert {link["href"] for link in parsed.all("a")} == {"#queries", "#q1"}
    without_pictures = re.sub(r'src="data:[^"]*"', "", text)
    assert "://" not in without_pictures
    assert "url(" not in without_pictures
    assert "@import" not in without_pictures


def test_each_link_has_its_target_and_each_picture_its_size_and_alt():
    parsed = Parsed(page_of(shown(hit(1, b"a.jpg")), shown(hit(1, b"b.jpg"), hit(2, b"c.jpg"), query=b"r.jpg")))
    targets = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(targets)) == len(targets)
    assert {link["href"][1:] for link in parsed.all("a")} <= set(targets)
    images = parsed.all("img")
    assert [image["alt"] for image in images] == [
        *("Query: q.jpg", "Hit 1: a.jpg", "Query: r.jpg", "Hit 1: b.jpg", "Hit 2: c.jpg")
    ]
    assert {(image["width"], image["height"]) for image in images} == {("40", "30")}
    assert "2 queries, 3 hits" in parsed.texts


def facts(text: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))


def test_a_hit_says_what_is_known_of_it():
    scores = {"probability": 0.75, "calibrated": 0.5, "logit": 1.0986}
    judged = hit(2, b"a.jpg", scorer="mllm", former_rank=5, collapsed=(b"b.jpg",), **scores)
    text = page_of(shown(judged))
    assert facts(text) == {
        "similarity": "0.2500",
        "probability": "0.7500",
        "calibrated": "0.5000",
        "logit": "1.10",
        "scorer": "mllm",
        "rank before": "5",
        "copies": "1",
        "id": "14",
    }
    assert ">▲ 3</span>" in text
    assert '<li value="2">' in text
    assert ">▼ 1</span>" in page_of(shown(replace(judged, former_rank=1)))
    assert 'class="move' not in page_of(shown(replace(judged, former_rank=2)))
    assert facts(page_of(shown(hit(1, b"a.jpg")))) == {"similarity": "0.2500", "id": "7"}


def test_a_photo_that_is_gone_leaves_its_name_and_why():
    gone = Shown(Ranking(b"q.jpg", (hit(1, b"<b>.jpg"),)), [picture(b"q.jpg")], [Picture("<b>.jpg", None, "missing")])
    parsed = Parsed(page_of(gone))
    assert len(parsed.all("img")) == 1
    assert "<b>.jpg: no picture (missing)" in parsed.texts


def test_a_query_without_hits_and_a_part_of_a_photo():
    none = Shown(Ranking(b"q.jpg", ()), [picture(b"q.jpg"), picture(b"q.jpg#xywh=1,2,3,4")], [])
    parsed = Parsed(page_of(none))
    assert "No hits" in parsed.texts
    assert [image["alt"] for image in parsed.all("img")] == ["Query: q.jpg", "Query: q.jpg#xywh=1,2,3,4"]


def test_queries_are_written_as_they_come():
    stream = io.StringIO()
    page = Page(stream, "db.h5")
    page.add(shown(hit(1, b"first.jpg")))
    assert "first.jpg" in stream.getvalue()
    before = len(stream.getvalue())
    page.add(shown(hit(1, b"second.jpg")))
    assert "second.jpg" in stream.getvalue()[before:]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to open the page in")
def test_a_browser_shows_the_pictures_at_every_width(tmp_path: Path):
    path = tmp_path / "page.html"
    path.write_text(page_of(shown(*(hit(n, NAMES[n % 4]) for n in range(1, 9)))), encoding="utf-8")
    for width in (1280, 390):  # of a desktop, and of a phone
        chromium(path, f"--window-size={width},1400", f"--screenshot={tmp_path}/{width}.png")
        pixels = np.asarray(Image.open(tmp_path / f"{width}.png").convert("RGB")).astype(int)
        query, found = (np.abs(pixels - colour).max(axis=2) < 12 for colour in (RED, GREEN))
        assert query.sum() > 5000
        assert found.sum() > 20000
        assert not (query | found)[:, -8:].any()  # nothing runs out of the page
    rows = np.flatnonzero(found.any(axis=1))
    columns = np.flatnonzero(np.diff(np.r_[0, found[rows[0] + 2].astype(int), 0]) == 1)
    assert len(columns) == 2  # two pictures beside each other where it is narrow
    chromium(path, f"--print-to-pdf={tmp_path}/page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to open the page in")
def test_a_script_in_the_page_would_not_run(tmp_path: Path):
    text = page_of(shown(hit(1, b"a.jpg"))).replace("<main>", "<main><script>document.title = 'ran'</script>")
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/p", "--dump-dom"]
    run = subprocess.run([*command, path.as_uri()], check=True, capture_output=True, timeout=120)
    assert b"<title>db.h5: hits</title>" in run.stdout
