"""The command line as a process of its own: in a fresh interpreter, or forked from one that has the libraries.

A fresh Python needs a third of a second of processor time to import numpy and h5py, and several seconds for torch and
transformers, in every command of every test. So a process of each pytest worker imports the libraries (and nothing of
imgrank), and commands are forks of it: with their own arguments, streams, working directory, environment and exit code,
but with the hash seed in common, and without the dismantling of the interpreter at the end. What is about one of these,
about imports or about signals asks for a fresh interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

TIMEOUT = 300  # seconds
CUDA = Path("/dev/nvidiactl").exists()  # it does not survive a fork
LIBRARIES = (
    *("click", "cv2", "h5py", "hnswlib", "numpy.random", "PIL.Image", "rich", "safetensors.numpy", "sqlite3"),
    *("torch", "transformers.modeling_utils"),
)
# Variables that may differ: what imgrank itself reads, which is not imported before the fork; what is read while a
# command runs; what cv2, torch, scikit-learn and imgrank's own command line set for themselves, here when a test uses
# them in its own process. Others may have been read by a library when it was imported.
OF_IMGRANK = ("IMGRANK_", "XDG_")
READ_LATE = {"PYTEST_CURRENT_TEST", "PWD", "OLDPWD"}
SET_BY_LIBRARIES = {
    *("LD_LIBRARY_PATH", "TORCHINDUCTOR_CACHE_DIR", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK"),
    *("TRANSFORMERS_VERBOSITY", "OPENBLAS_NUM_THREADS", "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"),
}
_NUMBER = struct.Struct("=Q")


def fresh(arguments: list[str], cwd: Path, environment: dict[str, str], given: bytes):
    """Run the command in a fresh interpreter, with `given` on its standard input."""
    command = [sys.executable, "-m", "imgrank", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, input=given, capture_output=True, check=False, timeout=TIMEOUT
    )


class Forks:
    """A process that waits with the libraries imported; started when first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = dict(os.environ)
        self._lock = threading.Lock()

    def can_run(self, environment: dict[str, str]) -> bool:
        """Return whether a fork would do what a fresh interpreter does in this environment."""
        keys = self._environment.keys() | environment.keys()
        differing = {key for key in keys if self._environment.get(key) != environment.get(key)}
        harmless = {key for key in differing if key.startswith(OF_IMGRANK)} | READ_LATE | SET_BY_LIBRARIES
        return differing <= harmless and not CUDA

    def run(self, arguments: list[str], cwd: Path, environment: dict[str, str], given: bytes):
        """Run the command like `fresh`; after `TIMEOUT` seconds SIGALRM ends it."""
        with self._lock:
            self._start()
            request = {"arguments": arguments, "cwd": os.fspath(cwd), "environment": environment}
            message = json.dumps(request).encode()
            (in_, in_write), (out_read, out), (errors_read, errors) = os.pipe(), os.pipe(), os.pipe()
            socket.send_fds(self._link, [_NUMBER.pack(len(message))], [in_, out, errors])
            self._link.sendall(message)
            for descriptor in (in_, out, errors):
                os.close(descriptor)
            written: dict[int, bytes] = {}
            threads = [
                threading.Thread(target=_feed, args=(in_write, given)),
                *(threading.Thread(target=_drain, args=(end, written)) for end in (out_read, errors_read)),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            (status,) = _NUMBER.unpack(_receive(self._link, _NUMBER.size))
        code = os.waitstatus_to_exitcode(status)
        command = [sys.executable, "-m", "imgrank", *arguments]
        return subprocess.CompletedProcess(command, code, written[out_read], written[errors_read])

    def close(self) -> None:
        """End the waiting process."""
        if self._process is not None:
            self._link.close()
            self._process.wait()

    def _start(self) -> None:
        if self._process is not None:
            return
        self._link, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=self._environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip


def _drain(descriptor: int, written: dict[int, bytes]) -> None:
    with open(descriptor, "rb") as stream:
        written[descriptor] = stream.read()


def _feed(descriptor: int, given: bytes) -> None:
    # A command may end before it has read everything.
    with contextlib.suppress(BrokenPipeError), open(descriptor, "wb") as stream:
        stream.write(given)


def _receive(link: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = link.recv(size - len(received))
        if not part:
            raise EOFError("the other end has gone")
        received += part
    return received


def _serve(link: socket.socket) -> None:
    """Fork for each request, until the other end goes."""
    while True:
        header, streams, _, _ = socket.recv_fds(link, _NUMBER.size, 3)
        if not header:
            return
        request = json.loads(_receive(link, *_NUMBER.unpack(header)))
        pid = os.fork()
        if pid == 0:
            link.close()
            signal.alarm(TIMEOUT)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            os.chdir(request["cwd"])
            os.environ.clear()
            os.environ.update(request["environment"])
            os._exit(_command(request["arguments"]))
        for stream in streams:
            os.close(stream)
        link.sendall(_NUMBER.pack(os.waitpid(pid, 0)[1]))


def _command(arguments: list[str]) -> int:
    """Do what `python -m imgrank` does, up to the dismantling of the interpreter; return the exit code.

    Another exception than SystemExit ends the fork as it would end any Python, with a traceback.
    """
    sys.argv, sys.path[0] = ["imgrank", *arguments], ""
    try:
        runpy.run_module("imgrank", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    # As multiprocessing ends its forks. Taking all modules apart would cost more than most commands.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    # What the command line sets before it imports anything.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # so that no fork looks through what it did not make
    _serve(socket.socket(fileno=int(sys.argv[1])))
