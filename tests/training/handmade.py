"""What a matcher can be trained and tested on without drawing subjects, which takes seconds each."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from imgrank.local.keypoints import COLOUR_POINTS, Keypoints
from imgrank.mllm.keypoint_network import KeypointNetwork
from imgrank.training.corpus import Photos
from imgrank.training.matcher import Shape, new_network
from imgrank.training.subjects import SAME, SIBLING, VARIANT, Shot
from tests.local.drawing import picture

SMALL = Shape(layers=2, mlp=96)
ROLES = (SAME, SAME, SAME, SIBLING, VARIANT)


def small_network(seed: int = 0) -> KeypointNetwork:
    """Return a network with random weights, so large that every layer and every token has a say in the answer.

    The weights are float16 numbers, so that a folder holds them as they are.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        basis = np.linalg.qr(rng.normal(size=(128, 80)))[0].astype(np.float32)
        network = new_network(SMALL, np.zeros(128, np.float32), basis, seed).eval()
        with torch.no_grad():
            for name, weights in network.named_parameters():
                if weights.ndim > 1:
                    weights.normal_(std=1.0 if "embed" in name else 1.5 / weights.shape[1] ** 0.5)
                elif name.endswith("bias"):
                    weights.normal_(std=0.1)
                weights.copy_(weights.half().float())
    return network


def no_keypoints() -> Keypoints:
    """Return what is found in a photo without contrast."""
    shapes = {"root_sift": (0, 128), "places": (0, 4), "colours": (0, 3 * COLOUR_POINTS)}
    kinds = {"root_sift": np.uint8, "places": np.float32, "colours": np.uint8}
    return Keypoints(**{name: np.zeros(shape, kinds[name]) for name, shape in shapes.items()}, extent=(1.0, 0.75))


def random_keypoints(rng: np.random.Generator, count: int) -> Keypoints:
    """Return keypoints that resemble nothing."""
    places = np.stack(
        [
            rng.uniform(0, 1, count),
            rng.uniform(0, 0.75, count),
            rng.uniform(0.01, 0.1, count),
            rng.uniform(0, 360, count),
        ],
        axis=1,
    )
    return Keypoints(
        rng.gamma(0.5, 60, (count, 128)).clip(0, 255).astype(np.uint8),
        places.astype(np.float32),
        rng.integers(0, 256, (count, 3 * COLOUR_POINTS), dtype=np.uint8),
        (1.0, 0.75),
    )


def made_photos(subjects: int, points: int = 40, seed: int = 0) -> Photos:
    """Make photos of subjects, ROLES of each; all stand where their subject's plane lies.

    Photos of the thing itself have the same keypoints in another order. A variant has half of them, a sibling none.
    """
    rng = np.random.default_rng(seed)
    subject, role, keypoints = [], [], []
    for number in range(subjects):
        own = random_keypoints(rng, points)
        for kind in ROLES:
            other = random_keypoints(rng, points)
            kept = {SAME: points, SIBLING: 0, VARIANT: points // 2}[kind]
            order = rng.permutation(points)
            mixed = (
                np.concatenate([getattr(own, name)[:kept], getattr(other, name)[kept:]])[order]
                for name in ("root_sift", "places", "colours")
            )
            subject.append(number)
            role.append(kind)
            keypoints.append(Keypoints(*mixed, own.extent))
    planes = np.tile(np.eye(3), (len(keypoints), 1, 1))
    return Photos(np.array(subject, np.int64), np.array(role, np.uint8), planes, keypoints)


def quick_subject(seed: int) -> list[Shot]:
    """Return shots as `draw_subject` does, of simple pictures: four of one, and two others for the look-alikes."""
    rng = np.random.default_rng(seed)
    height, width = 96, 128
    shots = []
    for number, role in enumerate([SAME] * 4 + [SIBLING, VARIANT]):
        image = picture(10 * seed + (number if role else 0), height, width)
        turn, scale = float(rng.normal(0, 8)), float(rng.uniform(0.8, 1.2))
        matrix = np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale), [0, 0, 1]])
        pixels = cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        plane = np.diag([1 / width, 1 / width, 1]) @ matrix @ np.diag([width, height, 1])
        shots.append(Shot(role, pixels, plane))
    return shots
