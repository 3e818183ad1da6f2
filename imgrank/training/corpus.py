"""Draw subjects ahead of training and keep the keypoints of their photos on disk, in shards.

Drawing and detecting takes far longer than a training step, so it is done once; a run that was cut goes on at the
first shard that is missing. Equal seeds give equal shards.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors.numpy import load_file, save_file

from imgrank.local.keypoints import Keypoints, LocalSettings, detect, use_one_thread
from imgrank.training.subjects import draw_subject

SHARD = 16  # subjects
_JPEG_QUALITY = 95


@dataclass(frozen=True, eq=False)
class Photos:
    """The keypoints of n photos.

    Attributes:
        subject: (n,) int64, which subject a photo belongs to.
        role: (n,) uint8, what it shows of it (`subjects.SAME` and so on).
        plane: (n, 3, 3) float64, see `subjects.Shot`.
        keypoints: of each photo.
    """

    subject: npt.NDArray[np.int64]
    role: npt.NDArray[np.uint8]
    plane: npt.NDArray[np.float64]
    keypoints: list[Keypoints]

    def __len__(self) -> int:
        return len(self.keypoints)

    def take(self, rows: npt.NDArray[np.intp]) -> Photos:
        """Return some of the photos."""
        return Photos(self.subject[rows], self.role[rows], self.plane[rows], [self.keypoints[i] for i in rows])


def draw_corpus(folder: Path, subjects: int, *, first: int = 0, workers: int | None = None) -> Iterator[int]:
    """Draw the shards that are missing, and yield how many subjects are there after each.

    Args:
        folder: made where it is missing.
        subjects: rounded up to whole shards.
        first: number of the first subject, a multiple of SHARD; subjects are numbered on from it.
        workers: processes; None takes one for each core.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = range(first // SHARD, -(-(first + subjects) // SHARD))
    missing = [shard for shard in wanted if not shard_path(folder, shard).exists()]
    done = len(wanted) - len(missing)
    yield done * SHARD
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(draw_shard, itertools.repeat(folder), missing):
            done += 1
            yield done * SHARD


def shard_path(folder: Path, shard: int) -> Path:
    """Return where a shard is kept."""
    return folder / f"shard-{shard:06d}.safetensors"


def draw_shard(folder: Path, shard: int) -> None:
    """Draw one shard and write it whole or not at all."""
    use_one_thread()  # the processes of the pool fill the cores
    subject, role, plane, found, files = [], [], [], [], []
    for number in range(shard * SHARD, (shard + 1) * SHARD):
        for shot in draw_subject(number):
            subject.append(number)
            role.append(shot.role)
            plane.append(shot.plane)
            found.append(detect(shot.pixels, LocalSettings()))
            buffer = io.BytesIO()
            Image.fromarray(shot.pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
            files.append(np.frombuffer(buffer.getvalue(), np.uint8))
    tensors = {
        "subject": np.array(subject, np.int64),
        "role": np.array(role, np.uint8),
        "plane": np.array(plane, np.float64),
        "extent": np.array([one.extent for one in found], np.float32),
        "counts": np.array([len(one) for one in found], np.int64),
        "root_sift": np.concatenate([one.root_sift for one in found]),
        "places": np.concatenate([one.places for one in found]),
        "colours": np.concatenate([one.colours for one in found]),
        "jpeg": np.concatenate(files),
        "jpeg_sizes": np.array([len(one) for one in files], np.int64),
    }
    path = shard_path(folder, shard)
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file(tensors, part)
    part.replace(path)


def read_shards(paths: Sequence[Path]) -> Photos:
    """Read the keypoints of several shards."""
    subject, role, plane, keypoints = [], [], [], []
    for path in paths:
        held = load_file(path)
        subject.append(held["subject"])
        role.append(held["role"])
        plane.append(held["plane"])
        ends = np.cumsum(held["counts"])
        for start, end, extent in zip(ends - held["counts"], ends, held["extent"], strict=True):
            keypoints.append(
                Keypoints(
                    held["root_sift"][start:end],
                    held["places"][start:end],
                    held["colours"][start:end],
                    (float(extent[0]), float(extent[1])),
                )
            )
    return Photos(np.concatenate(subject), np.concatenate(role), np.concatenate(plane), keypoints)
