# SPDX-License-Identifier: MIT
"""neigh device: the library searches, LAMMPS makes no list; everything else is as with neigh host."""
import numpy as np
import pytest

import systems
from test_ranks import STEPS, assert_equal_runs, script

SEARCH = "mlff neigh device"

# name, ranks, lines before read_data, lines after pair_coeff
LAYOUTS = [
    ("one_rank", 1, "", ""),
    ("two_ranks", 2, "", ""),
    ("three_ranks", 3, "processors 1 3 1", ""),
    ("four_ranks", 4, "", ""),
    ("newton_off", 1, "newton off", ""),
    ("newton_off_on_four_ranks", 4, "newton off", ""),
    ("tiled_and_balanced", 3, "comm_style tiled", "balance 1.0 rcb\n"),
    ("long_ghost_cutoff", 2, "", "comm_modify cutoff 9.0\n"),
    ("no_skin", 2, "", "neighbor 0.0 bin\n"),
]


@pytest.fixture(scope="module")
def reference(module_lammps, crystal, deep_model):
    return module_lammps(script(crystal, deep_model))


@pytest.mark.parametrize("name,ranks,before,after", LAYOUTS, ids=[layout[0] for layout in LAYOUTS])
def test_forces_are_those_of_lammps_list(lammps, reference, crystal, deep_model, name, ranks, before, after):
    run = lammps(script(crystal, deep_model, before, after, style=SEARCH), ranks=ranks)
    assert "(1) pair mlff, perpetual" in reference.screen and "pair mlff, perpetual" not in run.screen
    assert_equal_runs(run, reference)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_run_with_rebuilds_follows_the_run_with_lammps_list(lammps, slab, deep_model, ranks):
    """Hot atoms, half an angstrom of skin, a triclinic box that a barostat changes."""
    run = """neighbor 0.5 bin
neigh_modify delay 0 every 1 check yes
timestep 0.001
velocity all create 1500 11
fix move_ all npt temp 1500 1500 0.1 tri 0 0 1.0
run 40
"""
    runs = [lammps(script(slab, deep_model, run=run, style=style, after="change_box all triclinic\n"), ranks=ranks)
            for style in ("mlff", SEARCH)]
    builds = [int(run.screen.partition("Neighbor list builds =")[2].split()[0]) for run in runs]
    assert builds[0] == builds[1] > 3
    assert_equal_runs(runs[1], runs[0], bound=1e-8)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_box_below_the_cutoff_has_all_images(lammps, tmp_path, deep_model, ranks):
    cell = np.array([[2.9, 0.0, 0.0], [0.7, 3.3, 0.0], [-0.4, 0.9, 3.1]])
    system = systems.System(cell, np.array([[0.1, 0.2, 0.3], [1.9, 1.1, 1.6], [0.8, 2.6, 2.7]]), np.array([1, 2, 3]))
    data = systems.write_data(tmp_path / "data.small", system)
    runs = [lammps(script(data, deep_model, style=style, run="run 0"), ranks=ranks) for style in ("mlff", SEARCH)]
    assert_equal_runs(runs[1], runs[0])


def test_types_that_change_between_rebuilds_are_noticed(lammps, crystal, deep_model):
    """The search is made anew, as the list is read anew."""
    swap = "run 0\nset atom 5 type 3\nrun 1\n"
    runs = [lammps(script(crystal, deep_model, style=style, run=swap)) for style in ("mlff", SEARCH)]
    assert np.abs(runs[0].forces(0) - runs[0].forces(1)).max() > 1e-3
    for frame in (0, 1):
        assert np.abs(runs[0].forces(frame) - runs[1].forces(frame)).max() < 1e-10


def test_both_kinds_of_search_in_turn(lammps, crystal, deep_model):
    text = script(crystal, deep_model, run="run 1\n")
    for style in (SEARCH, "mlff", SEARCH):
        text += f"pair_style {style}\npair_coeff * * {deep_model} H C O\nrun 1\n"
    run = lammps(text)
    for frame in range(2, 5):
        assert np.abs(run.forces(frame) - run.forces(1)).max() < 1e-10


def test_the_same_run_gives_the_same_bits(lammps, crystal, deep_model):
    runs = [lammps(script(crystal, deep_model, style=f"{SEARCH} threads {n}"), ranks=2) for n in (1, 1, 3)]
    first = (runs[0].folder / "atoms.dump").read_bytes()
    assert all((run.folder / "atoms.dump").read_bytes() == first for run in runs)


@pytest.mark.parametrize("after", [
    "neigh_modify exclude type 1 2\n",
    "group few_ id 1:9\nneigh_modify exclude group few_ few_\n",
])
def test_hidden_pairs_are_an_error(lammps, crystal, model, after):
    lammps.fails(script(crystal, model, after=after, style=SEARCH, run=STEPS), "neigh device", "expected neigh host")


def test_hybrid_is_an_error(lammps, crystal, model):
    text = script(crystal, model, style=f"hybrid/overlay {SEARCH} zero 5.0", run=STEPS)
    text = text.replace("pair_coeff * *", "pair_coeff * * zero\npair_coeff * * mlff")
    lammps.fails(text, "neigh device under pair_style hybrid", "expected neigh host")


def test_another_word_is_an_error(lammps, crystal, model):
    lammps.fails(script(crystal, model, style="mlff neigh gpu"), "neigh 'gpu'", "expected host or device")
