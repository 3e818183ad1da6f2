import pytest

from imgrank.steps.selection import Selection

PATHS = [b"a.jpg", b"art/b.jpg", b"art/old/c.jpg", b"artist.jpg", b"art/\xff[1].jpg", b"art/x\ny.jpg"]


@pytest.mark.parametrize(
    ("include", "exclude", "places"),
    [
        ((), (), [0, 1, 2, 3, 4, 5]),
        ((b"art/*",), (), [1, 2, 4, 5]),  # * goes through folders, and newlines
        ((b"art",), (), [1, 2, 4, 5]),  # a folder, and not what begins alike
        ((b"art/",), (b"art/old",), [1, 4, 5]),
        ((b"a.jpg", b"*st.jpg"), (), [0, 3]),
        ((b".",), (), [0, 1, 2, 3, 4, 5]),
        ((), (b"*.jpg",), []),
        ((b"art/\xff[[]1].jpg",), (), [4]),
        ((b"ar",), (), []),
        ((b"art/?.jpg",), (), [1]),
    ],
)
def test_patterns(include, exclude, places) -> None:
    chosen = Selection(include, exclude).mask(PATHS)
    assert chosen.nonzero()[0].tolist() == places
