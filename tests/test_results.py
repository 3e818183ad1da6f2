"""The record of a hit survives its text forms."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrank.errors import RecordError
from imgrank.results import Hit, Ranking, encode_hits, from_trec_id, read_hits, read_rankings, trec_id, tsv_header

floats32 = st.floats(-1, 1, width=32)
names = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name)


@given(query=names, path=names, score=floats32, similarity=floats32)
def test_json_lines_come_back_bit_for_bit(query: bytes, path: bytes, score: float, similarity: float) -> None:
    hit = Hit(query, 1, 7, path, score, similarity)
    line = encode_hits(Ranking(query, (hit,)), "jsonl")
    assert line.count(b"\n") == 1
    (ranking,) = read_rankings(io.BytesIO(line))
    (read,) = ranking.hits
    assert (read.query, read.path, read.id, read.rank) == (query, path, 7, 1)
    assert np.float32(read.similarity).tobytes() == np.float32(similarity).tobytes()
    assert np.float32(read.score).tobytes() == np.float32(score).tobytes()


@given(names)
def test_trec_ids_have_no_white_space_and_come_back(name: bytes) -> None:
    text = trec_id(name)
    assert text.split() == [text]
    assert text.isascii()
    assert from_trec_id(text) == name


def test_a_plain_name_stays_as_it_is_in_trec() -> None:
    assert trec_id(b"photos/a-1_(2).jpg") == "photos/a-1_(2).jpg"


def test_fields_stand_in_the_documented_order() -> None:
    hit = Hit(b"q", 1, 2, b"p", 0.5, 0.25, "mllm", 0.75, 1.5, 0.625, 0.5, b"b")
    assert list(json.loads(hit.to_json())) == [
        "schema_version", "query", "rank", "id", "path", "score", "similarity", "scorer", "probability", "logit",
        "calibrated", "disagreement", "bundle",
    ]  # fmt: skip
    assert list(json.loads(Hit(b"q", 1, 2, b"p", 0.5, 0.25).to_json()))[-1] == "similarity"


@given(names)
def test_the_bundle_of_a_hit_comes_back_and_stands_last(bundle: bytes) -> None:
    ranking = Ranking(b"q", (Hit(b"q", 1, 2, b"p", 0.5, 0.25, bundle=bundle),))
    line = encode_hits(ranking, "jsonl")
    assert list(json.loads(line))[-1] == "bundle"
    assert list(read_rankings(io.BytesIO(line))) == [ranking]
    fields = encode_hits(ranking, "tsv").split(b"\t")
    assert len(fields) == len(tsv_header(bundles=True).split(b"\t"))
    assert encode_hits(ranking, "trec") == b"q Q0 p 1 0.5 imgrank\n"


def test_tsv_escapes_what_would_break_a_line() -> None:
    hit = Hit(b"a\tb", 1, 2, b"c\nd\\e", 0.5, 0.25)
    assert encode_hits(Ranking(b"a\tb", (hit,)), "tsv") == b"a\\tb\t1\t2\tc\\nd\\\\e\t0.5\t0.25\t\t\t\t\n"


def test_paths_with_nul_keep_a_newline_in_a_name() -> None:
    hits = (Hit(b"q", 1, 2, b"a\nb", 1, 1), Hit(b"q", 2, 3, b"c", 1, 1))
    assert encode_hits(Ranking(b"q", hits), "paths", nul=True) == b"a\nb\0c\0"


def test_a_trec_run_is_read() -> None:
    run = b"my%20query.jpg Q0 photos/a.jpg 2 0.25 tag\nmy%20query.jpg Q0 photos/b.jpg 1 0.5 tag\nother Q0 c 1 1 tag\n"
    first, second = read_rankings(io.BytesIO(run))
    assert first.query == b"my query.jpg"
    assert [(hit.path, hit.rank, hit.similarity) for hit in first.hits] == [
        (b"photos/b.jpg", 1, 0.5),
        (b"photos/a.jpg", 2, 0.25),
    ]
    assert second.query == b"other"


def test_each_query_is_given_as_soon_as_its_lines_end() -> None:
    lines = encode_hits(Ranking(b"a", (Hit(b"a", 1, 1, b"x", 1, 1),)), "jsonl")
    lines += encode_hits(Ranking(b"b", (Hit(b"b", 1, 1, b"x", 1, 1),)), "jsonl") + b"{broken"
    rankings = read_rankings(io.BytesIO(lines))
    assert next(rankings).query == b"a"
    with pytest.raises(RecordError, match="line 3: not JSON"):
        next(rankings)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{}", "schema_version None"),
        (b'{"schema_version": 99}', "reads up to 1"),
        (b'{"schema_version": 1, "query": 3}', "query is 3"),
        (b'{"schema_version": 1, "query": "\\ud800"}', "no file can be called"),
        (
            b'{"schema_version": 1, "query": "q", "rank": 1, "id": 2, "path": "p", "score": 1, "similarity": 1, '
            b'"bundle": null}',
            "bundle is None",
        ),
        (b"[1]", "neither JSON nor a TREC run"),
        (b"q Q0 d first 1.0 tag", "not a number"),
        (b"{" + b" " * 2**20 + b"}", "longer than"),
    ],
)
def test_what_is_no_record_is_refused_with_its_line(line: bytes, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        list(read_rankings(io.BytesIO(line + b"\n")))


def test_a_query_that_comes_back_is_refused() -> None:
    lines = b"".join(encode_hits(Ranking(q, (Hit(q, 1, 1, b"x", 1, 1),)), "jsonl") for q in (b"a", b"b", b"a"))
    with pytest.raises(RecordError, match="comes back"):
        list(read_rankings(io.BytesIO(lines)))


@given(floats32.filter(lambda value: value >= 0))
def test_what_a_calibration_said_survives_and_is_not_taken_over(probability: float) -> None:
    hit = Hit(b"q", 1, 2, b"p", 0.5, 0.25, "geometric", calibrated=probability)
    line = encode_hits(Ranking(b"q", (hit,)), "jsonl")
    (read,) = read_hits(io.BytesIO(line))
    assert np.float32(read.calibrated).tobytes() == np.float32(probability).tobytes()
    (ranking,) = read_rankings(io.BytesIO(line))
    assert ranking.hits[0].calibrated is None
    fields = encode_hits(Ranking(b"q", (hit,)), "tsv").rstrip(b"\n").split(b"\t")
    assert (
        np.float32(dict(zip(tsv_header(bundles=False).split(), fields, strict=True))[b"calibrated"]) == read.calibrated
    )
