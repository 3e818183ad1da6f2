"""Write a small collection of drawn photos with ground truth: the demo, and a test bed that needs no download.

Every object is photographed several times (other scale, turn, light, scene, neighbours, occlusion). Distractors
show other objects, among them look-alikes: the kind, shape and palette of an object with other content.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from imgrank.arrays import Pixels
from imgrank.errors import InputError
from imgrank.training.objects import KINDS, SETTINGS, Drawn, Kind, draw_object
from imgrank.training.photos import draw_photo
from imgrank.training.scenes import draw_background
from imgrank.training.views import View, random_view, render_view

LOOK_ALIKES = 0.4  # share of the distractors that are look-alikes of an object


@dataclass(frozen=True)
class CollectionFiles:
    """What `draw_collection` wrote.

    Attributes:
        photos: folder of the photos to index.
        images: the photos, sorted by name.
        queries: the query photos, sorted by name; they lie in a folder of their own, beside `photos`.
        qrels: TREC qrels (query, 0, image, 1; tab separated); names are file names without a folder.
    """

    photos: Path
    images: tuple[Path, ...]
    queries: tuple[Path, ...]
    qrels: Path


def draw_collection(
    folder: Path, *, seed: int, objects: int, views: int, distractors: int, queries: int, workers: int = 2
) -> CollectionFiles:
    """Draw a collection into `folder`, which is made where it is missing.

    Files: `photos/object-07-view-2.jpg`, `photos/distractor-013.jpg`, `queries/query-07.jpg` (the number is that of
    the object), `qrels.tsv`. Files of these names are overwritten. Equal arguments give equal bytes.

    Args:
        folder: where to write.
        seed: any integer >= 0.
        objects: number of objects, at least 1.
        views: photos of each object, at least 1.
        distractors: photos that show none of them.
        queries: number of query photos, each of another object, so at most `objects`.
        workers: drawing threads; any number gives the same bytes.

    Raises:
        InputError: a number out of range.
    """
    if min(seed, distractors, queries) < 0 or min(objects, views, workers) < 1 or queries > objects:
        raise InputError(
            f"cannot draw {objects} objects x {views} views, {distractors} distractors and {queries} queries from seed "
            f"{seed}: take at least one object and view, nothing negative, and no more queries than objects"
        )
    photos, asked = folder / "photos", folder / "queries"
    photos.mkdir(parents=True, exist_ok=True)
    asked.mkdir(exist_ok=True)
    rng = np.random.default_rng([0xC011, seed])
    numbers = rng.choice(2**31, objects, replace=False).tolist()
    things = [draw_object(number, kind=_turn_of(i), longer_side=480) for i, number in enumerate(numbers)]
    jobs: list[tuple[Path, Callable[[], Pixels]]] = []
    lines: list[str] = []
    for i, thing in enumerate(things):
        names = [f"object-{i:02d}-view-{v}.jpg" for v in range(views)]
        for v, name in enumerate(names):
            difficulty = 0.15 + 0.75 * (v + 1) / views
            jobs.append((photos / name, partial(_shot, thing, (seed, i, v), difficulty)))
        if i < queries:  # kinds come in turn, so the first objects are of every kind
            query = f"query-{i:02d}.jpg"
            jobs.append((asked / query, partial(_shot, thing, (seed, i, views), 0.1)))
            lines += [f"{query}\t0\t{name}\t1\n" for name in names]
    alike = round(LOOK_ALIKES * distractors)
    for j in range(distractors):
        draw = partial(_look_alike, numbers, j, seed) if j < alike else partial(_unrelated, j, seed)
        jobs.append((photos / f"distractor-{j:03d}.jpg", draw))
    # Every photo has randomness of its own, so the order in which threads finish changes nothing.
    with ThreadPoolExecutor(workers) as pool:
        written = sorted(pool.map(_save, jobs))
    qrels = folder / "qrels.tsv"
    qrels.write_text("".join(lines), encoding="ascii", newline="\n")
    images = tuple(path for path in written if path.parent == photos)
    return CollectionFiles(photos, images, tuple(path for path in written if path.parent == asked), qrels)


def _turn_of(i: int) -> Kind:
    """Take the kinds in turn, so that a small collection has all of them."""
    return KINDS[i % len(KINDS)]


def _look_alike(numbers: list[int], j: int, seed: int) -> Pixels:
    i = j % len(numbers)
    sibling = draw_object(numbers[i], kind=_turn_of(i), longer_side=480, sibling=1 + j // len(numbers))
    difficulty = float(np.random.default_rng([0xD1FF, seed, j]).uniform(0.1, 0.6))
    return _shot(sibling, (seed, 1_000_000 + j, 0), difficulty)


def _unrelated(j: int, seed: int) -> Pixels:
    return draw_photo(int(np.random.default_rng([0xD1, seed, j]).integers(2**31)))


def _shot(thing: Drawn, numbers: tuple[int, int, int], difficulty: float) -> Pixels:
    return render_view(thing, *staged(thing, numbers, difficulty))


def staged(thing: Drawn, numbers: tuple[int, int, int], difficulty: float) -> tuple[Pixels, View]:
    """Choose surroundings in which things of a kind are usually met, and a view; `numbers` decide both."""
    rng = np.random.default_rng([0x5807, *numbers])
    settings = SETTINGS[thing.kind]
    scene = settings[int(rng.integers(len(settings)))]
    upright = rng.uniform() < 0.5
    height, width = (512, 384) if upright else (384, 512)
    background = draw_background(int(rng.integers(2**31)), height, width, scene=scene)
    view = random_view(rng, difficulty)
    return background, _standing(view, thing, height, width) if thing.kind == "facade" else view


def _standing(view: View, thing: Drawn, height: int, width: int) -> View:
    """Put a house on the ground: upright, large, its foot near the lower edge."""
    scale = max(view.scale, 0.75)
    tall = scale * min(height, width) * thing.rgba.shape[0] / max(thing.rgba.shape[:2])
    y = (0.97 * height - tall / 2) / height
    turn = (view.rotation + 90) % 180 - 90  # a house never hangs upside down
    return replace(view, scale=scale, centre=(view.centre[0], y), rotation=turn / 8, pitch=view.pitch / 3)


def _save(job: tuple[Path, Callable[[], Pixels]]) -> Path:
    path, draw = job
    Image.fromarray(draw()).save(path, "JPEG", quality=90)
    return path
