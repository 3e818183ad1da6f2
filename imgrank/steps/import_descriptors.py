"""`import`: descriptors that another program computed in, a new bundle out.

The bundle is made under another name and takes its own when it is complete.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imgrank.bundle import file
from imgrank.bundle.descriptors import append_descriptors, create_descriptors
from imgrank.bundle.foreign import MAX_NAME, ForeignDescriptors
from imgrank.bundle.images import append_images
from imgrank.bundle.incoming import incoming
from imgrank.bundle.provenance import Provenance
from imgrank.config import UNKNOWN, DecodeSettings, EncoderSettings
from imgrank.errors import ImageError, InputError, SettingsError
from imgrank.images.content import read_digest
from imgrank.images.decode import decode
from imgrank.images.load import worker_count
from imgrank.images.scan import display
from imgrank.local.projection import Projection
from imgrank.progress import SILENT, Reporter
from imgrank.records import NO_DIGEST, OK, ImageRecord
from imgrank.steps.import_sources import open_source, row_name, unit_rows_of
from imgrank.steps.paths import choose_root, is_below
from imgrank.steps.projections import stored_name

if TYPE_CHECKING:
    from imgrank.encode.base import Encoder

_BLOCK = 16 * 2**20  # bytes of float32 descriptors in memory, and of one commit
_MOST_ROWS = 4096  # of one commit
_UNIT = 2e-3  # how far from 1 the length of a unit vector in float16 may be
CHECKED = 8  # photos whose descriptors are computed again
_LOOKED_FOR = 256  # rows, spread evenly, among which they are searched
AGREE = 0.9  # cosine below which descriptors are not those of an encoder


@dataclass
class ImportSummary:
    """What `import_descriptors` did."""

    layout: str  # of the file: "ilias", "hloc" or "npy"
    rows: int
    dim: int
    encoder: str  # name, or "unknown"
    unseen: int = 0  # photos that are not below the root
    first_unseen: str = ""  # where the first of them was looked for
    rescaled: int = 0  # descriptors that were not of length 1
    shortest: float = math.inf  # length among all, as they were
    longest: float = 0.0


def import_descriptors(
    source: Path,
    bundle: Path,
    *,
    paths: Path | None = None,
    nul: bool = False,
    root: Path | None = None,
    encoder: EncoderSettings | None = None,
    projection: Path | None = None,
    check: bool = True,
    decode_settings: DecodeSettings | None = None,
    device: str = "auto",
    reporter: Reporter = SILENT,
) -> ImportSummary:
    """Make a bundle of descriptors that another program computed.

    Photos that lie below the root are read for their size, time and digest; the others get a row with status ok, size
    0 and a digest of zeros, and can be searched as well (docs/format.md).

    Args:
        source: HDF5 of ILIAS or hloc, or .npy.
        bundle: the new bundle.
        paths: for .npy, the path of each row; see `open_source`.
        nul: whether paths on the list end with NUL.
        root: folder that names are relative to; None takes the folder of the bundle.
        encoder: what computed the descriptors, so that a search does the same with query photos. None: unknown.
        projection: a file with what the descriptors are to go through, such as the linear layer of ILIAS; see
            `imgrank.encode.projection_file`. Descriptors of queries go through it as well.
        check: compute the descriptors of a few photos again with the encoder and compare.
        decode_settings: limits and workers.
        device: for the encoder.
        reporter: hears of progress.

    Raises:
        SettingsError: the bundle is there already, or there is no folder for it.
        InputError: the file cannot be read; a descriptor is not finite or all zeros; a name is there twice or leads out
            of the root; numbers of rows and names differ; the descriptors are not those of the encoder; the projection
            cannot be read or takes vectors of another length.
        MissingModelError: the encoder is not on this machine and cannot be fetched.
    """
    _check_new(bundle)
    settings = decode_settings or DecodeSettings()
    with open_source(source, paths, nul=nul) as opened, file.Writer(bundle):
        _check_new(bundle)
        stored_root = choose_root(bundle, [], root)
        folder = os.path.realpath(os.path.join(os.fsencode(bundle.absolute().parent), stored_root))  # noqa: PTH118
        names = _stored_names(source, opened, folder, None if root is None else os.path.abspath(os.fsencode(root)))  # noqa: PTH100
        learned = None if projection is None else _projection(source, opened, projection)
        summary = ImportSummary(opened.layout, opened.rows, opened.dim, UNKNOWN)
        provenance = Provenance(UNKNOWN, "", "{}")
        if encoder is not None:
            provenance = _provenance(source, opened, names, folder, encoder, check, settings, device, reporter)
            summary.encoder = provenance.model
        if projection is not None and learned is not None:
            summary.dim = learned.basis.shape[1]
            made = provenance.settings
            if encoder is not None:
                made = replace(EncoderSettings.from_json(made), projection=stored_name(projection, learned)).to_json()
            revision = f"{provenance.model_revision}+{learned.digest}"
            provenance = replace(provenance, model_revision=revision, settings=made)
        with incoming(bundle) as building:
            _fill(
                building, source, opened, names, folder, stored_root, provenance, learned, settings, summary, reporter
            )
    return summary


def _projection(source: Path, opened: ForeignDescriptors, path: Path) -> Projection:
    from imgrank.encode.projection_file import read_projection

    learned = read_projection(path)
    if len(learned.mean) != opened.dim:
        raise InputError(
            f"{path}: takes vectors of {len(learned.mean)} numbers, and the descriptors of {source} have {opened.dim}; "
            "it was learned for another encoder"
        )
    return learned


def _check_new(bundle: Path) -> None:
    if os.path.lexists(bundle):
        raise SettingsError(f"{bundle} is there already; an import makes a new bundle: choose another name")


def _stored_names(source: Path, opened: ForeignDescriptors, root: bytes, given: bytes | None) -> list[bytes]:
    """Return the names as the bundle stores them: relative to the root, each once.

    Args:
        source: for messages.
        opened: has the names.
        root: absolute and resolved.
        given: the root as an absolute path that is not resolved, for absolute names that begin with it.
    """
    stored: list[bytes] = []
    rows: dict[bytes, int] = {}
    for row, name in enumerate(opened.names()):
        if row == opened.rows:
            raise InputError(f"{source}: {opened.rows} descriptors but more paths; give one for each row, in order")
        relative = _relative(source, name, root, given)
        if opened.layout == "ilias":
            relative = _as_on_disk(relative, root)
        first = rows.setdefault(relative, row)
        if first != row:
            raise InputError(
                f"{source}: {display(relative)} names rows {first} and {row}; each photo can be there once"
            )
        stored.append(relative)
    if len(stored) != opened.rows:
        raise InputError(
            f"{source}: {opened.rows} descriptors but {len(stored)} paths; give one for each row, in order"
        )
    return stored


def _relative(source: Path, name: bytes, root: bytes, given: bytes | None) -> bytes:
    if not name or len(name) > MAX_NAME or b"\0" in name:
        raise InputError(f"{source}: {row_name(name[:80])} cannot be the path of a photo")
    path = os.path.normpath(os.path.join(root, name))  # noqa: PTH118
    for folder in (root, given):
        if folder is not None and path != folder and is_below(path, folder):
            return os.path.relpath(path, folder)
    raise InputError(
        f"{source}: {display(name)} leads out of {display(root)}; give --root with the folder that holds all photos"
    )


def _as_on_disk(name: bytes, root: bytes) -> bytes:
    """Return the name of a file whose letters beyond ASCII ILIAS wrote as #U and four digits, if there is one."""
    if b"#U" not in name or os.path.lexists(os.path.join(root, name)):  # noqa: PTH118
        return name
    head, *parts = name.decode("utf-8", "surrogateescape").split("#U")
    try:
        text = head + "".join(chr(int(part[:4], 16)) + part[4:] for part in parts)
        plain = text.encode("utf-8", "surrogateescape")
    except (ValueError, UnicodeEncodeError):
        return name
    return plain if os.path.exists(os.path.join(root, plain)) else name  # noqa: PTH110, PTH118


def _provenance(
    source: Path,
    opened: ForeignDescriptors,
    names: Sequence[bytes],
    root: bytes,
    wanted: EncoderSettings,
    check: bool,
    settings: DecodeSettings,
    device: str,
    reporter: Reporter,
) -> Provenance:
    """Load the encoder and return what it says of itself.

    Raises:
        InputError: it makes descriptors of another length, or other descriptors of photos that are there.
    """
    from imgrank.encode.registry import load_encoder

    if Path(wanted.model).is_dir():
        wanted = replace(wanted, model=str(Path(wanted.model).resolve()))  # it must be found from anywhere
    model = load_encoder(wanted, device=device)
    other = f"{source}: these are not descriptors of {model.name}"
    way_out = "name the encoder that they are of, or leave --encoder out"
    if model.dim != opened.dim:
        raise InputError(f"{other}: they have {opened.dim} numbers, and its own {model.dim}; {way_out}")
    if check:
        cosines = list(_cosines(source, model, opened, names, root, settings))
        if not cosines:
            reporter.note(f"no photo is at hand to check that these are descriptors of {model.name}")
        elif statistics.median(cosines) < AGREE:
            raise InputError(
                f"{other}: computed again for {len(cosines)} photos, the cosine is {statistics.median(cosines):.2f} in "
                f"the median; {way_out}, set --pooling or --image-size as they were, or give --no-check"
            )
        else:
            reporter.note(
                f"{len(cosines)} descriptors computed again with {model.name}: cosine {min(cosines):.4f} at least"
            )
    return Provenance(model.name, model.revision, wanted.to_json())


def _cosines(
    source: Path,
    model: Encoder,
    opened: ForeignDescriptors,
    names: Sequence[bytes],
    root: bytes,
    settings: DecodeSettings,
) -> Iterator[float]:
    """Yield how alike imported descriptors and those computed here are, for a few photos that are there."""
    left = CHECKED
    for row in np.unique(np.linspace(0, len(names) - 1, _LOOKED_FOR).astype(np.int64)).tolist():
        path = os.path.join(root, names[row])  # noqa: PTH118
        if left == 0:
            return
        if not os.path.exists(path):  # noqa: PTH110
            continue
        try:
            photo = decode(path, settings, longer_side=model.longer_side)
        except ImageError:
            continue
        left -= 1
        stored, _ = unit_rows_of(source, opened.read(row, row + 1), names[row : row + 1])
        yield float(stored[0] @ model.encode([photo.pixels]).descriptors[0])


def _fill(
    building: Path,
    source: Path,
    opened: ForeignDescriptors,
    names: Sequence[bytes],
    root: bytes,
    stored_root: bytes,
    provenance: Provenance,
    learned: Projection | None,
    settings: DecodeSettings,
    summary: ImportSummary,
    reporter: Reporter,
) -> None:
    """Write rows, block by block."""
    each = max(1, min(_MOST_ROWS, _BLOCK // (4 * max(opened.dim, summary.dim))))
    file.create(building, root=stored_root)
    with (
        file.Writer(building) as writer,
        reporter.bar(opened.rows, "import", "photo") as advance,
        ThreadPoolExecutor(worker_count(settings)) as pool,
    ):
        for start in range(0, opened.rows, each):
            stop = min(start + each, opened.rows)
            records = pool.map(lambda name: _seen(name, root), names[start:stop])
            vectors, lengths = unit_rows_of(source, opened.read(start, stop), names[start:stop])
            _note(summary, lengths)
            if learned is not None:
                vectors = learned.apply(vectors)
            looked = list(_noting_unseen(records, root, summary))
            with writer.transaction() as h5:
                if start == 0:
                    arrays = None if learned is None else (learned.mean, learned.basis, learned.bias)
                    create_descriptors(h5, summary.dim, provenance, arrays, imported_from=opened.layout)
                append_images(h5, looked)
                append_descriptors(h5, vectors)
            advance(stop - start)


def _note(summary: ImportSummary, lengths: npt.NDArray[np.float64]) -> None:
    summary.rescaled += int(np.count_nonzero(np.abs(lengths - 1) > _UNIT))
    summary.shortest = min(summary.shortest, float(lengths.min()))
    summary.longest = max(summary.longest, float(lengths.max()))


def _seen(name: bytes, root: bytes) -> ImageRecord:
    """Return the row of a photo: what its file says, or the row of one that has never been seen."""
    path = os.path.join(root, name)  # noqa: PTH118
    try:
        content = read_digest(path, display(path))
    except ImageError:
        return ImageRecord(name, 0, 0, NO_DIGEST, 0, 0, OK)
    return ImageRecord(name, content.size, content.mtime_ns, content.digest, 0, 0, OK)


def _noting_unseen(records: Iterable[ImageRecord], root: bytes, summary: ImportSummary) -> Iterator[ImageRecord]:
    for record in records:
        if record.digest == NO_DIGEST:
            summary.unseen += 1
            summary.first_unseen = summary.first_unseen or display(os.path.join(root, record.path))  # noqa: PTH118
        yield record
