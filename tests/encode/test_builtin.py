import json
import os
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest

from imgrank.encode import builtin
from imgrank.encode.builtin import DESCRIPTOR_DIM, WEIGHTS_FILE, BuiltinEncoder
from imgrank.errors import InputError, MissingModelError
from imgrank.local.keypoints import LocalSettings, extract
from tests.local.drawing import picture, view


@pytest.fixture(scope="module")
def encoder():
    return BuiltinEncoder()


def test_the_shipped_weights_are_small_and_load():
    size = len((resources.files("imgrank.encode") / WEIGHTS_FILE).read_bytes())
    assert size <= 2_000_000
    encoder = BuiltinEncoder()
    assert encoder.dim == DESCRIPTOR_DIM
    assert encoder.name == "builtin"
    assert encoder.revision == BuiltinEncoder().revision
    assert json.loads(json.dumps(dict(encoder.settings))) == {"local": json.loads(LocalSettings().to_json())}
    assert encoder.longer_side == LocalSettings().longer_side


def test_photos_of_the_same_picture_are_more_alike(encoder):
    images = [picture(0), view(picture(0), 15, 0.8), picture(1), view(picture(1), -10, 1.2), picture(2)]
    descriptors = encoder.encode(images).descriptors
    similarity = descriptors @ descriptors.T
    others = [similarity[i, j] for i in range(5) for j in range(i) if (i, j) not in ((1, 0), (3, 2))]
    assert min(similarity[1, 0], similarity[3, 2]) > max(others) + 0.1


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (4000, 9), (8, 8), (300, 400)])
def test_a_photo_without_features_still_has_a_descriptor(encoder, shape):
    encoded = encoder.encode([np.full((*shape, 3), 200, dtype=np.uint8)])
    assert encoded.descriptors.dtype == np.float32
    assert abs(np.linalg.norm(encoded.descriptors[0]) - 1) < 1e-6
    assert len(encoded.local[0]) == 0


def test_a_photo_gives_the_same_bits_alone_in_a_batch_and_on_one_thread(encoder, monkeypatch):
    images = [picture(seed) for seed in range(4)]
    batch = encoder.encode(images)
    assert np.abs(np.linalg.norm(batch.descriptors, axis=1) - 1).max() < 1e-6
    assert encoder.encode(images[2:3]).descriptors.tobytes() == batch.descriptors[2].tobytes()
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    alone = encoder.encode(images)
    assert alone.descriptors.tobytes() == batch.descriptors.tobytes()
    for one, other in zip(alone.local, batch.local, strict=True):
        assert np.array_equal(one.descriptors, other.descriptors)


def test_the_local_features_are_those_of_extract(encoder):
    image = picture(5)
    local, expected = encoder.encode([image]).local[0], extract(image, LocalSettings())
    assert np.array_equal(local.descriptors, expected.descriptors)
    assert np.array_equal(local.keypoints, expected.keypoints)


def test_an_empty_batch_and_wrong_arrays(encoder):
    nothing = encoder.encode([])
    assert nothing.descriptors.shape == (0, encoder.dim)
    assert nothing.local == []
    with pytest.raises(InputError, match="uint8"):
        encoder.encode([np.zeros((10, 10, 3), np.float32)])


def shipped_but(change):
    data = (resources.files("imgrank.encode") / WEIGHTS_FILE).read_bytes()
    return change(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b'"version":"1.1"', b'"version":"9.1"', 1),
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data.replace(b"vocabulary.words", b"vocabulary.wordz", 1),
    ],
)
def test_other_weights_are_refused(monkeypatch, tmp_path, change):
    (tmp_path / WEIGHTS_FILE).write_bytes(shipped_but(change))
    monkeypatch.setattr(builtin.resources, "files", lambda package: tmp_path)
    with pytest.raises(MissingModelError, match="reinstall imgrank"):
        BuiltinEncoder()


def test_missing_weights_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin.resources, "files", lambda package: tmp_path)
    with pytest.raises(MissingModelError, match="reinstall imgrank"):
        BuiltinEncoder()


def test_it_loads_no_model_library():
    code = (
        "import sys, imgrank.encode.builtin; print([m for m in ('torch', 'transformers', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
