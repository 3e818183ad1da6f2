"""Codebooks between a bundle, a faiss index and a quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imgrank.bundle import file
from imgrank.errors import MismatchError, SettingsError
from imgrank.steps.features import stored_codebooks
from imgrank.tokens.faiss_file import read_faiss_codebooks
from imgrank.tokens.product_quantization import Codebooks, CodebookSpec

if TYPE_CHECKING:
    from imgrank.mllm.base import VisionLanguageModel


def codebook_arrays(codebooks: Codebooks) -> dict[str, npt.NDArray[Any]]:
    """Return what a bundle keeps of codebooks."""
    arrays = {"centroids": codebooks.centroids}
    return arrays if codebooks.rotation is None else arrays | {"rotation": codebooks.rotation}


def load_codebooks(sources: Sequence[Path], spec: CodebookSpec, model: VisionLanguageModel) -> Codebooks:
    """Take codebooks over from another bundle, or from faiss index files, one for each level of tokens.

    Raises:
        MismatchError: the bundle holds none of this model, or none of this kind.
        SettingsError: files and levels differ in number, or a faiss index is of another kind.
        InputError: a file is neither.
    """
    if len(sources) == 1 and file.is_hdf5(sources[0]):
        with file.read(sources[0]) as bundle:
            return _of_bundle(bundle, spec, model)
    if len(sources) != model.levels:
        raise SettingsError(
            f"{model.name} has tokens of {model.levels} levels; give --codebooks once with a bundle, or "
            f"{model.levels} times with a faiss index"
        )
    found = [read_faiss_codebooks(path) for path in sources]
    for path, one in zip(sources, found, strict=True):
        if one.spec != spec or one.hidden != model.hidden:
            raise SettingsError(
                f"{path} holds codebooks of {_described(one)}; asked for {spec.subvectors} sub-vectors of "
                f"{model.hidden} numbers"
            )
    rotations = [one.rotation for one in found if one.rotation is not None]
    return Codebooks(np.concatenate([one.centroids for one in found]), np.concatenate(rotations) if rotations else None)


def _of_bundle(bundle: file.Bundle, spec: CodebookSpec, model: VisionLanguageModel) -> Codebooks:
    there = [table for table in bundle.token_tables.values() if table.codebooks is not None]
    own = [table for table in there if table.provenance.model_revision == model.revision]
    if not own:
        listed = "; ".join(f"{table.name!r} of {table.provenance.model}" for table in there) or "none"
        raise MismatchError(
            bundle.path,
            f"has no codebooks of {model.name} ({model.revision}); there is: {listed}; leave --codebooks out",
        )
    for table in own:
        found = stored_codebooks(table)
        if found is not None and found.spec == spec:
            return found
    listed = ", ".join(sorted(table.codec for table in own))
    raise MismatchError(bundle.path, f"has codebooks for {listed} only; take the same quantizer, or train new ones")


def _described(codebooks: Codebooks) -> str:
    kind = "a rotation and " if codebooks.rotation is not None else ""
    return f"{kind}{codebooks.subvectors} sub-vectors of {codebooks.hidden} numbers"
