# SPDX-License-Identifier: MIT
"""What users do with a pair style: runs, restarts, minimization, box changes, atoms that come, go and change.
(FAULTS: 25, 26, 28, 31 to 33, 43 to 45)"""
import numpy as np
import pytest

import systems

NVE = "timestep 0.0005\nvelocity all create 900 11\nfix move_ all nve\n"


def script(data: str, model: str, run: str, **options) -> str:
    return systems.setup(data, model, **options) + systems.OUTPUT + run


def stable(data: str, model: str, **options) -> str:
    """The set-up with a Lennard-Jones potential on top: random weights alone let atoms fall into each other."""
    text = systems.setup(data, model, style="hybrid/overlay mlff lj/cut 4.5", **options)
    return text.replace(f"pair_coeff * * {model}", f"pair_coeff * * lj/cut 0.5 2.0\npair_coeff * * mlff {model}")


# ------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_box_below_the_cutoff_equals_its_replica(lammps, tmp_path, deep_model, ranks):
    """A skewed box of 3 atoms, 2.9 A thin with a cutoff of 4.5 A, and 3 x 3 x 3 of it."""
    cell = np.array([[2.9, 0.0, 0.0], [0.7, 3.3, 0.0], [-0.4, 0.9, 3.1]])
    system = systems.System(cell, np.array([[0.1, 0.2, 0.3], [1.9, 1.1, 1.6], [0.8, 2.6, 2.7]]), np.array([1, 2, 3]))
    data = systems.write_data(tmp_path / "data.small", system)
    small = lammps(script(data, deep_model, "run 0"), ranks=ranks)
    large = lammps(script(data, deep_model, "run 0").replace("mass *", "replicate 3 3 3\nmass *"), ranks=ranks)
    assert large.thermo()["PotEng"][0] == pytest.approx(27 * small.thermo()["PotEng"][0], abs=1e-9)
    for n in range(27):  # replicate numbers the atoms copy by copy
        assert np.abs(large.forces()[3 * n:3 * n + 3] - small.forces()).max() < 1e-10
    assert np.abs(systems.virial_of(large.thermo()) - 27 * systems.virial_of(small.thermo())).max() < 1e-8


def test_one_atom_in_its_cell_feels_its_images_but_no_force(lammps, tmp_path, deep_model):
    cell = np.array([[2.5, 0.0, 0.0], [0.3, 2.6, 0.0], [0.2, -0.4, 2.7]])
    data = systems.write_data(tmp_path / "data.one", systems.System(cell, np.zeros((1, 3)), np.array([2])))
    run = lammps(script(data, deep_model, "run 0"))
    assert np.abs(run.forces()).max() < 1e-12
    assert np.abs(systems.virial_of(run.thermo())).max() > 0.01


def test_a_tilted_box_is_the_same_crystal(lammps, crystal, deep_model):
    """The same lattice in a box whose edge is tilted by one period: forces stay; a tilt flip follows."""
    straight = lammps(script(crystal, deep_model, "run 0"))
    tilt = "change_box all triclinic xy final 11.0 units box\n"
    for ranks in (1, 2):
        run = lammps(systems.setup(crystal, deep_model) + tilt + systems.OUTPUT + "run 0", ranks=ranks)
        assert np.abs(run.forces() - straight.forces()).max() < 1e-10


@pytest.mark.parametrize("ranks", [1, 2])
def test_tilt_flips_change_nothing(lammps, crystal, deep_model, ranks):
    """fix deform shears through a flip. It changes the box at the end of every fourth step, after the forces, so the
    run ends between two changes; its last frame, taken alone, gives the same energy and forces."""
    output = "change_box all triclinic xy final 4.5 units box\n" + systems.OUTPUT.replace(" vol", " vol xy")
    shear = "fix shear_ all deform 4 xy erate 15.0 remap x flip yes\ntimestep 0.001\nrun 18\nwrite_data data.end\n"
    run = lammps(systems.setup(crystal, deep_model) + output + shear, ranks=ranks)
    xy = run.thermo()["Xy"]
    assert xy.max() > 5.0 and xy[-1] < 0.0, "no flip happened"
    alone = lammps(script(f"{run.folder}/data.end", deep_model, "run 0"))
    assert np.abs(alone.forces() - run.forces()).max() < 1e-10
    assert alone.thermo()["PotEng"][0] == pytest.approx(run.thermo()["PotEng"][-1], abs=1e-8)


def test_far_from_the_origin_single_precision_loses_nothing(lammps, tmp_path, deep_model):
    """A million angstrom away, where a float has steps of 0.06 angstrom."""
    near, far = systems.crystal((4, 4, 4)), systems.crystal((4, 4, 4))
    far.origin = np.full(3, 1.0e6)
    far.positions = far.positions + far.origin
    runs = [lammps(systems.setup(systems.write_data(tmp_path / f"data.{k}", system), deep_model,
                                 style="mlff precision single") + systems.OUTPUT + "run 0")
            for k, system in enumerate((near, far))]
    assert np.abs(runs[0].forces() - runs[1].forces()).max() < 1e-5 * np.abs(runs[0].forces()).max()


@pytest.mark.parametrize("boundary", ["s s s", "f p s", "m m p"])
def test_open_and_shrink_wrapped_boxes(lammps, slab, deep_model, boundary):
    runs = [lammps(script(slab, deep_model, NVE + "run 5", boundary=boundary), ranks=ranks) for ranks in (1, 2)]
    assert np.abs(runs[0].forces() - runs[1].forces()).max() < 1e-10


def test_two_dimensions(lammps, tmp_path, model):
    flat = systems.crystal((6, 6, 1))
    flat.positions[:, 2] = 0.0
    flat.cell[2, 2] = 1.0
    flat.origin = np.array([0.0, 0.0, -0.5])
    data = systems.write_data(tmp_path / "data.flat", flat)
    runs = [lammps(script(data, model, "fix flat_ all enforce2d\n" + NVE + "run 5", before="dimension 2"), ranks=ranks)
            for ranks in (1, 2)]
    assert np.abs(runs[0].forces() - runs[1].forces()).max() < 1e-10
    assert np.abs(runs[0].forces()[:, :2]).max() > 1e-3


@pytest.mark.parametrize("ranks", [1, 2])
def test_two_atoms_at_the_same_place_are_an_error_or_finite(lammps, tmp_path, model, ranks):
    system = systems.crystal((4, 4, 4))
    system.positions[5] = system.positions[4]
    data = systems.write_data(tmp_path / "data.same", system)
    lammps.fails(script(data, model, "run 0"), "atom", ranks=(ranks,))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_position_that_is_not_finite_stops_all_ranks(lammps, crystal, model, ranks):
    """Between two list builds, where LAMMPS itself does not look."""
    text = script(crystal, model, """
neigh_modify every 1000 delay 1000 check no
variable bad_ atom "sqrt(-1.0*(step==2))*(id==17)"
fix nve_ all nve
fix poison_ all addforce v_poison 0.0 0.0
run 5
""").replace('variable bad_ atom "sqrt(-1.0*(step==2))*(id==17)"', 'variable poison atom "(id==17)*1.0e300*1.0e300"')
    lammps.fails(text, "atom index", "LAMMPS atom ID 17", ranks=(ranks,))


def test_a_failure_of_one_rank_stops_all(lammps, slab, model):
    """Only the lowest of three ranks has the two atoms; the others learn of it and stop too."""
    text = script(slab, model, "set atom 2 x 1.0 y 1.0 z 1.0\nset atom 3 x 1.0 y 1.0 z 1.0\nrun 0",
                  before="processors 1 1 3")
    lammps.fails(text, "atom", ranks=(3,))


# ------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("ranks", [1, 2])
def test_run_0_repeated_gives_the_same_bits(lammps, crystal, deep_model, ranks):
    text = systems.setup(crystal, deep_model) + "thermo_style custom step pe press\nthermo_modify format float %.17g\n"
    for k in range(3):
        text += (f"run 0\nwrite_dump all custom atoms.{k}.dump id fx fy fz modify sort id format float %.17g\n")
    run = lammps(text, ranks=ranks)
    dumps = {(run.folder / f"atoms.{k}.dump").read_bytes() for k in range(3)}
    assert len(dumps) == 1
    energies = run.thermo()["PotEng"]
    assert (energies == energies[0]).all()


@pytest.mark.parametrize("ranks,before", [(1, ""), (2, "newton off")])
def test_energy_and_virial_on_request_do_not_change_the_run(lammps, crystal, deep_model, ranks, before):
    """Thermo every step or at the end only, with per-atom values or without: the same trajectory, bit by bit."""
    tail = "thermo_style custom step pe press\nthermo_modify format float %.17g\n"
    last = "run 12\nwrite_dump all custom atoms.dump id x y z fx fy fz modify sort id format float %.17g\n"
    per_atom = ("compute e_ all pe/atom\ncompute c_ all centroid/stress/atom NULL\ncompute r_ all reduce sum c_e_ c_c_[1]\n"
                "thermo_style custom step pe press c_r_[1] c_r_[2]\nthermo_modify format float %.17g\n")
    texts = [tail + "thermo 1\n", tail + "thermo 100\n", per_atom + "thermo 3\n"]
    runs = [lammps(systems.setup(crystal, deep_model, before=before) + NVE + text + last, ranks=ranks) for text in texts]
    frames = {(run.folder / "atoms.dump").read_bytes() for run in runs}
    assert len(frames) == 1
    assert runs[0].thermo()["PotEng"][-1] == pytest.approx(runs[1].thermo()["PotEng"][-1], abs=1e-12)


def test_nve_conserves_energy(lammps, tmp_path, deep_model):
    data = systems.write_data(tmp_path / "data.small", systems.crystal((4, 4, 4)))
    text = stable(data, deep_model) + """
pair_modify shift yes
fix move_ all nve
timestep 0.0005
thermo_style custom step pe ke etotal
thermo_modify format float %.17g norm no
neighbor 0.5 bin
neigh_modify every 1 delay 0 check yes
minimize 0 1e-3 50 200
reset_timestep 0
velocity all create 300 5
thermo 5
run 200
"""
    for ranks in (1, 2):
        run = lammps(text, ranks=ranks)
        total, kinetic = run.thermo()["TotEng"][-40:], run.thermo()["KinEng"][-40:]
        assert np.ptp(kinetic) > 0.05
        assert np.ptp(total) < 0.01 * np.ptp(kinetic)


def test_a_list_that_was_built_again_is_read_again(lammps, slab, deep_model):
    """A cluster without ghosts: all numbers of the list stay as they were when it is built again."""
    run = lammps(stable(slab, deep_model, boundary="f f f") + systems.OUTPUT + """
neighbor 0.3 bin
neigh_modify every 1 delay 0 check yes
velocity all create 3000 11
fix move_ all nve
fix walls_ all wall/reflect xlo EDGE xhi EDGE ylo EDGE yhi EDGE zlo EDGE zhi EDGE
run 60
write_data data.end
""")
    assert int(run.screen.split("Neighbor list builds = ")[1].split()[0]) > 3
    again = lammps(stable(f"{run.folder}/data.end", deep_model, boundary="f f f") + systems.OUTPUT + "run 0")
    assert np.abs(again.forces() - run.forces()).max() < 1e-9


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_split_by_a_restart_equals_the_unsplit_run(lammps, crystal, deep_model, ranks):
    """LAMMPS wraps and sorts atoms when a run starts, so the unsplit run starts anew at the same step too."""
    write = "write_dump all custom atoms.dump id x y z vx vy vz fx fy fz modify sort id format float %.17g\n"
    style = f"pair_style mlff\npair_coeff * * {deep_model} H C O\n"
    whole = lammps(systems.setup(crystal, deep_model) + NVE + "run 10\nwrite_restart half\nrun 10\n" + write, ranks=ranks)
    split = lammps(f"read_restart {whole.folder}/half\n{style}fix move_ all nve\ntimestep 0.0005\nrun 10\n{write}",
                   ranks=ranks)
    names = "x", "y", "z", "vx", "vy", "vz", "fx", "fy", "fz"
    assert np.abs(whole.vectors(*names) - split.vectors(*names)).max() < 1e-9


def test_a_data_file_of_a_run_gives_the_same_forces(lammps, crystal, deep_model):
    whole = lammps(script(crystal, deep_model, NVE + "run 10\nwrite_data data.end\n"), ranks=2)
    again = lammps(script(f"{whole.folder}/data.end", deep_model, "run 0"))
    assert np.abs(whole.forces() - again.forces()).max() < 1e-10


@pytest.mark.parametrize("ranks", [1, 2])
def test_rerun_gives_the_forces_of_the_run(lammps, crystal, deep_model, ranks):
    first = lammps(script(crystal, deep_model, NVE + "run 8"), ranks=ranks)
    text = systems.setup(crystal, deep_model) + systems.OUTPUT
    second = lammps(text + f"rerun {first.folder}/atoms.dump dump x y z\n", ranks=ranks)
    for frame in range(9):
        assert np.abs(first.forces(frame) - second.forces(frame)).max() < 1e-10
    assert np.abs(first.thermo()["PotEng"] - second.thermo()["PotEng"]).max() < 1e-9


@pytest.mark.parametrize("ranks,style", [(1, "cg"), (2, "cg"), (2, "fire")])
def test_minimize_ends_at_smaller_forces_that_belong_to_their_positions(lammps, crystal, deep_model, ranks, style):
    run = lammps(stable(crystal, deep_model) + systems.OUTPUT + f"min_style {style}\nminimize 0 1e-3 40 100\n"
                 "write_data data.end\n", ranks=ranks)
    energies = run.thermo()["PotEng"]
    assert energies[-1] < energies[0] - 0.1
    again = lammps(stable(f"{run.folder}/data.end", deep_model) + systems.OUTPUT + "run 0")
    assert again.thermo()["PotEng"][0] == pytest.approx(energies[-1], abs=1e-8)
    assert np.abs(again.forces() - run.forces()).max() < 1e-8


@pytest.mark.parametrize("ranks", [1, 2])
def test_box_relax_reaches_its_pressure(lammps, tmp_path, deep_model, ranks):
    data = systems.write_data(tmp_path / "data.small", systems.crystal((4, 4, 3)))
    run = lammps(stable(data, deep_model) + systems.OUTPUT + """
thermo 50
undump forces_
minimize 0 1e-3 200 400
fix relax_ all box/relax iso 20000.0 vmax 0.002
min_modify line quadratic
minimize 0 1e-5 300 2000
""", ranks=ranks)
    thermo = run.thermo()
    pressures = [np.mean([thermo[f"c_stress_[{k}]"][row] for k in (1, 2, 3)]) for row in (0, -1)]
    assert abs(pressures[1] - 20000.0) < 0.02 * abs(pressures[0] - 20000.0)


@pytest.mark.parametrize("ranks,before,style", [(1, "", "mlff"), (2, "newton off", "mlff"),
                                                (2, "", "hybrid/overlay mlff zbl 2.0 2.5")])
def test_fix_numdiff_agrees(lammps, tmp_path, deep_model, ranks, before, style):
    """LAMMPS's own central differences of the energy, with a rebuilt list in between."""
    lammps.needs_package("EXTRA-FIX")
    data = systems.write_data(tmp_path / "data.small", systems.crystal((3, 3, 4)))
    hybrid = style.startswith("hybrid")
    coeff = f"pair_coeff * * {'mlff ' if hybrid else ''}{deep_model} H C O" + ("\npair_coeff * * zbl 6 6" if hybrid else "")
    run = lammps(f"""
units metal
atom_modify map array
{before}
read_data {data}
mass * 12.0
pair_style {style}
{coeff}
fix move_ all nve
timestep 0.0005
velocity all create 600 11
fix differ_ all numdiff 4 1.0e-4
fix strain_ all numdiff/virial 4 1.0e-4
compute stress_ all pressure NULL virial
thermo_style custom step pe c_stress_[1] c_stress_[2] c_stress_[3] c_stress_[4] c_stress_[5] c_stress_[6] &
    f_strain_[1] f_strain_[2] f_strain_[3] f_strain_[4] f_strain_[5] f_strain_[6]
thermo_modify format float %.17g norm no
thermo 4
dump forces_ all custom 4 atoms.dump id fx fy fz f_differ_[*]
dump_modify forces_ sort id format float %.17g
run 8
""", ranks=ranks)
    for frame in range(3):
        forces, differences = run.forces(frame), run.vectors(*[f"f_differ_[{k}]" for k in (1, 2, 3)], frame=frame)
        assert np.abs(forces - differences).max() < 1e-6 * np.abs(forces).max()
    thermo = run.thermo()
    for k in range(1, 4):
        ours, theirs = thermo[f"c_stress_[{k}]"], thermo[f"f_strain_[{k}]"]
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(ours).max()
    for ours, theirs in ((4, 6), (5, 5), (6, 4)):  # numdiff/virial counts in Voigt order: yz, xz, xy
        ours, theirs = thermo[f"c_stress_[{ours}]"], thermo[f"f_strain_[{theirs}]"]
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(thermo["c_stress_[1]"]).max()


# ------------------------------------------------------------------------------------------- atoms come and go


def last_frame_alone(lammps, run, model) -> np.ndarray:
    """Forces of the atoms that a run ended with, evaluated anew. IDs may have holes."""
    return lammps(script(f"{run.folder}/data.end", model, "run 0")).forces()


@pytest.mark.parametrize("ranks", [1, 2])
def test_lost_atoms_may_be_ignored(lammps, slab, deep_model, ranks):
    text = script(slab, deep_model, """
thermo_modify lost ignore flush yes
group fast id 16 32 48 64
velocity fast set 0 0 800
fix move_ all nve
run 60
write_data data.end
""", boundary="p p f", before="")
    run = lammps(text, ranks=ranks)
    assert len(run.forces()) < 64
    assert np.abs(run.forces() - last_frame_alone(lammps, run, deep_model)).max() < 1e-8


@pytest.mark.parametrize("ranks", [1, 2])
def test_deposited_and_evaporated_atoms(lammps, slab, deep_model, ranks):
    text = script(slab, deep_model, """
region above block 0 8.8 0 8.8 12 30
fix in_ all deposit 6 2 5 777 region above near 1.5 vz -5 -5
fix out_ all evaporate 7 2 above 99
fix move_ all nve
timestep 0.0005
run 40
write_data data.end
""")
    run = lammps(text, ranks=ranks)
    assert len(run.forces(0)) != len(run.forces(20))
    assert np.abs(run.forces() - last_frame_alone(lammps, run, deep_model)).max() < 1e-8


@pytest.mark.parametrize("ranks", [1, 2])
def test_swapped_types_change_energies_at_once(lammps, crystal, deep_model, ranks):
    """fix atom/swap asks for energies between list builds; its last accepted one is that of the new types."""
    lammps.needs_package("MC")
    text = script(crystal, deep_model, """
fix swap_ all atom/swap 1 10 4711 3000.0 types 1 2
thermo_style custom step pe f_swap_[2] c_stress_[1] vol
thermo_modify format float %.17g norm no
run 5
write_data data.end
""")
    run = lammps(text, ranks=ranks)
    assert run.thermo()["f_swap_[2]"][-1] > 5
    again = lammps(script(f"{run.folder}/data.end", deep_model, "run 0"))
    assert again.thermo()["PotEng"][0] == pytest.approx(run.thermo()["PotEng"][-1], abs=1e-8)
    assert np.abs(again.forces() - run.forces()).max() < 1e-9


def test_types_that_change_between_list_builds_are_noticed(lammps, slab, deep_model):
    """`run pre no` builds no list: only the types tell that something changed. Without periodicity there are no ghosts,
    whose types LAMMPS would leave as they were."""
    text = script(slab, deep_model, "fix move_ all nve\ntimestep 0.0001\nrun 2\nset group all type 2\n"
                  "run 1 pre no\nwrite_data data.end\n", boundary="f f f")
    run = lammps(text)
    again = lammps(script(f"{run.folder}/data.end", deep_model, "run 0", boundary="f f f"))
    assert np.abs(again.forces() - run.forces()).max() < 1e-9


@pytest.mark.parametrize("ranks", [1, 2])
def test_grand_canonical_insertions(lammps, slab, deep_model, ranks):
    lammps.needs_package("MC")
    text = script(slab, deep_model, """
group mobile type 1
fix gc_ mobile gcmc 1 8 8 1 2913 800.0 0.5 0.5 full_energy
fix move_ all nve
timestep 0.0002
run 6
write_data data.end
""")
    run = lammps(text, ranks=ranks, timeout=120)
    assert np.abs(run.forces() - last_frame_alone(lammps, run, deep_model)).max() < 1e-8
