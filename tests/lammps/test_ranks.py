# SPDX-License-Identifier: MIT
"""However the atoms are spread over ranks and threads, forces, energy and virial are the same."""
import numpy as np
import pytest

import systems

FORCE_BOUND = 1e-10  # eV/angstrom, double

# name, ranks, lines before read_data, lines after pair_coeff
LAYOUTS = [
    ("two_ranks", 2, "", ""),
    ("two_ranks_along_x", 2, "processors 2 1 1", ""),
    ("four_ranks", 4, "", ""),
    ("four_ranks_along_z", 4, "processors 1 1 4", ""),
    ("three_ranks", 3, "processors 1 3 1", ""),
    ("newton_off_on_one_rank", 1, "newton off", ""),
    ("newton_off_on_two_ranks", 2, "newton off", ""),
    ("newton_off_on_four_ranks", 4, "newton off", ""),
    ("tiled", 2, "comm_style tiled", ""),
    ("tiled_and_balanced_newton_off", 4, "newton off\ncomm_style tiled", "balance 1.0 rcb"),
    ("tiled_and_balanced", 3, "comm_style tiled", "balance 1.0 rcb"),
    ("balanced_by_shifts", 4, "processors 1 1 4", "balance 1.0 shift z 10 1.01"),
    ("multi_communication", 2, "", "neighbor 2.0 multi\ncomm_modify mode multi"),
    ("long_ghost_cutoff", 2, "", "comm_modify cutoff 9.0"),
    ("short_ghost_cutoff_is_raised", 2, "", "comm_modify cutoff 2.0"),
    ("with_ghost_velocities", 2, "", "comm_modify vel yes"),
]
STEPS = "velocity all create 600 11\nfix move_ all nve\nrun 3\n"


def script(data: str, model: str, before: str = "", after: str = "", style: str = "mlff", run: str = STEPS) -> str:
    return systems.setup(data, model, style=style, before=before) + after + systems.OUTPUT + run


@pytest.fixture(scope="module")
def reference(module_lammps, crystal, deep_model):
    return module_lammps(script(crystal, deep_model))


def assert_equal_runs(run, reference, bound: float = FORCE_BOUND):
    """All frames: forces, energy, virial."""
    frames = len(reference.thermo()["PotEng"])
    for frame in range(frames):
        difference = np.abs(run.forces(frame) - reference.forces(frame)).max()
        assert difference < bound, f"frame {frame}: {difference:g} eV/A"
    here, there = run.thermo(), reference.thermo()
    assert np.abs(here["PotEng"] - there["PotEng"]).max() < 10 * bound
    for row in range(frames):
        virials = systems.virial_of(here, row), systems.virial_of(there, row)
        assert np.abs(virials[0] - virials[1]).max() < 100 * bound


@pytest.mark.parametrize("name,ranks,before,after", LAYOUTS, ids=[layout[0] for layout in LAYOUTS])
def test_forces_are_equal(lammps, reference, crystal, deep_model, name, ranks, before, after):
    run = lammps(script(crystal, deep_model, before, after), ranks=ranks)
    assert_equal_runs(run, reference)


def test_single_precision_is_equal_to_its_own_rounding(lammps, reference, crystal, deep_model):
    run = lammps(script(crystal, deep_model, style="mlff precision single", run="run 0"), ranks=2)
    largest = np.abs(reference.forces(0)).max()
    assert 1e-10 < np.abs(run.forces(0) - reference.forces(0)).max() < 1e-5 * largest


def test_odd_feature_counts_travel_in_single_precision(lammps, crystal, model):
    """20 features in single: rows of floats in LAMMPS's buffers of doubles."""
    odd = model.replace("gaussian_ev", "odd_sizes")
    runs = [lammps(script(crystal, odd, style="mlff precision single", run="run 0"), ranks=n) for n in (1, 2)]
    assert np.abs(runs[0].forces() - runs[1].forces()).max() < 1e-5


def test_six_interactions_reach_over_many_exchanges(lammps, crystal, model):
    """The receptive field is many times what a rank has of ghosts."""
    deep = model.replace("gaussian_ev", "six_interactions")
    runs = [lammps(script(crystal, deep, run="run 0"), ranks=n) for n in (1, 4)]
    assert_equal_runs(runs[1], runs[0])


@pytest.mark.parametrize("before", ["", "newton off", "comm_style tiled"])
def test_a_rank_without_atoms(lammps, slab, deep_model, before):
    run = lammps(script(slab, deep_model, f"{before}\nprocessors 1 1 3"), ranks=3)
    assert "0 min" in run.screen  # Nlocal: ... 0 min
    assert_equal_runs(run, lammps(script(slab, deep_model)))


@pytest.mark.parametrize("before", ["processors 2 2 1", "processors 2 2 2", "comm_style tiled", "newton off"])
def test_ghosts_that_a_rank_only_passes_on(lammps, tmp_path, deep_model, before):
    """In a thin gas a ghost goes through ranks that have no atom near it, to ranks that do."""
    data = systems.write_data(tmp_path / "data.gas", systems.gas((8, 8, 4), 3.0, 0.3))
    text = script(data, deep_model, before, run="run 0")
    run = lammps(text, ranks=8 if before.endswith("2 2 2") else 4)
    assert_equal_runs(run, lammps(script(data, deep_model, run="run 0")))


def test_no_atoms_at_all(lammps, crystal, model):
    for ranks in (1, 2):
        run = lammps(script(crystal, model, after="delete_atoms group all\n", run="run 2"), ranks=ranks)
        assert (run.thermo()["PotEng"] == 0.0).all()


def test_an_atom_without_neighbours_has_its_own_energy_and_no_force(lammps, tmp_path, model):
    alone = systems.System(np.diag([30.0, 30.0, 30.0]), np.array([[15.0, 15.0, 15.0]]), np.array([2]))
    near = systems.System(alone.cell, np.array([[15.0, 15.0, 15.0], [1.0, 1.0, 1.0]]), np.array([2, 2]))
    files = [systems.write_data(tmp_path / f"data.{k}", system) for k, system in enumerate((alone, near))]
    for ranks in (1, 2):
        one, two = (lammps(script(data, model, run="run 0"), ranks=ranks) for data in files)
        assert two.thermo()["PotEng"][0] == pytest.approx(2 * one.thermo()["PotEng"][0], abs=1e-12)
        assert (two.forces() == 0.0).all()
        assert one.thermo()["PotEng"][0] != 0.0


def test_threads_give_the_same_bits(lammps, crystal, deep_model):
    runs = [lammps(script(crystal, deep_model, style=f"mlff threads {n}")) for n in (1, 2, 5)]
    for run in runs[1:]:
        assert (run.forces() == runs[0].forces()).all()
        assert (run.thermo()["PotEng"] == runs[0].thermo()["PotEng"]).all()


def test_suffix_omp_changes_nothing(lammps, reference, crystal, deep_model):
    """The style has no /omp variant; lists and integration come from package OPENMP."""
    lammps.needs_package("OPENMP")
    for ranks in (1, 2):
        run = lammps(script(crystal, deep_model), ranks=ranks, arguments=("-sf", "omp", "-pk", "omp", "2"))
        assert "2 threads" in run.screen
        assert_equal_runs(run, reference)


def test_the_same_run_gives_the_same_bits(lammps, crystal, deep_model):
    runs = [lammps(script(crystal, deep_model), ranks=2) for _ in range(2)]
    assert (runs[0].folder / "atoms.dump").read_bytes() == (runs[1].folder / "atoms.dump").read_bytes()


def test_per_atom_energy_and_virial_add_up(lammps, crystal, deep_model):
    """Also the nine components of centroid/stress/atom, on one rank and on two, with either newton."""
    per_atom = """
compute e_ all pe/atom
compute s_ all stress/atom NULL virial
compute c_ all centroid/stress/atom NULL virial
compute sums_ all reduce sum c_e_ c_s_[*] c_c_[*]
dump per_ all custom 1 per.dump id c_e_ c_s_[*] c_c_[*]
dump_modify per_ sort id format float %.17g
"""
    results = []
    for ranks, before in ((1, ""), (2, ""), (2, "newton off"), (1, "newton off")):
        run = lammps(script(crystal, deep_model, before, per_atom, run="run 0"), ranks=ranks)
        table = run.vectors("c_e_", *[f"c_s_[{k}]" for k in range(1, 7)], *[f"c_c_[{k}]" for k in range(1, 10)],
                            file="per.dump")
        results.append(table)
        thermo = run.thermo()
        assert table[:, 0].sum() == pytest.approx(thermo["PotEng"][0], abs=1e-9)
        virial = systems.virial_of(thermo)
        stress = -table[:, 1:7].sum(axis=0) / 1.6021765e6  # stress*volume, pressure units, opposite sign
        assert np.abs(stress - virial).max() < 1e-8
        centroid = -table[:, 7:16].sum(axis=0) / 1.6021765e6
        assert np.abs(centroid[:3] - virial[:3]).max() < 1e-8
        assert np.abs(0.5 * (centroid[3:6] + centroid[6:9]) - virial[3:]).max() < 1e-8
        # an atom's nine numbers are not symmetric, and their symmetric part is the six of stress/atom
        assert np.abs(table[:, 10:13] - table[:, 13:16]).max() > 1.0
        assert np.abs(0.5 * (table[:, 10:13] + table[:, 13:16]) - table[:, 4:7]).max() < 1e-3
    for table in results[1:]:
        assert np.abs(table - results[0]).max() / 1.6e6 < 1e-10


def test_partitions_run_beside_each_other(lammps, crystal, deep_model, reference):
    """Two worlds of two ranks in one MPI job."""
    run = lammps(script(crystal, deep_model).replace("atoms.dump", "atoms.${world}.dump"), ranks=4,
                 arguments=("-partition", "2x2"), prelude="variable world world first second")
    for world in ("first", "second"):
        assert np.abs(run.forces(file=f"atoms.{world}.dump") - reference.forces()).max() < FORCE_BOUND


def test_a_failing_rank_stops_its_partition_and_the_other(lammps, crystal, model):
    """Only the second world has a model file that is not there; nobody waits for ever."""
    text = script(crystal, "${file}").replace("atoms.dump", "atoms.${world}.dump")
    run = lammps(text, ranks=4, status=1, arguments=("-partition", "2x2"),
                 prelude=f"variable world world first second\nvariable file world {model} missing.safetensors")
    assert run.status != 0
