"""Drawn subjects, made once for the whole run."""

from __future__ import annotations

import cv2
import pytest

from imgrank.training.subjects import Shot, draw_subject

OBJECT, PLACE = 10, 6  # seeds of an object and of a whole scene


@pytest.fixture(scope="session")
def object_shots() -> list[Shot]:
    """Photos of an object and of its look-alikes; read only."""
    return draw_subject(OBJECT)


@pytest.fixture(scope="session")
def place_shots() -> list[Shot]:
    """Photos of a whole scene; read only."""
    return draw_subject(PLACE)


@pytest.fixture
def opencv_threads():
    """Give OpenCV the threads back that drawing in this process takes away."""
    threads = cv2.getNumThreads()
    yield
    cv2.setNumThreads(threads)
