# SPDX-License-Identifier: MIT
"""The examples' inputs run, short, and their reports find in the log what they need."""
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install '.[train]')")

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def report(lammps):
    """Runs examples/NAME/in.NAME with these variables; the lines of its report by their first word."""
    def run(name: str, **variables) -> dict[str, str]:
        folder = EXAMPLES / name
        variables = {"model": folder / f"{name}.safetensors", "plugin": lammps.installation.plugin, "folder": folder,
                     **variables}
        script = "".join(f"variable {key} index {value}\n" for key, value in variables.items())
        run = lammps(script + (folder / f"in.{name}").read_text(), load=False, timeout=240)
        picture = run.folder / "picture.png"
        said = subprocess.run([sys.executable, folder / "report.py", run.folder / "log.lammps", picture],
                              capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        assert picture.read_bytes().startswith(b"\x89PNG")
        return {line.split()[0]: line for line in said.stdout.splitlines()}
    return run


def test_silicon_keeps_its_energy(report):
    said = report("silicon", steps=100)
    assert "100 steps" in said["NVE"] and "512 atoms" in said["speed"]
    assert abs(float(said["drift"].split()[1])) < 100  # meV/atom/ns of 0.1 ps


def test_silicon_may_be_larger(report):
    said = report("silicon", replicate=2, settle=10, steps=20)
    assert "20 steps" in said["NVE"] and "4096 atoms" in said["speed"]


@pytest.mark.parametrize("neigh", ["host", "device"])
def test_water_stays_water_and_has_a_radial_distribution(report, neigh):
    said = report("water", settle=200, steps=100, neigh=neigh)
    assert "as in the reference log" in said["start"] and "NOT" not in said["start"]
    assert "first peak" in said["O-O"] and "192 atoms" in said["speed"]


@pytest.mark.parametrize("replicate", [1, 2])
def test_benzene_keeps_its_energy_and_its_bonds(report, replicate):
    said = report("organic", replicate=replicate, settle=400, steps=1000)
    assert "NOT KEPT" not in said["drift"] + said["fluctuation"] + said["molecules"]
    assert f"{replicate**3} molecule" in said["NVE"] and f"{12 * replicate**3} atoms" in said["speed"]
