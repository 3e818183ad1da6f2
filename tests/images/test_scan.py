import io
import os
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrank.errors import InputError
from imgrank.images.scan import MAX_PATH_BYTES, display, read_path_list, scan


@pytest.fixture
def tree(tmp_path):
    """Make empty files below a folder and return the folder's path as bytes."""

    def tree(*names):
        root = os.fsencode(tmp_path)
        for name in names:
            path = os.path.join(root, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb"):
                pass
        return root

    return tree


def below(root, found):
    return [os.path.relpath(path, root) for path in found]


def test_folders_are_walked_in_byte_order_and_only_photos_are_taken(tree):
    root = tree(b"b.jpg", b"a/z.PNG", b"a/a.jpeg", b"B.webp", b"notes.txt", b"c", b"a.jpg.part", b"d.HeIc")
    assert below(root, scan([root])) == [b"B.webp", b"a/a.jpeg", b"a/z.PNG", b"b.jpg", b"d.HeIc"]


def test_hidden_entries_are_left_out_below_a_folder_but_not_when_given(tree):
    root = tree(b".x/a.jpg", b".b.jpg", b"c.jpg", b".x/.y/d.jpg")
    assert below(root, scan([root])) == [b"c.jpg"]
    assert below(root, scan([root + b"/.x", root + b"/.b.jpg"])) == [b".x/a.jpg", b".b.jpg"]


def test_a_given_file_is_taken_whatever_its_suffix(tree):
    root = tree(b"photo", b"notes.txt")
    assert below(root, scan([root + b"/photo", root + b"/notes.txt"])) == [b"photo", b"notes.txt"]


def test_names_that_are_no_text_survive(tree):
    names = [b"a b.jpg", b"caf\xe9.jpg", b"li\nne.jpg", b"quo'te\".jpg"]
    root = tree(*names)
    assert below(root, scan([root])) == names


def test_a_file_is_yielded_once_however_it_is_reached(tree):
    root = tree(b"a.jpg", b"sub/b.jpg")
    once = [b"a.jpg", b"sub/b.jpg"]
    again = [root + b"/./a.jpg", root, root + b"/sub", root + b"/sub/../sub/b.jpg", root]
    assert below(root, scan(again)) == once
    assert below(root, scan([root, *again])) == once
    assert below(root, scan([root + b"/sub/b.jpg", root])) == [b"sub/b.jpg", b"a.jpg"]


def test_links_and_copies_by_hard_link_are_files_of_their_own(tree):
    root = tree(b"a.jpg")
    os.symlink(b"a.jpg", root + b"/b.jpg")
    os.link(root + b"/a.jpg", root + b"/c.jpg")
    os.symlink(b"nowhere", root + b"/d.jpg")  # broken: kept, so that reading it gets a status
    os.symlink(b"e.jpg", root + b"/e.jpg")
    assert below(root, scan([root])) == [b"a.jpg", b"b.jpg", b"c.jpg", b"d.jpg", b"e.jpg"]


def test_symlinked_folders_are_followed_once_and_loops_end(tree, tmp_path_factory):
    root = tree(b"a/x.jpg", b"a/deep/y.jpg")
    os.symlink(b"..", root + b"/a/deep/up")
    os.symlink(root, root + b"/a/self")
    outside = os.fsencode(tmp_path_factory.mktemp("outside"))
    with open(outside + b"/z.jpg", "wb"):
        pass
    os.symlink(outside, root + b"/link1")
    os.symlink(outside, root + b"/link2")
    assert below(root, scan([root])) == [b"a/deep/y.jpg", b"a/x.jpg", b"link1/z.jpg"]


def test_nesting_deeper_than_the_recursion_limit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    depth = sys.getrecursionlimit() + 50
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        with open("x.jpg", "wb"):
            pass
        root = os.fsencode(tmp_path)
        assert list(scan([root])) == [root + b"/d" * depth + b"/x.jpg"]
        os.remove("x.jpg")
    finally:  # here, because the usual way to remove a tree is recursive too
        while os.getcwd() != str(tmp_path):
            os.chdir("..")
            os.rmdir("d")


def test_a_missing_path_is_an_error_before_anything_is_yielded(tree):
    root = tree(b"a.jpg")
    found = scan([root, b"no\nsuch"])
    with pytest.raises(InputError, match=r"no\\nsuch: no such file or folder"):
        next(found)
    with pytest.raises(InputError, match="no such file"):
        list(scan([root + b"/a.jpg/b"]))
    with pytest.raises(InputError, match="no such file"):
        list(scan([b"a\0b"]))


def test_a_stream_of_paths_is_taken_one_by_one(tree):
    root = tree(b"a.jpg")
    found = scan(iter([root + b"/a.jpg", b"missing"]))
    assert next(found) == root + b"/a.jpg"
    with pytest.raises(InputError):
        next(found)


def test_a_folder_that_cannot_be_listed_is_reported(tree, monkeypatch):
    root = tree(b"a/x.jpg", b"locked/y.jpg", b"z.jpg")
    real = os.scandir

    def scandir(path):  # a chmod would not stop root
        if path.endswith(b"locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    skipped = []
    found = list(scan([root], on_skip=lambda path, reason: skipped.append((path, reason))))
    assert below(root, found) == [b"a/x.jpg", b"z.jpg"]
    assert skipped == [(root + b"/locked", "the folder cannot be listed: Permission denied")]
    with pytest.raises(InputError, match="locked: the folder cannot be listed"):
        list(scan([root]))


@pytest.mark.parametrize(("nul", "separator"), [(False, b"\n"), (True, b"\0")])
def test_a_path_list_is_answered_line_by_line(nul, separator):
    reader, writer = os.pipe()
    answers = []
    arrived = threading.Event()

    def consume():
        with open(reader, "rb") as stream:
            for path in read_path_list(stream, nul=nul):
                answers.append(path)
                arrived.set()

    thread = threading.Thread(target=consume)
    thread.start()
    try:
        os.write(writer, b"first" + separator + b"sec")
        assert arrived.wait(10)
        assert answers == [b"first"]
    finally:
        os.write(writer, b"ond" + separator + separator + b"last")
        os.close(writer)
        thread.join(10)
    assert answers == [b"first", b"second", b"last"]


def test_only_the_separator_is_taken_off_a_path():
    assert list(read_path_list(io.BytesIO(b" a \r\n\nb\0c\n"), nul=False)) == [b" a \r", b"b\0c"]
    assert list(read_path_list(io.BytesIO(b"a\nb\0\0c"), nul=True)) == [b"a\nb", b"c"]


@given(st.lists(st.binary(min_size=1).map(lambda path: path.replace(b"\0", b"x"))))
def test_a_nul_list_gives_back_every_path(paths):
    assert list(read_path_list(io.BytesIO(b"".join(path + b"\0" for path in paths)), nul=True)) == paths


def test_an_endless_line_is_refused():
    with pytest.raises(InputError, match="separator"):
        list(read_path_list(io.BytesIO(b"x" * (3 * MAX_PATH_BYTES)), nul=False))


@given(st.binary())
def test_display_is_one_printable_line(path):
    assert display(path).isprintable()


def test_display_escapes_what_would_break_a_line():
    assert display(b"caf\xc3\xa9 \xe9\n\x1b[31m.jpg") == "café \\xe9\\n\\x1b[31m.jpg"
