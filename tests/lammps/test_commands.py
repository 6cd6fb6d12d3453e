# SPDX-License-Identifier: MIT
"""Wrong commands and files stop every rank with one sentence; repeated commands work. (FAULTS: model file, commands)"""
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from conftest import MEMORY

import systems


def script(data: str, model: str, **options) -> str:
    return systems.setup(data, model, **options) + systems.OUTPUT + "run 0\n"


# ------------------------------------------------------------------------------------------- the model file


@pytest.mark.parametrize("content,parts", [
    (b"", ("empty",)),
    (b"\x00\x01", ()),
    (b"\x80\x02}q\x00.", ()),
    (b"\xff" * 64, ()),
], ids=["empty", "two_bytes", "pickle", "huge_header"])
def test_bytes_that_are_no_model_are_an_error(lammps, crystal, tmp_path, content, parts):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    lammps.fails(script(crystal, str(path)), "broken.safetensors", *parts)


def test_a_truncated_model_is_an_error(lammps, crystal, model, tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(pathlib.Path(model).read_bytes()[:-100])
    lammps.fails(script(crystal, str(path)), "short.safetensors")


def test_a_missing_model_is_an_error(lammps, crystal):
    lammps.fails(script(crystal, "nowhere.safetensors"), "nowhere.safetensors", "No such file", "LAMMPS_POTENTIALS")


def test_a_folder_is_an_error(lammps, crystal, tmp_path):
    lammps.fails(script(crystal, str(tmp_path)), str(tmp_path), "directory")


def test_a_model_is_found_in_lammps_potentials(lammps, crystal, model, tmp_path):
    shutil.copy(model, tmp_path / "elsewhere.safetensors")
    for ranks in (1, 2):
        run = lammps(script(crystal, "elsewhere.safetensors"), ranks=ranks,
                     environment={"LAMMPS_POTENTIALS": f"/nonexistent:{tmp_path}"})
        assert "elsewhere.safetensors" in run.screen


def test_a_file_that_is_replaced_during_a_run_does_no_harm(lammps, crystal, model, tmp_path):
    path = tmp_path / "replaced.safetensors"
    shutil.copy(model, path)
    text = script(crystal, str(path)) + f"shell truncate -s 10 {path}\nrun 2\n"
    assert len(lammps(text).thermo()["PotEng"]) == 4


def test_only_rank_0_has_to_see_the_file(lammps, crystal, model, tmp_path):
    """The ranks run in two folders, and the model is in that of rank 0; or in the other one."""
    there = tmp_path / "there"
    there.mkdir()
    text = script(crystal, "model.safetensors")
    run = lammps(f"shell cp {model} model.safetensors\n{text}", ranks=2, other_folder=there)
    assert len(run.thermo()["PotEng"]) == 1
    shutil.copy(model, there / "model.safetensors")
    failed = lammps(text, ranks=2, other_folder=there, status=1)
    assert "ERROR: model file model.safetensors: cannot be opened" in failed.screen


# ------------------------------------------------------------------------------------------- pair_style, pair_coeff


@pytest.mark.parametrize("style,parts", [
    ("mlff devise cpu", ("'devise'", "device, precision, neigh or threads")),
    ("mlff device", ("device", "no value")),
    ("mlff device gpu", ("'gpu'", "cpu, cuda or auto")),
    ("mlff precision half", ("'half'", "double, single or mixed")),
    ("mlff threads 0", ("'0'", "1 to 4096")),
    ("mlff threads 2x", ("'2x'", "1 to 4096")),
    ("mlff 5.0", ("'5.0'",)),
])
def test_a_wrong_setting_is_an_error(lammps, crystal, model, style, parts):
    lammps.fails(script(crystal, model, style=style), "pair_style mlff", *parts)


@pytest.mark.parametrize("style,part", [("mlff device cuda", "cuda"), ("mlff device cpu precision mixed", "mixed")])
def test_what_this_build_cannot_do_is_an_error(lammps, crystal, model, style, part):
    lammps.fails(script(crystal, model, style=style), part, environment={"CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.parametrize("elements,parts", [
    ("H C", ("2 elements", "3 atom types")),
    ("H C O O", ("4 elements", "3 atom types")),
    ("", ("0 elements", "3 atom types")),
    ("H C Xx", ("'Xx'", "atom type 3", "H C O")),
    ("H c O", ("'c'", "atom type 2", "H C O")),
    ("H NULL O", ("NULL", "atom type 2", "hybrid")),
])
def test_wrong_elements_are_an_error(lammps, crystal, model, elements, parts):
    lammps.fails(script(crystal, model, elements=elements), *parts)


def test_types_other_than_all_are_an_error(lammps, crystal, model):
    """LAMMPS itself says so for a style alone; under hybrid it leaves that to the style."""
    lammps.fails(script(crystal, model).replace("pair_coeff * *", "pair_coeff 1 1"), "* *")
    lammps.fails(f"units metal\nread_data {crystal}\nmass * 1.0\npair_style hybrid mlff lj/cut 3.0\n"
                 f"pair_coeff 1 1 mlff {model} H NULL NULL", "'1 1'", "* *")


def test_pair_coeff_before_the_box_is_an_error(lammps, model):
    lammps.fails(f"units metal\npair_style mlff\npair_coeff * * {model} H C O", "box")


def test_a_run_without_pair_coeff_is_an_error(lammps, crystal):
    lammps.fails(f"units metal\nread_data {crystal}\nmass * 1.0\npair_style mlff\nrun 0", "coeffs are not set")


@pytest.mark.parametrize("units", ["lj", "si", "electron"])
def test_units_other_than_metal_and_real_are_an_error(lammps, crystal, model, units):
    lammps.fails(script(crystal, model, units=units), units, "metal or real")


def test_units_real_is_metal_in_kcal_per_mol(lammps, crystal, model):
    metal, real = (lammps(script(crystal, model, units=units)) for units in ("metal", "real"))
    kcal = 23.06054783061903
    assert real.thermo()["PotEng"][0] == pytest.approx(kcal * metal.thermo()["PotEng"][0], rel=1e-14)
    assert np.abs(real.forces() - kcal * metal.forces()).max() < 1e-12
    virials = systems.virial_of(real.thermo(), nktv2p=68568.415), systems.virial_of(metal.thermo())
    assert np.abs(virials[0] - kcal * virials[1]).max() < 1e-9


def test_units_real_converts_per_atom_values(lammps, crystal, model):
    for ranks in (1, 2):
        text = systems.setup(crystal, model, units="real") + """
compute e_ all pe/atom
compute s_ all stress/atom NULL virial
compute sums_ all reduce sum c_e_ c_s_[1]
compute p_ all pressure NULL virial
variable w_ equal -c_p_[1]*vol
thermo_style custom step pe c_sums_[1] c_sums_[2] v_w_
thermo_modify format float %.17g norm no
run 0
"""
        thermo = lammps(text, ranks=ranks).thermo()
        assert thermo["c_sums_[1]"][0] == pytest.approx(thermo["PotEng"][0], rel=1e-12)
        assert thermo["c_sums_[2]"][0] == pytest.approx(thermo["v_w_"][0], rel=1e-12)


def test_the_start_line_says_what_runs(lammps, crystal, model):
    for ranks in (1, 2):
        run = lammps(script(crystal, model, style="mlff precision single device cpu threads 2"), ranks=ranks)
        lines = [line for line in run.screen.splitlines() if line.startswith("mlff: model")]
        assert len(lines) == 1
        for part in (model, "elements H C O", "parameters", "cutoff 5 A", "cpu", "single precision", "2 threads",
                     "kB an atom"):
            assert part in lines[0]
        assert lines[0] in (run.folder / "log.lammps").read_text()


# ------------------------------------------------------------------------------------------- given again


def test_pair_coeff_and_pair_style_may_be_given_again(lammps, crystal, model, deep_model):
    """The last ones count; what was there before leaves nothing behind."""
    first = lammps(script(crystal, model))
    text = script(crystal, deep_model) + f"""
pair_coeff * * {model} H C O
run 0
pair_style mlff precision single
run 0
pair_style mlff
run 0
pair_coeff * * {deep_model} H C O
pair_coeff * * {model} O C H
pair_coeff * * {model} H C O
run 0
pair_style lj/cut 4.0
pair_coeff * * 0.0 1.0
pair_style mlff
pair_coeff * * {model} H C O
run 0
write_dump all custom last.dump id fx fy fz modify sort id format float %.17g
"""
    for ranks in (1, 2):
        run = lammps(text, ranks=ranks)
        expected = first.thermo()["PotEng"][0]
        energies = run.thermo()["PotEng"]
        assert abs(energies[0] - expected) > 1e-3
        assert abs(energies[2] - expected) > 1e-9  # single
        assert np.abs(energies[[1, 3, 4, 5]] - expected).max() < 1e-9
        assert np.abs(run.forces(file="last.dump") - first.forces()).max() < 1e-10


def test_clear_and_again(lammps, crystal, model):
    text = script(crystal, model)
    run = lammps(text + "clear\n" + text + "clear\n" + text, ranks=2)
    energies = run.thermo()["PotEng"]
    assert len(energies) == 3 and (energies == energies[0]).all()


def assert_no_leak(sizes: list[int]) -> None:
    """A leak grows in both of two equal stretches; MPI now and then takes a megabyte once."""
    assert len(sizes) == 3
    assert min(sizes[1] - sizes[0], sizes[2] - sizes[1]) < 512, f"{sizes} kB"


def test_repeated_commands_do_not_leak(lammps, crystal, model):
    """Resident memory after 300 more rounds of pair_style, pair_coeff and run grows by less than half a megabyte."""
    rounds = """
label {name}
variable {name} loop {n}
pair_style mlff
pair_coeff * * {model} H C O
run 0 post no
next {name}
jump SELF {name}
{memory}
"""
    text = systems.setup(crystal, model) + "".join(rounds.format(name=name, n=n, model=model, memory=MEMORY)
                                                   for name, n in (("warm", 100), ("first", 300), ("second", 300)))
    run = lammps(text, arguments=("-screen", "none"))
    assert_no_leak(run.resident_kilobytes())


@pytest.mark.parametrize("ranks,before", [(1, ""), (2, "newton off")])
def test_a_long_run_does_not_grow(lammps, crystal, model, ranks, before):
    """Resident memory of 300 more steps with a list built at each, per-atom values included, and cells that change."""
    text = systems.setup(crystal, model, before=before) + f"""
compute c_ all centroid/stress/atom NULL virial
compute r_ all reduce sum c_c_[1]
thermo_style custom step pe c_r_
thermo 5
neigh_modify every 1 delay 0 check no
fix move_ all nve
timestep 0.0001
run 100
{MEMORY}
run 300
{MEMORY}
run 300
{MEMORY}
"""
    run = lammps(text, ranks=ranks)
    assert_no_leak(run.resident_kilobytes())


SESSION = """
import sys
from lammps import lammps
plugin, data, model, deep = sys.argv[1:]
lmp = lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])

def refused(*commands):
    for command in commands[:-1]:
        lmp.command(command)
    try:
        lmp.command(commands[-1])
    except Exception as problem:
        return str(problem)
    sys.exit("no error: " + commands[-1])

lmp.commands_string(f"units metal\\nplugin load {plugin}\\natom_modify map array\\nread_data {data}\\nmass * 12.0\\npair_style mlff\\n"
                    f"pair_coeff * * {model} H C O\\nrun 0")
first = lmp.get_thermo("pe")
assert "nowhere" in refused("pair_coeff * * nowhere.safetensors H C O")
lmp.command("run 0")
assert lmp.get_thermo("pe") == first, "a refused file changed the model"
assert "'Xx'" in refused(f"pair_coeff * * {deep} H C Xx")
assert "2 elements" in refused(f"pair_coeff * * {model} H C")
lmp.command("run 0")
assert lmp.get_thermo("pe") == first, "refused elements changed the model"
assert "'half'" in refused("pair_style mlff threads 2 precision half")
lmp.command("run 0")
assert lmp.get_thermo("pe") == first, "a refused setting changed the style"
x = lmp.gather_atoms("x", 1, 3)
good = lmp.gather_atoms("x", 1, 3)
x[3:6] = x[0:3]
lmp.scatter_atoms("x", 1, 3, x)
assert "atom" in refused("run 0")
lmp.scatter_atoms("x", 1, 3, good)
lmp.command("run 0")
assert abs(lmp.get_thermo("pe") - first) < 1e-9, "a failed step left something behind"
print("session ends well")
"""


def test_a_session_goes_on_after_errors_as_it_was_before(installation, crystal, model, deep_model, tmp_path):
    """LAMMPS as a Python module turns errors into exceptions: nothing may be half done."""
    if installation.python is None:
        pytest.skip("this LAMMPS has no Python module")
    (tmp_path / "session.py").write_text(SESSION)
    done = subprocess.run([installation.python, "session.py", installation.plugin, crystal, model, deep_model], cwd=tmp_path,
                          env=installation.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "session ends well" in done.stdout, done.stdout + done.stderr
