"""What somebody may have meant by a name that nothing has."""

from __future__ import annotations

from collections.abc import Iterable

_AT_MOST = 3  # names that are suggested
_CUTOFF = 0.65  # of difflib's ratio


def nearest(name: str, names: Iterable[str], at_most: int = _AT_MOST) -> list[str]:
    """Return the names that are most like one that is not among them, best first, in whatever case; else none.

    A name with a slash (ORGANIZATION/NAME) is also compared by its part after the slash, and names that contain what
    was given come first, so that `dinov2-base` and `qwen3-vl-8b` find the models they are short for.
    """
    import difflib

    given = name.lower()
    known = {one.lower(): one for one in names}
    if not given or name in known.values():
        return []
    found = [one for one in known if given in one and len(given) >= 3]
    found += difflib.get_close_matches(given, known, at_most, _CUTOFF)
    short = {one.rpartition("/")[2]: one for one in known}
    found += [short[one] for one in difflib.get_close_matches(given.rpartition("/")[2], short, at_most, _CUTOFF)]
    return [known[one] for one in dict.fromkeys(found)][:at_most]


def did_you_mean(name: str, names: Iterable[str], at_most: int = _AT_MOST) -> str:
    """Return `did you mean A or B?`, or nothing where no name is like the one given."""
    found = nearest(name, names, at_most)
    return f"did you mean {' or '.join(found)}?" if found else ""
