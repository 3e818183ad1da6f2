"""Linear layers and principal directions, read from files that programs of others wrote."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from imgrank.encode import projection_file
from imgrank.encode.projection_file import read_projection
from imgrank.errors import InputError

RNG = np.random.default_rng(4)
WEIGHT = RNG.normal(size=(5, 8)).astype(np.float32)
BIAS = RNG.normal(size=5).astype(np.float32)
WIDE = RNG.normal(size=(12, 8)).astype(np.float32)  # more outputs than inputs: no mean gives its bias
VECTORS = RNG.normal(size=(6, 8)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def layer(weight, bias):
    """What the authors' own module gives: Linear, then length 1."""
    return torch.nn.functional.normalize(
        torch.nn.functional.linear(*map(torch.from_numpy, (VECTORS, weight, bias))), dim=-1
    ).numpy()


def written(path, tensors):
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    elif path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({key: torch.from_numpy(value) for key, value in tensors.items()}, path)
    return path


KINDS = [".npz", ".safetensors", ".pth"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["layer.", "module.adaptation_layer.layer.", ""])
def test_a_layer_gives_what_torch_gives(tmp_path, kind, prefix):
    file = written(tmp_path / f"a{kind}", {f"{prefix}weight": WEIGHT, f"{prefix}bias": BIAS})
    np.testing.assert_allclose(read_projection(file).apply(VECTORS), layer(WEIGHT, BIAS), atol=2e-6)


def test_a_layer_with_more_outputs_than_inputs_keeps_its_bias(tmp_path):
    bias = RNG.normal(size=12).astype(np.float32)
    read = read_projection(written(tmp_path / "a.pth", {"layer.weight": WIDE, "layer.bias": bias}))
    np.testing.assert_allclose(read.apply(VECTORS), layer(WIDE, bias), atol=2e-6)
    assert np.abs(layer(WIDE, bias) - layer(WIDE, 0 * bias)).max() > 0.1


def test_a_layer_without_bias_has_none(tmp_path):
    read = read_projection(written(tmp_path / "a.npz", {"weight": WEIGHT}))
    assert read.bias is None
    np.testing.assert_allclose(read.apply(VECTORS), layer(WEIGHT, 0 * BIAS), atol=2e-6)


def test_a_training_checkpoint_keeps_its_layer_under_state_dict(tmp_path):
    module = torch.nn.Linear(8, 5)
    torch.save(
        {"epoch": 3, "state_dict": module.state_dict(), "optimizer": {"lr": torch.ones(2, 2)}}, tmp_path / "c.tar"
    )
    read = read_projection(tmp_path / "c.tar")
    np.testing.assert_array_equal(read.basis, module.weight.detach().numpy().T)
    np.testing.assert_array_equal(read.bias, module.bias.detach().numpy())


def test_half_precision_is_read(tmp_path):
    torch.save({"layer.weight": torch.from_numpy(WEIGHT).bfloat16()}, tmp_path / "a.pth")
    np.testing.assert_allclose(read_projection(tmp_path / "a.pth").basis, WEIGHT.T, rtol=0.01)
    save_torch_file({"layer.weight": torch.from_numpy(WEIGHT).bfloat16()}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"a\.safetensors: layer\.weight is in bfloat16"):
        read_projection(tmp_path / "a.safetensors")


# Principal directions


def pca(photos, dim, whitening):
    """By the covariance matrix, where `fit_projection` takes the products of photos."""
    mean = photos.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(photos.T))
    order = np.argsort(-variances)[:dim]
    variances, directions = variances[order], directions[:, order]
    rows = (VECTORS - mean) @ directions / variances ** (whitening / 2)
    return mean, directions.T, variances, rows / np.linalg.norm(rows, axis=1, keepdims=True)


PHOTOS = (RNG.normal(size=(50, 8)) * np.arange(1, 9)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "names", [("mean_", "components_", "explained_variance_"), ("mean", "components", "singular_values")]
)
@pytest.mark.parametrize(("dim", "whitening"), [(8, 0.5), (3, 1.0), (5, 0.0)])
def test_principal_directions_as_scikit_learn_calls_them(tmp_path, kind, names, dim, whitening):
    mean, components, variances, _ = pca(PHOTOS, 8, whitening)
    spread = variances if "variance" in names[2] else np.sqrt(variances * 49)  # singular values of 50 centred rows
    file = written(tmp_path / f"pca{kind}", dict(zip(names, (mean, components, spread), strict=True)))
    found = read_projection(file, dim=dim, whitening=whitening).apply(VECTORS)
    np.testing.assert_allclose(found, pca(PHOTOS, dim, whitening)[3], atol=1e-5)


def test_directions_without_variances_are_taken_as_they_are(tmp_path):
    mean, components, _, expected = pca(PHOTOS, 8, 0.0)
    file = written(tmp_path / "pca.npz", {"mean": mean, "basis": components.T})
    np.testing.assert_allclose(read_projection(file).apply(VECTORS), expected, atol=1e-5)
    with pytest.raises(InputError, match="no explained_variance or singular_values"):
        read_projection(file, whitening=1.0)
    with pytest.raises(InputError, match="8 directions, fewer than --projection-dim 9"):
        read_projection(file, dim=9)


# What is refused


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_code_in_a_checkpoint_is_refused_and_named(tmp_path, capsys):
    torch.save({"layer.weight": torch.from_numpy(WEIGHT), "x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth: holds more than tensors \(.*print.*can run code"):
        read_projection(tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"layer.weight": Evil()}))
    with pytest.raises(InputError, match=r"plain\.pth: a pickle, which can run code"):
        read_projection(tmp_path / "plain.pth")
    np.savez(tmp_path / "evil.npz", weight=np.array([Evil()], dtype=object))
    with pytest.raises(InputError, match=r"evil\.npz: weight holds Python objects"):
        read_projection(tmp_path / "evil.npz")
    assert capsys.readouterr().out == ""


BAD = {
    "no such": ({"layer.bias": BIAS}, "no matrix called weight, basis or components"),
    "several": ({"a.weight": WEIGHT, "b.weight": WIDE}, "2 matrices could be the layer: a.weight, b.weight"),
    "more": ({"fc.weight": WEIGHT, "fc.bias": BIAS, "norm.weight": BIAS}, r"norm\.weight \(5,\) beside fc\.weight"),
    "bias": ({"weight": WEIGHT, "bias": BIAS[:4]}, r"weight is \(5, 8\), and bias \(4,\)"),
    "nan": ({"weight": WEIGHT * np.float32("nan")}, "weight holds NaN"),
    "axes": ({"weight": WEIGHT[None]}, r"weight of shape \(1, 5, 8\) is no part"),
    "no mean": ({"components_": WEIGHT}, "components_ but no mean"),
    "mean": ({"components_": WEIGHT, "mean_": BIAS}, r"components_ is \(5, 8\), and mean_ \(5,\)"),
    "variance": (
        {"components_": WEIGHT, "mean_": VECTORS[0], "explained_variance_": BIAS * 0},
        "should be 5 numbers above 0",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", BAD)
def test_what_is_no_projection_is_an_error_that_names_the_file(tmp_path, kind, case):
    tensors, message = BAD[case]
    file = written(tmp_path / f"bad{kind}", tensors)
    with pytest.raises(InputError, match=f"bad{kind}: .*{message}"):
        read_projection(file)


def test_a_layer_has_no_directions_to_choose_from(tmp_path):
    file = written(tmp_path / "a.pth", {"layer.weight": WEIGHT})
    for options in ({"dim": 2}, {"whitening": 0.5}):
        with pytest.raises(InputError, match="leave --projection-dim and --whitening out"):
            read_projection(file, **options)


def test_sizes_are_compared_before_memory_is_taken(tmp_path, monkeypatch):
    torch.save({"layer.weight": torch.zeros(1).expand(60_000, 60_000)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth: layer\.weight of shape \(60000, 60000\)"):
        read_projection(tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("weight.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (60_000, 60_000)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(InputError, match=r"a\.npz: weight of shape \(60000, 60000\)"):
        read_projection(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weight.npy", b"\0" * 100_000)
    monkeypatch.setattr(projection_file, "_LIMIT", 50_000)
    with pytest.raises(InputError, match="holds more than 50000 bytes"):
        read_projection(tmp_path / "bomb.npz")
    (tmp_path / "long").write_bytes(b"\0" * 60_000)
    with pytest.raises(InputError, match="bytes are too many"):
        read_projection(tmp_path / "long")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_is_damaged(tmp_path, kind):
    file = written(tmp_path / f"a{kind}", {"layer.weight": WEIGHT, "layer.bias": BIAS})
    for size in (0, 5, 60, file.stat().st_size - 9):
        (tmp_path / "cut").write_bytes(file.read_bytes()[:size])
        with pytest.raises(InputError, match=r"cut: "):
            read_projection(tmp_path / "cut")
