"""The first stages of published tables through the command line: layers and whitenings from files, scales."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from imgrank.local.projection import fit_projection
from tests import tiny_encoders

DIM = 32  # of the small DINOv3


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A small DINOv3, 110 photos and a few more, and two layers."""
    folder = tmp_path_factory.mktemp("first")
    tiny_encoders.dinov3(folder / "dinov3")
    rng = np.random.default_rng(8)
    for name, count in (("photos", 110), ("more", 2)):
        (folder / name).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((48, 40), Image.Resampling.BICUBIC).save(folder / name / f"{number:03}.png")
    torch.manual_seed(5)
    for name in ("layer.pth", "other.pth"):
        module = torch.nn.Linear(DIM, 48)
        torch.save({f"layer.{key}": value for key, value in module.state_dict().items()}, folder / name)
    return folder


def vectors(path):
    with h5py.File(path) as root:
        group = root["descriptors"]
        return group["vectors"][:], json.loads(group.attrs["settings"]), dict(group.attrs)


def ran(run, code=0):
    assert run.returncode == code, run.stderr.decode()
    return run.stderr.decode()


ENCODER = ("--encoder", "dinov3", "--device", "cpu")


@pytest.fixture(scope="module")
def plain(imgrank, work):
    """Descriptors without a projection."""
    ran(imgrank("embed", "photos", "-o", "plain.h5", *ENCODER, cwd=work))
    return vectors(work / "plain.h5")[0]


def test_a_layer_of_a_file(imgrank, work, plain):
    with_layer = ("--projection", "layer.pth")
    ran(imgrank("index", "photos", "-o", "layer.h5", *ENCODER, *with_layer, cwd=work))
    found, settings, attributes = vectors(work / "layer.h5")
    state = torch.load(work / "layer.pth", weights_only=True)
    weight, bias = state["layer.weight"].double().numpy(), state["layer.bias"].double().numpy()
    expected = plain.astype(np.float64) @ weight.T + bias
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    # What the bundle says of it, and that readers without a bias must stop.
    name, _, digest = settings["projection"].partition("@")
    assert (name, attributes["encoding-version"]) == ("layer.pth", 2)
    assert attributes["model-revision"].endswith(f"+{digest}".encode())
    # The same command goes on, also with a copy of the file; another layer is another encoder.
    (work / "copy.pt").write_bytes((work / "layer.pth").read_bytes())
    for same in ("layer.pth", "copy.pt"):
        assert "110 known" in ran(
            imgrank("embed", "photos", "-o", "layer.h5", *ENCODER, "--projection", same, cwd=work)
        )
    assert "asked for" in ran(
        imgrank("embed", "photos", "-o", "layer.h5", *ENCODER, "--projection", "other.pth", cwd=work), 4
    )
    # A copy of the bundle keeps it all, and a damaged bias is noticed.
    ran(imgrank("compact", "layer.h5", cwd=work))
    copied, _, kept = vectors(work / "layer.h5")
    np.testing.assert_array_equal(copied, found)
    assert kept["encoding-version"] == 2
    shutil.copy(work / "layer.h5", work / "damaged.h5")
    with h5py.File(work / "damaged.h5", "r+") as root:
        np.testing.assert_array_equal(root["descriptors/projection/bias"][:], state["layer.bias"])
        root["descriptors/projection/bias"][0] += 1
    assert b"projection-checksum" in imgrank("check", "damaged.h5", cwd=work).stdout
    # Neither new photos nor queries need the file again.
    (work / "layer.pth").rename(work / "gone.pth")
    try:
        ran(imgrank("index", "more", "-o", "layer.h5", "--root", work, "--device", "cpu", cwd=work))
        search = imgrank("search", "layer.h5", "photos/007.png", "-k", 1, "--device", "cpu", cwd=work)
        ran(search)
        hit = json.loads(search.stdout)
        assert hit["path"] == "photos/007.png"
        assert hit["similarity"] == pytest.approx(1, abs=1e-6)
        missing = imgrank("embed", "more", "-o", "layer.h5", *ENCODER, *with_layer, cwd=work)
        assert "layer.pth: no such file" in ran(missing, 5)
    finally:
        (work / "gone.pth").rename(work / "layer.pth")


def test_whitening_learned_on_one_collection_serves_another(imgrank, work, plain):
    options = ("--projection", "collection", "--projection-dim", 16, "--whitening", 1)
    ran(imgrank("index", "photos", "-o", "white.h5", *ENCODER, *options, cwd=work))
    found, settings, attributes = vectors(work / "white.h5")
    expected = fit_projection(plain, 16, 1.0).apply(plain)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)
    assert (settings["projection_dim"], settings["whitening"], attributes["encoding-version"]) == (16, 1.0, 1)
    ran(imgrank("export", "projection", "white.h5", "-o", "white.safetensors", cwd=work))
    tensors = load_file(work / "white.safetensors")
    assert {name: array.shape for name, array in tensors.items()} == {"mean": (DIM,), "basis": (DIM, 16)}
    ran(imgrank("index", "more", "-o", "more.h5", *ENCODER, "--projection", "white.safetensors", cwd=work))
    # Both can be compared: a photo of one is found in both, and they are one bundle when merged.
    both = imgrank("search", "white.h5", "more/001.png", "--with", "more.h5", "-k", 2, "--device", "cpu", cwd=work)
    ran(both)
    first = json.loads(both.stdout.splitlines()[0])
    assert (first["bundle"], first["path"]) == ("more.h5", "more/001.png")
    dry = imgrank("embed", "more", "-o", "white.h5", "--root", work, "--dry-run", "--device", "cpu", cwd=work)
    ran(dry)
    assert b"2 new" in dry.stdout
    none = imgrank("export", "projection", "plain.h5", "-o", "none.safetensors", cwd=work)
    assert "no 'descriptors/projection'" in ran(none, 4)


def test_scales_are_kept_for_queries(imgrank, work, plain):
    ran(imgrank("index", "photos", "-o", "scales.h5", *ENCODER, "--scales", "1,0.5,1.5", cwd=work))
    found, settings, _ = vectors(work / "scales.h5")
    assert settings["scales"] == [1.0, 0.5, 1.5]
    assert np.abs(found - plain).max() > 1e-3
    search = imgrank("search", "scales.h5", "photos/011.png", "-k", 1, "--device", "cpu", cwd=work)
    assert json.loads(search.stdout)["similarity"] == pytest.approx(1, abs=1e-6)
    other = imgrank("search", "plain.h5", "photos/011.png", "--with", "scales.h5", "--device", "cpu", cwd=work)
    assert "scales 1, 0.5, 1.5" in ran(other, 4)


BAD = {
    "collectoin": ("no such file; did you mean collection?", 5),
    "photos/000.png": ("not a torch checkpoint, .npz or .safetensors", 5),
    "short.npz": ("takes vectors of 31 numbers, and those of", 5),
}


@pytest.mark.parametrize("file", BAD)
def test_what_is_no_projection_leaves_no_bundle(imgrank, work, file):
    np.savez(work / "short.npz", weight=np.ones((4, DIM - 1), np.float32))
    message, code = BAD[file]
    said = ran(imgrank("index", "photos", "-o", "bad.h5", *ENCODER, "--projection", file, cwd=work), code)
    assert message in said
    assert "Traceback" not in said
    assert not (work / "bad.h5").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scales", "1,x"], "not numbers joined by commas"),
        (["--scales", "1,0.5"], "the builtin encoder has no scales to set"),
        (["--whitening", "0.3"], "for one that is learned"),
        (["--gem-p", "4"], "the builtin encoder has no gem_p to set"),
    ],
)
def test_options_that_do_nothing_are_refused(imgrank, work, options, message):
    assert message in ran(imgrank("index", "photos", "-o", "bad.h5", *options, cwd=work), 2)
