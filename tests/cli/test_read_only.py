"""Commands that read a bundle write nothing beside it, and work where nothing can be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

READING = {
    "search": ["search", "db.h5", "q.jpg", "-k", "3", "--rerank", "2"],
    "info": ["info", "db.h5"],
    "check": ["check", "db.h5"],
    "export-descriptors": ["export", "descriptors", "db.h5", "-o", "{out}/d.npy"],
    "export-tokens": ["export", "tokens", "db.h5", "--cache", "local", "-o", "{out}/t.safetensors"],
    "remove-dry-run": ["remove", "db.h5", "photos", "--dry-run"],
    "embed-dry-run": ["embed", "photos", "-o", "db.h5", "--dry-run"],
}


@pytest.fixture
def folder(collection: Path) -> Path:
    shutil.copy(collection / "queries/query-00.jpg", collection / "q.jpg")
    # Photos of a read-only folder are not hard links to those of other tests.
    for photo in (collection / "photos").iterdir():
        content = photo.read_bytes(), photo.stat()
        photo.unlink()
        photo.write_bytes(content[0])
        os.utime(photo, ns=(content[1].st_atime_ns, content[1].st_mtime_ns))
    return collection


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Size, time of the content and of the inode of everything in a folder, itself included: a file that came and went
    would show in the times of its folder.
    """
    paths = [folder, *folder.rglob("*")]
    return {str(p): (found.st_size, found.st_mtime_ns, found.st_ctime_ns) for p in paths for found in [p.stat()]}


def test_reading_writes_nothing_beside_the_bundle(imgrank, folder: Path, tmp_path: Path) -> None:
    before = state(folder)
    for name, arguments in READING.items():
        done = imgrank(*[part.format(out=tmp_path) for part in arguments], cwd=folder)
        assert done.returncode == 0, f"{name}: {done.stderr.decode()}"
        assert state(folder) == before, name


def test_reading_works_on_a_disk_that_is_read_only(folder: Path, tmp_path: Path) -> None:
    mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} {folder}"
    lines = [f"! touch {folder}/x 2>/dev/null || exit 99", f"cd {folder}"]
    for arguments in READING.values():
        words = " ".join(part.format(out=tmp_path) for part in arguments)
        lines.append(f"{sys.executable} -m imgrank {words} > /dev/null || exit 1")
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user", "--user"])]
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    possible = subprocess.run([*unshare, "bash", "-c", mount], capture_output=True, check=False)
    if possible.returncode != 0:
        pytest.skip(f"no mount of our own here: {possible.stderr.decode().strip()}")
    done = subprocess.run(
        [*unshare, "bash", "-c", "\n".join([mount, *lines])], capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root ignores modes; the test of a read-only disk holds for it")
def test_reading_works_in_a_folder_that_is_read_only(imgrank, folder: Path, tmp_path: Path) -> None:
    (folder / "db.h5").chmod(0o444)
    folder.chmod(0o555)
    try:
        for name, arguments in READING.items():
            done = imgrank(*[part.format(out=tmp_path) for part in arguments], cwd=folder)
            assert done.returncode == 0, f"{name}: {done.stderr.decode()}"
        refused = imgrank("compact", "db.h5", cwd=folder)
        assert refused.returncode == 1
        assert b"Permission denied" in refused.stderr
    finally:
        folder.chmod(0o755)
