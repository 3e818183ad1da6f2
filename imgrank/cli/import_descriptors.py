"""`imgrank import`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from imgrank.cli import options
from imgrank.cli.types import ScaleList
from imgrank.config import DecodeSettings, Pooling


@click.command(short_help="Make a bundle of descriptors from elsewhere.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle to make.")
@click.option(
    "--paths",
    metavar="LIST",
    type=click.Path(path_type=Path),
    help="For .npy: the path of each row, one a line.  [default: FILE with .tsv, as export writes it]",
)
@click.option("-0", "--null", is_flag=True, help="Paths on the list end in NUL instead of newline.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that names are relative to.  [default: the folder of the bundle]",
)
@click.option(
    "--encoder",
    metavar="MODEL",
    help="What computed them: builtin, or a Hugging Face id or folder; searches then do the same with query photos.",
)
@click.option("--encoder-revision", metavar="REV", help="Branch, tag or commit of a Hugging Face id.")
@click.option("--pooling", type=click.Choice(get_args(Pooling)), help="How the encoder pooled.  [default: auto]")
@click.option("--image-size", type=click.IntRange(min=1), help="Pixels the encoder saw, where it can change them.")
@click.option("--gem-p", metavar="P", type=float, help="Exponent of --pooling gem.  [default: 3]")
@click.option("--scales", metavar="S,S...", type=ScaleList(), help="Factors of those pixels that were joined.")
@click.option(
    "--projection",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What the descriptors are to go through, such as the linear layer of ILIAS; queries do so, too.",
)
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Compute the descriptors of a few photos again with the encoder, and stop where they are others.",
)
@options.device_option
@options.decode_options
@options.quiet_option
def command(file: Path, output: Path, encoder: str | None, check: bool, **chosen: Any) -> None:
    """Make a new bundle of descriptors that another program computed.

    FILE is HDF5 with datasets `features` and `index` (ILIAS), HDF5 with a group for each image that has a
    `global_descriptor` (hloc), or a numpy .npy (n, dim) with a list of paths. Descriptors are scaled to length 1.
    Photos that lie below the root are read once, for their digests; the others can be searched as well, and re-ranked
    once they are there. Without --encoder, `imgrank search` must be given --encoder or --descriptors.

    \b
    Example:
        imgrank import features.hdf5 -o ilias.h5 --root ./ilias
        imgrank import d.npy --paths list.txt -o db.h5 --root ./photos --encoder facebook/dinov2-base
        imgrank index db.h5
    """
    from imgrank.cli.console import Console, size
    from imgrank.config import UNKNOWN
    from imgrank.errors import SettingsError
    from imgrank.steps.import_descriptors import import_descriptors

    console = Console(chosen["quiet"])
    settings = options.encoder_settings({**chosen, "encoder": encoder, "projection": None})
    if settings is not None and encoder is None:
        raise SettingsError(
            "--encoder-revision, --pooling, --gem-p, --image-size and --scales are for an encoder: give --encoder MODEL"
        )
    found = import_descriptors(
        file,
        output,
        paths=chosen["paths"],
        nul=chosen["null"],
        root=chosen["root"],
        encoder=settings,
        projection=chosen["projection"],
        check=check,
        decode_settings=DecodeSettings(chosen["max_megapixels"], chosen["workers"]),
        device=chosen["device"],
        reporter=console,
    )
    if found.rescaled:
        console.note(
            f"{found.rescaled} descriptors were not of length 1 ({found.shortest:.4g} to {found.longest:.4g}) and were "
            "scaled to it"
        )
    if found.unseen:
        console.note(
            f"{found.unseen} of {found.rows} photos are not there or cannot be read, such as {found.first_unseen}; "
            "they can be searched, and re-ranked once they are there (--root says where)"
        )
    if found.encoder == UNKNOWN:
        console.note(
            f"the encoder is unknown: name it for each search (imgrank search {output} QUERY --encoder MODEL), or give "
            "descriptors of the queries (--descriptors FILE)"
        )
    console.done(
        f"{output}: {found.rows} descriptors of {found.dim} numbers from {found.layout}, {size(output.stat().st_size)}",
        f"imgrank index {output}",
    )
