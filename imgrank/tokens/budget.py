"""How many bytes a recipe takes of the cache, and which recipe fits into so many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from imgrank.config import TokenSettings
from imgrank.errors import SettingsError
from imgrank.tokens.recipe import codebook_spec, codec_of

IMAGE_BYTES = 21  # of a photo, beside its tokens: offset, grid, tiles, status, checksum
_POSITION_BYTES = 6
_FEWEST = 16  # tokens below which a coarser quantizer is the better way to save
_NUMBERS_A_BYTE = (8, 16, 32)  # of product quantizers, the finest first; 8 is that of arXiv:2604.13268


def token_bytes(settings: TokenSettings, levels: int, hidden: int) -> int:
    """Return the bytes that a cache spends on one token, its position included."""
    spec = codebook_spec(settings)
    if spec is not None:
        return levels * spec.stages * spec.subvectors + _POSITION_BYTES
    columns = codec_of(settings).columns(levels, hidden).values()
    return sum(np.dtype(kind).itemsize * int(np.prod(row)) for kind, row in columns) + _POSITION_BYTES


def codebook_bytes(settings: TokenSettings, levels: int, hidden: int) -> int:
    """Return the bytes that a cache spends once, on codebooks and rotations."""
    spec = codebook_spec(settings)
    if spec is None:
        return 0
    return 4 * levels * (spec.stages * 256 * hidden + (hidden * hidden if spec.rotated else 0))


def fit_budget(budget: int, levels: int, hidden: int, full: int, default: TokenSettings) -> TokenSettings:
    """Return the recipe that spends a number of bytes on a photo.

    Every eighth number of a token costs a byte of a product quantizer with a rotation, and as many tokens are kept as
    fit. Where all tokens fit, a finer quantizer takes what is left; where hardly any do, a coarser one makes room.

    Args:
        budget: bytes for a photo.
        levels: vectors per token.
        hidden: numbers per vector.
        full: tokens of a usual photo before any are left out.
        default: gives the size at which the model sees a photo.

    Raises:
        SettingsError: not even a few tokens fit; the message says what would.
    """
    room = budget - IMAGE_BYTES
    finer = [replace(default, store=store) for store in ("float16", "int8")]
    coarser = [replace(default, store=f"opq:{m}") for m in _subvectors(hidden)]
    for settings in finer:
        if room >= full * token_bytes(settings, levels, hidden):
            return replace(settings, reduce="")
    for settings in coarser:
        kept = room // token_bytes(settings, levels, hidden)
        if kept >= min(full, _FEWEST):
            return replace(settings, reduce="" if kept >= full else f"divprune:{kept}")
    least = IMAGE_BYTES + min(full, _FEWEST) * token_bytes(coarser[-1], levels, hidden)
    raise SettingsError(f"{budget} bytes for a photo are too few for this model; give at least {least}")


def _subvectors(hidden: int) -> list[int]:
    """Return numbers of sub-vectors that divide `hidden`, the most first."""
    found = []
    for numbers in _NUMBERS_A_BYTE:
        size = next(size for size in range(numbers, hidden + 1) if hidden % size == 0) if numbers <= hidden else hidden
        found.append(hidden // size)
    return sorted(set(found), reverse=True)
