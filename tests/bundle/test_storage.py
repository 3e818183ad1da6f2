"""The commit scheme: a reader sees whole commits or nothing, also after a kill at any moment."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from imgrank.bundle import file, storage
from imgrank.bundle.descriptors import append_descriptors, create_descriptors
from imgrank.bundle.images import append_images
from imgrank.bundle.journal import PAGE, Journal, journal_path, read_journal, write_journal
from imgrank.bundle.lock import lock_path
from imgrank.bundle.provenance import Provenance
from imgrank.errors import BundleLockedError, DamagedBundleError, NotABundleError
from imgrank.records import ImageRecord

DIM = 8


def record(number: int) -> ImageRecord:
    return ImageRecord(b"photos/%06d.jpg" % number, number, -number, number.to_bytes(16, "big"), 4, 3, 0)


def rows(first: int, count: int) -> np.ndarray:
    return np.arange(first * DIM, (first + count) * DIM, dtype=np.float32).reshape(count, DIM)


def add(writer: file.Writer, count: int = 10) -> None:
    with file.read(writer.path) as opened:
        first = len(opened.images)
    with writer.transaction() as root:
        if first == 0:
            create_descriptors(root, DIM, Provenance("test", "1", "{}"))
        append_images(root, [record(first + i) for i in range(count)])
        append_descriptors(root, rows(first, count))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "db.h5"
    with file.Writer(path) as writer:
        file.create(path, root=b".")
        add(writer)
    return path


def check_whole(path: Path) -> int:
    """Every commit adds ten rows whose values follow from their number; returns how many rows there are."""
    with file.read(path) as opened:
        count = len(opened.images)
        assert count % 10 == 0
        assert [opened.images.record(row) for row in range(count)] == [record(row) for row in range(count)]
        if count:
            np.testing.assert_array_equal(opened.descriptors.read(), rows(0, count))
        return count


def test_appending_does_not_rewrite_what_is_there(bundle: Path) -> None:
    with file.Writer(bundle) as writer:
        for _ in range(3):
            add(writer, 1000)  # past the first chunks
        before = bundle.read_bytes()
        add(writer, 10)
    after = bundle.read_bytes()
    changed = [page for page in range(0, len(before), 4096) if before[page : page + 4096] != after[page : page + 4096]]
    assert len(changed) <= 24  # superblock, object headers, chunk tables, and the last chunk of each column


def test_a_transaction_that_raises_leaves_the_file_as_it_was(bundle: Path) -> None:
    before = bundle.read_bytes()

    def failing(writer: file.Writer) -> None:
        with writer.transaction() as root:
            append_images(root, [record(10)])
            root.flush()
            raise ZeroDivisionError

    with file.Writer(bundle) as writer, pytest.raises(ZeroDivisionError):
        failing(writer)
    assert bundle.read_bytes() == before
    assert not journal_path(bundle).exists()
    assert not lock_path(bundle).exists()


def test_plain_h5py_reads_a_committed_bundle(bundle: Path) -> None:
    with h5py.File(bundle, "r") as root:
        np.testing.assert_array_equal(root["descriptors/vectors"][:], rows(0, 10))


def test_a_reader_keeps_its_state_while_a_writer_commits(bundle: Path) -> None:
    with file.read(bundle) as opened:
        with file.Writer(bundle) as writer:
            for _ in range(20):
                add(writer, 100)
        assert len(opened.images) == 10
        np.testing.assert_array_equal(opened.descriptors.read(), rows(0, 10))
        assert opened.images.record(9) == record(9)
    assert check_whole(bundle) == 2010


def test_a_finished_journal_is_the_commit_even_if_no_page_was_copied(bundle: Path, monkeypatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "apply_journal", killed)
    with file.Writer(bundle) as writer, pytest.raises(KeyboardInterrupt):
        add(writer)
    monkeypatch.undo()
    assert journal_path(bundle).exists()


def test_a_file_that_was_replaced_while_it_was_opened_is_opened_again(bundle: Path, monkeypatch) -> None:
    answers = [False, False, True]
    monkeypatch.setattr(storage.ReadFile, "is_current", lambda self: answers.pop(0))
    assert check_whole(bundle) == 10
    assert answers == []


def test_a_file_that_goes_while_it_is_opened_is_named(bundle: Path, monkeypatch) -> None:
    def gone(self: storage.ReadFile) -> bool:
        bundle.unlink()
        return False

    monkeypatch.setattr(storage.ReadFile, "is_current", gone)
    with pytest.raises(NotABundleError, match="no such file"):
        file.read(bundle)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_commit_whose_pages_cannot_be_copied_in_has_happened(bundle: Path, monkeypatch, after: int) -> None:
    before = check_whole(bundle)
    real, written = os.pwrite, []

    def full(fd: int, data: bytes, offset: int) -> int:
        if len(data) == PAGE and journal_path(bundle).exists():
            written.append(offset)
            if len(written) > after:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, offset)

    with file.Writer(bundle) as writer:
        monkeypatch.setattr(os, "pwrite", full)
        add(writer)
        assert written
        assert journal_path(bundle).exists()
        now = check_whole(bundle)  # readers lay the journal over the file
        assert now > before
        monkeypatch.undo()
        add(writer)  # the same writer goes on from there
    assert check_whole(bundle) > now
    assert not journal_path(bundle).exists()


def test_readers_lay_the_journal_over_the_file_and_the_next_writer_copies_it_in(bundle: Path) -> None:
    # A process that dies between the journal and the first copied page, at the moment of the commit itself.
    code = """
        import os, sys
        from imgrank.bundle import storage
        storage.apply_journal = lambda *_: os._exit(9)
        sys.path.insert(0, sys.argv[2])
        import test_storage
        from imgrank.bundle import file
        from pathlib import Path
        with file.Writer(Path(sys.argv[1])) as writer:
            test_storage.add(writer)
    """
    here = str(Path(__file__).parent)
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(bundle), here], check=False)
    assert run.returncode == 9
    assert journal_path(bundle).exists()
    untouched = bundle.read_bytes()
    assert check_whole(bundle) == 20
    assert bundle.read_bytes() == untouched  # reading wrote nothing
    with file.Writer(bundle):
        assert not journal_path(bundle).exists()
    assert check_whole(bundle) == 20
    with h5py.File(bundle, "r") as root:
        assert root["images/id"].shape == (20,)


@pytest.mark.parametrize("pages_done", [0, 1, 2, 5])
def test_a_kill_while_pages_are_copied_in_is_finished_later(bundle: Path, pages_done: int) -> None:
    code = """
        import os, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        import test_storage
        from imgrank.bundle import file, storage
        done, real = 0, os.pwrite
        def pwrite(fd, data, offset):
            global done
            if len(data) == 4096 and armed:
                if done == int(sys.argv[3]):
                    os._exit(9)
                done += 1
            return real(fd, data, offset)
        apply = storage.apply_journal
        armed = False
        def arm(*args):
            global armed
            armed = True
            apply(*args)
        storage.apply_journal = arm
        os.pwrite = pwrite
        with file.Writer(Path(sys.argv[1])) as writer:
            test_storage.add(writer)
    """
    here = str(Path(__file__).parent)
    arguments = [sys.executable, "-c", textwrap.dedent(code), str(bundle), here, str(pages_done)]
    run = subprocess.run(arguments, check=False)
    assert run.returncode == 9
    assert check_whole(bundle) == 20
    with file.Writer(bundle) as writer:
        add(writer)
    assert check_whole(bundle) == 30


def test_a_journal_that_was_cut_short_is_ignored(bundle: Path) -> None:
    superblock = bundle.read_bytes()[:48]
    write_journal(bundle, Journal(bundle.stat().st_size, superblock, {0: bytes(4096)}))
    whole = journal_path(bundle).read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        journal_path(bundle).write_bytes(whole[:length])
        assert read_journal(bundle) is None
        assert check_whole(bundle) == 10
    with file.Writer(bundle):
        assert not journal_path(bundle).exists()


def test_a_journal_of_another_file_is_refused(bundle: Path) -> None:
    write_journal(bundle, Journal(10**6, b"x" * 48, {3: bytes(4096)}))
    with pytest.raises(DamagedBundleError, match="belongs to another file"):
        file.read(bundle)


def test_bytes_that_a_killed_writer_left_past_the_end_are_not_part_of_the_file(bundle: Path) -> None:
    with bundle.open("ab") as stream:
        stream.write(os.urandom(100_000))
    assert check_whole(bundle) == 10
    with file.Writer(bundle) as writer:
        add(writer)
    assert check_whole(bundle) == 20


def test_a_cut_file_is_named_damaged(bundle: Path) -> None:
    os.truncate(bundle, bundle.stat().st_size - 1)
    with pytest.raises(DamagedBundleError, match="it was cut"):
        file.read(bundle)


def test_the_second_writer_is_told_who_holds_the_file(bundle: Path) -> None:
    code = (
        "import sys, time\nfrom imgrank.bundle import file\n"
        f"with file.Writer({str(bundle)!r}):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BundleLockedError, match=f"process {holder.pid}"), file.Writer(bundle):
            pass
        check_whole(bundle)  # readers do not care
        holder.kill()
    with file.Writer(bundle) as writer:  # the kernel freed the lock
        add(writer)
    assert check_whole(bundle) == 20


@pytest.mark.slow
def test_kill_at_random_moments_loses_nothing_committed(bundle: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        import test_storage
        from imgrank.bundle import file
        with file.Writer(Path(sys.argv[1])) as writer:
            print("ready", flush=True)
            while True:
                test_storage.add(writer)
                print("committed", flush=True)
    """
    rng = np.random.default_rng(0)
    before = 10
    for _ in range(12):
        arguments = [sys.executable, "-c", textwrap.dedent(code), str(bundle), str(Path(__file__).parent)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(float(rng.uniform(0.0, 0.15)))
            child.kill()
            committed = child.stdout.read().count("committed")
        after = check_whole(bundle)
        assert after >= before + 10 * committed  # what was told to be committed is there
        before = after


def test_a_write_that_fails_raises_after_hdf5_has_closed_and_changes_nothing(bundle: Path, monkeypatch) -> None:
    before = bundle.read_bytes()
    real, room = os.pwrite, 3000

    def pwrite(fd: int, data, offset: int) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(28, "No space left on device")
        room -= len(data)
        return real(fd, data, offset)

    monkeypatch.setattr(storage.os, "pwrite", pwrite)
    with file.Writer(bundle) as writer, pytest.raises(OSError, match="No space left"):
        add(writer, 5000)
    monkeypatch.undo()
    assert bundle.read_bytes() == before
    assert check_whole(bundle) == 10


def test_an_interrupt_waits_for_the_commit(bundle: Path) -> None:
    def interrupted(writer: file.Writer) -> None:
        with writer.transaction() as root:
            signal.raise_signal(signal.SIGINT)
            append_images(root, [record(10 + i) for i in range(10)])
            append_descriptors(root, rows(10, 10))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may run with it ignored
    try:
        with file.Writer(bundle) as writer, pytest.raises(KeyboardInterrupt):
            interrupted(writer)
    finally:
        signal.signal(signal.SIGINT, before)
    assert check_whole(bundle) == 20


def test_reads_that_the_system_cuts_short_are_gone_on_with(bundle: Path, monkeypatch) -> None:
    # One call gives at most 2 GiB; here it gives at most 100 bytes.
    real = os.preadv
    monkeypatch.setattr(storage.os, "preadv", lambda fd, targets, offset: real(fd, [targets[0][:100]], offset))
    assert check_whole(bundle) == 10
