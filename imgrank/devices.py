"""Which device and number type a model runs on, and how much memory there is.

torch is imported inside the functions, so that a command which needs no model never loads it. This module knows no
model: whether something fits is found out by whoever runs it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from imgrank.errors import MissingDeviceError, SettingsError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")

_DEVICE = re.compile(r"(auto|cpu|mps|cuda(?::(\d{1,4}))?)")


def available_devices() -> list[str]:
    """Name the devices torch can use here, the fastest kind first; "cpu" is always the last."""
    import torch

    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def pick_device(name: str) -> str:
    """Turn what the user asked for into a device that exists.

    Args:
        name: "auto" (CUDA if there is one, else Apple's MPS, else the CPU), "cpu", "cuda", "cuda:N" or "mps".

    Returns:
        A name for `torch.device`, never "auto".

    Raises:
        SettingsError: not a device name.
        MissingDeviceError: a device name, but this machine or this build of torch has no such device.
    """
    asked = _DEVICE.fullmatch(name)
    if asked is None:
        raise SettingsError(f"{name!r} is not a device; use auto, cpu, cuda, cuda:N (N counts from 0) or mps")
    if name == "cpu":
        return name
    there = available_devices()
    kinds = [device.split(":")[0] for device in there]
    if name == "auto":
        return kinds[0]
    if name in there or name in kinds:
        return name
    if name.startswith("cuda") and "cuda" in kinds:
        reason = "this machine has no such GPU"
    elif name.startswith("cuda"):
        reason = _why_no_cuda()
    else:
        reason = "this torch finds no Apple GPU"
    raise MissingDeviceError(name, f"{reason}; there is {', '.join(there)}")


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch was built without CUDA (reinstall torch as https://pytorch.org shows)"
    return "torch finds no usable GPU (is the driver loaded? `nvidia-smi` tells)"


def device_name(device: str) -> str:
    """Return what a device is called by its maker, as far as that is known."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def free_memory(device: str) -> int | None:
    """Return the bytes a new allocation on `device` could take now, or None where nobody can tell.

    For the CPU it is what Linux calls available; for CUDA, what the driver reports as free, which leaves out blocks
    that torch keeps for reuse.

    Raises:
        SettingsError, MissingDeviceError: as `pick_device`.
    """
    device = pick_device(device)
    if device == "cpu":
        return _free_cpu_memory()
    import torch

    if device == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return int(free)


def _free_cpu_memory() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - not a file to be found, a fixed one
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def pick_dtype(device: str, wanted: str = "auto") -> str:
    """Return the number type a model's weights should have on `device`; `dtype_reason` says why.

    Args:
        device: a name that `pick_device` gave.
        wanted: "auto", "float32", "float16" or "bfloat16". Auto takes float32 on a CPU, bfloat16 on a CUDA GPU that
            computes with it (float16 on an older one), float16 on MPS.

    Raises:
        SettingsError: another name, or bfloat16 on a GPU that only imitates it.
    """
    return _choose_dtype(device, wanted)[0]


def dtype_reason(device: str, wanted: str = "auto") -> str:
    """Say in a few words why `pick_dtype` gives what it gives.

    Raises:
        SettingsError: as `pick_dtype`.
    """
    return _choose_dtype(device, wanted)[1]


def _choose_dtype(device: str, wanted: str) -> tuple[str, str]:
    if wanted != "auto" and wanted not in DTYPES:
        raise SettingsError(f"{wanted!r} is not a number type; use auto, {', '.join(DTYPES)}")
    kind = device.split(":")[0]
    if kind == "cpu":
        if wanted == "auto":
            return "float32", "a CPU gains little from half precision"
        return wanted, "as asked"
    native = kind != "cuda" or _computes_bfloat16(device)
    if wanted == "bfloat16" and not native:
        raise SettingsError(f"bfloat16: {device} does not compute with it; use float16 or float32")
    if wanted != "auto":
        return wanted, "as asked"
    if kind == "mps":
        return "float16", "half the memory, and Apple GPUs compute float16 at full speed"
    if native:
        return "bfloat16", "half the memory, and the range of float32"
    return "float16", "half the memory; this GPU is too old for bfloat16"


def _computes_bfloat16(device: str) -> bool:
    import torch

    # Compute capability 8.0 (Ampere) is the first with bfloat16 units; torch also imitates it on older ones, slowly.
    if torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(torch.device(device))[0] >= 8


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's type of that name.

    Raises:
        SettingsError: not one of `DTYPES`.
    """
    import torch

    if name not in DTYPES:
        raise SettingsError(f"{name!r} is not a number type; use {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that a device, or this machine, ran out of memory."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # MPS ("MPS backend out of memory"), cuDNN and the CPU allocator raise plain RuntimeErrors.
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def gpu_memory_without_torch() -> int | None:
    """Return the total bytes of the largest NVIDIA GPU, without loading torch; None where none is found.

    It asks nvidia-smi, waiting at most two seconds, so it is only good for a hint. A GPU that is cut into MIG slices
    counts as a whole.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=2, check=True).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    # One line per GPU, in MiB; "[N/A]" for one that does not tell.
    sizes = [int(line) for line in answer.split() if line.isdecimal()]
    return max(sizes) * 2**20 if sizes else None
