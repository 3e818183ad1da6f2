"""`imgrank export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import click

from imgrank.cli import options

force_option = click.option("--force", is_flag=True, help="Replace files that are there.")


def output_option(name: str) -> Callable[[options.Command], options.Command]:
    """Return the option for the file to write."""
    return click.option(
        "-o", "--output", required=True, metavar=name, type=click.Path(path_type=Path), help="The file to write."
    )


@click.group(short_help="Write what a bundle holds, or hits, for other programs.")
def command() -> None:
    """Write what a bundle holds, or hits, in formats that other programs read.

    Files appear whole or not at all, and none that is there is replaced without --force. docs/exchange.md describes
    them.

    \b
    Example:
        imgrank export descriptors db.h5 -o descriptors.npy
        imgrank search db.h5 queries | imgrank export hits -o hits.parquet
    """


@command.command("descriptors", short_help="Descriptors, as a numpy file.")
@options.bundle_argument
@output_option("OUT.npy")
@force_option
@options.quiet_option
def descriptors(bundle: Path, output: Path, force: bool, quiet: bool) -> None:
    """Write the descriptors of all photos that could be read: OUT.npy, (n, dim) float32, unit rows.

    OUT.tsv beside it lists the id and the path of each row; paths are relative to the root of the bundle. `imgrank
    import` reads both.

    \b
    Example:
        imgrank export descriptors db.h5 -o descriptors.npy
        python -c "import numpy as np; print(np.load('descriptors.npy', mmap_mode='r').shape)"
    """
    from imgrank.cli.console import Console, size
    from imgrank.config import UNKNOWN
    from imgrank.steps.export_descriptors import export_descriptors

    console = Console(quiet)
    found = export_descriptors(bundle, output, force=force, reporter=console)
    unknown = found.encoder == UNKNOWN
    console.done(
        f"{found.vectors} and {found.listing}: {found.rows} descriptors of {found.dim} numbers, made by "
        f"{f'{found.encoder} {found.revision}'.strip()}, {size(found.bytes)}",
        f"imgrank import {found.vectors} -o OTHER.h5 --encoder {'MODEL' if unknown else found.encoder}",
    )


@command.command("tokens", short_help="A token cache, decoded, as a safetensors file.")
@options.bundle_argument
@output_option("OUT.safetensors")
@click.option(
    "--cache", metavar="NAME", help="Token cache to read.  [default: the only one of visual tokens, else local]"
)
@click.option(
    "--dtype", default="float16", show_default=True, type=click.Choice(["float16", "float32"]), help="Of the vectors."
)
@force_option
@options.quiet_option
def tokens(bundle: Path, output: Path, cache: str | None, dtype: Any, force: bool, quiet: bool) -> None:
    """Write the visual tokens of a cache, or the built-in local features, decoded: OUT.safetensors.

    Tensors: vectors, positions (or keypoints), offsets, id, grid and tiles; photo i owns the rows offsets[i] :
    offsets[i + 1]. OUT.tsv beside it lists the id and the path of each photo.

    \b
    Example:
        imgrank export tokens db.h5 --cache small -o tokens.safetensors
        imgrank export tokens db.h5 --cache local -o features.safetensors
    """
    from imgrank.cli.console import Console, size
    from imgrank.steps.export_tokens import export_tokens

    console = Console(quiet)
    found = export_tokens(bundle, output, cache=cache, dtype=dtype, force=force, reporter=console)
    shape = " x ".join(map(str, found.shape))
    console.done(
        f"{found.output} and {found.listing}: {found.tokens} tokens of {found.images} photos from cache "
        f"{found.cache!r}, {shape} numbers each, {size(found.bytes)}",
        f"python -c \"from safetensors.numpy import load_file; print(load_file('{found.output}').keys())\"",
    )


@command.command("projection", short_help="The projection of descriptors, as a safetensors file.")
@options.bundle_argument
@output_option("OUT.safetensors")
@force_option
@options.quiet_option
def projection(bundle: Path, output: Path, force: bool, quiet: bool) -> None:
    """Write the projection that descriptors went through, for other bundles: OUT.safetensors.

    There is one where the bundle was made with --projection. What was learned on one collection is then used for
    another, and the two bundles can be compared and merged.

    \b
    Example:
        imgrank index ./photos -o own.h5 --projection layer.npz
        imgrank export projection own.h5 -o projection.safetensors
    """
    from imgrank.cli.console import Console, size
    from imgrank.steps.export_projection import export_projection

    console = Console(quiet)
    found = export_projection(bundle, output, force=force)
    console.done(
        f"{found.output}: projection {found.digest}, from {found.raw_dim} numbers of {found.encoder} to {found.dim}, "
        f"{size(found.bytes)}",
        f"imgrank index PHOTOS -o OTHER.h5 --projection {found.output}",
    )


@command.command("hits", short_help="Hits, as a Parquet table.")
@click.argument("run", default="-", type=click.File("rb"))
@output_option("OUT.parquet")
@force_option
@options.quiet_option
def hits(run: BinaryIO, output: Path, force: bool, quiet: bool) -> None:
    """Write hits as a table with a row for each: OUT.parquet. Needs pyarrow: pip install 'imgrank[parquet]'.

    RUN is what `imgrank search` or `imgrank rerank` printed as JSON lines, or a TREC run; without it, or with -, hits
    come on standard input. Columns are the fields of the record.

    \b
    Example:
        imgrank search db.h5 queries --rerank 50 | imgrank export hits -o hits.parquet
        imgrank export hits run.jsonl -o hits.parquet --force
    """
    from imgrank.cli.console import Console, size
    from imgrank.steps.export_hits import check_hits, export_hits

    console = Console(quiet)
    check_hits(output, force=force)
    if run.isatty():
        console.note("reading hits from the terminal; pipe them in: imgrank search ... | imgrank export hits ...")
    (source,) = options.run_names(run)
    found = export_hits(run, output, source=source, force=force, reporter=console)
    console.done(
        f"{found.output}: {found.hits} hits, {size(found.bytes)}",
        f"python -c \"import pyarrow.parquet as pq; print(pq.read_table('{found.output}'))\"",
    )
