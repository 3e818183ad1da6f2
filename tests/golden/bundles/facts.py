"""What a bundle holds, read with h5py and numpy alone: the values that later releases must still read.

python tests/golden/bundles/facts.py BUNDLE.h5 > version-N.json
"""

import hashlib
import json
import os
import sys
from itertools import pairwise

import h5py
import numpy as np


def facts(path: str) -> dict:
    with h5py.File(path, "r") as root:
        images = root["images"]
        offsets, raw = images["path-offsets"][:].astype(int), images["path-bytes"][:].tobytes()
        found = {
            "ids": images["id"][:].tolist(),
            "paths": [os.fsdecode(raw[start:stop]) for start, stop in pairwise(offsets)],
            "statuses": (images["status"][:] & 15).tolist(),
            "digests": [digest.tobytes().hex() for digest in images["digest"][:]],
            "vectors": digest_of(root["descriptors/vectors"][:]),
            "graph": {name: digest_of(root["graph"][name][:]) for name in ("rows", "levels", "links0", "upper_links")},
            "caches": {},
        }
        for name, cache in root["tokens"].items():
            found["caches"][name] = {
                "offsets": cache["offsets"][:].astype(int).tolist(),
                "grid": cache["grid"][:].tolist(),
                "columns": {key: digest_of(column[:]) for key, column in cache["columns"].items()},
                "codebooks": {key: digest_of(array[:]) for key, array in cache.get("codebooks", {}).items()},
                "proof": {key: digest_of(array[:]) for key, array in cache.get("proof", {}).items()},
            }
        return found


def digest_of(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


if __name__ == "__main__":
    json.dump(facts(sys.argv[1]), sys.stdout, indent=1)
