"""What a user asks of a token cache, before the model that it is for is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from imgrank.config import Prune, TokenDtype, TokenSettings
from imgrank.errors import SettingsError
from imgrank.tokens.budget import fit_budget
from imgrank.tokens.recipe import parse_recipe


@dataclass(frozen=True)
class TokenRequest:
    """Wishes; None leaves a thing as the model's default has it.

    Attributes:
        recipe: all of it in one line; see `imgrank.tokens.recipe`.
        longer_side: pixels.
        max_tokens: of a photo before any are left out.
        prune: short for a reducer.
        keep: tokens that divprune keeps.
        dtype: short for a quantizer.
        bytes_per_image: chooses reducer and quantizer.
    """

    recipe: str | None = None
    longer_side: int | None = None
    max_tokens: int | None = None
    prune: Prune | None = None
    keep: int | None = None
    dtype: TokenDtype | None = None
    bytes_per_image: int | None = None

    @property
    def empty(self) -> bool:
        """Return whether nothing is asked."""
        return self == TokenRequest()

    def settings(self, default: TokenSettings, levels: int, hidden: int, full: Callable[[], int]) -> TokenSettings:
        """Return the settings that the wishes come to.

        Args:
            default: of the model.
            levels: vectors per token.
            hidden: numbers per vector.
            full: tells the tokens of a usual photo before any are left out; called for a budget only.

        Raises:
            SettingsError: wishes contradict each other or cannot be met.
        """
        short = {"--prune": self.prune, "--keep": self.keep, "--dtype": self.dtype}
        if self.bytes_per_image is not None and self.recipe is not None:
            raise SettingsError("--bytes-per-image chooses the recipe; leave --recipe out")
        for whole, given in (("--recipe", self.recipe), ("--bytes-per-image", self.bytes_per_image)):
            also = [name for name, value in short.items() if value is not None]
            if given is not None and also:
                raise SettingsError(f"{whole} says what is kept; leave {' and '.join(also)} out")
        if self.keep is not None and self.prune not in (None, "divprune"):
            raise SettingsError(f"--keep is for --prune divprune, not for {self.prune}")
        settings = default if self.recipe is None else parse_recipe(self.recipe, default)
        if self.longer_side is not None:
            settings = replace(settings, longer_side=self.longer_side)
        if self.max_tokens is not None:
            settings = replace(settings, max_tokens=self.max_tokens)
        if self.bytes_per_image is not None:
            return fit_budget(self.bytes_per_image, levels, hidden, full(), settings)
        if self.keep is not None:
            settings = replace(settings, reduce=f"divprune:{self.keep}")
        elif self.prune is not None:
            usual = default.reduce if default.reduce.startswith("divprune") else TokenSettings.reduce
            settings = replace(settings, reduce={"divprune": usual, "grid": "grid:2", "none": ""}[self.prune])
        return settings if self.dtype is None else replace(settings, store=self.dtype)
