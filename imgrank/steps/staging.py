"""Tokens of sampled photos that wait beside a bundle until the cache can take them, so that none is computed twice.

Codebooks and the proof of a cache need some photos before the first row can be stored. Their reduced tokens lie in
`BUNDLE.NAME.sample/`, a safetensors file for each part of the work, until the cache is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imgrank.bundle.journal import sync_folder
from imgrank.tokens.scalar import FLOAT16_MAX

if TYPE_CHECKING:
    from imgrank.mllm.base import VisualTokens

Arrays = dict[str, npt.NDArray[Any]]
_FIELDS = ("vectors", "positions", "shape")


class Staging:
    """Reduced tokens by image row, and arrays that belong to a part.

    Args:
        bundle: beside which they lie.
        cache: that they are for.
        facts: how they were made; what was made in another way is thrown away.
    """

    def __init__(self, bundle: Path, cache: str, facts: str) -> None:
        self._folder = bundle.with_name(f"{bundle.name}.{cache}.sample")
        self._facts = facts
        self._files: dict[int, Path] = {}
        self.parts: dict[str, Arrays] = {}
        for path in sorted(self._folder.glob("*.safetensors")):
            self._look_at(path)

    def __contains__(self, row: int) -> bool:
        """Return whether the tokens of an image row are here."""
        return row in self._files

    def __len__(self) -> int:
        """Return how many photos are here."""
        return len(self._files)

    def add(self, part: str, tokens: Mapping[int, VisualTokens], extra: Arrays | None = None) -> None:
        """Keep a part of the work: it appears as a whole or not at all."""
        from safetensors.numpy import save_file

        arrays: Arrays = {}
        for row, one in tokens.items():
            arrays[f"{row}.vectors"] = np.clip(one.vectors, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16)
            arrays[f"{row}.positions"] = one.positions
            arrays[f"{row}.shape"] = np.array([one.grid, one.tiles], dtype=np.int64)
        arrays |= {f"part.{name}": np.ascontiguousarray(array) for name, array in (extra or {}).items()}
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{part}.safetensors"
        incoming = path.with_suffix(".new")
        save_file(arrays, incoming, metadata={"facts": self._facts})
        with incoming.open("rb") as file:
            os.fsync(file.fileno())
        incoming.replace(path)
        sync_folder(self._folder)
        self._look_at(path)

    def read(self, row: int) -> VisualTokens:
        """Return the tokens of an image row, float16."""
        from safetensors import safe_open

        from imgrank.mllm.base import VisualTokens

        with safe_open(self._files[row], "np") as file:
            vectors, positions, shape = (file.get_tensor(f"{row}.{name}") for name in _FIELDS)
        (rows, columns), (down, across) = shape.tolist()
        return VisualTokens(vectors, positions, (rows, columns), (down, across))

    def remove(self) -> None:
        """Throw all of it away."""
        self._files, self.parts = {}, {}
        shutil.rmtree(self._folder, ignore_errors=True)

    def _look_at(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                if (file.metadata() or {}).get("facts") != self._facts:
                    path.unlink()
                    return
                names = list(file.keys())
                self._files |= {int(name.split(".")[0]): path for name in names if name.endswith(".vectors")}
                own = {name.removeprefix("part."): file.get_tensor(name) for name in names if name.startswith("part.")}
                self.parts[path.stem] = own
        except (SafetensorError, ValueError):  # not ours, or cut by a machine that lost power
            path.unlink(missing_ok=True)
