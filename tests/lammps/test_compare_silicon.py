# SPDX-License-Identifier: MIT
"""The example compare-silicon runs, in its reduced mode, and its numbers are those of the literature."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("matplotlib", reason="the example draws with matplotlib, which is not installed")
pytest.importorskip("ase", reason="the example reads frames with ASE, which is not installed")

import numpy as np  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from ase.io import read, write  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "compare-silicon"
MODEL = ROOT / "examples" / "silicon" / "silicon.safetensors"


@pytest.fixture(scope="module")
def compare(installation, tmp_path_factory):
    """Runs run.py in its reduced mode on one core; gives the finished process and its output folder."""
    if not installation.has_package("MANYBODY"):
        pytest.skip("this LAMMPS has no package MANYBODY, where sw and tersoff are")

    def run(*options):
        output = tmp_path_factory.mktemp("compare")
        environment = dict(installation.environment)
        if "MLFF_LAMMPS_SOURCE" in os.environ:
            environment.setdefault("LAMMPS_POTENTIALS", os.environ["MLFF_LAMMPS_SOURCE"] + "/potentials")
        command = [sys.executable, EXAMPLE / "run.py", "--quick", "--lammps", installation.lmp, "--mpiexec",
                   installation.mpiexec[0], "--plugin", installation.plugin, "--model", MODEL, "--output", output]
        return subprocess.run([*map(str, command), *map(str, options)], env=environment, capture_output=True,
                              text=True, timeout=300), output

    return run


@pytest.fixture(scope="module")
def finished(compare):
    process, output = compare()
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout, output, json.loads((output / "results.json").read_text())["results"]


# M. D. Kluge, J. R. Ray and A. Rahman, J. Chem. Phys. 85, 4028 (1986), and E. R. Cowley, Phys. Rev. Lett. 60, 2379
# (1988): sw; J. Tersoff, Phys. Rev. B 38, 9902 (1988): T3, and what that paper says of T2.
@pytest.mark.parametrize("potential, expected", [
    ("sw", {"lattice_constant": 5.431, "C11": 151.4, "C12": 76.4, "C44": 56.4}),
    ("tersoff", {"lattice_constant": 5.432, "C11": 121.0, "C12": 86.0, "C44": 10.3}),
    ("tersoff-c", {"lattice_constant": 5.432, "C11": 142.5, "C12": 75.4, "C44": 69.0}),
])
def test_elastic_constants_of_the_reference_styles_are_the_published_ones(finished, potential, expected):
    for name, value in expected.items():
        assert finished[2][potential][name] == pytest.approx(value, rel=0.01), name


def test_bulk_modulus_and_elastic_constants_agree(finished):
    """Two ways to the same number: the curve of energies, and stresses."""
    for potential, found in finished[2].items():
        assert found["bulk_modulus"] == pytest.approx((found["C11"] + 2 * found["C12"]) / 3, rel=0.01), potential


def test_table_and_pictures_are_written_and_the_missing_set_is_named(finished):
    screen, output, results = finished
    assert "skipped: the mlearn Si set is not here" in screen
    table = (output / "table.md").read_text()
    assert table in screen and "C44, ions relaxed" in table and "forces" not in table
    assert {path.name for path in output.glob("*.png")} == {"crystal.png", "melt.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in output.glob("*.png"))
    for found in results.values():
        assert set(found["speed"]) == {"1"} and found["speed"]["1"] > 0 and found["melt"]["picoseconds"] > 0


def frames_with_forces(path, lammps):
    """Test frames in skewed, rotated cells; their forces are those of sw, found in a straight cell of LAMMPS's own."""
    rng = np.random.default_rng(3)
    frames = []
    for number in range(2):
        crystal = bulk("Si", "diamond", a=5.43, cubic=True)
        crystal.positions += 0.1 * rng.normal(size=crystal.positions.shape)
        rows = [f"{k + 1} 1 {x:.15g} {y:.15g} {z:.15g}" for k, (x, y, z) in enumerate(crystal.positions % 5.43)]
        box = [f"0 5.43 {axis}lo {axis}hi" for axis in "xyz"]
        data = path.with_suffix(".data")
        data.write_text("\n".join(["a crystal", "", "8 atoms", "1 atom types", *box, "", "Atoms", "", *rows, ""]))
        run = lammps(f"units metal\nread_data {data}\nmass 1 28.0855\npair_style sw\npair_coeff * * Si.sw Si\nrun 0\n"
                     "write_dump all custom atoms.dump id fx fy fz modify sort id format float %.15g", load=False)
        forces = run.forces()
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        rotation *= np.sign(np.linalg.det(rotation))
        skew = np.array([[1, 0, 0], [2, 1, 0], [-3, 1, 1]])  # the same lattice by other vectors
        crystal.set_cell(skew @ crystal.cell.array @ rotation)
        crystal.positions = crystal.positions @ rotation
        crystal.calc = SinglePointCalculator(crystal, energy=0.0, forces=forces @ rotation)
        crystal.info.update(split="test", group="AIMD-NVT", description=f"dynamics at {300 + 3000 * number} K")
        frames.append(crystal)
    write(path, frames, format="extxyz")


def test_forces_on_skewed_frames_are_compared_in_the_frames_axes(compare, lammps, tmp_path):
    potentials = lammps.installation.lmp.parent / "share" / "lammps" / "potentials"
    if not (potentials / "Si.sw").is_file():
        pytest.skip(f"{potentials} has no Si.sw")
    lammps.installation.environment["LAMMPS_POTENTIALS"] = str(potentials)
    frames_with_forces(tmp_path / "frames.extxyz", lammps)
    assert len(read(tmp_path / "frames.extxyz", ":")) == 2
    process, output = compare("--data", tmp_path / "frames.extxyz")
    assert process.returncode == 0, process.stdout + process.stderr
    results = json.loads((output / "results.json").read_text())["results"]
    errors = results["sw"]["forces"]
    assert set(errors) == {"all", "crystal's dynamics below melting", "crystal's dynamics above melting"}
    assert errors["all"]["frames"] == 2 and errors["all"]["size"] > 500
    assert errors["all"]["rmse"] < 1e-3  # meV/angstrom: extended XYZ has eight digits
    assert results["mlff"]["forces"]["all"]["rmse"] > 10
    assert (output / "forces.png").stat().st_size > 5000


@pytest.mark.parametrize("content, sentence", [
    ("nothing", "not readable as extended XYZ"),
    ("1\nProperties=species:S:1:pos:R:3 split=train\nSi 0 0 0\n", "no frame has split=test"),
    ("1\nProperties=species:S:1:pos:R:3 split=test\nSi 0 0 0\n", "not of silicon with forces"),
])
def test_a_set_that_cannot_be_compared_with_is_refused(compare, tmp_path, content, sentence):
    (tmp_path / "frames.extxyz").write_text(content)
    process, _ = compare("--data", tmp_path / "frames.extxyz")
    assert process.returncode == 1 and sentence in process.stderr and "Traceback" not in process.stderr


def test_a_failing_lammps_is_reported_with_its_sentence(compare, tmp_path):
    (tmp_path / "bad.safetensors").write_text("nothing")
    process, _ = compare("--model", tmp_path / "bad.safetensors")
    assert process.returncode == 1 and "LAMMPS stopped in in.energy-volume with mlff: ERROR" in process.stderr
