"""Photos made on the spot, so that every expected value can be told by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from imgrank.config import DecodeSettings


@pytest.fixture
def settings():
    return DecodeSettings()


@pytest.fixture
def encode():
    """Encode an array, or a Pillow image, as the bytes of a file."""

    def encode(image, format, **options):
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def quarters():
    """Build (height, width, 3) pixels with four flat quarters: red, green, blue and white, each its own way round."""

    def quarters(height=32, width=48):
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels[: height // 2, : width // 2] = (255, 0, 0)
        pixels[: height // 2, width // 2 :] = (0, 255, 0)
        pixels[height // 2 :, : width // 2] = (0, 0, 255)
        pixels[height // 2 :, width // 2 :] = (255, 255, 255)
        return pixels

    return quarters
