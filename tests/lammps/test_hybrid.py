# SPDX-License-Identifier: MIT
"""Beside other pair styles: hybrid, hybrid/overlay, hybrid/scaled, two models, types that are left out. (FAULTS 19, 23, 24)"""
import numpy as np
import pytest

import systems


def script(data: str, styles: str, coeffs: str, before: str = "", run: str = "run 0\n", output: str = systems.OUTPUT) -> str:
    return f"""
units metal
{before}
read_data {data}
mass * 12.0
pair_style {styles}
{coeffs}
{output}
{run}"""


def only(data: str, types: str, text: str, others: str) -> str:
    """The same input after the atoms of other types are gone."""
    return text.replace("mass * 12.0", f"mass * 12.0\ngroup gone type {others}\ndelete_atoms group gone compress no")


@pytest.mark.parametrize("ranks,before", [(1, ""), (2, ""), (2, "newton off"), (2, "comm_style tiled")])
def test_overlay_adds_another_potential(lammps, crystal, deep_model, ranks, before):
    mlff = script(crystal, "mlff", f"pair_coeff * * {deep_model} H C O", before)
    zbl = script(crystal, "zbl 2.0 3.0", "pair_coeff * * 6 6", before)
    both = script(crystal, "hybrid/overlay mlff zbl 2.0 3.0",
                  f"pair_coeff * * mlff {deep_model} H C O\npair_coeff * * zbl 6 6", before)
    runs = [lammps(text, ranks=ranks) for text in (mlff, zbl, both)]
    assert np.abs(runs[0].forces() + runs[1].forces() - runs[2].forces()).max() < 1e-10
    energies = [run.thermo()["PotEng"][0] for run in runs]
    assert energies[0] + energies[1] == pytest.approx(energies[2], abs=1e-9)
    virials = [systems.virial_of(run.thermo()) for run in runs]
    assert np.abs(virials[0] + virials[1] - virials[2]).max() < 1e-8
    assert np.abs(runs[1].forces()).max() > 0.1


@pytest.mark.parametrize("ranks,before", [(1, ""), (2, ""), (2, "newton off")])
def test_scaled_scales(lammps, crystal, deep_model, ranks, before):
    full = lammps(script(crystal, "mlff", f"pair_coeff * * {deep_model} H C O", before), ranks=ranks)
    scaled = lammps(script(crystal, "hybrid/scaled 0.25 mlff 1.0 zbl 2.0 2.01",
                           f"pair_coeff * * mlff {deep_model} H C O\npair_coeff * * zbl 0 0", before), ranks=ranks)
    assert np.abs(0.25 * full.forces() - scaled.forces()).max() < 1e-10
    assert scaled.thermo()["PotEng"][0] == pytest.approx(0.25 * full.thermo()["PotEng"][0], abs=1e-9)
    assert np.abs(0.25 * systems.virial_of(full.thermo()) - systems.virial_of(scaled.thermo())).max() < 1e-8


@pytest.mark.parametrize("ranks,before", [(1, ""), (2, ""), (4, "newton off"), (2, "comm_style tiled")])
def test_types_with_null_are_left_out(lammps, crystal, deep_model, ranks, before):
    """Types 1 and 3 feel the model as if type 2 were not there; type 2 has its own potential."""
    text = script(crystal, "hybrid mlff zbl 2.0 2.5",
                  f"pair_coeff * * mlff {deep_model} H NULL O\npair_coeff 2 * zbl 0 0\npair_coeff 1 2 zbl 0 0", before)
    hybrid = lammps(text, ranks=ranks)
    alone = lammps(only(crystal, "1 3", script(crystal, "mlff", f"pair_coeff * * {deep_model} H C O", before), "2"),
                   ranks=ranks)
    with_all, without = hybrid.dump(), alone.dump()
    kept = np.isin(with_all["id"], without["id"])
    assert kept.sum() == len(without["id"]) < len(kept)
    assert np.abs(hybrid.forces()[kept] - alone.forces()).max() < 1e-10
    assert np.abs(hybrid.forces()[~kept]).max() == 0.0
    assert hybrid.thermo()["PotEng"][0] == pytest.approx(alone.thermo()["PotEng"][0], abs=1e-9)


@pytest.mark.parametrize("ranks,before", [(1, ""), (2, ""), (2, "newton off")])
def test_two_models_at_once(lammps, crystal, model, deep_model, ranks, before):
    """Model 1 for types 1 and 2, model 2 for type 3, and over several steps."""
    move = "velocity all create 600 11\nfix move_ all nve\nrun 3\n"
    text = script(crystal, "hybrid/overlay mlff mlff precision double threads 1 zero 5.0",
                  f"pair_coeff * * zero\npair_coeff * * mlff 1 {model} H C NULL\npair_coeff * * mlff 2 {deep_model} NULL NULL O", before, move)
    both = lammps(text, ranks=ranks)
    first = lammps(only(crystal, "1 2", script(crystal, "mlff", f"pair_coeff * * {model} H C O", before), "3"), ranks=ranks)
    second = lammps(only(crystal, "3", script(crystal, "mlff", f"pair_coeff * * {deep_model} H C O", before), "1 2"),
                    ranks=ranks)
    every = both.dump(frame=0)["id"]
    for run in (first, second):
        kept = np.isin(every, run.dump()["id"])
        assert np.abs(both.forces(0)[kept] - run.forces()).max() < 1e-10
    energies = [run.thermo()["PotEng"][0] for run in (first, second, both)]
    assert energies[0] + energies[1] == pytest.approx(energies[2], abs=1e-9)
    if ranks == 1:
        return
    serial = lammps(text)
    assert np.abs(both.forces() - serial.forces()).max() < 1e-10


def test_per_atom_values_under_hybrid(lammps, crystal, deep_model):
    output = """
compute e_ all pe/atom
compute c_ all centroid/stress/atom NULL virial
dump forces_ all custom 1 atoms.dump id c_e_ c_c_[*]
dump_modify forces_ sort id format float %.17g
"""
    for ranks, before in ((1, ""), (2, "newton off")):
        runs = [lammps(script(crystal, *styles, before, output=output), ranks=ranks) for styles in (
            ("mlff", f"pair_coeff * * {deep_model} H C O"),
            ("hybrid/overlay mlff zbl 2.0 2.01", f"pair_coeff * * mlff {deep_model} H C O\npair_coeff * * zbl 0 0"))]
        tables = [run.vectors("c_e_", *[f"c_c_[{k}]" for k in range(1, 10)]) for run in runs]
        assert np.abs(tables[0] - tables[1]).max() / 1.6e6 < 1e-10
        assert np.abs(tables[0][:, 0] - tables[1][:, 0]).max() < 1e-10


def molecular_data(folder, system: systems.System) -> str:
    """A data file with a bond between atoms 1 and 2."""
    lines = systems.write_data(folder / "data.plain", system)
    text = open(lines).read().replace("atom types\n", "atom types\n1 bonds\n1 bond types\n4 extra special per atom\n"
                                      "2 extra bond per atom\n").replace("Atoms # atomic", "Atoms # bond")
    head, _, rows = text.partition("Atoms # bond\n\n")
    rows = "\n".join(" ".join([row.split()[0], "1", *row.split()[1:]]) for row in rows.splitlines())
    path = folder / "data.bonded"
    path.write_text(f"{head}Atoms # bond\n\n{rows}\n\nBonds\n\n1 1 1 2\n")
    return str(path)


def test_special_bonds_that_hide_neighbours_are_an_error(lammps, tmp_path, model):
    lammps.needs_package("MOLECULE")
    data = molecular_data(tmp_path, systems.crystal((5, 5, 5)))
    bonded = "atom_style bond\nbond_style zero"
    coeff = f"pair_coeff * * {model} H C O\nbond_coeff * 1.5"
    lammps.fails(script(data, "mlff", coeff, bonded), "special_bonds", "0 0 0", "expected 1 1 1")
    lammps.fails(script(data, "mlff", coeff, bonded + "\nspecial_bonds lj 1 0.5 1"), "1 0.5 1")

    seen = lammps(script(data, "mlff", coeff, bonded + "\nspecial_bonds lj/coul 1 1 1"))
    unbonded = lammps(script(str(tmp_path / "data.plain"), "mlff", f"pair_coeff * * {model} H C O"))
    assert np.abs(seen.forces() - unbonded.forces()).max() < 1e-10
    # factors that mark pairs in the list instead of dropping them
    marked = lammps(script(data, "mlff", coeff, bonded + "\nspecial_bonds lj 1 1 1 coul 0 0 0.5"))
    assert np.abs(marked.forces() - unbonded.forces()).max() < 1e-10


def test_special_bonds_can_be_set_for_this_style_alone(lammps, tmp_path, model):
    lammps.needs_package("MOLECULE")
    data = molecular_data(tmp_path, systems.crystal((5, 5, 5)))
    text = script(data, "hybrid/overlay mlff zbl 2.0 2.01",
                  f"pair_coeff * * mlff {model} H C O\npair_coeff * * zbl 0 0\nbond_coeff * 1.5\n"
                  "pair_modify pair mlff special lj/coul 1 1 1",
                  "atom_style bond\nbond_style zero\nspecial_bonds lj/coul 1.0e-100 1.0e-100 1.0e-100")
    plain = lammps(script(str(tmp_path / "data.plain"), "mlff", f"pair_coeff * * {model} H C O"))
    for ranks in (1, 2):
        assert np.abs(lammps(text, ranks=ranks).forces() - plain.forces()).max() < 1e-10


@pytest.mark.parametrize("before,after", [
    ("", "neigh_modify exclude type 1 1"),
    ("atom_modify first odd", "group odd type 1 3\nneigh_modify include odd"),
])
def test_pairs_that_the_user_hides_are_named_in_a_warning(lammps, crystal, model, before, after):
    runs = [lammps(script(crystal, "mlff", f"pair_coeff * * {model} H C O\n{after}", before), ranks=n) for n in (1, 2)]
    for run in runs:
        assert run.screen.count("WARNING: pair style mlff does not see the pairs") == 1
    assert np.abs(runs[0].forces() - runs[1].forces()).max() < 1e-10
