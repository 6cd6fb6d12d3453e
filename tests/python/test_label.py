# SPDX-License-Identifier: MIT
"""mlff-label: labels are the calculator's, failures are reported, and an interrupted run goes on."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read, write

import mlff
from mlff import label

PACKAGE = str(Path(mlff.__file__).parents[1])


class Fussy(EMT):
    """EMT that fails on the third of five structures, or gives what is no number."""

    def __init__(self, fault="raise", **options):
        super().__init__(**options)
        self.fault = fault

    def calculate(self, atoms=None, *arguments):
        super().calculate(atoms, *arguments)
        if atoms.info.get("number") == 2:
            if self.fault == "raise":
                raise RuntimeError("SCF did\nnot converge")
            if self.fault == "crash":
                os._exit(9)
            self.results["forces"][0, 0] = np.nan


class Slow(EMT):
    """A tenth of a second a frame, long enough to be interrupted."""

    def calculate(self, atoms=None, *arguments):
        time.sleep(0.1)
        with open(os.environ["SLOW_LOG"], "a") as log:
            log.write(f"{os.getpid()}\n")
        super().calculate(atoms, *arguments)


class Entropic(Calculator):
    """The energy whose gradient the forces are is not the plain one; no stress."""

    implemented_properties = ["energy", "free_energy", "forces"]

    def calculate(self, atoms=None, *arguments):
        super().calculate(atoms, *arguments)
        self.results = {"energy": -1.0, "free_energy": -3.0, "forces": np.ones((len(atoms), 3))}


@pytest.fixture
def frames(tmp_path):
    """Five rattled copper cells, numbered in their info, that carry wrong labels of someone else's."""
    rng, images = np.random.default_rng(1), []
    for k in range(5):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0.0, 0.1, (4, 3))
        atoms.info.update(number=k, virial=np.eye(3), note="a note")
        images.append(atoms)
    images[1].set_constraint(FixAtoms([0]))
    path = tmp_path / "frames.extxyz"
    write(path, images, format="extxyz")
    return path


@pytest.fixture
def here(monkeypatch):
    """This file can be imported, here and in other processes."""
    folder = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([folder, PACKAGE]))
    return "test_label"


def same_labels(path, expected) -> bool:
    found, expected = read(path, ":"), read(expected, ":")
    # EMT keeps a neighbour list, so the order of frames changes the order of its sums
    return len(found) == len(expected) and all(
        a.info == b.info and abs(a.get_potential_energy() - b.get_potential_energy()) < 1e-9
        and np.abs(a.get_forces() - b.get_forces()).max() < 2e-8 for a, b in zip(found, expected))


def test_labels_are_the_calculators_and_their_origin_is_kept(run, frames, tmp_path):
    status, out, err = run(frames, "-c", "emt", "-o", tmp_path / "out.extxyz", program=label.main)
    assert (status, err) == (0, "") and "5 frames labelled by emt (ase " in out and "0 failed" in out
    given, found = read(frames, ":"), read(tmp_path / "out.extxyz", ":")
    for k, (atoms, labelled) in enumerate(zip(given, found)):
        atoms.set_constraint()  # a constraint does not change labels
        atoms.calc = EMT()
        assert labelled.calc.results["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(labelled.calc.results["forces"], atoms.get_forces(), atol=1e-7)
        np.testing.assert_allclose(labelled.calc.results["stress"], atoms.get_stress(), atol=1e-9)
        assert labelled.info["label_frame"] == k and labelled.info["label_source"] == "frames.extxyz"
        assert labelled.info["label_calculator"].startswith("emt (ase ")
        assert labelled.info["note"] == "a note" and "virial" not in labelled.info
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames.extxyz", "out.extxyz"]


def test_a_model_file_labels(run, library, fixtures, tmp_path):
    write(tmp_path / "in.extxyz", [molecule("CH3CH2OH"), molecule("H2O")])
    model = fixtures / "gaussian_ev.safetensors"
    status, out, err = run(tmp_path / "in.extxyz", "-c", model, "device=cpu", "threads=1", "-o", tmp_path / "out.xyz",
                           program=label.main)
    assert (status, err) == (0, "")
    atoms = read(tmp_path / "out.xyz", 0, format="extxyz")
    expected = mlff.Calculator(model, device="cpu", threads=1).get_potential_energy(molecule("CH3CH2OH"))
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-6)  # positions have eight digits
    digest = hashlib.sha256(model.read_bytes()).hexdigest()[:16]
    assert atoms.info["label_calculator"] == f"mlff gaussian_ev.safetensors device=cpu threads=1 (sha256 {digest})"


def test_gfn2_xtb_labels(run, tmp_path):
    pytest.importorskip("tblite.ase", reason="tblite is not installed (pip install '.[label]')")
    methane = molecule("CH4")
    methane.rattle(0.05, seed=1)
    broken = Atoms("H2", [[0, 0, 0], [0, 0, 0]])
    write(tmp_path / "in.extxyz", [methane, broken])
    status, out, err = run(tmp_path / "in.extxyz", "-c", "tblite", "accuracy=0.1", "-o", tmp_path / "out.extxyz",
                           program=label.main)
    assert status == 0 and "1 frames labelled by tblite accuracy=0.1 (tblite " in out and "1 failed" in out
    assert "frame 1: " in err
    (found,) = read(tmp_path / "out.extxyz", ":")
    assert found.get_potential_energy() == pytest.approx(-113.6, abs=1.0)  # -4.175 hartree
    forces = []
    for step in (1e-3, -1e-3):  # the labels fit each other
        moved = methane.copy()
        moved.positions[1, 0] += step
        from tblite.ase import TBLite
        moved.calc = TBLite(verbosity=0, accuracy=0.1)
        forces.append(-moved.get_potential_energy() / 2e-3)
    assert found.get_forces()[1, 0] == pytest.approx(forces[0] - forces[1], abs=1e-3)
    status, _, err = run(tmp_path / "in.extxyz", "-c", "tblite", "acuracy=0.1", "-o", tmp_path / "x.extxyz",
                         program=label.main)
    assert status == 2 and "unknown option acuracy, expected some of accuracy" in err


def test_the_energy_is_the_one_that_fits_the_forces(run, frames, here, tmp_path):
    status, _, err = run(frames, "-c", f"{here}:Entropic", "-o", tmp_path / "out.extxyz", program=label.main)
    assert (status, err) == (0, "")
    results = read(tmp_path / "out.extxyz", 0).calc.results
    assert results["energy"] == -3.0 and "stress" not in results


@pytest.mark.parametrize("fault, sentence", [("raise", "frame 2: RuntimeError: SCF did not converge"),
                                             ("nan", "frame 2: forces: not a finite number")])
def test_a_frame_that_fails_is_reported_and_left_out(run, frames, here, tmp_path, fault, sentence):
    out_file = tmp_path / "out.extxyz"
    status, out, err = run(frames, "-c", f"{here}:Fussy", f"fault={fault}", "-o", out_file, program=label.main)
    assert status == 0 and "4 frames labelled" in out and "1 failed" in out
    assert sentence in err and err.count("\n") == 1
    assert [a.info["label_frame"] for a in read(out_file, ":")] == [0, 1, 3, 4]


def test_long_forces_and_stress_can_be_left_out(run, frames, tmp_path):
    images = read(frames, ":")
    images[3].positions[0] += 0.6
    write(frames, images, format="extxyz")
    status, out, err = run(frames, "-c", "emt", "--largest-force", "12", "--no-stress", "-o", tmp_path / "out.extxyz",
                           program=label.main)
    assert status == 0 and "frame 3: a force of " in err and "expected at most 12" in err and "4 frames" in out
    with pytest.raises(PropertyNotImplementedError):
        read(tmp_path / "out.extxyz", 0).get_stress()


def test_several_processes_give_the_same_file(run, frames, here, tmp_path):
    one, two = tmp_path / "one.extxyz", tmp_path / "two.extxyz"
    options = ["-c", f"{here}:Fussy"]
    assert run(frames, *options, "-o", one, program=label.main)[0] == 0
    status, out, err = run(frames, *options, "-o", two, "--processes", "2", program=label.main)
    assert status == 0 and "1 failed" in out and "frame 2: RuntimeError" in err
    assert same_labels(two, one)


def test_a_calculator_that_crashes_costs_its_frame_alone(run, frames, here, tmp_path):
    out_file = tmp_path / "out.extxyz"
    status, out, err = run(frames, "-c", f"{here}:Fussy", "fault=crash", "-o", out_file, "--processes", "2",
                           program=label.main)
    assert status == 0 and "4 frames labelled" in out and "1 failed" in out
    assert "frame 2: the process that computed it ended" in err
    assert [a.info["label_frame"] for a in read(out_file, ":")] == [0, 1, 3, 4]


def test_the_processes_of_a_killed_run_end_too(frames, here, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOW_LOG", str(tmp_path / "log"))
    write(frames, read(frames, ":") * 40, format="extxyz")
    process = subprocess.Popen([sys.executable, "-m", "mlff.label", str(frames), "-c", f"{here}:Slow", "-o",
                                str(tmp_path / "out.extxyz"), "--processes", "2"])
    log, deadline = tmp_path / "log", time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    workers = set(log.read_text().split())
    assert workers and str(process.pid) not in workers
    deadline = time.monotonic() + 20
    while (left := [pid for pid in workers if runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def runs(pid: str) -> bool:
    """Whether a process is there, and not only its exit status, which nobody may have asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_run_goes_on_where_it_was(run, frames, here, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("SLOW_LOG", str(log))
    images = read(frames, ":") * 6
    write(frames, images, format="extxyz")
    part, whole = tmp_path / "part.extxyz", tmp_path / "whole.extxyz"
    command = [sys.executable, "-m", "mlff.label", str(frames), "-c", f"{here}:Slow", "-o", str(part)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    state = Path(f"{part}.state")
    deadline = time.monotonic() + 30
    while not (state.exists() and state.read_bytes().count(b"\n") > 4) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    n_done = len(state.read_text().splitlines()) - 1
    assert 3 < n_done < 30 and not part.exists()
    with open(f"{part}.part", "ab") as file, open(state, "ab") as lines:  # as if the kill had come in mid-write
        file.write(b"4\nLattice=\"3.6")
        lines.write(b'{"frame": 29, "si')

    options = [frames, "-c", f"{here}:Slow", "-o", part]
    status, _, err = run(*options, program=label.main)
    assert status == 2 and "--resume goes on" in err
    status, _, err = run(frames, "-c", "emt", "-o", part, "--resume", program=label.main)
    assert status == 2 and "begun with calculator 'test_label:Slow'" in err

    status, out, err = run(*options, "--resume", program=label.main)
    assert (status, err) == (0, "") and "30 frames labelled" in out
    assert 30 <= log.read_text().count("\n") <= 31  # none twice but the one that the kill met
    assert run(*options[:-1], whole, program=label.main)[0] == 0
    assert same_labels(part, whole) and not state.exists()


def test_an_interrupted_run_says_how_to_go_on(frames, here, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("SLOW_LOG", str(log))
    write(frames, read(frames, ":") * 40, format="extxyz")
    # a job in the background of a script ignores SIGINT, and so would what it starts
    process = subprocess.Popen([sys.executable, "-m", "mlff.label", str(frames), "-c", f"{here}:Slow", "-o",
                                str(tmp_path / "out.extxyz")], stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "mlff-label: interrupted; --resume goes on\n")


def test_a_damaged_state_is_told(run, frames, here, tmp_path):
    out = tmp_path / "out.extxyz"
    (tmp_path / "out.extxyz.state").write_text("something else\n")
    status, _, err = run(frames, "-c", "emt", "-o", out, "--resume", program=label.main)
    assert status == 1 and "line 1 is not a record of mlff-label" in err and err.count("\n") == 1
    (tmp_path / "out.extxyz.state").write_text(json.dumps({}) + "\n")
    status, _, err = run(frames, "-c", "emt", "-o", out, "--resume", program=label.main)
    assert status == 2 and "begun with frames 'None'" in err


def test_compressed_files_are_read_and_written(run, frames, tmp_path):
    write(tmp_path / "in.extxyz.gz", read(frames, ":"), format="extxyz")
    assert run(tmp_path / "in.extxyz.gz", "-c", "emt", "-o", tmp_path / "out.extxyz.xz", program=label.main)[0] == 0
    assert run(frames, "-c", "emt", "-o", tmp_path / "out.extxyz", program=label.main)[0] == 0
    packed, plain = read(tmp_path / "out.extxyz.xz", ":"), read(tmp_path / "out.extxyz", ":")
    assert [a.get_potential_energy() for a in packed] == [a.get_potential_energy() for a in plain]
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("packed-*"))


@pytest.mark.parametrize("words, status, sentence", [
    (["nothing"], 2, "not a known name"),
    (["nothing.at:All"], 1, "cannot be imported"),
    (["test_label:PACKAGE"], 1, "is a str, expected a class or function"),
    (["test_label:Fussy", "faulty"], 2, "expected KEY=VALUE"),
    (["test_label:Fussy", "fault=1", "fault=2"], 2, "fault is given twice"),
    (["builtins:dict"], 1, "gives a dict, expected a calculator of ASE"),
    (["missing.safetensors"], 1, "missing.safetensors"),
    (["a=1"], 2, "expected the name of a calculator"),
])
def test_calculators_that_are_none_are_refused_in_a_sentence(run, library, frames, here, tmp_path, words, status,
                                                             sentence):
    found, out, err = run(frames, "-c", *words, "-o", tmp_path / "out.extxyz", program=label.main)
    assert (found, out) == (status, "") and sentence in err and err.count("\n") == 1
    assert not (tmp_path / "out.extxyz").exists()


def test_files_that_cannot_be_used_are_refused_in_a_sentence(run, frames, tmp_path):
    status, _, err = run(frames, "-c", "emt", "-o", frames, program=label.main)
    assert status == 2 and "exists already" in err
    status, _, err = run(tmp_path / "none.extxyz", "-c", "emt", "-o", tmp_path / "o.extxyz", program=label.main)
    assert status == 1 and "no such file" in err
    status, _, err = run(frames, "-c", "emt", "-o", tmp_path / "none" / "o.extxyz", program=label.main)
    assert status == 1 and "the folder is missing" in err
    write(tmp_path / "iron.extxyz", [Atoms("Fe")])
    status, _, err = run(tmp_path / "iron.extxyz", "-c", "emt", "-o", tmp_path / "o.extxyz", program=label.main)
    assert status == 1 and "none of 1 frames could be labelled" in err and not list(tmp_path.glob("o.extxyz*"))
