"""Options that several commands share; their defaults are those of `imgrank.config`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast, get_args

import click

from imgrank.cli.log import open_log
from imgrank.cli.types import BundlePath, ProjectionName, ScaleList
from imgrank.config import (
    MAX_THUMBNAIL_SIDE,
    PRESETS,
    DecodeSettings,
    EncoderSettings,
    GroupFormat,
    OutputFormat,
    Pooling,
    ThumbnailSettings,
)
from imgrank.errors import InputError, SettingsError

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Command], Command]

# Of `EncoderSettings`, that are called like their options.
_ENCODER_NAMES = (
    *("pooling", "gem_p", "image_size", "scales", "dtype"),
    *("projection", "projection_dim", "whitening"),
)

IMAGES_SKIPPED = 7  # exit code: done, but photos were left out
NOTHING_FOUND = 6


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make one decorator of several; the first stands first in the help."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


BUNDLE = BundlePath(path_type=Path)

bundle_argument = click.argument("bundle", type=BUNDLE)

# What every command has that works for long. The log needs no word from the command: the console writes to it.
quiet_option = together(
    click.option("-q", "--quiet", is_flag=True, help="Print errors and skipped photos only."),
    click.option(
        "--log-file",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        expose_value=False,
        callback=open_log,
        help="Append what goes to standard error to FILE, with times and without bars; also with --quiet.",
    ),
)

device_option = click.option(
    "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps."
)

decode_options = together(
    click.option(
        "--max-megapixels",
        default=DecodeSettings.max_megapixels,
        show_default=True,
        type=click.FloatRange(min=0),
        help="Refuse larger photos; 0 turns the limit off.",
    ),
    click.option(
        "--workers",
        default=DecodeSettings.workers,
        show_default=True,
        type=click.IntRange(min=0),
        help="Threads that decode photos; 0 takes one per core, at most 8.",
    ),
)

list_options = together(
    click.option(
        "--files-from",
        type=click.File("rb"),
        metavar="FILE",
        help="Read paths from FILE, one a line; - is standard input.",
    ),
    click.option("-0", "--null", is_flag=True, help="Path lists and printed records end in NUL instead of newline."),
)

dry_run_option = click.option(
    "-n", "--dry-run", is_flag=True, help="Change nothing; print photos, bytes and time, told from a few photos."
)

strict_option = click.option("--strict", is_flag=True, help="Stop at the first photo that cannot be used.")

with_option = click.option(
    "--with",
    "others",
    multiple=True,
    metavar="BUNDLE",
    type=BUNDLE,
    help="Another bundle, made with the same encoder, as if both were one; may be given several times.",
)

roots_option = click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that stored paths are relative to; with several bundles, one for each, in their order.",
)

root_option = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that stored paths are relative to.",
)

preset_option = click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="; ".join(f"{name}: {preset.note}" for name, preset in PRESETS.items()) + ".",
)

_encoder_options = together(
    click.option(
        "--encoder",
        metavar="MODEL",
        help="builtin (the default), or a Hugging Face id or folder of DINOv2, DINOv3, SigLIP, SigLIP 2 or CLIP; with "
        "timm installed, also timm/NAME.",
    ),
    click.option("--encoder-revision", metavar="REV", help="Branch, tag or commit of a Hugging Face id."),
    click.option(
        "--pooling",
        type=click.Choice(get_args(Pooling)),
        help="How patch vectors become one; auto is the family's own.  [default: auto]",
    ),
    click.option("--gem-p", metavar="P", type=float, help="Exponent of --pooling gem.  [default: 3]"),
    click.option(
        "--projection",
        metavar="NAME|FILE",
        type=ProjectionName(),
        help="Last step of the descriptor. collection fits it on these photos: better, but such bundles cannot be "
        "joined; a FILE has a linear layer or principal directions: .pth, .npz or .safetensors.  [default: default]",
    ),
    click.option(
        "--projection-dim",
        metavar="D",
        type=click.IntRange(min=1),
        help="Numbers of a descriptor after principal directions.  [default: 1024 where they are fitted, else all]",
    ),
    click.option(
        "--whitening",
        metavar="W",
        type=click.FloatRange(0, 1),
        help="How far principal directions are made equal: 0 not, 1 wholly.  [default: 0.5]",
    ),
    click.option("--image-size", type=click.IntRange(min=1), help="Pixels the model sees, where it can change them."),
    click.option(
        "--scales",
        metavar="S,S...",
        type=ScaleList(),
        help="Factors of those pixels at which each photo is encoded; the mean of the vectors is kept, as of "
        "1,0.7071,1.4142.",
    ),
    click.option(
        "--dtype", type=click.Choice(["auto", "float32", "float16", "bfloat16"]), help="Number type of the model."
    ),
    click.option(
        "--batch-size",
        default="auto",
        show_default=True,
        metavar="N",
        help="Photos per forward pass; auto halves it when memory runs out.",
    ),
)

_thumbnails_option = click.option(
    "--thumbnails",
    type=click.IntRange(0, MAX_THUMBNAIL_SIDE),
    metavar="N",
    help=f"Keep a small picture of each photo in the bundle, N pixels on its longer side "
    f"({ThumbnailSettings.longer_side} is a good number); 0 takes those that are there out.",
)

# What `embed` and `index` do with photos.
photo_options = together(
    list_options,
    preset_option,
    _encoder_options,
    _thumbnails_option,
    device_option,
    decode_options,
    root_option,
    strict_option,
    quiet_option,
)

_exit_status_option = click.option(
    "--exit-status", is_flag=True, help=f"Exit with {NOTHING_FOUND} when nothing was found, as grep does with 1."
)

looking_options = together(
    click.option(
        "--html",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write a page with the queries and hits as pictures, too; one file that needs no other.",
    ),
    click.option(
        "--open",
        "open_page",
        is_flag=True,
        help="Open the page in the browser; without --html, of a file in the temporary folder.",
    ),
    click.option(
        "--montage",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Draw the queries and their first hits in one picture, too: .png, .jpg or .webp.",
    ),
    click.option("--preview", is_flag=True, help="Show pictures of the first hits in the terminal, too."),
)

output_options = together(
    click.option(
        "--format",
        "form",
        type=click.Choice(get_args(OutputFormat)),
        help="[default: table on a terminal, jsonl elsewhere]",
    ),
    _exit_status_option,
)

group_output_options = together(
    click.option(
        "--format",
        "form",
        type=click.Choice(get_args(GroupFormat)),
        help="[default: table on a terminal, jsonl elsewhere]",
    ),
    _exit_status_option,
)


def given_paths(arguments: tuple[bytes, ...], files_from: Any, null: bool) -> Iterator[bytes]:
    """Yield the paths a command was given: arguments (`-` stands for standard input), then those of a list.

    Paths of standard input are yielded as their lines come.

    Raises:
        InputError: there is none of either.
    """
    from imgrank.images.scan import read_path_list

    if not arguments and files_from is None:
        raise InputError("no photos given; name files or folders, - for a list on standard input, or --files-from FILE")
    for argument in arguments:
        if argument == b"-":
            yield from read_path_list(own_input(), nul=null)
        else:
            yield argument
    if files_from is not None:
        yield from read_path_list(files_from, nul=null)


def typed(*names: str) -> bool:
    """Tell whether one of these parameters was given on the command line, not by a file or the environment."""
    context = click.get_current_context()
    return any(context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE for name in names)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print what a dry run found on standard output, a line for each fact."""
    for name, value in facts.items():
        click.echo(f"{name:8}{value}")


def run_names(*runs: Any) -> list[str]:
    """Return what messages call the files of runs, as click opened them.

    Raises:
        click.UsageError: two of them are standard input.
    """
    names = ["standard input" if run.name == "<stdin>" else run.name for run in runs]
    if names.count("standard input") > 1:
        raise click.UsageError("- stands for standard input, which can be read once")
    return names


def own_input() -> BinaryIO:
    """Return standard input behind a buffer of our own.

    The thread that reads it may still wait for a line when the process ends; Python locks and flushes its own
    `sys.stdin` then, and would abort.
    """
    return cast(BinaryIO, io.BufferedReader(io.FileIO(0, closefd=False)))


def encoder_settings(chosen: Mapping[str, Any]) -> EncoderSettings | None:
    """Return the encoder that the options of a command ask for; None when they ask for none."""
    preset, model = chosen.get("preset"), chosen.get("encoder")
    if model is None and preset is not None:
        model = PRESETS[preset].encoder
    asked = _given(
        model=model,
        revision=chosen.get("encoder_revision"),
        **{name: chosen.get(name) for name in _ENCODER_NAMES},
    )
    return EncoderSettings(**asked) if asked else None


def batch_size(text: str) -> int | None:
    """Return the number behind `--batch-size`; None for auto."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise SettingsError(f"--batch-size {text}: give a number from 1, or auto")
    return int(text)


def _given(**values: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in values.items() if value is not None}
