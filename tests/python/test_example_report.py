# SPDX-License-Identifier: MIT
"""The report of examples/silicon on logs whose answers are known."""
import pathlib
import subprocess
import sys

import pytest

REPORT = pathlib.Path(__file__).resolve().parents[2] / "examples" / "silicon" / "report.py"
ATOMS, TIMESTEP = 4, 0.002  # ps


def log_text(drift: float, units: str = "metal", ensemble: str = "nve") -> str:
    """A log of 100 steps NVT and 200 steps of `ensemble`; drift in eV a ps of the whole system."""
    timestep = {"metal": TIMESTEP, "real": TIMESTEP * 1000}[units]
    unit = {"metal": 1.0, "real": 23.06054783061903}[units]
    lines = ["LAMMPS (22 Jul 2025 - Update 4)", f"units {units}", f"timestep {timestep}",
             "fix 1 all nvt temp 300 300 0.1", "run 100", "   Step  Temp  PotEng  TotEng"]
    lines += [f"  {step}  {3 * step}  -9.5  -9" for step in range(0, 101, 10)]
    processors = "99.0% CPU use with 2 MPI tasks x 1 OpenMP threads"
    lines += [f"Loop time of 2.0 on 2 procs for 100 steps with {ATOMS} atoms", processors,
              "unfix 1", f"fix 2 all {ensemble}", "run 200", "   Step  Temp  PotEng  TotEng"]
    for step in range(100, 301, 10):
        energy = unit * (-10 + drift * (step - 100) * TIMESTEP)
        lines.append(f"  {step}  300  -9.5  {energy:.12f}")
    lines += [f"Loop time of 3.0 on 2 procs for 200 steps with {ATOMS} atoms", processors,
              "Total wall time: 0:00:05"]
    return "\n".join(lines) + "\n"


def run_report(tmp_path: pathlib.Path, text: str) -> subprocess.CompletedProcess:
    log = tmp_path / "log.lammps"
    log.write_text(text)
    return subprocess.run([sys.executable, REPORT, log, tmp_path / "picture.png"], capture_output=True, text=True)


@pytest.mark.parametrize("units", ["metal", "real"])
@pytest.mark.parametrize("drift", [0.0, 2e-6, -4e-3])
def test_drift_speed_and_temperature(tmp_path, units, drift):
    result = run_report(tmp_path, log_text(drift, units))
    assert result.returncode == 0, result.stderr
    words = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    # eV/ps of 4 atoms -> meV/atom/ns
    assert float(words["drift"][1]) == pytest.approx(drift * 1e6 / ATOMS, abs=2e-3)
    assert float(words["drift"][3]) < 1e-2
    assert words["temperature"][1] == "300.0"
    assert float(words["speed"][1]) == pytest.approx(300 / 5.0 * ATOMS)
    assert float(words["speed"][3]) == pytest.approx(60 * TIMESTEP * 86400 / 1000, abs=1e-3)
    assert "2 ranks with 1 thread," in " ".join(words["speed"])
    assert words["NVT"][-5:] == ["from", "0", "to", "300", "K"]


def test_the_picture_is_a_png(tmp_path):
    run_report(tmp_path, log_text(1e-6))
    picture = (tmp_path / "picture.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 5000


@pytest.mark.parametrize("text, said", [
    (log_text(0, ensemble="langevin"), "no finished NVE run"),
    (log_text(0).partition("Loop time of 3.0")[0], "no finished NVE run at the end; runs found: 1 finished, the last"),
    (log_text(0).replace("units metal", "units lj"), "units lj, expected metal or real"),
    (log_text(0).partition("Loop time of 3.0")[0] + "ERROR: Lost atoms\n", "LAMMPS stopped: ERROR: Lost atoms"),
    (log_text(0).replace("TotEng", "Etotal"), "no column TotEng, found"),
    ("", "no finished NVE run at the end; runs found: none that was finished"),
])
def test_a_log_that_cannot_be_reported_on_is_refused(tmp_path, text, said):
    result = run_report(tmp_path, text)
    assert result.returncode == 1
    assert said in result.stderr and "Traceback" not in result.stderr
