"""The command line: a lazy group of commands, each in a file of its own."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

import click

from imgrank.cli.group import LazyGroup
from imgrank.version import __version__

COMMANDS = {  # name -> module with a click command `command`; loaded on use
    "embed": "imgrank.cli.embed",
    "index": "imgrank.cli.index",
    "cache-tokens": "imgrank.cli.cache_tokens",
    "search": "imgrank.cli.search",
    "rerank": "imgrank.cli.rerank",
    "explain": "imgrank.cli.explain",
    "fuse": "imgrank.cli.fuse",
    "eval": "imgrank.cli.evaluate",
    "compare": "imgrank.cli.compare",
    "dataset": "imgrank.cli.dataset",
    "study": "imgrank.cli.study",
    "group": "imgrank.cli.group_photos",
    "dedup": "imgrank.cli.dedup",
    "add": "imgrank.cli.add",
    "remove": "imgrank.cli.remove",
    "relocate": "imgrank.cli.relocate",
    "compact": "imgrank.cli.compact",
    "merge": "imgrank.cli.merge",
    "split": "imgrank.cli.split",
    "migrate": "imgrank.cli.migrate",
    "calibrate": "imgrank.cli.calibrate",
    "tune-tokens": "imgrank.cli.tune_tokens",
    "requantize": "imgrank.cli.requantize",
    "check": "imgrank.cli.check",
    "models": "imgrank.cli.models",
    "doctor": "imgrank.cli.doctor",
    "info": "imgrank.cli.info",
    "export": "imgrank.cli.export",
    "import": "imgrank.cli.import_descriptors",
    "bench": "imgrank.cli.bench",
    "demo": "imgrank.cli.demo",
    "config": "imgrank.cli.config",
    "completion": "imgrank.cli.completion",
}


@click.group(cls=LazyGroup, commands_table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="imgrank %(version)s")
@click.option(
    "--config",
    metavar="FILE|none",
    envvar="IMGRANK_CONFIG",
    help="Take settings from FILE alone, or from no file.  [default: ./imgrank.toml, then the user's]",
)
def cli(config: str | None) -> None:
    """Find the photos that show the same object, place, artwork or product.

    A global descriptor and an HNSW graph give a shortlist; a second look at each pair (by a multimodal language model,
    or by local features) re-orders it. Everything is kept in one HDF5 file.

    \b
    Example:
        imgrank index ./photos -o db.h5
        imgrank search db.h5 query.jpg --rerank 50
    """


def main() -> None:
    """Run the command line and exit with its code."""
    _open_streams()
    try:
        cli.main()
    except SystemExit as done:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # A thread that still prefetches for what has failed would be torn out of native code when Python shuts down,
        # which aborts the process. It holds nothing that needs an end.
        if any(thread.daemon for thread in threading.enumerate()):
            os._exit(done.code if isinstance(done.code, int) else 1)
        raise


def _open_streams() -> None:
    """Open the standard streams that whoever started the process has closed, on nothing.

    Their numbers would else go to the next files that are opened, a bundle among them, and what a library prints would
    be written into it.
    """
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
