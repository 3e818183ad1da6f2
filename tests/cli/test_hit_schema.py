"""docs/hit.schema.json is true of what search and rerank print, and names every field of a hit."""

import ast
import inspect
import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest

from imgrank.results import SCHEMA_VERSION, Hit

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "hit.schema.json").read_text())
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
ANNOTATIONS = {"$schema", "title", "description"}


def problems(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """What a value breaks of a schema, for the keywords that ours uses; another keyword is an error of this test."""
    found = []
    for keyword, wanted in schema.items():
        if keyword == "type":
            fits = isinstance(value, TYPES[wanted]) and (wanted == "boolean" or not isinstance(value, bool))
        elif keyword == "required":
            fits = all(name in value for name in wanted)
        elif keyword == "const":
            fits = value == wanted
        elif keyword == "enum":
            fits = value in wanted
        elif keyword == "minimum":
            fits = not isinstance(value, int | float) or value >= wanted
        elif keyword == "maximum":
            fits = not isinstance(value, int | float) or value <= wanted
        elif keyword == "items":
            found += [one for item in value for one in problems(item, wanted, f"{where}[]")]
            continue
        elif keyword == "properties":
            found += [
                p for name in wanted if name in value for p in problems(value[name], wanted[name], f"{where}/{name}")
            ]
            continue
        else:
            assert keyword in ANNOTATIONS or (keyword, wanted) == ("additionalProperties", True), keyword
            continue
        if not fits:
            found.append(f"{where}: {value!r} breaks {keyword} {wanted!r}")
    return found


def good() -> dict[str, Any]:
    seen = {"scorer": "mllm", "probability": 0.25, "logit": -1.0, "calibrated": 0.75, "disagreement": 0.5}
    joined = {"bundle": b"db.h5", "photos": (b"q.jpg", b"r.jpg"), "fuse": "max", "collapsed": (b"copy.jpg",)}
    return Hit(b"q.jpg", 1, 7, b"p.jpg", 0.5, 0.5, **seen, **joined).to_dict()


def test_every_field_of_a_hit_stands_in_the_schema() -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(Hit.to_dict)))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {text for text in texts if text.replace("_", "").isalpha() and text.islower()}
    assert names >= {"schema_version", "query", "bundle", "disagreement"}  # the look at the source found them
    assert names <= set(SCHEMA["properties"])
    assert SCHEMA["properties"]["schema_version"]["const"] == SCHEMA_VERSION


def test_the_schema_knows_good_from_bad() -> None:
    assert problems(good(), SCHEMA) == []
    assert problems(good() | {"added_later": [1]}, SCHEMA) == []
    for name, wrong in {
        "schema_version": 2, "rank": 0, "id": "7", "score": "0.5", "similarity": None, "probability": 1.5,
        "scorer": "me", "path": 3, "disagreement": -1, "calibrated": 2, "photos": [1],
        "fuse": "sum", "collapsed": "copy.jpg",
    }.items():  # fmt: skip
        assert len(problems(good() | {name: wrong}, SCHEMA)) == 1, name
    for name in SCHEMA["required"]:
        assert problems({key: value for key, value in good().items() if key != name}, SCHEMA) != []


@pytest.mark.parametrize(
    "arguments",
    [
        ["-k", "4"],
        ["-k", "6", "--rerank", "3"],
        ["-k", "3", "--rerank", "2", "--scorer", "maxsim", "--with", "other.h5"],
        ["-k", "2", "--rerank", "1", "--mllm", "builtin", "--symmetric"],
    ],
)
def test_what_is_printed_is_valid(imgrank, collection: Path, arguments: list[str]) -> None:
    shutil.copy(collection / "db.h5", collection / "other.h5")
    searched = imgrank("search", "db.h5", "queries/query-00.jpg", *arguments, "-q", cwd=collection)
    assert searched.returncode == 0, searched.stderr
    lines = [json.loads(line) for line in searched.stdout.splitlines()]
    assert [problem for line in lines for problem in problems(line, SCHEMA)] == []
    fields = set().union(*lines)
    assert fields <= set(SCHEMA["properties"])
    assert ("scorer" in fields, "bundle" in fields) == ("--rerank" in arguments, "--with" in arguments)
    if "builtin" in arguments:
        assert {"probability", "logit", "disagreement"} <= fields


def test_what_rerank_prints_is_valid(imgrank, collection: Path) -> None:
    run = b"queries/query-00.jpg Q0 photos/object-00-view-1.jpg 1 0.5 tag\n"
    done = imgrank("rerank", "db.h5", "-q", cwd=collection, input=run)
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert problems(line, SCHEMA) == []
