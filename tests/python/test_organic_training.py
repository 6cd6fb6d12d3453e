# SPDX-License-Identifier: MIT
"""examples/organic/training: the geometries that the organic model learns from."""
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

for _package in ("ase", "rdkit", "tblite"):
    pytest.importorskip(_package, reason=f"{_package} is not installed (pip install ase rdkit tblite)")

from ase import Atoms  # noqa: E402
from ase.io import read  # noqa: E402

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "organic" / "training" / "molecules.py"
QUICK = ("--trajectories", "3", "--frames", "2", "--every", "3", "--settle", "2", "--displaced", "2")


def load():
    spec = importlib.util.spec_from_file_location("molecules", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["molecules"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


molecules = load()
BY_NAME = {m.name: m for m in molecules.MOLECULES}


def command(*arguments) -> subprocess.CompletedProcess:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env=environment)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Frames of a few molecules, one of them held out."""
    folder = tmp_path_factory.mktemp("molecules")
    result = command(folder / "a.extxyz", "--held-out", folder / "held.extxyz", *QUICK,
                     "--only", "water", "methane", "ethyne", "toluene")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("; 0 left out") == 2 and "36 frames of 3 molecules (" in result.stdout
    assert "12 frames of 1 molecules (12 held-out)" in result.stdout
    return folder


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(np.array_equal(x.positions, y.positions) and x.info == y.info for x, y in zip(a, b))


def test_a_molecule_has_the_same_frames_whatever_else_is_made(made, tmp_path):
    result = command(tmp_path / "b.extxyz", *QUICK, "--only", "ethyne", "water", "--processes", 2)
    assert result.returncode == 0, result.stderr
    before = [a for a in read(made / "a.extxyz", ":") if a.info["name"] != "methane"]
    assert same(before, read(tmp_path / "b.extxyz", ":"))


def test_another_seed_gives_other_frames(made, tmp_path):
    result = command(tmp_path / "b.extxyz", *QUICK, "--only", "water", "--seed", 1)
    assert result.returncode == 0, result.stderr
    water = [a for a in read(made / "a.extxyz", ":") if a.info["name"] == "water"]
    other = read(tmp_path / "b.extxyz", ":")
    assert not any(np.allclose(a.get_all_distances(), b.get_all_distances(), atol=1e-6) for a, b in zip(water, other))


def test_each_trajectory_is_in_one_part_of_the_split(made):
    parts: dict[tuple, set] = {}
    for atoms in read(made / "a.extxyz", ":"):
        parts.setdefault((atoms.info["name"], atoms.info["trajectory"]), set()).add(atoms.info["split"])
    assert all(len(found) == 1 for found in parts.values())
    for name in ("water", "methane", "ethyne"):
        assert set.union(*(found for (n, _), found in parts.items() if n == name)) == {"train", "validation", "test"}


def test_the_whole_plan_has_every_molecule_in_every_part():
    for molecule in molecules.MOLECULES:
        if molecule.held_out:
            continue
        plan = molecules.plan(molecule, molecules.Settings())
        parts = [t.split for t in plan]
        assert [t.number for t in plan] == list(range(len(plan)))
        assert 1 <= parts.count("test") <= 0.15 * len(parts) and 1 <= parts.count("validation") <= 0.1 * len(parts)
        assert {t.value for t in plan if t.kind == "heated"} == set(molecules.TEMPERATURES)


def test_held_out_molecules_are_in_their_own_file_only(made):
    held_out = {m.name for m in molecules.MOLECULES if m.held_out}
    assert held_out == {"toluene", "salicylic acid"}
    assert {a.info["name"] for a in read(made / "a.extxyz", ":")} == {"water", "methane", "ethyne"}
    assert {(a.info["name"], a.info["split"]) for a in read(made / "held.extxyz", ":")} == {("toluene", "held-out")}
    # nor does another entry spell the same molecule
    from rdkit import Chem

    spelled = [Chem.CanonSmiles(m.smiles) for m in molecules.MOLECULES]
    assert len(set(spelled)) == len(spelled)


def test_held_out_molecules_alone_need_a_file(tmp_path):
    result = command(tmp_path / "a.extxyz", *QUICK, "--only", "toluene")
    assert result.returncode == 1 and "held-out ones need --held-out" in result.stderr
    assert not (tmp_path / "a.extxyz").exists()


@pytest.mark.parametrize("spoil, whole", [
    (lambda p: None, True),
    (lambda p: p.__setitem__(1, p[0] + 1.35 * (p[1] - p[0])), True),  # a hot C-H bond
    (lambda p: p.__setitem__(1, p[0] + 1.8 * (p[1] - p[0])), False),  # H leaves
    (lambda p: p.__setitem__(1, p[2] + [0.0, 0.0, 0.68]), False),  # H meets H
])
def test_molecules_with_other_bonds_are_broken(spoil, whole):
    (methane, *_), bonded = molecules.conformers(BY_NAME["methane"], 0)
    assert bonded[0, 1:].all() and not bonded[1:, 1:].any()
    spoil(methane.positions)
    assert molecules.is_whole(methane, bonded) is whole


def test_dynamics_end_where_the_molecule_breaks():
    (methane, *_), bonded = molecules.conformers(BY_NAME["methane"], 0)
    settings = molecules.Settings(every=20, settle=0)
    found = molecules.heated(methane, 20000.0, 10, settings, np.random.default_rng(0), bonded)
    assert len(found) < 10 and all(molecules.is_whole(a, bonded) for a in found)
    assert len(molecules.heated(methane, 300.0, 4, settings, np.random.default_rng(0), bonded)) == 4


def test_noise_that_breaks_molecules_is_left_out(monkeypatch):
    monkeypatch.setattr(molecules, "WIDTHS", (0.5,))
    settings = molecules.Settings(trajectories=0, displaced=60)
    found = molecules.sample(BY_NAME["ethyne"], settings)
    _, bonded = molecules.conformers(BY_NAME["ethyne"], 0)
    assert 0 < len(found) < 60 and all(molecules.is_whole(a, bonded) for a in found)


def test_relaxed_molecules_are_minima_of_gfn2():
    (water, *_), _ = molecules.conformers(BY_NAME["water"], 0)
    water = molecules.relaxed(water)
    assert water.get_distance(0, 1) == pytest.approx(0.959, abs=0.01)  # GFN2-xTB's own
    water.calc = molecules.calculator()
    assert np.abs(water.get_forces()).max() < 0.02


def test_an_interrupted_run_goes_on_with_what_is_done(made, tmp_path):
    output = tmp_path / "b.extxyz"
    settings = molecules.Settings(trajectories=3, frames=2, every=3, settle=2, displaced=2)
    folder = tmp_path / "b.extxyz.parts"
    molecules.open_parts(folder, settings)
    marked = Atoms("H2O", positions=np.eye(3))  # no frame of any run: it shows that the file was taken
    marked.info = {"name": "water", "how": "marked", "trajectory": 0, "split": "train"}
    marked.write(molecules.part_of(folder, BY_NAME["water"]), format="extxyz")
    result = command(output, *QUICK, "--only", "water", "methane")
    assert result.returncode == 0, result.stderr
    frames = read(output, ":")
    assert frames[0].info["how"] == "marked" and not folder.exists()
    assert same(frames[1:], [a for a in read(made / "a.extxyz", ":") if a.info["name"] == "methane"])


def test_ctrl_c_ends_it_in_good_order(tmp_path):
    slow = [sys.executable, SCRIPT, tmp_path / "a.extxyz", "--only", "benzene", "pyridine", "--trajectories", "3",
            "--frames", "2", "--every", "100"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    process = subprocess.Popen(slow, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    folder, began = tmp_path / "a.extxyz.parts", time.monotonic()
    while not list(folder.glob("benzene.extxyz")) and process.poll() is None and time.monotonic() - began < 100.0:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "interrupted; the same command goes on" in said and "Traceback" not in said
    assert not (tmp_path / "a.extxyz").exists() and (folder / "benzene.extxyz").exists()


def test_another_run_does_not_take_over_what_is_done(tmp_path):
    molecules.open_parts(tmp_path / "b.extxyz.parts", molecules.Settings(seed=7))
    result = command(tmp_path / "b.extxyz", *QUICK, "--only", "water")
    assert result.returncode == 1 and "begun with other numbers" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments, said", [
    (("--only", "water", "--trajectories", "2", "--displaced", "0"), "2 trajectories of a molecule, expected 3"),
    (("--every", "0"), "--every is 0, expected 1 or more"),
    (("--only", "phlogiston"), "invalid choice: 'phlogiston'"),
])
def test_numbers_that_make_no_sense_are_refused(tmp_path, arguments, said):
    result = command(tmp_path / "a.extxyz", *arguments)
    assert result.returncode == 2 and said in result.stderr


def test_a_file_is_not_overwritten(tmp_path):
    (tmp_path / "a.extxyz").write_text("mine")
    result = command(tmp_path / "a.extxyz", *QUICK, "--only", "water")
    assert result.returncode == 1 and "is there already" in result.stderr
    assert (tmp_path / "a.extxyz").read_text() == "mine"


def test_a_structure_that_cannot_be_made_is_named():
    with pytest.raises(ValueError, match="nothing: 'C1C' is no SMILES"):
        molecules.conformers(molecules.Molecule("nothing", "C1C"), 0)
