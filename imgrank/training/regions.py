"""Paint a map of region numbers: each region gets its own colours, texture, direction and shading.

A drawing is first a (h, w) map of integers, where a larger number lies in front (the dead-leaves model of Matheron
1968 when the sizes follow a power law). Painting then is a handful of table look-ups for all pixels at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from imgrank.arrays import Floats
from imgrank.training.glyphs import print_text
from imgrank.training.noise import Generator, blurred, periodic

Labels = npt.NDArray[np.int32]
TILE = 256  # side of one texture of the atlas, a power of two so that wrapping is a mask
BANKS = 6  # atlases that exist; each drawing takes one


@lru_cache(maxsize=BANKS)
def atlas(bank: int) -> npt.NDArray[np.uint8]:
    """Return the textures of one bank, (16, TILE, TILE) uint8 with mean about 128; they repeat without a seam."""
    rng = np.random.default_rng([0x71E5, bank])
    y, x = np.mgrid[0:TILE, 0:TILE].astype(np.float32) * np.float32(2 * np.pi / TILE)
    wobble = periodic(rng, TILE, slope=1.6)
    tiles = [periodic(rng, TILE, slope=s) for s in (0.7, 1.0, 1.2, 1.6)]
    tiles += [periodic(rng, TILE, slope=1.1, stretch=rng.uniform(2, 5)), periodic(rng, TILE, slope=1.3, stretch=2)]
    tiles.append(-np.abs(periodic(rng, TILE, slope=1.4)))  # veins
    stripes = rng.integers(4, 24)
    tiles.append(np.sign(np.sin(stripes * x + wobble * rng.uniform(0, 2))))
    dots = rng.integers(5, 20)
    tiles.append(np.where(np.sin(dots * x) * np.sin(dots * y) > 0.3, 1.0, -1.0))
    plaid = np.sign(np.sin(rng.integers(2, 9) * x)) + np.sign(np.sin(rng.integers(2, 9) * y))
    tiles.append(plaid + 0.5 * np.sin(64 * x) * np.sin(64 * y))
    threads = rng.integers(20, 50)
    tiles.append(np.where(np.sin(threads * (x + y)) > 0, np.sin(threads * x), np.sin(threads * y)) + 0.4 * wobble)
    tiles.append(_masonry(rng))
    tiles.append(_scribble(rng))
    tiles.append(_print(rng))
    tiles.append(np.tanh(3 * periodic(rng, TILE, slope=1.0)))  # patches with edges
    tiles.append(np.sin(6 * periodic(rng, TILE, slope=1.8)))  # contour bands
    grained = [t + np.float32(0.25) * periodic(rng, TILE, slope=0.8) for t in tiles]
    stack = np.stack([(t - t.mean()) / t.std() for t in grained])
    return np.asarray(np.clip(stack * 52 + 128, 0, 255), dtype=np.uint8)


def _masonry(rng: Generator) -> Floats:
    rows = int(rng.choice([8, 16]))
    columns = rows // 2
    y, x = np.mgrid[0:TILE, 0:TILE]
    row = y * rows // TILE
    along = (x + (row % 2) * (TILE // columns // 2)) % TILE
    column = along * columns // TILE
    tone = rng.normal(0, 0.5, (rows, columns))[row, column]
    joint = ((y % (TILE // rows)) < 2) | ((along % (TILE // columns)) < 2)
    return np.where(joint, -2.2, tone).astype(np.float32)


def _scribble(rng: Generator) -> Floats:
    image = Image.new("L", (TILE, TILE), 128)
    draw = ImageDraw.Draw(image)
    for _ in range(500):
        (cx, cy), angle = rng.uniform(0, TILE, 2), rng.normal(0.7, 0.5)
        dx, dy = 14 * np.cos(angle), 14 * np.sin(angle)
        tone = int(rng.integers(20, 236))
        for ox in (-TILE, 0, TILE):
            for oy in (-TILE, 0, TILE):
                if -20 < cx + ox < TILE + 20 and -20 < cy + oy < TILE + 20:
                    ends = (cx + ox - dx, cy + oy - dy, cx + ox + dx, cy + oy + dy)
                    draw.line(ends, fill=tone, width=int(rng.integers(1, 4)))
    return np.asarray(image, dtype=np.float32) / np.float32(64)


def _print(rng: Generator) -> Floats:
    image = Image.new("L", (TILE, TILE), 220)
    print_text(image, (0, 0, TILE, TILE), rng, size=int(rng.integers(9, 20)), fill=30)
    return np.asarray(image, dtype=np.float32) / np.float32(64)


@dataclass(frozen=True)
class Regions:
    """A drawing before it has colour.

    Attributes:
        labels: (h, w) int32; row of the tables below that owns the pixel, larger is in front.
        centres: (n, 2) float32, (x, y) of each region in pixels.
        radii: (n,) float32, half its extent in pixels.
    """

    labels: Labels
    centres: Floats
    radii: Floats

    @property
    def count(self) -> int:
        """Return the number of regions, those that ended up fully hidden included."""
        return len(self.radii)


def paint(
    rng: Generator,
    regions: Regions,
    colours: Floats,
    *,
    texture: float = 0.35,
    tilt: float = 0.25,
    roundness: float = 0.0,
    shadow: float = 0.5,
    reach: float = 5.0,
) -> Floats:
    """Give every region a textured, shaded surface and let the regions throw shadows on those behind.

    Args:
        rng: the source of randomness.
        regions: what to paint.
        colours: (n, 3) float32 in [0, 255], the mean colour of each region.
        texture: strength of the textures, relative to the colour.
        tilt: strength of each region's own light gradient.
        roundness: 0 paints flat sheets, 1 paints balls lit from the upper left.
        shadow: darkness of the shadows, 0 to 1.
        reach: length of the shadows in pixels.

    Returns:
        (h, w, 3) float32 in about [0, 255].
    """
    count, labels = regions.count, regions.labels
    height, width = labels.shape
    tiles = atlas(int(rng.integers(BANKS)))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi, count)
    zoom = np.exp(rng.normal(0, 0.5, count))
    # Six numbers per region: the affine map from the frame to its texture.
    along, across = (np.cos(angle) * zoom).astype(np.float32), (np.sin(angle) * zoom).astype(np.float32)
    offset = rng.uniform(0, TILE, (2, count)).astype(np.float32)
    a, b = along[labels], across[labels]
    u = (a * x - b * y + offset[0][labels]).astype(np.int32) & (TILE - 1)
    v = (b * x + a * y + offset[1][labels]).astype(np.int32) & (TILE - 1)
    which = rng.integers(0, len(tiles), count).astype(np.int32)[labels]
    grain = tiles.ravel()[(which * TILE + v) * TILE + u]
    strength = (texture * rng.gamma(1.2, 0.8, count) / 90).astype(np.float32)
    light = (grain.astype(np.float32) - np.float32(128)) * strength[labels]
    radii = np.maximum(regions.radii, 1).astype(np.float32)[labels]
    dx = (x - regions.centres[:, 0].astype(np.float32)[labels]) / radii
    dy = (y - regions.centres[:, 1].astype(np.float32)[labels]) / radii
    if tilt > 0:
        slopes = rng.normal(0, tilt, (2, count)).astype(np.float32)
        light += np.clip(slopes[0][labels] * dx + slopes[1][labels] * dy, -0.8, 0.8)
    if roundness > 0:
        fall = np.clip(np.square(dx + np.float32(0.3)) + np.square(dy + np.float32(0.35)), 0, 2.2)
        light += np.float32(roundness) * (np.float32(0.3) - np.float32(0.42) * fall)
    gain = np.clip(np.float32(1) + light, 0.08, 2.2)
    if shadow > 0:
        gain *= np.float32(1) - np.float32(shadow) * thrown_shadow(labels, reach)
    image = colours.astype(np.float32)[labels] * gain[..., None]
    if roundness > 0.3:
        spot = np.exp(-(np.square(dx + 0.38) + np.square(dy + 0.42)) * np.float32(22))
        shine = (rng.uniform(0, 1, count) ** 2 * 170 * roundness).astype(np.float32)[labels]
        image += (spot * shine)[..., None]
    return np.asarray(image, dtype=np.float32)


def thrown_shadow(labels: Labels, reach: float) -> Floats:
    """Return (h, w) float32 in [0, 1]: where a region with a larger number stands to the upper left."""
    shift = max(1, round(reach))
    dark = np.zeros(labels.shape, np.float32)
    for part in (shift, max(1, shift // 2)):
        dark[part:, part:] += (labels[:-part, :-part] > labels[part:, part:]) * np.float32(0.5)
    return np.clip(blurred(dark, max(1.0, reach * 0.4)), 0, 1)


def sizes(rng: Generator, count: int, smallest: float, largest: float, power: float = 3.0) -> Floats:
    """Draw radii with density proportional to r ** -power between the bounds (power 3 is scale invariant)."""
    share = rng.uniform(size=count)
    low, high = smallest ** (1 - power), largest ** (1 - power)
    return np.asarray(((low + share * (high - low)) ** (1 / (1 - power))), dtype=np.float32)


def outline(rng: Generator, kind: str, angle: float, aspect: float) -> Floats:
    """Return an (n, 2) float32 outline of half extent about 1: `leaf`, `stone`, `card`, `disc` or `shard`."""
    if kind == "card":
        points = np.array([[-1, -aspect], [1, -aspect], [1, aspect], [-1, aspect]])
    elif kind == "shard":
        turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
        points = np.stack([np.cos(turns), np.sin(turns) * aspect], axis=1)
    elif kind == "leaf":
        t = np.linspace(-1, 1, 9)
        half = aspect * 0.6 * (1 - t**2) * (1 - 0.35 * t)
        points = np.concatenate([np.stack([t, half], 1), np.stack([t[::-1], -half[::-1]], 1)])
    else:
        t = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        radius = np.ones_like(t)
        if kind == "stone":
            for wave in (2, 3, 5):
                radius += rng.normal(0, 0.25 / wave) * np.cos(wave * t + rng.uniform(0, 6.3))
        points = np.stack([radius * np.cos(t), radius * np.sin(t) * aspect], axis=1)
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray((points @ np.array([[c, s], [-s, c]])), dtype=np.float32)


def scatter(
    rng: Generator,
    height: int,
    width: int,
    kinds: tuple[str, ...],
    *,
    count: int,
    smallest: float,
    largest: float,
    aspect: float = 1.0,
    power: float = 3.0,
    direction: float | None = None,
) -> Regions:
    """Throw shapes on the frame, one over the other, the last in front.

    Args:
        rng: the source of randomness.
        height: rows of the frame.
        width: columns of the frame.
        kinds: outlines to choose from, see `outline`.
        count: shapes thrown.
        smallest: least half extent in pixels.
        largest: greatest half extent in pixels.
        aspect: ratio of the short to the long extent.
        power: exponent of the density of sizes.
        direction: angle most shapes point to, radians; None points anywhere.

    Returns:
        The regions; region 0 is the ground behind all of them.
    """
    radii = np.concatenate([[max(height, width) / 2], sizes(rng, count, smallest, largest, power)])
    # Large shapes first keeps small ones visible without thousands of throws; a little disorder keeps occlusion.
    order = np.argsort(-radii[1:] * np.exp(rng.normal(0, 0.6, count)), kind="stable") + 1
    radii[1:] = radii[order]
    centres = rng.uniform([-5, -5], [width + 5, height + 5], (count + 1, 2))
    centres[0] = width / 2, height / 2
    image = Image.new("I", (width, height), 0)
    draw = ImageDraw.Draw(image)
    forms = [
        outline(
            rng,
            kinds[i % len(kinds)],
            rng.uniform(0, 6.3) if direction is None else direction + rng.normal(0, 0.35),
            aspect * rng.uniform(0.7, 1.3),
        )
        for i in range(32)
    ]
    form = rng.integers(0, len(forms), count + 1)
    for i in range(1, count + 1):
        points = forms[form[i]] * radii[i] + centres[i]
        draw.polygon(points.ravel().tolist(), fill=i)
    return Regions(np.asarray(image, dtype=np.int32), centres.astype(np.float32), radii.astype(np.float32))


def varied(rng: Generator, base: Floats, count: int, spread: float = 22.0) -> Floats:
    """Give each of `count` regions one of the (n, 3) `base` colours, with its own brightness and tint."""
    colours = base[rng.integers(0, len(base), count)]
    gain = np.exp(rng.normal(0, 0.28, (count, 1)))
    return np.clip(colours * gain + rng.normal(0, spread / 2, (count, 3)), 4, 252).astype(np.float32)
