"""Pruners and codecs by name: a new strategy is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from imgrank.config import TokenSettings
from imgrank.errors import SettingsError
from imgrank.tokens.base import Codec, Pruner
from imgrank.tokens.grid import GridSampling
from imgrank.tokens.prune import DivPrune
from imgrank.tokens.scalar import Float16Codec, Int8Codec

_T = TypeVar("_T")

_PRUNERS: dict[str, Callable[[TokenSettings], Pruner]] = {
    "divprune": lambda settings: DivPrune(settings.keep),
    "grid": lambda settings: GridSampling(step=2),
    "none": lambda settings: GridSampling(step=1),
}
_CODECS: dict[str, Callable[[TokenSettings], Codec]] = {
    "float16": lambda settings: Float16Codec(),
    "int8": lambda settings: Int8Codec(),
}


def pruner(settings: TokenSettings) -> Pruner:
    """Return the pruner that the settings name.

    Raises:
        SettingsError: no pruner has that name, or its settings are out of range.
    """
    return _of(_PRUNERS, "prune", settings.prune)(settings)


def codec(settings: TokenSettings) -> Codec:
    """Return the codec that the settings name.

    Raises:
        SettingsError: no codec has that name.
    """
    return _of(_CODECS, "dtype", settings.dtype)(settings)


def _of(table: dict[str, _T], setting: str, name: str) -> _T:
    if name not in table:
        raise SettingsError(f"{setting} cannot be {name!r}; known: {', '.join(table)}")
    return table[name]
