"""Files that change while they are read: the hook is called after the first block, so timing plays no part."""

import hashlib

import pytest

from imgrank.errors import ImageError
from imgrank.images import content as content_module
from imgrank.images.content import read_content

MIB = 1 << 20


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(bytes(range(256)) * (3 * MIB // 256))
    return path


def read(path, meanwhile=lambda: None, useful=True, keep=None):
    def hook(block):
        assert len(block) == MIB
        meanwhile()
        return useful

    return read_content(bytes(path), "photo", keep, hook)


def digest(data):
    return hashlib.blake2b(data, digest_size=16).digest()


def test_a_file_that_shrinks_is_what_was_read_of_it(path):
    whole = path.read_bytes()
    found = read(path, lambda: path.write_bytes(whole[: MIB + 5]))
    assert found.data == whole[: MIB + 5]
    assert (found.size, found.digest) == (MIB + 5, digest(found.data))


def test_a_file_that_is_deleted_while_it_is_read_is_read(path):
    whole = path.read_bytes()
    found = read(path, path.unlink)
    assert (found.data, found.size) == (whole, 3 * MIB)


def append(path, count):
    with open(path, "ab") as file:
        file.write(bytes(count))


def test_a_file_that_gains_a_little_is_read_to_its_end(path):
    found = read(path, lambda: append(path, 100))
    assert (found.size, len(found.data)) == (3 * MIB + 100, 3 * MIB + 100)


@pytest.mark.parametrize("keep", [None, 1000])
def test_a_file_that_grows_without_end_is_given_up(path, keep, monkeypatch):
    monkeypatch.setattr(content_module, "_GROWTH", 99)
    with pytest.raises(ImageError, match="grows while it is read") as caught:
        read(path, lambda: append(path, 100), keep=keep)
    assert caught.value.code == "unreadable"


def test_what_does_not_start_like_a_photo_is_digested_but_only_its_start_is_kept(path):
    found = read(path, useful=False)
    assert found.data == path.read_bytes()[:MIB]
    assert (found.size, found.digest) == (3 * MIB, digest(path.read_bytes()))


@pytest.mark.parametrize("useful", [True, False])
def test_what_is_larger_than_the_limit_is_not_kept(path, useful):
    found = read(path, useful=useful, keep=3 * MIB - 1)
    assert (found.data, found.size, found.digest) == (None, 3 * MIB, digest(path.read_bytes()))
    assert read(path, keep=3 * MIB).data == path.read_bytes()
