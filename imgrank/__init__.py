"""imgrank finds photos of the same object, place, artwork or product.

    import imgrank

    db = imgrank.index_photos("photos", "db.h5")  # or imgrank.open("db.h5")
    for hit in db.search("vase.jpg", k=10, rerank=50):
        print(hit.rank, hit.score, hit.file)

The command line is `imgrank.cli`; the steps behind its verbs are in `imgrank.steps`. Names are loaded when they are
first used, so importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

from imgrank.version import __version__

if TYPE_CHECKING:
    from imgrank.errors import ImageError, ImgrankError
    from imgrank.library import Database, Photo, index_photos, open
    from imgrank.results import Hit, Ranking

__all__ = ["Database", "Hit", "ImageError", "ImgrankError", "Photo", "Ranking", "__version__", "index_photos", "open"]

_HOMES = {
    "Database": "imgrank.library",
    "Photo": "imgrank.library",
    "index_photos": "imgrank.library",
    "open": "imgrank.library",
    "Hit": "imgrank.results",
    "Ranking": "imgrank.results",
    "ImageError": "imgrank.errors",
    "ImgrankError": "imgrank.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'imgrank' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
