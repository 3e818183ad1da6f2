"""Draw whole photos from numbers: what vocabularies, projections and small networks are fitted on.

A photo is a scene (wall, table, heap, stones, foliage, hills, water, street, shelf, room) with nothing to six
objects in it (boxes, bottles, posters, paintings, ornaments, figures, house fronts, stones and plants), taken by a
camera that is sometimes out of focus, shaken, noisy or unevenly lit, and compressed as JPEG. The drawings are made
so that their local statistics come near those of photos: occlusion at all scales, 1/f surfaces, print, relief
and shadow. They hold no object, text or place that exists.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from imgrank.arrays import Pixels
from imgrank.errors import InputError
from imgrank.training.camera import dappled, expose, random_camera
from imgrank.training.objects import KINDS, SETTINGS, Kind, draw_object
from imgrank.training.scenes import SCENES, draw_background
from imgrank.training.views import place


def draw_photo(seed: int, size: tuple[int, int] | None = None) -> Pixels:
    """Draw one photo.

    Args:
        seed: any integer >= 0; equal arguments give equal bits.
        size: (height, width) in pixels; None lets the seed choose a longer side of 480 to 512 and one of the usual
            shapes, upright or lying.

    Returns:
        (height, width, 3) uint8.

    Raises:
        InputError: a negative seed, or a side outside 32 to 4096.
    """
    if seed < 0:
        raise InputError(f"seed {seed}: must be 0 or more")
    rng = np.random.default_rng([0xF070, seed])
    long = int(rng.integers(480, 513))
    short = round(long / float(rng.choice([4 / 3, 4 / 3, 3 / 2, 16 / 9, 1.0])))
    lying = rng.uniform() < 0.6
    height, width = ((short, long) if lying else (long, short)) if size is None else size
    side = min(height, width)
    count = int(rng.choice([0, 0, 1, 1, 2, 3, 4, 6]))
    # Mostly things where they belong; any thing anywhere in the rest, so that no pairing is learnt as a rule.
    # A house stands alone in a photo, or in a street.
    choices = [kind for kind in KINDS if count == 1 or kind != "facade"]
    kinds: list[Kind] = [choices[i] for i in rng.integers(0, len(choices), count)]
    fitting = SETTINGS[kinds[0]] if kinds and rng.uniform() < 0.7 else tuple(SCENES)
    if not kinds:  # a bare wall, table or sea would teach nothing
        fitting = tuple(scene for scene in SCENES if scene not in ("wall", "table", "water"))
    scene = fitting[int(rng.integers(len(fitting)))]
    frame = Image.fromarray(draw_background(int(rng.integers(2**31)), height, width, scene=scene))
    if kinds and rng.uniform() < 0.4:
        frame = frame.filter(ImageFilter.GaussianBlur(float(np.exp(rng.uniform(np.log(0.5), np.log(5))))))
    for i, kind in enumerate(kinds):
        # Later objects stand nearer: larger, and over the earlier ones.
        share = rng.uniform(0.25, 0.6) if count > 1 else rng.uniform(0.5, 1.1)
        length = int(np.clip(share * side, 64, 512))
        thing = draw_object(int(rng.integers(2**31)), kind=kind, longer_side=length)
        at = width * rng.uniform(0.1, 0.9), height * rng.uniform(0.15, 0.95)
        if kind == "facade":
            at = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.9, 1.0) - thing.rgba.shape[0] / 2
        elif count == 1:
            at = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.4, 0.6)
        turn = rng.normal(0, 8) if rng.uniform() < 0.8 else rng.uniform(-180, 180)
        turn = rng.normal(0, 2) if kind == "facade" else turn
        yaw, pitch = np.clip(rng.normal(0, [20, 12]), -55, 55)
        place(frame, thing.rgba, 1.0, at, float(turn), float(yaw), float(pitch), 0.2 + 0.1 * i)
    image = np.asarray(frame, dtype=np.float32)
    if rng.uniform() < 0.25:
        image = image * dappled(rng, height, width, float(rng.uniform(0.1, 0.45)))[..., None]
    return expose(image, random_camera(rng, float(rng.beta(1.2, 2.5))), rng)
