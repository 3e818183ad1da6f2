"""The cache of pair scores: the bits that were put, several processes at once, and no trouble for a search."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.errors import InputError
from imgrank.rerank import score_cache
from imgrank.rerank.score_cache import APPLICATION_ID, SCHEMA_VERSION, ScoreCache, default_path, fingerprint

MODEL = fingerprint(model="m")
QUERY = b"q" * 16


def image(number: int) -> bytes:
    return number.to_bytes(16, "big", signed=False) if number else b"\xff" * 16


def images(count: int, start: int = 0) -> list[bytes]:
    return [image(start + number) for number in range(count)]


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def unexpected(message: str) -> None:
    pytest.fail(message)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "scores.sqlite"


@pytest.fixture
def cache(path: Path):
    with ScoreCache(path, on_trouble=unexpected) as opened:
        yield opened


def known(cache: ScoreCache, *, count: int, query: bytes = QUERY) -> int:
    return int(np.isfinite(cache.get(MODEL, query, images(count))).sum())


# What comes back


@settings(max_examples=20, deadline=None)
@given(
    values=st.lists(
        st.floats(width=32) | st.sampled_from([-0.0, 1e-45, -1e-45, 3.4028234663852886e38, 5e-324]), max_size=20
    )
)
def test_the_bits_that_were_put_come_back_and_nothing_that_is_no_number(tmp_path_factory, values) -> None:
    logits = np.array(values, dtype=np.float32)
    file = tmp_path_factory.mktemp("bits") / "scores.sqlite"
    with ScoreCache(file, on_trouble=unexpected) as cache:
        cache.put(MODEL, QUERY, images(len(values)), logits)
    with ScoreCache(file, on_trouble=unexpected) as cache:
        found = cache.get(MODEL, QUERY, images(len(values)))
    assert found.dtype == np.float32
    finite = np.isfinite(logits)
    np.testing.assert_array_equal(found[finite].view(np.int32), logits[finite].view(np.int32))
    assert np.isnan(found[~finite]).all()


def test_only_the_same_model_query_and_image_is_known(cache: ScoreCache) -> None:
    cache.put(MODEL, QUERY, [image(1), image(2)], floats(0.5, -3.0))
    np.testing.assert_array_equal(
        cache.get(MODEL, QUERY, [image(3), image(2), image(1), image(2)]), floats(np.nan, -3.0, 0.5, -3.0)
    )
    assert np.isnan(cache.get(fingerprint(model="n"), QUERY, [image(1)])).all()
    assert np.isnan(cache.get(MODEL, b"r" * 16, [image(1)])).all()
    assert np.isnan(cache.get(MODEL, image(1), [QUERY])).all()  # the pair the other way round is another pair
    assert np.isnan(cache.get(QUERY, MODEL, [image(1)])).all()


def test_the_last_number_counts(cache: ScoreCache) -> None:
    cache.put(MODEL, QUERY, [image(1)], floats(1.0))
    cache.put(MODEL, QUERY, [image(1)], floats(2.0))
    assert cache.get(MODEL, QUERY, [image(1)]).tolist() == [2.0]
    cache.put(MODEL, QUERY, [image(1), image(1)], floats(3.0, np.nan))
    assert cache.get(MODEL, QUERY, [image(1)]).tolist() == [3.0]


def test_nothing_is_asked_and_much_is_asked(cache: ScoreCache) -> None:
    assert cache.get(MODEL, QUERY, []).shape == (0,)
    cache.put(MODEL, QUERY, [], floats())
    many = images(10_000)
    logits = np.arange(10_000, dtype=np.float32)
    cache.put(MODEL, QUERY, many[::2], logits[::2])
    found = cache.get(MODEL, QUERY, many)
    np.testing.assert_array_equal(found[::2], logits[::2])
    assert np.isnan(found[1::2]).all()


def test_photos_without_a_digest_are_never_known(cache: ScoreCache) -> None:
    nothing = bytes(16)
    cache.put(MODEL, QUERY, [nothing, image(1)], floats(1.0, 2.0))
    cache.put(MODEL, nothing, [image(1)], floats(3.0))
    found = cache.get(MODEL, QUERY, [nothing, image(1)])
    assert np.isnan(found[0])
    assert found[1] == 2.0
    assert np.isnan(cache.get(MODEL, nothing, [image(1)])).all()


def test_digests_and_numbers_must_fit(cache: ScoreCache) -> None:
    for wrong in ((b"", QUERY, image(1)), (MODEL, b"q", image(1)), (MODEL, QUERY, b"i" * 15)):
        with pytest.raises(InputError, match="16 bytes"):
            cache.get(wrong[0], wrong[1], [wrong[2]])
    with pytest.raises(InputError, match="2 images"):
        cache.put(MODEL, QUERY, images(2), floats(1.0))


def test_pairs_of_a_query_lie_together_and_are_told_apart() -> None:
    keys = score_cache._pair_keys(MODEL, QUERY, images(5000))
    assert len(set(keys)) == 5000
    assert len({key[:4] for key in keys}) == 1
    others = {score_cache._pair_keys(MODEL, image(number), [image(1)])[0][:4] for number in range(100)}
    assert len(others) == 100


def test_fingerprints_change_with_every_part_and_not_with_their_order() -> None:
    parts = {"model": "m", "ids": [1, 2], "settings": {"b": 1, "a": None}}
    same = {"settings": {"a": None, "b": 1}, "ids": (1, 2), "model": "m"}
    assert fingerprint(**parts) == fingerprint(**same)
    assert len(fingerprint()) == 16
    changed = [{"model": "é"}, {"ids": [2, 1]}, {"ids": [12]}, {"settings": {"b": 1}}, {"more": None}]
    assert len({fingerprint(**{**parts, **change}) for change in [{}, *changed]}) == 6
    for wrong in (float("nan"), b"bytes", object()):
        with pytest.raises((TypeError, ValueError)):
            fingerprint(part=wrong)


def test_fingerprints_stay_the_same_between_releases() -> None:
    # Else every user's scores are lost. printf '{"ids":[1,2],"model":"m"}' | b2sum -l 128
    assert fingerprint(model="m", ids=[1, 2]).hex() == "6d661038b77c6d560d00f77ebffcd146"


# Where it lies


def test_the_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert default_path() == Path("/home/u/.cache/imgrank/pair-scores.sqlite")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_path() == Path("/home/u/.cache/imgrank/pair-scores.sqlite")
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_path() == Path("/home/u/Library/Caches/imgrank/pair-scores.sqlite")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_path() == Path("/elsewhere/imgrank/pair-scores.sqlite")


def test_a_user_without_a_home_gets_a_path_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(score_cache.Path, "home", no_home)
    assert default_path().is_absolute()


def test_only_the_user_can_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        with ScoreCache(path, on_trouble=unexpected) as cache:
            cache.put(MODEL, QUERY, images(1), floats(1.0))
            files = sorted(path.parent.iterdir())
            assert path in files
            assert len(files) > 1  # the log, too
            assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
            assert path.parent.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_no_digest_is_in_the_file(path: Path) -> None:
    query, photo = os.urandom(16), os.urandom(16)
    with ScoreCache(path, on_trouble=unexpected) as cache:
        cache.put(MODEL, query, [photo], floats(1.0))
    content = path.read_bytes()
    assert not any(part in content for part in (query, photo, MODEL))


def test_names_that_are_not_text(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff ?#%.sqlite"))
    with ScoreCache(odd, on_trouble=unexpected) as cache:
        cache.put(MODEL, QUERY, images(1), floats(1.0))
    with ScoreCache(odd, on_trouble=unexpected) as cache:
        assert known(cache, count=1) == 1


# Its size


def test_it_stays_within_its_size_and_keeps_what_is_used(path: Path) -> None:
    limit, batch = 400_000, 200
    favourite = b"f" * 16
    with ScoreCache(path, limit_bytes=limit, on_trouble=unexpected) as cache:
        cache.put(MODEL, favourite, images(batch), np.arange(batch, dtype=np.float32))
        for number in range(1, 201):  # 40,000 rows of 33 bytes or so: three times the limit
            cache.put(MODEL, image(number), images(batch), np.full(batch, number, np.float32))
            if number % 10 == 0:
                np.testing.assert_array_equal(cache.get(MODEL, favourite, images(batch)), np.arange(batch))
    assert path.stat().st_size < 1.1 * limit
    with ScoreCache(path, on_trouble=unexpected) as cache:  # with a limit that leaves all where it is
        kept = [known(cache, count=batch, query=image(number)) for number in range(1, 201)]
    assert set(kept) == {0, batch}
    first = kept.index(batch)
    assert all(kept[first:])  # what went is what was put first
    assert 200 - first > 30  # and not more than it takes: half of the limit holds some 6,000 rows


def test_what_was_used_last_outlives_what_was_put_later(path: Path) -> None:
    # Two generations of at most 6 pages; 1,000 rows take 7 or more, so each put turns them.
    with ScoreCache(path, limit_bytes=12 * 4096, on_trouble=unexpected) as cache:
        for query in (b"1", b"2"):
            cache.put(MODEL, query * 16, images(1000), floats(*range(1000)))
        assert known(cache, count=1000, query=b"1" * 16) == 0  # dropped with its generation
        assert known(cache, count=10, query=b"2" * 16) == 10  # in the old one, and taken over
        cache.put(MODEL, b"3" * 16, images(1000), floats(*range(1000)))
        assert known(cache, count=1000, query=b"2" * 16) == 10
        found = cache.get(MODEL, b"2" * 16, images(10))
        np.testing.assert_array_equal(found, np.arange(10))


def test_a_smaller_limit_takes_hold_after_two_turns(path: Path) -> None:
    with ScoreCache(path, on_trouble=unexpected) as cache:
        cache.put(MODEL, QUERY, images(20_000), np.zeros(20_000, np.float32))
    with ScoreCache(path, limit_bytes=200_000, on_trouble=unexpected) as cache:
        for number in range(1, 41):
            cache.put(MODEL, image(number), images(200), np.zeros(200, np.float32))
        assert known(cache, count=20_000) == 0
        assert known(cache, count=200, query=image(40)) == 200
        assert cache._connection is not None
        assert score_cache._pages_in_use(cache._connection) * 4096 < 250_000


# Threads and processes


def test_threads_may_share_it(cache: ScoreCache) -> None:
    def work(number: int) -> None:
        for start in range(0, 100, 10):
            cache.put(MODEL, image(number), images(10, start), np.full(10, number, np.float32))
            cache.get(MODEL, image(number), images(100))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(1, 5):
        np.testing.assert_array_equal(cache.get(MODEL, image(number), images(100)), np.full(100, number))


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from imgrank.rerank.score_cache import ScoreCache, fingerprint

path, number, puts, start = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
limit = int(sys.argv[5])
while time.time() < start:
    pass
with ScoreCache(path, limit_bytes=limit, on_trouble=lambda message: sys.exit(message)) as cache:
    for put in range(puts):
        query = (1000 * number + put).to_bytes(16, "big")
        images = [(1 + image).to_bytes(16, "big") for image in range(20)]
        cache.put(fingerprint(model="m"), query, images, np.arange(20, dtype=np.float32) + number + put)
        shared = [(10_000 + 100 * number + put % 100).to_bytes(16, "big")]
        cache.put(fingerprint(model="m"), b"q" * 16, shared, np.full(1, number, np.float32))
        print(put, flush=True)
        found = cache.get(fingerprint(model="m"), query, images)
        # With a small limit, other processes may turn both generations while this one waits for its turn.
        gone = np.isnan(found) if limit < 2**29 else False
        if not ((found == np.arange(20) + number + put) | gone).all():
            sys.exit("not what was put")
"""


def start_writer(path: Path, number: int, puts: int, *, start: float = 0.0, limit: int = 2**29) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, path, str(number), str(puts), str(start), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_all_there(cache: ScoreCache, number: int, puts: int) -> None:
    for put in range(puts):
        found = cache.get(MODEL, (1000 * number + put).to_bytes(16, "big"), images(20, 1))
        np.testing.assert_array_equal(found, np.arange(20) + number + put)


def assert_sound(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_processes_that_make_and_fill_it_together_lose_nothing(path: Path) -> None:
    start = time.time() + 1.5  # together: the first moments, when the file is made, are the delicate ones
    writers = [start_writer(path, number, 60, start=start) for number in range(1, 6)]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert (writer.returncode, errors) == (0, "")
    with ScoreCache(path, on_trouble=unexpected) as cache:
        for number in range(1, 6):
            assert_all_there(cache, number, 60)
            shared = images(60, 10_000 + 100 * number)
            np.testing.assert_array_equal(cache.get(MODEL, QUERY, shared), np.full(60, number))
    assert_sound(path)


def test_processes_may_turn_the_generations_together(path: Path) -> None:
    start = time.time() + 1.5
    writers = [start_writer(path, number, 100, start=start, limit=100_000) for number in range(1, 4)]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert (writer.returncode, errors) == (0, "")  # none found anything but what it had put
    assert path.stat().st_size < 150_000
    assert_sound(path)


@pytest.mark.parametrize("limit", [2**29, 60_000], ids=["", "turning"])
def test_a_kill_loses_nothing_that_was_put(path: Path, limit: int) -> None:
    chance = random.Random(5)
    for number in range(1, 5):
        writer = start_writer(path, number, 1000, limit=limit)
        assert writer.stdout is not None
        for _ in range(chance.randrange(1, 60)):
            last = writer.stdout.readline()
        time.sleep(chance.random() / 200)
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate(timeout=60)
        assert writer.returncode == -signal.SIGKILL
        done = int((rest.split() or [last])[-1]) + 1
        assert done < 1000
        with ScoreCache(path, limit_bytes=limit, on_trouble=unexpected) as cache:
            if limit == 2**29:
                assert_all_there(cache, number, done)
            else:
                found = cache.get(MODEL, (1000 * number + done - 1).to_bytes(16, "big"), images(20, 1))
                np.testing.assert_array_equal(found, np.arange(20) + number + done - 1)
        assert_sound(path)


def test_a_kill_while_it_is_made_leaves_what_the_next_can_use(path: Path) -> None:
    code = f"""
import os, signal, sqlite3
from pathlib import Path
from imgrank.rerank import score_cache
made = score_cache._create
def killed(connection):
    connection.execute("PRAGMA cache_size = 1")  # spill: pages reach the file before the commit
    made(connection)
    connection.execute("CREATE TABLE filler AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                       "WHERE i < 3000) SELECT i, hex(randomblob(50)) FROM n")
    os.kill(os.getpid(), signal.SIGKILL)
score_cache._create = killed
score_cache.ScoreCache(Path({os.fspath(path)!r}), on_trouble=print)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert path.stat().st_size > 0
    with ScoreCache(path, on_trouble=unexpected) as cache:
        cache.put(MODEL, QUERY, images(3), floats(1, 2, 3))
        assert known(cache, count=3) == 3


def test_who_waits_for_another_writer_too_long_gives_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_cache, "WAIT", 0.1)
    told: list[str] = []
    with ScoreCache(path, on_trouble=told.append) as cache:
        cache.put(MODEL, QUERY, images(1), floats(1.0))
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        assert known(cache, count=1) == 1  # a reader waits for nobody
        cache.put(MODEL, QUERY, images(2), floats(1.0, 2.0))
        holder.execute("ROLLBACK")
        holder.close()
    assert len(told) == 1
    assert "locked" in told[0]


# Trouble: told once, and the search goes on


def assert_useless(path: Path, *words: str) -> None:
    told: list[str] = []
    with ScoreCache(path, on_trouble=told.append) as cache:
        cache.put(MODEL, QUERY, images(2), floats(1.0, 2.0))
        assert np.isnan(cache.get(MODEL, QUERY, images(2))).all()
        cache.put(MODEL, QUERY, images(2), floats(1.0, 2.0))
    assert len(told) == 1
    for word in (str(path), "--score-cache PATH|none", *words):
        assert word in told[0]


def foreign_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE scores (pair, bits)")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()


def database_with_an_id(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 1196444487")  # a GeoPackage
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "make",
    [
        foreign_database,
        database_with_an_id,
        lambda path: path.write_bytes(b"hello"),
        lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" * 5000),
        lambda path: path.write_bytes(bytes(8192)),
    ],
    ids=["tables", "id", "short", "photo", "zeros"],
)
def test_what_is_not_ours_is_left_as_it_is(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "x.sqlite"
    make(path)
    before, mode = path.read_bytes(), path.stat().st_mode
    assert_useless(path, "not a score cache of imgrank")
    assert path.read_bytes() == before
    assert path.stat().st_mode == mode
    assert [file.name for file in tmp_path.iterdir()] == ["x.sqlite"]


def filled(path: Path, rows: int = 3000) -> None:
    with ScoreCache(path, on_trouble=unexpected) as cache:
        cache.put(MODEL, QUERY, images(rows), np.zeros(rows, np.float32))


@pytest.mark.parametrize("kept", [600, 4096, 12_288, 50_000])
def test_a_file_cut_short_is_reported_and_left(path: Path, kept: int) -> None:
    filled(path)
    whole = path.read_bytes()
    assert len(whole) > 60_000
    path.write_bytes(whole[:kept])
    assert_useless(path, "damaged", "delete it")
    assert path.read_bytes() == whole[:kept]


def test_damaged_text_that_the_message_quotes(path: Path) -> None:
    filled(path)
    path.write_bytes(path.read_bytes().replace(b"TABLE generation_1", b"TABL\x80 generation_1"))
    assert_useless(path, "damaged", "delete it")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damage_anywhere_fails_no_search(tmp_path_factory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damage") / "x.sqlite"
    filled(path, 300)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 200))
    junk = data.draw(st.binary(min_size=1, max_size=64))
    content[at : at + len(junk)] = junk
    path.write_bytes(content)
    told: list[str] = []
    with ScoreCache(path, on_trouble=told.append) as cache:
        for _ in range(2):
            assert np.isfinite(cache.get(MODEL, QUERY, images(300))).sum() <= 300
            cache.put(MODEL, QUERY, images(300), np.ones(300, np.float32))
    assert len(told) <= 1


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE generation_0",
        "DROP TABLE state",
        "DELETE FROM state",
        "UPDATE state SET young = 7",
        "UPDATE state SET young = 0.5",
        "UPDATE state SET old_pages = 'many'",
        "UPDATE generation_0 SET bits = 5000000000",
        "UPDATE generation_0 SET bits = 'x'",
        "UPDATE generation_0 SET bits = x'00'",
    ],
)
def test_tables_that_make_no_sense_are_reported(path: Path, change: str) -> None:
    filled(path, 2)
    connection = sqlite3.connect(path)
    connection.execute(change)
    connection.commit()
    connection.close()
    told: list[str] = []
    with ScoreCache(path, on_trouble=told.append) as cache:
        assert np.isnan(cache.get(MODEL, QUERY, images(2))).all()
    assert len(told) == 1
    assert "damaged" in told[0]
    assert "delete it" in told[0]


def test_a_number_with_the_bits_of_nan_is_not_known(path: Path) -> None:
    filled(path, 2)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE generation_0 SET bits = 2143289344")  # 0x7fc00000
    connection.commit()
    connection.close()
    with ScoreCache(path, on_trouble=unexpected) as cache:
        assert known(cache, count=2) == 0


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_another_version_of_ours_is_made_anew(path: Path, version: int) -> None:
    filled(path, 2)
    connection = sqlite3.connect(path)
    connection.execute('ALTER TABLE generation_0 RENAME TO "odd "" name"')
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()
    with ScoreCache(path, on_trouble=unexpected) as cache:
        assert known(cache, count=2) == 0
        cache.put(MODEL, QUERY, images(2), floats(1.0, 2.0))
        assert known(cache, count=2) == 2
    connection = sqlite3.connect(path)
    marks = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert marks == [APPLICATION_ID, SCHEMA_VERSION]
    assert tables == {"generation_0", "generation_1", "state"}


def test_an_empty_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    filled(path, 2)
    assert path.stat().st_size > 0


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert_useless(tmp_path / "file" / "below" / "x.sqlite", "cannot be opened")
    (tmp_path / "folder").mkdir()
    assert_useless(tmp_path / "folder", "not a regular file")
    os.mkfifo(tmp_path / "pipe")
    assert_useless(tmp_path / "pipe", "not a regular file")
    (tmp_path / "loop").symlink_to("loop")
    assert_useless(tmp_path / "loop", "cannot be opened")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "shut"
    folder.mkdir(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    assert_useless(folder / "x.sqlite", "Permission denied")


def test_a_database_that_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path, 2)
    connect = sqlite3.connect
    monkeypatch.setattr(
        score_cache.sqlite3, "connect", lambda path, **options: connect(f"{path.as_uri()}?mode=ro", uri=True, **options)
    )
    told: list[str] = []
    with ScoreCache(path, on_trouble=told.append) as cache:
        assert known(cache, count=2) == 2
        cache.put(MODEL, QUERY, images(2), floats(1.0, 2.0))
        assert known(cache, count=2) == 0
    assert len(told) == 1
    assert "readonly" in told[0]


def test_a_full_disk_is_told_once_and_what_was_put_stays(path: Path) -> None:
    code = f"""
import json, resource, signal, sys
from pathlib import Path
import numpy as np
from imgrank.rerank.score_cache import ScoreCache, fingerprint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, {resource.RLIM_INFINITY}))
told = []
put = []
with ScoreCache(Path({os.fspath(path)!r}), on_trouble=told.append) as cache:
    for number in range(1, 200):
        cache.put(fingerprint(model="m"), number.to_bytes(16, "big"), [b"i" * 16] + [
            (image + 1).to_bytes(16, "big") for image in range(100)], np.arange(101, dtype=np.float32))
        if not told:
            put.append(number)
print(json.dumps([told, put]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told, put = json.loads(run.stdout)
    assert len(told) == 1
    assert len(put) > 3
    with ScoreCache(path, on_trouble=unexpected) as cache:
        for number in put:
            np.testing.assert_array_equal(cache.get(MODEL, image(number), images(100, 1)), np.arange(1, 101))
    assert_sound(path)


def test_sqlite_without_room_is_told_once(path: Path) -> None:
    told: list[str] = []
    with ScoreCache(path, on_trouble=told.append) as cache:
        cache.put(MODEL, QUERY, images(2), floats(1.0, 2.0))
        assert cache._connection is not None
        cache._connection.execute("PRAGMA max_page_count = 12")
        cache.put(MODEL, QUERY, images(5000, 10), np.zeros(5000, np.float32))
        cache.put(MODEL, QUERY, images(5000, 10), np.zeros(5000, np.float32))
    assert len(told) == 1
    assert "full" in told[0]
    with ScoreCache(path, on_trouble=unexpected) as cache:
        assert known(cache, count=2) == 2
        assert np.isnan(cache.get(MODEL, QUERY, images(5000, 10))).all()  # all of a put, or nothing


def test_what_is_found_is_given_even_when_it_cannot_be_carried_over(path: Path) -> None:
    told: list[str] = []
    with ScoreCache(path, limit_bytes=12 * 4096, on_trouble=told.append) as cache:
        cache.put(MODEL, QUERY, images(1000), floats(*range(1000)))  # fills its generation, which becomes old
        assert cache._connection is not None
        cache._connection.execute("PRAGMA query_only = ON")
        np.testing.assert_array_equal(cache.get(MODEL, QUERY, images(3)), np.arange(3))
    assert len(told) == 1


def test_a_closed_cache_knows_nothing_and_says_nothing(path: Path) -> None:
    cache = ScoreCache(path, on_trouble=unexpected)
    cache.put(MODEL, QUERY, images(1), floats(1.0))
    cache.close()
    cache.close()
    cache.put(MODEL, QUERY, images(2), floats(1.0, 2.0))
    assert known(cache, count=2) == 0


def test_an_interrupt_in_a_put_leaves_it_usable(path: Path) -> None:
    with ScoreCache(path, on_trouble=unexpected) as cache:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        cache._make_room, make_room = interrupted, cache._make_room  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            cache.put(MODEL, QUERY, images(2), floats(1.0, 2.0))
        cache._make_room = make_room  # type: ignore[method-assign]
        assert known(cache, count=2) == 0
        cache.put(MODEL, QUERY, images(2), floats(1.0, 2.0))
        assert known(cache, count=2) == 2
