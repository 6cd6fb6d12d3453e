# SPDX-License-Identifier: MIT
"""What only a machine with a GPU can show: which device runs, several ranks on one GPU, its memory taken in mid-run."""
import contextlib
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import systems

pytestmark = pytest.mark.gpu


def script(data: str, model: str, style: str = "mlff", run: str = "run 0\n", before: str = "") -> str:
    return systems.setup(data, model, style=style, before=before) + systems.OUTPUT + run


def device_line(run) -> str:
    return next(line for line in run.screen.splitlines() if line.startswith("mlff: model"))


def test_the_log_names_the_gpu_and_who_shares_it(lammps, crystal, model):
    one_gpu = {"CUDA_VISIBLE_DEVICES": "0"}
    alone = device_line(lammps(script(crystal, model), environment=one_gpu))
    assert "cuda (" in alone and " 0 of 1" in alone and "shared" not in alone
    shared = device_line(lammps(script(crystal, model), ranks=3, environment=one_gpu))
    assert " 0 of 1, shared by 3 ranks" in shared


def test_a_hidden_gpu_is_not_used(lammps, crystal, model):
    """`auto` takes the CPU and says so; `cuda` is an error that names the driver."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    for ranks in (1, 2):
        run = lammps(script(crystal, model, style="mlff device auto"), ranks=ranks, environment=hidden)
        assert "cpu (" in device_line(run)
    lammps.fails(script(crystal, model, style="mlff device cuda"), "device cuda", "the driver offers CUDA",
                 environment=hidden)


def test_the_cpu_gives_the_same_forces(lammps, crystal, deep_model):
    steps = "velocity all create 600 11\nfix move_ all nve\nrun 20\n"
    runs = [lammps(script(crystal, deep_model, style=f"mlff device {device}", run=steps), ranks=ranks)
            for device, ranks in (("cpu", 1), ("cuda", 1), ("cuda", 2), ("cuda", 4))]
    assert "cpu (" in device_line(runs[0]) and "cuda (" in device_line(runs[1])
    for run in runs[1:]:
        assert np.abs(run.forces() - runs[0].forces()).max() < 1e-9
        assert np.abs(run.thermo()["PotEng"] - runs[0].thermo()["PotEng"]).max() < 1e-9


BALLAST = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def check(code):
    if code: sys.exit(f"the driver returned {code}")
device, context = ctypes.c_int(), ctypes.c_void_p()
free, total, memory = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_uint64()
check(cuda.cuInit(0))
check(cuda.cuDeviceGet(ctypes.byref(device), 0))
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
check(cuda.cuCtxSetCurrent(context))
check(cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(free.value - (200 << 20))))
open("taken", "w").close()
sys.stdin.read()
"""


@contextlib.contextmanager
def ballast_once(ready: pathlib.Path):
    """A process that takes the GPU's memory once the file `ready` is there, and then leaves a file `taken` beside it."""
    processes: list[subprocess.Popen] = []
    over = threading.Event()

    def wait_and_take() -> None:
        while not ready.exists() and not over.is_set():
            time.sleep(0.05)
        if ready.exists():
            processes.append(subprocess.Popen([sys.executable, "-c", BALLAST], cwd=ready.parent, stdin=subprocess.PIPE))

    thread = threading.Thread(target=wait_and_take)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for process in processes:
            process.stdin.close()
            process.wait(30)


@pytest.mark.parametrize("ranks", [1, 2])
def test_memory_that_is_taken_in_mid_run_stops_all_ranks(lammps, crystal, deep_model, ranks):
    text = script(crystal, deep_model, run="fix move_ all nve\nrun 3\nunfix move_\nundump forces_\n"
                  "shell touch ready\nshell 'while [ ! -e taken ]; do sleep 0.1; done'\nreplicate 9 9 9\nrun 1\n")
    ready = lammps.folder / f"run{lammps.count + 1}" / "ready"
    with ballast_once(ready):
        lammps.fails(text, "out of GPU memory", "bytes asked for", ranks=(ranks,))
