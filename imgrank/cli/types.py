"""Types of options that click does not have: choices that name the nearest, and names that a shell can complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

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
