# SPDX-License-Identifier: MIT
"""A model with a short range in LAMMPS: LAMMPS's own pair style zbl gives the same repulsion, atoms that are pushed together
stay apart, however many ranks there are, and the first pair below the trained distance is told once."""
import json
import pathlib
import re
import struct

import numpy as np
import pytest

import systems

ROOT = pathlib.Path(__file__).resolve().parents[2]
SILICON = ROOT / "examples" / "silicon" / "silicon.safetensors"


def with_term(source: str, path: pathlib.Path, inner: str, outer: str) -> str:
    """A copy of a model file with the term; returns its path."""
    content = pathlib.Path(source).read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8:8 + length])
    header["__metadata__"].update(short_range="zbl", short_range_inner=inner, short_range_outer=outer)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length:])
    return str(path)


@pytest.fixture
def short_model(model, tmp_path) -> str:
    """H C O, cutoff 5 A. Acts within the disturbed lattice of the tests, whose atoms are 1.5 to 2.2 A apart."""
    return with_term(model, tmp_path / "short.safetensors", "1.2 1.3 0 1.4 1.1 1.5", "2.1 2.2 0 2.3 2.0 2.4")


@pytest.fixture
def silicon() -> str:
    return str(SILICON)  # has the term, from 1.828 angstrom


def two_atoms(path: pathlib.Path, distance: float, types: tuple[int, int] = (2, 3)) -> str:
    positions = np.array([[10.0, 10.0, 10.0], [10.0 + 0.6 * distance, 10.0, 10.0 + 0.8 * distance]])
    return systems.write_data(path, systems.System(np.diag([20.0] * 3), positions, np.array(types)))


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if "WARNING" in line and "closer than in any training frame" in line]


@pytest.mark.parametrize("types,nuclei", [((2, 3), (6, 8)), ((2, 2), (6, 6)), ((1, 1), (1, 1))])
def test_below_the_inner_distance_forces_are_those_of_pair_zbl(lammps, tmp_path, short_model, types, nuclei):
    """LAMMPS's own style with a switch far out; its constants agree to 1e-7."""
    for distance in (0.3, 0.6, 1.0):
        data = two_atoms(tmp_path / f"data.{distance}", distance, types)
        ours = lammps(systems.setup(data, short_model) + systems.OUTPUT + "run 0")
        z = {1: 1, 2: 6, 3: 8}
        coefficients = "\n".join(f"pair_coeff {k} {k} {z[k]} {z[k]}" for k in (1, 2, 3))
        theirs = lammps(f"units metal\nread_data {data}\n{systems.MASSES}\npair_style zbl 4.0 5.0\n{coefficients}\n"
                        + systems.OUTPUT + "run 0", load=False)
        assert np.abs(ours.forces() - theirs.forces()).max() < 2e-7 * np.abs(theirs.forces()).max()


def test_fix_numdiff_agrees(lammps, crystal, short_model):
    lammps.needs_package("EXTRA-FIX")
    output = systems.OUTPUT.replace("fx fy fz", "fx fy fz f_check_[1] f_check_[2] f_check_[3]")
    text = systems.setup(crystal, short_model, before="atom_modify map array") + output
    text = text.replace("compute stress_", "fix check_ all numdiff 1 1.0e-5\ncompute stress_")
    run = lammps(text + "run 0", timeout=300)
    differences = run.vectors("f_check_[1]", "f_check_[2]", "f_check_[3]")
    largest = np.abs(run.forces()).max()
    assert largest > 10  # the term acts
    assert np.abs(run.forces() - differences).max() < 1e-6 * largest


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_forces_energy_and_virials_of_atoms_are_equal_on_any_number_of_ranks(lammps, crystal, short_model, ranks):
    atoms = "compute w_ all stress/atom NULL pair\ncompute e_ all pe/atom pair\n"
    output = systems.OUTPUT.replace("fx fy fz", "fx fy fz c_e_ c_w_[1] c_w_[4]").replace("\ndump ", f"\n{atoms}dump ", 1)
    steps = "velocity all create 600 11\nfix move_ all nve\ntimestep 0.0002\nrun 3\n"
    runs = [lammps(systems.setup(crystal, short_model) + output + steps, ranks=n) for n in (1, ranks)]
    for frame in range(4):
        a, b = [run.vectors("fx", "fy", "fz", "c_e_", frame=frame) for run in runs]
        assert np.abs(a - b).max() < 1e-10 * max(1.0, np.abs(a).max())
        a, b = [run.vectors("c_w_[1]", "c_w_[4]", frame=frame) for run in runs]
        assert np.abs(a - b).max() < 1e-10 * np.abs(a).max()
        a, b = [systems.virial_of(run.thermo(), frame) for run in runs]
        assert np.abs(a - b).max() < 1e-8 * np.abs(a).max()


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("style", ["mlff", "mlff neigh device", "mlff precision single"])
def test_the_first_close_pair_is_told_once_with_its_atoms(lammps, tmp_path, short_model, ranks, style):
    """Atoms 11 and 12 of a wide lattice at 1.9 A, across the border of the box, where any rank may have them."""
    system = systems.crystal((4, 4, 4), spacing=3.5, amplitude=0.1)
    system.types[:] = 2
    system.positions[10] = [0.2, 5.25, 5.25]
    system.positions[11] = [14.0 - 1.7, 5.25, 5.25]
    keep = np.ones(len(system.types), bool)
    for k, x in enumerate(system.positions):
        for other in (10, 11):
            r = x - system.positions[other]
            r -= 14.0 * np.round(r / 14.0)
            keep[k] &= k in (10, 11) or np.linalg.norm(r) > 2.6
    first = int(np.sum(keep[:10])) + 1
    system = systems.System(system.cell, system.positions[keep], system.types[keep])
    data = systems.write_data(tmp_path / "data.close", system)
    run = lammps(systems.setup(data, short_model, style=style) + systems.OUTPUT + "run 2\nrun 1\n", ranks=ranks)
    for text in (run.screen, (run.folder / "log.lammps").read_text()):
        assert len(warnings(text)) == 1
        told = re.search(r"atoms (\d+) and (\d+) \(C-C\) are (\S+) A apart at step 0, .*\((\S+) A\)", warnings(text)[0])
        assert {int(told[1]), int(told[2])} == {first, first + 1}
        assert (told[3], told[4]) == ("1.900", "2.300")


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_pair_that_comes_close_later_is_told_then(lammps, tmp_path, silicon, ranks):
    data = two_atoms(tmp_path / "data.two", 2.6, (1, 1))
    shoot = ("group one id 1\ngroup two id 2\nvelocity one set 60.0 0.0 80.0\nvelocity two set -60.0 0.0 -80.0\n"
             "fix move_ all nve\ntimestep 0.0001\nrun 60\n")
    run = lammps(systems.setup(data, silicon, elements="Si Si Si") + systems.OUTPUT + shoot, ranks=ranks)
    assert len(warnings(run.screen)) == 1
    step = int(re.search(r"at step (\d+),", warnings(run.screen)[0])[1])
    distances = [np.linalg.norm(np.diff(run.vectors("x", "y", "z", frame=k), axis=0)) for k in range(61)]
    assert distances[step] < 1.828 <= distances[step - 1]


def test_a_model_without_the_term_says_nothing(lammps, tmp_path, model):
    data = two_atoms(tmp_path / "data.two", 0.5)
    run = lammps(systems.setup(data, model) + systems.OUTPUT + "run 0")
    assert not warnings(run.screen)


def test_pair_coeff_again_tells_again(lammps, tmp_path, short_model):
    data = two_atoms(tmp_path / "data.two", 1.5)
    again = f"run 0\nrun 0\npair_coeff * * {short_model} H C O\nrun 0\n"
    run = lammps(systems.setup(data, short_model) + systems.OUTPUT + again)
    assert len(warnings(run.screen)) == 2


@pytest.mark.parametrize("speed", [30.0, 100.0, 300.0])
def test_two_silicon_atoms_shot_at_each_other_turn_round_and_keep_their_energy(lammps, tmp_path, silicon, speed):
    """Up to 260 eV between them. The network alone has holes of 10 to 1e6 eV on the way.

    Of the energy, what is asked outside of the repulsion is little: the vectors of two atoms lie on one line, where the
    network's norms |V| have kinks, and a step across one costs some meV with or without the term.
    """
    data = two_atoms(tmp_path / "data.two", 2.6, (1, 1))
    shoot = (f"mass * 28.0855\ngroup one id 1\ngroup two id 2\nvelocity one set {0.6 * speed} 0.0 {0.8 * speed}\n"
             f"velocity two set {-0.6 * speed} 0.0 {-0.8 * speed}\nfix move_ all nve\ntimestep {0.0003 / speed}\n"
             "thermo 20\nrun 10000\n")
    output = systems.OUTPUT.replace("pe c_", "pe etotal c_").replace("custom 1 atoms", "custom 20 atoms")
    run = lammps(systems.setup(data, silicon, elements="Si Si Si") + output + shoot, timeout=120)
    total = run.thermo()["TotEng"]
    assert len(total) == 501
    distances = np.array([np.linalg.norm(np.diff(run.vectors("x", "y", "z", frame=k), axis=0)) for k in range(501)])
    nearest = int(np.argmin(distances))
    assert 0.5 < distances[nearest] < 1.75
    assert distances[-1] > distances[nearest] + 1.0  # they have turned round
    below_outer, below_inner = total[distances < 1.828], total[distances < 1.578]
    assert np.ptp(below_outer) < 0.005
    if speed > 30.0:
        assert len(below_inner) > 20
        assert np.ptp(below_inner) < 1e-6 * np.ptp(run.thermo()["PotEng"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_hot_crystal_of_random_weights_holds_together_and_keeps_its_energy(lammps, crystal, short_model, ranks):
    """Some hundred pairs within their switch, coming and going: 0.1 ps of NVE."""
    hot = "velocity all create 3000 11\nfix move_ all nve\ntimestep 0.0001\nthermo 20\nrun 1000\n"
    output = systems.OUTPUT.replace("pe c_", "pe ke etotal c_").replace("custom 1 atoms", "custom 1000 atoms")
    run = lammps(systems.setup(crystal, short_model) + output + hot, ranks=ranks, timeout=120)
    thermo = run.thermo()
    assert np.ptp(thermo["KinEng"]) > 10.0
    assert np.ptp(thermo["TotEng"]) < 1e-4 * np.ptp(thermo["KinEng"])
