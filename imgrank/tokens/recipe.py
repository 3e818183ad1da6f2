"""A recipe in one line, from a photo to what the cache keeps: `resize:560 | divprune:64 | pq:448`.

Steps in the order in which they happen: how large the model sees the photo (`resize:PIXELS`, `max-tokens:N`), then
any number of reducers, then at most one quantizer. What a recipe does not name is not done, but for the size, which is
the model's own, and the quantizer, which is float16. New strategies are a line in one of the tables here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from imgrank.config import TokenSettings
from imgrank.errors import SettingsError
from imgrank.tokens.base import Amount, Codec, Reducer
from imgrank.tokens.cluster import KMeans
from imgrank.tokens.control import RandomSampling
from imgrank.tokens.grid import GridSampling
from imgrank.tokens.merge import GreedyMerging
from imgrank.tokens.pool import Pooling
from imgrank.tokens.product_quantization import Codebooks, CodebookSpec, ProductCodec
from imgrank.tokens.prune import DivPrune, torch_product
from imgrank.tokens.scalar import BFloat16Codec, Float16Codec, Int8Codec
from imgrank.tokens.ward import Ward

_T = TypeVar("_T")

_SIZES = {"resize": "longer_side", "max-tokens": "max_tokens"}
_USUAL = {"grid": 2, "pool": 2, "merge": 4}  # where a recipe gives no number
# Each gets what follows the colon, and the device.
_REDUCERS: Mapping[str, Callable[[str | None, str], Reducer]] = {
    "divprune": lambda text, device: DivPrune(_amount(text), None if device == "cpu" else torch_product(device)),
    "grid": lambda text, device: GridSampling(_number(text)),
    "pool": lambda text, device: Pooling(_number(text)),
    "merge": lambda text, device: GreedyMerging(_number(text)),
    "kmeans": lambda text, device: KMeans(_amount(text)),
    "ward": lambda text, device: Ward(_amount(text)),
    "random": lambda text, device: RandomSampling(_amount(text)),
}
# How many tokens of n are left, about: how blocks cut a grid depends on its rows and columns.
_LEFT: Mapping[str, Callable[[str | None, int], int]] = {
    "grid": lambda text, n: -(-n // _number(text) ** 2),
    "pool": lambda text, n: -(-n // _number(text) ** 2),
    "merge": lambda text, n: -(-n // _number(text)),
}
_SCALAR: Mapping[str, Callable[[], Codec]] = {"float16": Float16Codec, "bfloat16": BFloat16Codec, "int8": Int8Codec}
_PRODUCT: Mapping[str, Callable[[int], CodebookSpec]] = {
    "pq": lambda subvectors: CodebookSpec(subvectors),
    "opq": lambda subvectors: CodebookSpec(subvectors, rotated=True),
    "rpq": lambda subvectors: CodebookSpec(subvectors, stages=2),
}
_AVERAGING = frozenset({"pool", "merge", "kmeans", "ward"})  # a token that is left is the mean of several
KNOWN = (*_SIZES, *_REDUCERS, *_SCALAR, *_PRODUCT)


def parse_recipe(text: str, default: TokenSettings | None = None) -> TokenSettings:
    """Return the settings that a recipe stands for.

    Args:
        text: such as "resize:560 | divprune:64 | pq:448".
        default: gives the size where the recipe does not.

    Raises:
        SettingsError: a step is unknown, has an unusable number, or stands in the wrong place.
    """
    settings = replace(default or TokenSettings(), reduce="", store="float16")
    steps = [step.strip() for step in text.split("|")]
    if steps == [""]:
        raise SettingsError("an empty recipe; give steps such as 'divprune:64 | pq:448'")
    stage, reducers = 0, list[str]()
    for step in steps:
        name, argument = _split(step)
        now = 0 if name in _SIZES else 1 if name in _REDUCERS else 2
        if now < stage or stage == 2:
            raise SettingsError(
                f"recipe {text!r}: {step!r} comes too late; sizes come first, then what makes fewer tokens, then one "
                "quantizer"
            )
        stage = now
        if name in _SIZES:
            settings = replace(settings, **{_SIZES[name]: _number(argument, step)})  # type: ignore[arg-type]
        elif name in _REDUCERS:
            _REDUCERS[name](argument, "cpu")
            reducers.append(_canonical(name, argument))
        else:
            _quantizer(name, argument)
            settings = replace(settings, store=_canonical(name, argument))
    return replace(settings, reduce=" | ".join(reducers))


def recipe_text(settings: TokenSettings) -> str:
    """Return settings as a recipe in which every step is named."""
    steps = [f"resize:{settings.longer_side}", f"max-tokens:{settings.max_tokens}", settings.reduce, settings.store]
    return " | ".join(step for step in steps if step)


def reducers_of(settings: TokenSettings, device: str = "cpu") -> list[Reducer]:
    """Return the reducers of a recipe in their order.

    Args:
        settings: the recipe.
        device: where the products that DivPrune needs are computed.

    Raises:
        SettingsError: no reducer has that name, or its number is out of range.
    """
    steps = [_split(step) for step in settings.reduce.split("|") if step.strip()]
    return [_known(_REDUCERS, name)(argument, device) for name, argument in steps]


def averages(settings: TokenSettings) -> bool:
    """Return whether what the reducers leave are means of tokens, each at the place of one of them."""
    return any(_split(step)[0] in _AVERAGING for step in settings.reduce.split("|") if step.strip())


def pooled_blocks(settings: TokenSettings) -> int | None:
    """Return the side of the blocks that are averaged, tokens, where that is all that the reducers do; else None."""
    steps = [_split(step) for step in settings.reduce.split("|") if step.strip()]
    return _number(steps[0][1]) if [name for name, _ in steps] == ["pool"] else None


def tokens_left(settings: TokenSettings, full: int) -> int:
    """Return about how many of `full` tokens of a photo the reducers leave."""
    for name, argument in (_split(step) for step in settings.reduce.split("|") if step.strip()):
        full = _LEFT[name](argument, full) if name in _LEFT else _amount(argument).of(full)
    return full


def codebook_spec(settings: TokenSettings) -> CodebookSpec | None:
    """Return which codebooks the quantizer of a recipe needs; None where it needs none.

    Raises:
        SettingsError: no quantizer has that name, or its number is missing.
    """
    return _quantizer(*_split(settings.store))


def codec_of(settings: TokenSettings, codebooks: Codebooks | None = None, device: str = "cpu") -> Codec:
    """Return the quantizer of a recipe.

    Args:
        settings: the recipe.
        codebooks: where the quantizer needs them.
        device: where tokens are encoded.

    Raises:
        SettingsError: no quantizer has that name, or codebooks are missing or of another kind.
    """
    spec = codebook_spec(settings)
    if spec is None:
        return _SCALAR[_split(settings.store)[0]]()
    if codebooks is None or codebooks.spec != spec:
        raise SettingsError(f"{settings.store} needs codebooks of its own kind; `imgrank cache-tokens` makes them")
    return ProductCodec(codebooks, device)


def _quantizer(name: str, argument: str | None) -> CodebookSpec | None:
    if name in _SCALAR:
        if argument is not None:
            raise SettingsError(f"{name}:{argument}: {name} takes no number")
        return None
    if argument is None and name in _PRODUCT:
        raise SettingsError(f"{name}: say into how many sub-vectors a token is cut, such as {name}:448")
    return _known(_PRODUCT, name)(_number(argument, f"{name}:{argument}"))


def _split(step: str) -> tuple[str, str | None]:
    name, colon, argument = (part.strip() for part in step.partition(":"))
    if name not in KNOWN:
        raise SettingsError(f"no step of a recipe is called {name!r}; known: {', '.join(KNOWN)}")
    return name, argument if colon else str(_USUAL[name]) if name in _USUAL else None


def _canonical(name: str, argument: str | None) -> str:
    return name if argument is None else f"{name}:{argument}"


def _number(text: str | None, step: str = "") -> int:
    if text is None or not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise SettingsError(f"{step or text!r}: give a whole number from 1")
    return int(text)


def _amount(text: str | None) -> Amount:
    """Read "64" or "33%"."""
    if text is not None and (share := re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", text)):
        return Amount(share=float(share[1]) / 100)
    if text is not None and re.fullmatch(r"[0-9]{1,9}", text):
        return Amount(int(text))
    raise SettingsError(f"{text or 'no number'}: say how many tokens are left, such as 64 or 33%")


def _known(table: Mapping[str, _T], name: str) -> _T:
    if name not in table:
        raise SettingsError(f"{name!r} cannot stand here; known: {', '.join(table)}")
    return table[name]
