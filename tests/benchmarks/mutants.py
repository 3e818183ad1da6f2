"""Damaged and hostile bundles: each is a typed error or a right answer; none crashes or hangs.

    python tests/benchmarks/mutants.py [--count 5000] [--seed 0] [--commands 50] [--folder DIR]

Half of the mutants are damage: flipped bits, runs of zeros or of chance, swapped blocks, a cut end. Bytes that matter
are chosen as often as bytes that nobody reads: half of the places lie in the first pages, the rest anywhere. What is
read of such a file must be what was written. The other half are changes that somebody made on purpose, with HDF5 and
with right checksums where he can: other types, shapes, names, links and attributes, swapped and missing arrays, numbers
out of range, cycles, soft and external links, filters, huge sizes. Of those only errors of a known type and an end in
time are asked, and that a graph never reaches hnswlib unchecked.

Each mutant goes through the library in a process of its own, which is replaced when it dies: open, all rows of all
parts, exact and graph search, `check`. Every so many also go through the commands.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import lzma
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "bundles"
SECONDS = 10  # that one mutant may take


def main() -> None:
    """Try all mutants and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", type=int, default=50, metavar="N", help="every Nth through the commands, too")
    parser.add_argument("--only", type=int, metavar="N", help="try this one mutant again, also through the commands")
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    newest = max(GOLDEN.glob("version-*.h5.xz"))
    content = lzma.decompress(newest.read_bytes())
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        os.environ["XDG_CACHE_HOME"] = name
        folder = Path(name)
        (folder / "sound.h5").write_bytes(content)
        truth = observe(folder / "sound.h5")
        table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        faults: list[str] = []
        worker = Worker()
        slowest = 0.0
        for number in range(chosen.count) if chosen.only is None else [chosen.only]:
            rng = random.Random(f"{chosen.seed} {number}")
            kind, make = rng.choice(DAMAGE if number % 2 == 0 else HOSTILE)
            target = folder / "mutant.h5"
            target.unlink(missing_ok=True)
            if number % 2 == 0:
                target.write_bytes(make(bytearray(content), rng))
            else:
                shutil.copy(folder / "sound.h5", target)
                made = in_child(make, target, rng)
                if not made:
                    table[kind]["not made"] += 1
                    continue
            if number % 500 == 1:
                print(f"{number} of {chosen.count}, {len(faults)} faults", file=sys.stderr)
            started = time.monotonic()
            outcome = worker.try_(target, truth if number % 2 == 0 else None)
            slowest = max(slowest, time.monotonic() - started)
            table[kind][outcome.split(":")[0]] += 1
            if outcome.split(":")[0] not in ("right", "typed error"):
                faults.append(f"{number} {kind}: {outcome}")
            if number % chosen.commands == 0 or chosen.only is not None:
                faults += [f"{number} {kind}: {fault}" for fault in commands(target)]
    outcomes = ["right", "typed error", "wrong", "untyped error", "crash", "hang", "not made"]
    print(f"{'mutation':24}" + "".join(f"{outcome:>14}" for outcome in outcomes))
    for kind in [kind for kind, _ in (*DAMAGE, *HOSTILE)]:
        print(f"{kind:24}" + "".join(f"{table[kind][outcome]:14}" for outcome in outcomes))
    total = sum(table.values(), collections.Counter())
    print(f"{'all':24}" + "".join(f"{total[outcome]:14}" for outcome in outcomes))
    print(f"slowest {slowest:.1f} s; through the commands: {-(-chosen.count // chosen.commands)} mutants")
    for fault in faults:
        print("FAULT", fault)
    raise SystemExit(bool(faults))


# What is read of a bundle


def observe(path: Path) -> dict[str, str]:
    """Read everything through the library; returns a digest of each part."""
    from imgrank.bundle import file
    from imgrank.index.exact import ExactIndex
    from imgrank.index.graph import from_arrays, validate
    from imgrank.index.hnsw import HnswIndex
    from imgrank.steps.proof import read_proof

    found: dict[str, str] = {}
    with file.read(path) as opened:
        rows = np.arange(len(opened.images))
        found["records"] = digest(repr(opened.images.records(rows)).encode())
        found["facts"] = digest(repr((opened.images.statuses().tolist(), opened.images.paths())).encode())
        found["ids"] = digest(opened.images.ids().tobytes())
        descriptors = opened.descriptors.read()
        found["descriptors"] = digest(descriptors.tobytes())
        if len(descriptors):
            near = ExactIndex(descriptors, opened.images.statuses() == 0).search(descriptors[:1], 3)
            found["exact"] = digest(near.rows.tobytes())
            graph = from_arrays(opened.graph.arrays())
            if not validate(graph, len(descriptors)):
                near = HnswIndex(graph, descriptors).search(descriptors[:1], 3, 0)
                found["graph"] = digest(near.rows.tobytes())
        for name, table in opened.token_tables.items():
            parts = []
            for image in table.read(rows.tolist()):
                parts.append(repr((image.grid, image.tiles, image.status)).encode())
                parts += [key.encode() + column.tobytes() for key, column in image.columns.items()]
            found[f"tokens {name}"] = digest(b"".join(parts))
            for arrays in (table.codebooks, table.proof):
                if arrays is not None:
                    held = arrays.read()
                    joined = b"".join(key.encode() + held[key].tobytes() for key in sorted(held))
                    found[f"{name} {arrays.name}"] = digest(joined)
            read_proof(table)
    return found


def digest(raw: bytes) -> str:
    """Return a digest."""
    return hashlib.sha256(raw).hexdigest()


def judge(path: Path, truth: dict[str, str] | None) -> str:
    """Read a mutant and check it; returns what came of it."""
    from imgrank.errors import ImgrankError
    from imgrank.steps.check import check

    outcome = "right"
    try:
        found = observe(path)
        if truth is not None and (wrong := [part for part in truth if part in found and found[part] != truth[part]]):
            outcome = f"wrong: {wrong}"
    except ImgrankError as error:
        outcome = f"typed error: {error}"
    except Exception as error:  # noqa: BLE001  # that is what is looked for
        outcome = f"untyped error: observe: {type(error).__name__}: {error}"
    try:
        check(path, photos=False)
    except ImgrankError:
        pass
    except Exception as error:  # noqa: BLE001
        outcome = f"untyped error: check: {type(error).__name__}: {error}"
    return outcome


class Worker:
    """A process that judges mutants, replaced when it dies or does not answer."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._pipe = ours
        self._process = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def try_(self, path: Path, truth: dict[str, str] | None) -> str:
        """Judge one mutant."""
        self._pipe.send((path, truth))
        try:
            if self._pipe.poll(2 * SECONDS):
                return str(self._pipe.recv())
            outcome = "hang"
        except EOFError:
            outcome = "crash"
        self._process.kill()
        self._process.join()
        self._start()
        return outcome


def serve(pipe: Connection) -> None:
    """Judge what is asked."""
    while True:
        try:
            path, truth = pipe.recv()
        except EOFError:
            return
        pipe.send(judge(path, truth))


def commands(path: Path) -> list[str]:
    """Run commands on a mutant; returns what is wrong with how they end."""
    faults = []
    for arguments in (["check", path], ["info", path], ["search", path, "--exact", path], ["compact", path]):
        try:
            done = subprocess.run(
                [sys.executable, "-m", "imgrank", *map(str, arguments)], capture_output=True, timeout=60, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            faults.append(f"imgrank {arguments[0]} hangs")
            continue
        if done.returncode < 0 or done.returncode == signal.SIGABRT or b"Traceback" in done.stderr:
            faults.append(f"imgrank {arguments[0]} ends with {done.returncode}: {done.stderr[-300:]!r}")
    return faults


# Damage: bytes in, bytes out


def place(content: bytearray, rng: random.Random) -> int:
    """Choose a byte: half of the time among the first pages, where HDF5 keeps its structure."""
    return rng.randrange(min(len(content), 96 * 1024) if rng.random() < 0.5 else len(content))


def flip(content: bytearray, rng: random.Random) -> bytes:
    content[place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(content)


def flips(content: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.randrange(2, 64)):
        content[place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(content)


def zeros(content: bytearray, rng: random.Random) -> bytes:
    start, count = place(content, rng), rng.choice([8, 64, 512, 4096, 65536])
    content[start : start + count] = bytes(len(content[start : start + count]))
    return bytes(content)


def chance(content: bytearray, rng: random.Random) -> bytes:
    start, count = place(content, rng), rng.choice([4, 8, 64, 4096])
    content[start : start + count] = rng.randbytes(len(content[start : start + count]))
    return bytes(content)


def swap(content: bytearray, rng: random.Random) -> bytes:
    size = rng.choice([8, 512, 4096])
    one, other = (place(content, rng) // size * size for _ in range(2))
    first, second = bytes(content[one : one + size]), bytes(content[other : other + size])
    content[one : one + len(second)] = second
    content[other : other + len(first)] = first
    return bytes(content)


def cut(content: bytearray, rng: random.Random) -> bytes:
    return bytes(content[: rng.randrange(len(content))])


def numbers(content: bytearray, rng: random.Random) -> bytes:
    """Put a number that is often trouble where 8 bytes are."""
    start = place(content, rng) // 8 * 8
    value = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, len(content)])
    content[start : start + 8] = value.to_bytes(8, "little")
    return bytes(content)


def crooked_header(content: bytearray, rng: random.Random) -> bytes:
    """Change a byte inside an object header and make its checksum right again, which HDF5 then believes."""
    heads = [at for at in range(0, len(content) - 64, 8) if content[at : at + 5] == b"OHDR\x02"]
    at = rng.choice(heads)
    flags = content[at + 5]
    body = at + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(content[body : body + width], "little")
    end = body + width + size
    if end + 4 > len(content) or size < 8:
        return flip(content, rng)
    for _ in range(rng.randrange(1, 4)):
        content[rng.randrange(body + width, end)] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
    content[end : end + 4] = lookup3(bytes(content[at:end])).to_bytes(4, "little")
    return bytes(content)


def lookup3(key: bytes) -> int:
    """Return Bob Jenkins's lookup3 hash of bytes, the checksum of HDF5's metadata, from its public description."""

    def rotate(value: int, by: int) -> int:
        return ((value << by) | (value >> (32 - by))) & 0xFFFFFFFF

    a = b = c = (0xDEADBEEF + len(key)) & 0xFFFFFFFF
    position, left = 0, len(key)

    def added(*words: int) -> list[int]:
        parts = (key[at : at + 4].ljust(4, b"\0") for at in (position, position + 4, position + 8))
        return [(word + int.from_bytes(part, "little")) & 0xFFFFFFFF for word, part in zip(words, parts, strict=True)]

    while left > 12:
        a, b, c = added(a, b, c)
        a = ((a - c) ^ rotate(c, 4)) & 0xFFFFFFFF
        c = (c + b) & 0xFFFFFFFF
        b = ((b - a) ^ rotate(a, 6)) & 0xFFFFFFFF
        a = (a + c) & 0xFFFFFFFF
        c = ((c - b) ^ rotate(b, 8)) & 0xFFFFFFFF
        b = (b + a) & 0xFFFFFFFF
        a = ((a - c) ^ rotate(c, 16)) & 0xFFFFFFFF
        c = (c + b) & 0xFFFFFFFF
        b = ((b - a) ^ rotate(a, 19)) & 0xFFFFFFFF
        a = (a + c) & 0xFFFFFFFF
        c = ((c - b) ^ rotate(b, 4)) & 0xFFFFFFFF
        b = (b + a) & 0xFFFFFFFF
        position, left = position + 12, left - 12
    if left:
        a, b, c = added(a, b, c)
        c = ((c ^ b) - rotate(b, 14)) & 0xFFFFFFFF
        a = ((a ^ c) - rotate(c, 11)) & 0xFFFFFFFF
        b = ((b ^ a) - rotate(a, 25)) & 0xFFFFFFFF
        c = ((c ^ b) - rotate(b, 16)) & 0xFFFFFFFF
        a = ((a ^ c) - rotate(c, 4)) & 0xFFFFFFFF
        b = ((b ^ a) - rotate(a, 14)) & 0xFFFFFFFF
        c = ((c ^ b) - rotate(b, 24)) & 0xFFFFFFFF
    return c


DAMAGE: list[tuple[str, Callable[..., Any]]] = [
    ("flipped bit", flip),
    ("flipped bits", flips),
    ("zeros", zeros),
    ("bytes of chance", chance),
    ("swapped blocks", swap),
    ("cut", cut),
    ("trouble numbers", numbers),
    ("crooked headers", crooked_header),
]


# Changes on purpose: an open file in, changed


def datasets(root: h5py.File) -> list[str]:
    """Return the names of all datasets."""
    found: list[str] = []
    root.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found


def other_type(root: h5py.File, rng: random.Random) -> None:
    name = rng.choice(datasets(root))
    held = root[name]
    compound = np.dtype([("a", "<i4"), ("b", "<f4")])
    dtype = rng.choice(["<f8", "<i2", ">u4", "S7", "|b1", "<c8", h5py.string_dtype(), compound])
    shape = held.shape
    del root[name]
    root.create_dataset(name, shape=shape, dtype=dtype, maxshape=(None, *shape[1:]), chunks=(1, *shape[1:]))
    if rng.random() < 0.5 and isinstance(dtype, str) and dtype != "S7":
        root[name][...] = 1  # with chunks in the file


def other_shape(root: h5py.File, rng: random.Random) -> None:
    name = rng.choice(datasets(root))
    held = root[name]
    dtype = held.dtype
    longer = (held.shape[0] + 1, *held.shape[1:])
    shape = rng.choice([(), (0,), (3, 3, 3), longer, (*held.shape, 1), held.shape[1:] or (5,)])
    del root[name]
    chunks = None if shape == () else tuple(max(1, size) for size in shape)
    maxshape = None if shape == () else (None, *shape[1:])
    root.create_dataset(name, shape=shape, dtype=dtype, chunks=chunks, maxshape=maxshape)


def huge(root: h5py.File, rng: random.Random) -> None:
    name = rng.choice(datasets(root))
    root[name].resize(rng.choice([2**20, 2**31, 2**40, 2**50]), axis=0)


def swapped(root: h5py.File, rng: random.Random) -> None:
    one, other = rng.sample(datasets(root), 2)
    root.move(one, "aside")
    root.move(other, one)
    root.move("aside", other)


def missing(root: h5py.File, rng: random.Random) -> None:
    names: list[str] = []
    root.visit(names.append)
    del root[rng.choice(names)]


def links(root: h5py.File, rng: random.Random) -> None:
    names: list[str] = []
    root.visit(names.append)
    name = rng.choice(names)
    del root[name]
    root[name] = rng.choice(
        [h5py.SoftLink("/images/id"), h5py.SoftLink("/" + name), h5py.ExternalLink("/etc/passwd", "/"),
         h5py.ExternalLink("sound.h5", "/" + name), h5py.SoftLink("/nowhere")]
    )  # fmt: skip


def group_cycle(root: h5py.File, rng: random.Random) -> None:
    group = rng.choice(["images", "tokens", "graph", "descriptors"])
    root[group][rng.choice(["again", "columns", "small"]) + str(rng.randrange(3))] = root[rng.choice(["/", group])]


def attributes(root: h5py.File, rng: random.Random) -> None:
    names = ["/"]
    root.visit(names.append)
    item = root[rng.choice([name for name in names if root[name].attrs])]
    name = rng.choice(list(item.attrs))
    value: Any = rng.choice(
        ["", "x" * 100_000, "{}", "[" * 50_000, "\x1b[31m", "null", -1, 2**40, 2**63 - 1, 1.5, np.nan, b"\xff\xfe",
         np.zeros(1000), np.zeros((2, 2), "u1"), h5py.Empty("f4"), '{"longer_side": -5}', '[["a","O",[]]]',
         '[["codes","<u1",[1000000000]]]', "builtin"]
    )  # fmt: skip
    item.attrs[name] = value


def graph_links(root: h5py.File, rng: random.Random) -> None:
    """Make links lead anywhere, with a right checksum."""
    from imgrank.arrays import crc32

    name = rng.choice(["links0", "upper_links", "rows", "levels"])
    held = root["graph"][name]
    values = held[:]
    if values.size == 0:
        name, values = "links0", root["graph/links0"][:]
        held = root["graph/links0"]
    limits = np.iinfo(values.dtype)
    for _ in range(rng.randrange(1, 6)):
        at = tuple(rng.randrange(size) for size in values.shape)
        values[at] = rng.choice([limits.max, limits.min, 0, 1, len(values), len(values) - 1, min(limits.max, 10**6)])
    held[:] = values
    held.attrs["crc32"] = np.uint32(crc32(values))


def graph_numbers(root: h5py.File, rng: random.Random) -> None:
    name = rng.choice(["m", "ef_construction", "seed", "entry_point", "max_level"])
    root["graph"].attrs[name] = rng.choice([-1, 0, 1, 2, 5, 2**31, 2**62, -(2**62)])


def offsets(root: h5py.File, rng: random.Random) -> None:
    """Make ragged rows lie."""
    cache = rng.choice(list(root["tokens"]))
    held = rng.choice([root["images/path-offsets"], root["tokens"][cache]["offsets"]])
    held[rng.randrange(held.shape[0])] = rng.choice([0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 10**6])


def paths(root: h5py.File, rng: random.Random) -> None:
    """Make a path lead out of the root, with a right checksum."""
    from imgrank.bundle.images import row_checksum
    from imgrank.records import ImageRecord

    images = root["images"]
    row = rng.randrange(images["id"].shape[0])
    start, stop = (int(number) for number in images["path-offsets"][row : row + 2])
    bad = rng.choice([b"../../../../etc/passwd", b"/etc/passwd", b"a/../../b", b"a\0b"])[: stop - start]
    images["path-bytes"][start : start + len(bad)] = np.frombuffer(bad, np.uint8)
    path = images["path-bytes"][start:stop].tobytes()
    values = {name: int(images[name][row]) for name in ("id", "size", "mtime-ns", "width", "height")}
    record = ImageRecord(path, values["size"], values["mtime-ns"], images["digest"][row].tobytes(), values["width"],
                         values["height"], 0)  # fmt: skip
    images["crc32"][row] = row_checksum(values["id"], record)


def filtered(root: h5py.File, rng: random.Random) -> None:
    name = rng.choice(datasets(root))
    values = root[name][:]
    del root[name]
    options: dict[str, Any] = rng.choice(
        [{"compression": "gzip"}, {"shuffle": True}, {"fletcher32": True}, {"compression": "lzf"}]
    )
    tail = values.shape[1:]
    root.create_dataset(name, data=values, maxshape=(None, *tail), chunks=(len(values) or 1, *tail), **options)


def contiguous(root: h5py.File, rng: random.Random) -> None:
    name = rng.choice(datasets(root))
    values = root[name][:]
    del root[name]
    root.create_dataset(name, data=values)


def values_of_chance(root: h5py.File, rng: random.Random) -> None:
    """Change numbers of any column, without their checksums."""
    name = rng.choice([name for name in datasets(root) if root[name].size])
    held = root[name]
    raw = np.frombuffer(rng.randbytes(held.dtype.itemsize), held.dtype)[0]
    held[tuple(rng.randrange(size) for size in held.shape)] = raw


def codebooks(root: h5py.File, rng: random.Random) -> None:
    """Make codebooks and what a cache says of itself disagree."""
    from imgrank.arrays import crc32

    group = root["tokens/small"]
    if rng.random() < 0.5:
        codecs = ["pq:12", "opq:24", "rpq:24", "int8", "pq:0", "pq:-1", "pq:999999999", "nothing"]
        group.attrs["codec"] = rng.choice(codecs)
        return
    held = group["codebooks/centroids"]
    values = held[:]
    del group["codebooks/centroids"]
    values = rng.choice([values[:, :, :12], values[..., :4], values * np.nan, np.repeat(values, 2, axis=0)])
    again = group["codebooks"].create_dataset("centroids", data=values, chunks=(1, *values.shape[1:]),
                                              maxshape=(None, *values.shape[1:]))  # fmt: skip
    again.attrs["crc32"] = np.uint32(crc32(values))


def proof(root: h5py.File, rng: random.Random) -> None:
    """Make a proof name what is not there, with a right checksum."""
    from imgrank.arrays import crc32

    group = root["tokens/small/proof"]
    name = rng.choice(list(group))
    values = group[name][:]
    at = tuple(rng.randrange(size) for size in values.shape)
    values[at] = rng.choice([0, 1, 7, 250, 65535]) if values.dtype.kind == "u" else -1
    group[name][:] = values
    group[name].attrs["crc32"] = np.uint32(crc32(values))


HOSTILE: list[tuple[str, Callable[..., Any]]] = [
    ("another type", other_type),
    ("another shape", other_shape),
    ("a huge shape", huge),
    ("swapped arrays", swapped),
    ("a part missing", missing),
    ("links elsewhere", links),
    ("cycles of groups", group_cycle),
    ("attributes", attributes),
    ("graph: links", graph_links),
    ("graph: numbers", graph_numbers),
    ("offsets", offsets),
    ("paths", paths),
    ("filters", filtered),
    ("contiguous", contiguous),
    ("numbers of chance", values_of_chance),
    ("codebooks", codebooks),
    ("proofs", proof),
]


def in_child(make: Callable[..., Any], path: Path, rng: random.Random) -> bool:
    """Change a file in a process of its own; returns whether that went well."""
    child = os.fork()
    if child == 0:
        try:
            with h5py.File(path, "r+", libver=("v110", "v110")) as root:
                make(root, rng)
            os._exit(0)
        except BaseException:  # noqa: BLE001  # HDF5 refused to write such a file
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    main()
