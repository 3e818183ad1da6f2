"""Four processes search while one adds, for a minute.

    python tests/benchmarks/readers.py [--seconds 60] [--readers 4] [--folder DIR]

Each reader opens the bundle again and again, in the library as the commands do, and searches. Every answer must be from
a committed state: as many photos as some commit left, each with the descriptor that it was given, and the query photo
itself first once it is in. The writer adds photos in commits of 1 to 40, extends the graph now and then, marks some as
removed and compacts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np

DIM = 64
COMMIT = 40  # photos at most


def vector(number: int) -> np.ndarray:
    """Return the descriptor of a photo: that of its number, so that every answer can be checked."""
    found = np.random.default_rng(number).standard_normal(DIM)
    return (found / np.linalg.norm(found)).astype(np.float32)


def main() -> None:
    """Start all processes and print what they did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        bundle = Path(name) / "db.h5"
        make(bundle)
        queue: Queue[Any] = multiprocessing.Queue()
        deadline = time.monotonic() + chosen.seconds
        processes = [multiprocessing.Process(target=write, args=(bundle, deadline, queue))]
        processes += [
            multiprocessing.Process(target=search, args=(bundle, deadline, number, queue))
            for number in range(chosen.readers)
        ]
        for process in processes:
            process.start()
        reports = [queue.get(timeout=chosen.seconds + 120) for _ in processes]
        for process in processes:
            process.join()
    faults = [fault for report in reports for fault in report["faults"]]
    for report in sorted(reports, key=lambda one: one["who"]):
        print(", ".join(f"{key} {value}" for key, value in report.items() if key != "faults"))
    print(f"faults {len(faults)}")
    for fault in faults[:20]:
        print("FAULT", fault)
    raise SystemExit(bool(faults))


def make(bundle: Path) -> None:
    """Make a bundle of 1,000 photos with a graph."""
    from imgrank.bundle import file
    from imgrank.bundle.descriptors import create_descriptors
    from imgrank.bundle.provenance import Provenance
    from imgrank.steps.build_index import build_index

    with file.Writer(bundle) as writer:
        file.create(bundle, root=b".")
        with writer.transaction() as h5:
            create_descriptors(h5, DIM, Provenance("synthetic", "1", "{}"))
        append(writer, range(1000))
    build_index(bundle, threads=1)


def append(writer: Any, numbers: range) -> None:
    """Commit photos."""
    from imgrank.bundle.descriptors import append_descriptors
    from imgrank.bundle.images import append_images
    from imgrank.records import ImageRecord

    with writer.transaction() as h5:
        records = [ImageRecord(b"%09d.jpg" % n, n, n, n.to_bytes(16, "big"), 4, 3, 0) for n in numbers]
        append_images(h5, records)
        append_descriptors(h5, np.stack([vector(n) for n in numbers]))


def write(bundle: Path, deadline: float, queue: Queue[Any]) -> None:
    """Add photos until the time is over."""
    from imgrank.bundle import file
    from imgrank.steps.build_index import build_index
    from imgrank.steps.compact import compact
    from imgrank.steps.remove import remove

    faults, commits, graphs, compacts = [], 0, 0, 0
    next_number = 1000
    rng = np.random.default_rng(0)
    try:
        while time.monotonic() < deadline:
            with file.Writer(bundle, wait=5) as writer:
                for _ in range(int(rng.integers(1, 8))):
                    count = int(rng.integers(1, COMMIT))
                    append(writer, range(next_number, next_number + count))
                    next_number, commits = next_number + count, commits + 1
            if commits // 25 > graphs:
                build_index(bundle, threads=1)
                graphs += 1
            if graphs // 3 > compacts:
                remove(bundle, ids=[int(rng.integers(0, 1000))])
                compact(bundle)
                compacts += 1
    except Exception as error:  # noqa: BLE001  # that is what is looked for
        faults.append(f"writer: {type(error).__name__}: {error}")
    queue.put({"who": "writer", "commits": commits, "graphs": graphs, "compacts": compacts, "photos": next_number,
               "faults": faults})  # fmt: skip


def search(bundle: Path, deadline: float, number: int, queue: Queue[Any]) -> None:
    """Open, search and compare until the time is over."""
    from imgrank.config import SearchSettings
    from imgrank.errors import StaleGroupError
    from imgrank.steps.collection import Collection
    from imgrank.steps.photos import open_photos
    from imgrank.steps.shortlist import Shortlister

    faults: list[str] = []
    answers = least = most = 0
    rng = np.random.default_rng(number + 1)
    while time.monotonic() < deadline and len(faults) < 10:
        try:
            with open_photos(bundle) as photos:
                count = len(photos)
                asked = int(rng.integers(0, count))
                record = photos.bundle.images.record(asked)
                own = int(record.path[:9])
                exact = bool(rng.integers(0, 2))
                shortlister = Shortlister(Collection.of(photos), SearchSettings(5, 0, exact))
                found = shortlister.search(vector(own), 5)
                best = int(found.rows[0, 0])
                similar = float(vector(own) @ vector(int(photos.bundle.images.record(best).path[:9])))
                if photos.statuses[asked] == 0 and (best != asked or abs(similar - 1) > 1e-5):
                    faults.append(f"photo {own} finds row {best} of {count} with {similar:.4f}, exact {exact}")
                if abs(similar - float(found.similarities[0, 0])) > 1e-5:
                    faults.append(f"a similarity is {found.similarities[0, 0]}, the photos' is {similar}")
                least, most, answers = least or count, max(most, count), answers + 1
        except StaleGroupError as error:
            faults.append(f"reader: stale: {error}")
        except Exception as error:  # noqa: BLE001
            faults.append(f"reader: {type(error).__name__}: {error}")
    queue.put({"who": f"reader {number}", "answers": answers, "photos seen": f"{least} to {most}", "faults": faults})


if __name__ == "__main__":
    main()
