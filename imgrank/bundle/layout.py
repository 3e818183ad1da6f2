"""Names, types and versions of everything in a bundle, once; `docs/format.md` says what they mean.

A column is a dataset whose first axis grows. Columns are chunked and never filtered, so that a reader can find the
bytes of a row from HDF5's own chunk table and read them with one system call.
"""

from __future__ import annotations

from dataclasses import dataclass

FORMAT_NAME = "imgrank"
FORMAT_VERSION = 2  # of the file as a whole; each group has an `encoding-version` of its own

# Sizes that a reader refuses to go beyond before it allocates anything.
MAX_IMAGES = 2**32
MAX_DIM = 2**16  # numbers in a descriptor, or in one level of one visual token
MAX_CACHE_NAME = 64  # characters
MAX_CACHES = 1024
MAX_COLUMNS = 16  # of a cache
MAX_ROOT = 2**15  # bytes of the path of the root

SMALL_CHUNK = 32 * 1024  # bytes; columns with a few bytes per image
LARGE_CHUNK = 512 * 1024  # bytes; descriptors and token codes


@dataclass(frozen=True)
class Column:
    """One dataset that grows along its first axis."""

    name: str
    dtype: str  # little-endian numpy type
    tail: tuple[int, ...] = ()  # shape of one row
    chunk_bytes: int = SMALL_CHUNK


IMAGES = "images"
IMAGES_VERSION = 2
IMAGE_COLUMNS = (
    Column("id", "<u8"),
    Column("path-offsets", "<u8"),  # n + 1
    Column("path-bytes", "|u1"),
    Column("size", "<u8"),
    Column("mtime-ns", "<i8"),
    Column("digest", "|u1", (16,)),
    Column("width", "<u4"),
    Column("height", "<u4"),
    Column("status", "|u1"),
    Column("crc32", "<u4"),
)

DESCRIPTORS = "descriptors"
DESCRIPTORS_VERSION = 2
PLAIN_DESCRIPTORS_VERSION = 1  # of descriptors whose projection has no bias
IMPORTED_ATTRIBUTE = "imported-from"  # OPTIONAL, of /descriptors


def descriptor_columns(dim: int) -> tuple[Column, ...]:
    """Return the columns of `/descriptors` for vectors of `dim` numbers."""
    return (Column("vectors", "<f4", (dim,), LARGE_CHUNK), Column("crc32", "<u4"))


PROJECTION = "projection"  # /descriptors/projection: fitted on this collection or read from a file, where there is one

PROJECTION_ARRAYS = {"mean": ("<f4", 1), "basis": ("<f4", 2), "bias": ("<f4", 1)}  # dtype, axes; bias is OPTIONAL

GRAPH = "graph"
GRAPH_VERSION = 2
PLAIN_GRAPH_VERSION = 1  # of a graph over the descriptors themselves

TOKENS = "tokens"
TOKENS_VERSION = 2
TOKEN_IMAGE_COLUMNS = (  # one row per image
    Column("offsets", "<u8"),  # n + 1
    Column("grid", "<u2", (2,)),
    Column("tiles", "<u2", (2,)),
    Column("status", "|u1"),
    Column("crc32", "<u4"),
)
UNFINISHED = "."  # begins the name of a cache that nobody reads yet
CODEBOOKS = "codebooks"  # /tokens/NAME/codebooks: of a product quantizer
CODEBOOK_ARRAYS = {"centroids": ("<f4", 5), "rotation": ("<f4", 3)}  # dtype, axes
PROOF = "proof"  # /tokens/NAME/proof: what the model said of some pairs before tokens were left out and quantized
PROOF_ARRAYS = {
    "queries": ("<u4", 1),
    "offsets": ("<u8", 1),
    "codes": ("|i1", 3),
    "scales": ("<f4", 2),
    "position": ("<u2", 2),
    "grid": ("<u2", 2),
    "tiles": ("<u2", 2),
    "pairs": ("<u4", 2),
    "logits": ("<f4", 1),
}
LOCAL_CACHE = "local"  # /tokens/local: the built-in local descriptors
BUILTIN_CACHE = "builtin"  # the same of the built-in MLLM, so that it is never in the way of a real one
DEFAULT_CACHE = "default"  # the name of a cache of any other MLLM when the user gives none

CALIBRATION = "calibration"
CALIBRATION_VERSION = 1
MAX_CALIBRATIONS = 1024
MAX_KNOTS = 2**20  # numbers in one array of a calibration
CALIBRATION_ARRAYS = {  # of /calibration/NAME: knots or coefficients, and the reliability table
    "knots-x": ("<f8", 1),
    "knots-y": ("<f8", 1),
    "coefficients": ("<f8", 1),
    "bin-count": ("<u8", 1),
    "bin-predicted": ("<f8", 1),
    "bin-observed": ("<f8", 1),
}

THUMBNAILS = "thumbnails"
THUMBNAILS_VERSION = 1
THUMBNAIL_COLUMNS = (
    Column("offsets", "<u8"),  # n + 1
    Column("bytes", "|u1", (), LARGE_CHUNK),
    Column("width", "<u2"),
    Column("height", "<u2"),
    Column("crc32", "<u4"),
)
MAX_THUMBNAIL = 2**21  # bytes of one

# Attributes of every derived group.
VERSION_ATTRIBUTE = "encoding-version"
PROVENANCE_ATTRIBUTES = ("settings", "model", "model-revision", "created-by", "input-digest")
