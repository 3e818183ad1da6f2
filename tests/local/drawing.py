"""Pictures with many distinct corners, and views of them."""

import cv2
import numpy as np


def picture(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(60, 200, 3), dtype=np.uint8)
    for _ in range(60):
        at = rng.integers(0, [width, height])
        corners = at + rng.normal(0, 22, (int(rng.integers(3, 6)), 2))
        cv2.fillPoly(image, [corners.astype(np.int32)], tuple(map(int, rng.integers(0, 256, 3))))
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def view(image: np.ndarray, turn: float, scale: float, tilt: float = 0.0) -> np.ndarray:
    """Return the picture turned (degrees), scaled and tilted about its middle."""
    height, width = image.shape[:2]
    matrix = np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale), [tilt, 0, 1]])
    return cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
