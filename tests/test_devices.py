import stat
import subprocess
import sys

import pytest
import torch

from imgrank import devices
from imgrank.errors import MissingDeviceError, SettingsError


@pytest.fixture
def machine(monkeypatch):
    """Pretend that the machine has some devices."""

    def pretend(cuda=0, mps=False, capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("has", "name", "picked"),
    [
        ({}, "auto", "cpu"),
        ({"mps": True}, "auto", "mps"),
        ({"cuda": 2}, "auto", "cuda"),
        ({"cuda": 2, "mps": True}, "auto", "cuda"),
        ({"cuda": 2}, "cpu", "cpu"),
        ({"cuda": 2}, "cuda", "cuda"),
        ({"cuda": 2}, "cuda:1", "cuda:1"),
        ({"mps": True}, "mps", "mps"),
    ],
)
def test_pick(machine, has, name, picked):
    machine(**has)
    assert devices.pick_device(name) == picked


@pytest.mark.parametrize(
    ("has", "name", "there"),
    [
        ({}, "cuda", "there is cpu"),
        ({}, "mps", "there is cpu"),
        ({"mps": True}, "cuda:0", "there is mps, cpu"),
        ({"cuda": 2}, "cuda:3", "no such GPU; there is cuda:0, cuda:1, cpu"),
        ({"cuda": 1}, "mps", "there is cuda:0, cpu"),
    ],
)
def test_a_device_that_is_not_there_is_answered_with_those_that_are(machine, has, name, there):
    machine(**has)
    with pytest.raises(MissingDeviceError, match=there) as error:
        devices.pick_device(name)
    assert error.value.device == name
    assert error.value.exit_code == 3


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:00001", "CPU", "cpu:0"])
def test_other_names_are_refused(name):
    with pytest.raises(SettingsError, match="is not a device"):
        devices.pick_device(name)


@pytest.mark.parametrize(
    ("device", "capability", "wanted", "dtype"),
    [
        ("cpu", (0, 0), "auto", "float32"),
        ("cpu", (0, 0), "bfloat16", "bfloat16"),
        ("mps", (0, 0), "auto", "float16"),
        ("cuda", (8, 0), "auto", "bfloat16"),
        ("cuda:1", (9, 0), "auto", "bfloat16"),
        ("cuda", (7, 5), "auto", "float16"),
        ("cuda", (7, 5), "float32", "float32"),
    ],
)
def test_number_types(machine, device, capability, wanted, dtype):
    machine(cuda=2, capability=capability)
    assert devices.pick_dtype(device, wanted) == dtype
    assert devices.dtype_reason(device, wanted) != ""
    assert (devices.dtype_reason(device, wanted) == "as asked") == (wanted != "auto")


def test_bfloat16_on_an_old_gpu_is_refused(machine):
    machine(cuda=1, capability=(7, 5))
    with pytest.raises(SettingsError, match="use float16 or float32"):
        devices.pick_dtype("cuda", "bfloat16")


@pytest.mark.parametrize("name", ["int8", "", "float64", "torch.float32"])
def test_other_number_types_are_refused(name):
    with pytest.raises(SettingsError, match="not a number type"):
        devices.pick_dtype("cpu", name)
    with pytest.raises(SettingsError, match="not a number type"):
        devices.torch_dtype(name)


def test_torch_dtypes():
    assert [devices.torch_dtype(name) for name in devices.DTYPES] == [torch.float32, torch.float16, torch.bfloat16]


def test_free_memory_of_this_machine():
    free = devices.free_memory("cpu")
    assert free is not None
    assert 2**20 < free < 2**50


def test_free_memory_of_a_gpu_is_what_the_driver_says(machine, monkeypatch):
    machine(cuda=2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 + device.index, 999))
    assert devices.free_memory("cuda:1") == 101


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: illegal memory access"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory(error, memory):
    assert devices.is_out_of_memory(error) is memory


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    def install(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    return install


@pytest.mark.parametrize(
    ("script", "memory"),
    [
        ("echo 24576; echo 81559", 81559 * 2**20),
        ("echo '[N/A]'; echo 8", 8 * 2**20),
        ("echo '[N/A]'", None),
        ("echo 'NVIDIA-SMI has failed' >&2; exit 9", None),
        ("printf '\\377'", None),
        ("exec sleep 60", None),
    ],
)
def test_memory_of_the_largest_gpu(nvidia_smi, script, memory):
    nvidia_smi(script)
    assert devices.gpu_memory_without_torch() == memory


def test_no_nvidia_smi_means_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.gpu_memory_without_torch() is None


def test_devices_load_no_torch_until_asked():
    calls = "d.gpu_memory_without_torch(); d.free_memory('cpu')"
    code = f"import sys, imgrank.devices as d; {calls}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
