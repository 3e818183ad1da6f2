"""Draw one object from a number: a cut-out with transparent surroundings, of one of eight kinds.

package (printed box), bottle (bottle, jar or can with a label), poster (type, pages, invented characters), painting
(framed), ornament (rosette, plate, crest), figure (modelled from ellipsoids), facade (building front), natural
(stone, fruit, shell or plant). The number decides everything; `sibling` changes what is on the object but neither
its kind, its shape nor its palette, which gives the look-alikes that a retrieval system must tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from imgrank.arrays import Floats
from imgrank.errors import InputError
from imgrank.training import artworks, facades, nature, products
from imgrank.training.noise import Generator, palette

Kind = Literal["package", "bottle", "poster", "painting", "ornament", "figure", "facade", "natural"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Height over width, and how colourful: (least, most, vividness).
_SHAPES: dict[Kind, tuple[float, float, float]] = {
    "package": (0.7, 1.9, 0.8),
    "bottle": (1.4, 2.6, 0.8),
    "poster": (0.7, 1.6, 0.7),
    "painting": (0.7, 1.4, 0.5),
    "ornament": (1.0, 1.0, 0.6),
    "figure": (0.8, 1.5, 0.5),
    "facade": (0.7, 1.5, 0.3),
    "natural": (0.8, 1.3, 0.5),
}
# Scenes in which a kind of object is usually met.
SETTINGS: dict[Kind, tuple[str, ...]] = {
    "package": ("shelf", "table", "table", "room", "cards"),
    "bottle": ("shelf", "table", "table", "room", "hills"),
    "poster": ("wall", "wall", "room", "street", "table"),
    "painting": ("wall", "wall", "room", "table"),
    "ornament": ("wall", "table", "stones", "cards", "street"),
    "figure": ("table", "table", "room", "foliage", "stones", "wall"),
    "facade": ("street", "hills", "street", "water"),
    "natural": ("foliage", "stones", "table", "hills", "water"),
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """An object cut out of its surroundings.

    Attributes:
        kind: what it is.
        rgba: (height, width, 4) uint8 sRGB, straight (not premultiplied) alpha; longer side as asked for.
    """

    kind: Kind
    rgba: npt.NDArray[np.uint8]


def draw_object(seed: int, *, kind: Kind | None = None, longer_side: int | None = None, sibling: int = 0) -> Drawn:
    """Draw an object.

    Args:
        seed: any integer >= 0; equal arguments give equal bits.
        kind: what to draw; None lets the seed choose.
        longer_side: pixels, 48 to 2048; None lets the seed choose 320 to 512. Another size is another drawing.
        sibling: 0 is the object itself; 1, 2, ... are look-alikes: same kind, shape and colours, other content.

    Raises:
        InputError: a negative seed or sibling, an unknown kind, or a size out of range.
    """
    if seed < 0 or sibling < 0:
        raise InputError(f"seed {seed}, sibling {sibling}: both must be 0 or more")
    if kind is not None and kind not in KINDS:
        raise InputError(f"unknown kind of object {kind!r}; known: {', '.join(KINDS)}")
    if longer_side is not None and not 48 <= longer_side <= 2048:
        raise InputError(f"an object of {longer_side} pixels cannot be drawn; take 48 to 2048")
    style = np.random.default_rng([0x0B1EC7, seed])
    chosen = KINDS[int(style.integers(len(KINDS)))] if kind is None else kind
    least, most, vivid = _SHAPES[chosen]
    aspect = float(np.exp(style.uniform(np.log(least), np.log(most))))
    side = int(style.integers(320, 513))
    side = side if longer_side is None else longer_side
    width, height = (round(side / aspect), side) if aspect >= 1 else (side, round(side * aspect))
    colours = palette(style, 6, vivid=vivid)
    # Look-alikes share the structure of the object by sharing the first choices of its content.
    content = np.random.default_rng([0xC0, seed, sibling])
    image = _draw(chosen, style, content, colours, width, height)
    return Drawn(chosen, np.array(image))


def _draw(kind: Kind, style: Generator, content: Generator, colours: Floats, width: int, height: int) -> Image.Image:
    if kind == "package":
        return products.package(content, colours, width, height)
    if kind == "bottle":
        return products.bottle(content, colours, width, height)
    if kind == "poster":
        return products.poster(content, colours, width, height)
    if kind == "painting":
        return artworks.painting(content, colours, width, height)
    if kind == "ornament":
        return artworks.ornament(content, colours, width, height)
    if kind == "figure":
        return artworks.figure(content, colours, width, height)
    if kind == "facade":
        return facades.facade(content, colours, width, height)
    return (nature.stone if style.uniform() < 0.6 else nature.plant)(content, colours, width, height)
