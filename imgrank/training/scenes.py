"""Surroundings without a subject: rooms, streets, shelves, tables, walls, hills, foliage, stones and water."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from imgrank.arrays import Floats, Pixels
from imgrank.errors import InputError
from imgrank.training import indoors, outdoors, surfaces
from imgrank.training.noise import Generator, to_pixels

Scene = Callable[[Generator, int, int], Floats]

SCENES: dict[str, Scene] = {
    "wall": surfaces.wall,
    "table": indoors.table,
    "cards": indoors.cards,
    "stones": outdoors.stones,
    "foliage": outdoors.foliage,
    "hills": outdoors.hills,
    "water": outdoors.water,
    "street": outdoors.street,
    "shelf": indoors.shelf,
    "room": indoors.room,
}
_SHARES = np.array([2, 3, 1, 1.5, 1.5, 2, 0.7, 2, 2.5, 2.5]) / 18.7


def draw_background(seed: int, height: int, width: int, *, scene: str | None = None) -> Pixels:
    """Draw surroundings to put objects in front of.

    Args:
        seed: any integer >= 0; equal arguments give equal bits.
        height: rows, 32 to 4096.
        width: columns, 32 to 4096.
        scene: one of `SCENES`; None lets the seed choose.

    Returns:
        (height, width, 3) uint8.

    Raises:
        InputError: a negative seed, an unknown scene, or a size out of range.
    """
    if seed < 0:
        raise InputError(f"seed {seed}: must be 0 or more")
    if scene is not None and scene not in SCENES:
        raise InputError(f"unknown scene {scene!r}; known: {', '.join(SCENES)}")
    if not (32 <= height <= 4096 and 32 <= width <= 4096):
        raise InputError(f"a scene of {width} x {height} pixels cannot be drawn; take sides of 32 to 4096")
    rng = np.random.default_rng([0xBAC6, seed])
    drawn = list(SCENES)[int(rng.choice(len(SCENES), p=_SHARES))] if scene is None else scene
    image = SCENES[drawn](rng, height, width)
    # Like a camera's own metering: bring the mean near mid grey, but leave night and snow recognisable.
    mean = float(np.clip(image, 0, 255).mean())
    target = float(rng.uniform(85, 155))
    return to_pixels(image * np.float32(np.clip(target / max(mean, 1.0), 0.55, 2.2)))
