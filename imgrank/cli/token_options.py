"""Options that say what of a photo's visual tokens is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click

from imgrank.cli.options import together
from imgrank.config import Prune, TokenDtype, TokenSettings

if TYPE_CHECKING:
    from imgrank.steps.token_request import TokenRequest

token_options = together(
    click.option("--cache", metavar="NAME", help="Name of the token cache."),
    click.option(
        "--recipe",
        metavar="STEPS",
        help="All of it in one line, such as 'resize:560 | divprune:64 | pq:448'; see the text above.",
    ),
    click.option(
        "--bytes-per-image",
        metavar="SIZE",
        help="Such as 32KiB: choose how many tokens are kept, and how, so that a photo takes no more.",
    ),
    click.option(
        "--longer-side",
        type=click.IntRange(min=1),
        help=f"Pixels the model sees of a photo; short for resize.  [default: {TokenSettings.longer_side}]",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(min=1),
        help=f"Visual tokens of a photo before any are left out.  [default: {TokenSettings.max_tokens}]",
    ),
    click.option(
        "--prune",
        type=click.Choice(get_args(Prune)),
        help="Which tokens are kept; short for a step of a recipe.  [default: divprune]",
    ),
    click.option(
        "--keep",
        type=click.IntRange(min=1),
        help=f"Tokens that divprune keeps.  [default: {TokenSettings.reduce.split(':')[1]}]",
    ),
    click.option(
        "--dtype",
        "token_dtype",
        type=click.Choice(get_args(TokenDtype)),
        help=f"Number type of stored tokens.  [default: {TokenSettings.store}]",
    ),
)


def token_request(chosen: dict[str, Any]) -> TokenRequest | None:
    """Take the wishes of `token_options` out of a command's options; None where there are none."""
    from imgrank.sizes import parse_bytes
    from imgrank.steps.token_request import TokenRequest

    size = chosen.pop("bytes_per_image", None)
    request = TokenRequest(
        recipe=chosen.pop("recipe", None),
        longer_side=chosen.pop("longer_side", None),
        max_tokens=chosen.pop("max_tokens", None),
        prune=chosen.pop("prune", None),
        keep=chosen.pop("keep", None),
        dtype=chosen.pop("token_dtype", None),
        bytes_per_image=None if size is None else parse_bytes(size),
    )
    return None if request.empty else request
