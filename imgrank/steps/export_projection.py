"""`export projection`: what a bundle's descriptors went through, for other bundles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imgrank.bundle import file
from imgrank.errors import MissingGroupError
from imgrank.steps.outputs import check_output, replacing
from imgrank.steps.projections import bundle_projection
from imgrank.steps.tensor_file import TensorFile

CONTENTS, LAYOUT_VERSION = "imgrank projection", "1"


@dataclass(frozen=True)
class ProjectionExport:
    """What `export_projection` wrote."""

    output: Path
    raw_dim: int
    dim: int
    encoder: str
    digest: str  # of the projection, as bundles name it
    bytes: int


def export_projection(bundle: Path, output: Path, *, force: bool = False) -> ProjectionExport:
    """Write the projection of a bundle, which `--projection FILE` reads.

    Tensors: `mean` (raw_dim,), `basis` (raw_dim, dim) and, of a linear layer that has one, `bias` (dim,), float32.

    Args:
        bundle: made with a projection that was fitted or read from a file.
        output: OUT.safetensors.
        force: replace a file that is there.

    Raises:
        SettingsError: the file is there already, or another ending.
        MissingGroupError: the bundle has no projection of its own.
        DamagedBundleError: an array fails its checksum.
    """
    check_output(output, ".safetensors", force=force)
    with file.read(bundle) as opened:
        made_by = opened.descriptors.provenance
        projection = bundle_projection(opened)
    if projection is None:
        made = f"imgrank index PHOTOS -o {bundle} --projection collection"
        raise MissingGroupError(bundle, "descriptors/projection", made)
    arrays = {"mean": projection.mean, "basis": projection.basis}
    if projection.bias is not None:
        arrays["bias"] = projection.bias
    metadata = {
        "contents": CONTENTS,
        "version": LAYOUT_VERSION,
        "model": made_by.model,
        "model-revision": made_by.model_revision,
        "settings": made_by.settings,
        "created-by": made_by.created_by,
    }
    tensors = {name: ("float32", array.shape) for name, array in arrays.items()}
    with replacing(output) as new, TensorFile(new, tensors, metadata) as writer:
        for name, array in arrays.items():
            writer.append(name, array)
    raw_dim, dim = projection.basis.shape
    return ProjectionExport(output, raw_dim, dim, made_by.model, projection.digest, output.stat().st_size)
