"""Read a projection from a file: a linear layer, or principal directions. No code that a file may hold is run.

The linear adaptation layers of ILIAS (https://github.com/ilias-vrg/ilias, linear_adaptation) are torch checkpoints with
`layer.weight` (512, dim) and `layer.bias` (512,), trained on descriptors of length 1, which is what encoders give here.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.errors import InputError
from imgrank.local.projection import WHITENING, Projection, weights_of

_LIMIT = 256 * 2**20  # bytes; a layer from 4,096 to 1,024 numbers has 16 MiB
_MOST = 2**16  # numbers along one axis
_LISTED = 5  # names in a message
_STATES = ("state_dict", "model_state_dict", "model")  # under which checkpoints keep their tensors
_FLOATS = ("float16", "float32", "float64")
_INSTEAD = "save its tensors as .safetensors or .npz, or its state_dict() with torch.save"

Shape = tuple[int, ...]


def read_projection(path: Path, *, dim: int | None = None, whitening: float | None = None) -> Projection:
    """Read a projection.

    Args:
        path: a torch checkpoint, .npz or .safetensors; its content tells which. It holds either one linear layer,
            `weight` (dim, raw_dim) with or without `bias` (dim,), under any prefix; or principal directions: `mean`
            (raw_dim,) with `basis` (raw_dim, dim), as `imgrank export projection` writes them, or `components`
            (dim, raw_dim), as scikit-learn's PCA calls them, with `explained_variance` or `singular_values` where they
            are to be weighed. Names may end in an underscore.
        dim: directions that are kept, from the first; None: all.
        whitening: see `weights_of`; None: 0.5 where the file has variances, else nothing is weighed.

    Returns:
        float32 arrays.

    Raises:
        InputError: the file is missing, too large, of another kind, or holds code; it has no such matrix or several, or
            tensors beside it; shapes do not fit each other; a number is not finite; `dim` or `whitening` is asked for
            and the file has nothing that they apply to.
    """
    arrays = _read(path)
    found = {name.rpartition(".")[2].lower().rstrip("_"): name for name in arrays}
    basis = next((found[kind] for kind in ("basis", "components") if kind in found), None)
    if basis is not None:
        return _directions(path, arrays, found, basis, dim, whitening)
    if dim is not None or whitening is not None:
        raise InputError(
            f"{path}: a linear layer, whose outputs are in no order and have no variances; leave --projection-dim and "
            "--whitening out"
        )
    return _layer(path, arrays)


def _layer(path: Path, arrays: Mapping[str, Floats]) -> Projection:
    candidates = [name for name, array in arrays.items() if array.ndim == 2 and _last(name) == "weight"]
    if not candidates:
        raise InputError(
            f"{path}: no matrix called weight, basis or components, as a projection has; it holds {_listed(arrays)}"
        )
    if len(candidates) > 1:
        raise InputError(
            f"{path}: {len(candidates)} matrices could be the layer: {', '.join(candidates[:_LISTED])}; save the one "
            "that is meant alone"
        )
    (name,) = candidates
    bias_name = f"{name.removesuffix('weight')}bias"
    others = {key: array for key, array in arrays.items() if key not in (name, bias_name)}
    if others:
        raise InputError(f"{path}: holds {_listed(others)} beside {name}, so it is more than one linear layer")
    weight, bias = arrays[name], arrays.get(bias_name)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(f"{path}: {name} is {weight.shape}, and {bias_name} {bias.shape}; they are not of one layer")
    # Copied, so that the digest and a reader of the bundle see the same bytes in the same order.
    return Projection(np.zeros(weight.shape[1], np.float32), np.ascontiguousarray(weight.T), bias)


def _directions(
    path: Path,
    arrays: Mapping[str, Floats],
    found: Mapping[str, str],
    basis_name: str,
    dim: int | None,
    whitening: float | None,
) -> Projection:
    matrix = arrays[basis_name]
    if "mean" not in found:
        raise InputError(f"{path}: has {basis_name} but no mean; save both")
    mean = arrays[found["mean"]]
    bias = arrays[found["bias"]] if "bias" in found else None
    basis = matrix if _last(basis_name) == "basis" or matrix.ndim != 2 else matrix.T
    if basis.ndim != 2 or mean.shape != basis.shape[:1] or (bias is not None and bias.shape != basis.shape[1:]):
        shapes = ", ".join(f"{found[key]} {arrays[found[key]].shape}" for key in ("mean", "bias") if key in found)
        raise InputError(f"{path}: {basis_name} is {matrix.shape}, and {shapes}; they do not fit each other")
    if dim is not None:
        if dim > basis.shape[1]:
            raise InputError(f"{path}: has {basis.shape[1]} directions, fewer than --projection-dim {dim}")
        if bias is not None:
            raise InputError(f"{path}: has a bias, so its outputs are in no order; leave --projection-dim out")
    variances = _variances(path, arrays, found, basis.shape[1])
    if variances is None:
        if whitening is not None:
            raise InputError(
                f"{path}: no explained_variance or singular_values to weigh its directions by; leave --whitening out"
            )
        weights = np.ones(1)
    else:
        weights = weights_of(variances[:dim], WHITENING if whitening is None else whitening)
    return Projection(mean, np.ascontiguousarray(basis[:, :dim] * weights, dtype=np.float32), bias)


def _variances(
    path: Path, arrays: Mapping[str, Floats], found: Mapping[str, str], dim: int
) -> npt.NDArray[np.float64] | None:
    for key, power in (("explained_variance", 1), ("singular_values", 2)):
        if key in found:
            values = np.asarray(arrays[found[key]], dtype=np.float64) ** power
            if values.shape != (dim,) or not (values > 0).all():
                raise InputError(f"{path}: {found[key]} should be {dim} numbers above 0, one for each direction")
            return values
    return None


def _last(name: str) -> str:
    return name.rpartition(".")[2].lower().rstrip("_")


def _listed(arrays: Mapping[str, Floats]) -> str:
    names = [f"{name} {array.shape}" for name, array in list(arrays.items())[:_LISTED]]
    more = f" and {len(arrays) - _LISTED} more" if len(arrays) > _LISTED else ""
    return (", ".join(names) or "no tensors") + more


# Files


def _read(path: Path) -> dict[str, Floats]:
    """Return the tensors of a file as float32, having checked how large they are before memory is taken.

    Whole numbers and tensors without axes, such as counters, are left out.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    size = path.stat().st_size
    if size > _LIMIT:
        raise InputError(f"{path}: {size} bytes are too many for a projection, at most {_LIMIT} are read")
    with _unreadable(path):
        arrays = dict(_reader(path)(path))
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"{path}: {name} holds NaN or infinity; the file is damaged")
    return arrays


def _reader(path: Path) -> Callable[[Path], Iterator[tuple[str, Floats]]]:
    with path.open("rb") as file:
        begin = file.read(9)
    # First, because the length of a header may have the bytes that the others begin with.
    if begin[8:] == b"{" and int.from_bytes(begin[:8], "little") < path.stat().st_size:
        return _safetensors
    if begin.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if sum(member.file_size for member in archive.infolist()) > _LIMIT:
                raise InputError(f"{path}: holds more than {_LIMIT} bytes, too many for a projection")
        return _npz if names and all(name.endswith(".npy") for name in names) else _torch
    if begin[:1] == b"\x80":
        raise InputError(
            f"{path}: a pickle, which can run code, or a checkpoint of torch before 1.6, which is one; {_INSTEAD}"
        )
    raise InputError(f"{path}: not a torch checkpoint, .npz or .safetensors")


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise InputError(
            f"{path}: holds more than tensors{what}, which can run code and is refused; {_INSTEAD}"
        ) from error
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        SafetensorError,
    ) as error:
        line = str(error).strip().partition("\n")[0][:200]
        raise InputError(f"{path}: cannot be read ({line or type(error).__name__}); the file is damaged") from error


def _wanted(path: Path, name: str, shape: Shape, dtype: str) -> bool:
    """Tell whether a tensor is one of those that count; refuse one that is too large."""
    if dtype not in _FLOATS or not shape:
        return False
    if len(shape) > 2 or max(shape) > _MOST or math.prod(shape) * 4 > _LIMIT or 0 in shape:
        raise InputError(f"{path}: {name} of shape {tuple(shape)} is no part of a projection")
    return True


def _npz(path: Path) -> Iterator[tuple[str, Floats]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = header[version](file)
            if dtype.hasobject:
                raise InputError(f"{path}: {name} holds Python objects, which can run code and are refused")
            if _wanted(path, name, shape, dtype.name):
                with archive.open(member) as file:
                    yield name, np.lib.format.read_array(file, allow_pickle=False).astype(np.float32, order="C")


def _safetensors(path: Path) -> Iterator[tuple[str, Floats]]:
    from safetensors import safe_open

    types = {"F16": "float16", "F32": "float32", "F64": "float64"}
    with safe_open(path, "numpy") as file:
        for name in file.keys():
            part = file.get_slice(name)
            if part.get_dtype() == "BF16":
                raise InputError(f"{path}: {name} is in bfloat16, which is not read; save it in float32")
            if _wanted(path, name, tuple(part.get_shape()), types.get(part.get_dtype(), "")):
                yield name, file.get_tensor(name).astype(np.float32, order="C")


def _torch(path: Path) -> Iterator[tuple[str, Floats]]:
    import torch

    loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(loaded, dict):
        inner = next((loaded[key] for key in _STATES if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__} instead of named tensors; save a state_dict()")
    for key, tensor in loaded.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            continue
        dtype = "float32" if tensor.is_floating_point() else ""  # bfloat16 as well: float32 holds it exactly
        if _wanted(path, str(key), tuple(tensor.shape), dtype):
            yield str(key), np.array(tensor.detach().to(torch.float32).numpy(), order="C")
