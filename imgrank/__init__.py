"""imgrank finds photos of the same object, place, artwork or product.

The command line is `imgrank.cli`; the steps behind its verbs are in `imgrank.steps`.
"""

from imgrank.version import __version__

__all__ = ["__version__"]
