"""Quiet while TIFFs are decoded: the one format whose reader writes what it finds to standard error by itself."""

from __future__ import annotations

import ctypes
import functools
import logging

from PIL import _imaging


@functools.cache
def silence_tiff() -> None:
    """Take away libtiff's message handlers, for the whole process and for good; done once.

    Its lines name no file, so nobody could tell which photo they are about; Pillow reports failures as exceptions
    whatever the handlers are. Redirecting standard error while decoding would do the same, but would also swallow what
    other threads write meanwhile.

    A build of Pillow whose libtiff cannot be reached by name (or that has none) is left as it is.
    """
    # Python prints errors of loggers that nobody listens to. Who does listen still hears them.
    logging.getLogger("PIL.TiffImagePlugin").addHandler(logging.NullHandler())
    try:
        # Looks in Pillow's extension module and in the libraries that it was linked with.
        library = ctypes.CDLL(_imaging.__file__)
        handlers = library.TIFFSetWarningHandler, library.TIFFSetErrorHandler
    except (AttributeError, OSError):
        return
    for set_handler in handlers:
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)
