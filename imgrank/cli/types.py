"""Types of options that click does not have: choices that name the nearest, and names that a shell can complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click

from imgrank.config import MAX_SCALE, MIN_SCALE, MOST_SCALES, ProjectionChoice
from imgrank.nearest import did_you_mean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class NearestChoice(click.Choice[str]):
    """A choice whose error names the value that may have been meant."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return click's message with the nearest value."""
        message = super().get_invalid_choice_message(value, ctx)
        hint = did_you_mean(str(value), map(str, self.choices), 1)
        return f"{message} {hint[0].upper()}{hint[1:]}" if hint else message


class BundlePath(click.Path):
    """The path of a bundle."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """Offer HDF5 files and folders."""
        from imgrank.cli.complete import bundles

        return bundles(incomplete)


class EncoderName(click.types.StringParamType):
    """An encoder: a known name, a hub id or a folder."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """Offer known names and folders."""
        from imgrank.cli.complete import models
        from imgrank.encode.catalogue import KNOWN

        return models((one.name for one in KNOWN), incomplete)


class ProjectionName(click.types.StringParamType):
    """A projection: a known one, or a file."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """Offer the known ones, and files."""
        from click.shell_completion import CompletionItem

        fitting = [CompletionItem(name) for name in get_args(ProjectionChoice) if name.startswith(incomplete)]
        return [*fitting, CompletionItem(incomplete, type="file")]


class ScaleList(click.types.StringParamType):
    """Several numbers above 0, joined by commas."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the numbers as a tuple."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        try:
            numbers = tuple(float(part) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not numbers joined by commas, such as 1,0.7071,1.4142", param, ctx)
        if len(numbers) > MOST_SCALES or not all(MIN_SCALE <= number <= MAX_SCALE for number in numbers):
            self.fail(f"{value!r}: give at most {MOST_SCALES} numbers from {MIN_SCALE:g} to {MAX_SCALE:g}", param, ctx)
        return numbers


class MllmName(click.types.StringParamType):
    """A multimodal language model: a known name, a hub id or a folder."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """Offer known names and folders."""
        from imgrank.cli.complete import models
        from imgrank.mllm.catalogue import KNOWN

        return models((one.name for one in KNOWN), incomplete)


class CacheName(click.types.StringParamType):
    """A token cache of the bundle that is given, too."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """Offer the caches that the bundle has."""
        from imgrank.cli.complete import caches

        # Behind an option that has no value yet, click leaves the arguments as they were typed.
        typed = ctx.args[0] if ctx.args else None
        return caches(ctx.params.get("bundle") or typed, incomplete)
