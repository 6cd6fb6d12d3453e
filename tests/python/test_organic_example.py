# SPDX-License-Identifier: MIT
"""The report of examples/organic on logs whose answers are known."""
import math
import pathlib
import re
import subprocess
import sys

import pytest

REPORT = pathlib.Path(__file__).resolve().parents[2] / "examples" / "organic" / "report.py"
ATOMS, TIMESTEP, KINETIC = 12, 0.0005, 0.4  # ps, eV
COLUMNS = "   Step  Temp  PotEng  KinEng  TotEng  Press  c_broken"


def rows(first: int, last: int, temperature: float, total, broken) -> list[str]:
    return [f"  {step}  {temperature}  {total(step) - KINETIC:.9f}  {KINETIC}  {total(step):.9f}  0  {broken(step)}"
            for step in range(first, last + 1, 100)]


def log_text(temperature=300.0, drift=0.0, wave=0.0, broken=lambda step: 0) -> str:
    """A log of a minimisation, 1000 steps at 300 K and 10,000 of NVE, whose total energy drifts by so much over the run
    and goes up and down by so much; both in parts of the kinetic energy."""
    def total(step: int) -> float:
        return -400.0 + KINETIC * (drift * (step - 1000) / 10000 + wave * math.sin(2 * math.pi * step / 1000))

    def end(steps: int, seconds: float) -> list[str]:
        return [f"Loop time of {seconds} on 1 procs for {steps} steps with {ATOMS} atoms",
                "99.0% CPU use with 1 MPI tasks x 2 OpenMP threads"]

    lines = ["LAMMPS (22 Jul 2025 - Update 4)", "units metal", f"timestep {TIMESTEP}", "minimize 0 0.001 10 20", COLUMNS]
    lines += rows(0, 100, 0.0, total, broken) + end(100, 0.1)
    lines += ["fix heat all langevin 300 300 0.1 1", "fix heat_move all nve", "run 1000", COLUMNS]
    lines += rows(0, 1000, 290.0, total, lambda step: 0) + end(1000, 1.0)
    lines += ["unfix heat", "unfix heat_move", "fix move all nve", "run 10000", COLUMNS]
    lines += rows(1000, 11000, temperature, total, broken) + end(10000, 10.0)
    return "\n".join(lines + ["Total wall time: 0:00:12"]) + "\n"


def report(tmp_path: pathlib.Path, text: str) -> subprocess.CompletedProcess:
    log = tmp_path / "log.lammps"
    log.write_text(text)
    return subprocess.run([sys.executable, REPORT, log, tmp_path / "picture.png"], capture_output=True, text=True)


def lines_of(result: subprocess.CompletedProcess) -> dict[str, str]:
    assert result.returncode == 0, result.stderr
    return {line.split()[0]: line for line in result.stdout.splitlines()}


def test_a_run_that_keeps_everything_has_nothing_marked(tmp_path):
    result = report(tmp_path, log_text(temperature=310.0, drift=0.004, wave=0.002))
    said = lines_of(result)
    assert "NOT KEPT" not in result.stdout
    assert "310.0 K" in said["temperature"] and "none is broken" in said["molecules"]
    assert float(said["drift"].split()[1]) == pytest.approx(0.4, abs=0.05)  # the wave has a slope, too
    assert float(said["fluctuation"].split()[1]) == pytest.approx(0.2 / math.sqrt(2), abs=0.01)
    assert "1 molecule of benzene, 10000 steps of 0.5 fs, 5 ps" in said["NVE"]
    assert "12000 atom-steps/s" in said["speed"] and "1 rank with 2 threads" in said["speed"]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("changed, line", [
    ({"temperature": 325.0}, "temperature"),
    ({"temperature": 279.0}, "temperature"),
    ({"drift": -0.011}, "drift"),
    ({"wave": 0.008}, "fluctuation"),
    ({"broken": lambda step: 2 if step == 5000 else 0}, "molecules"),
])
def test_what_is_not_kept_is_marked(tmp_path, changed, line):
    said = lines_of(report(tmp_path, log_text(**changed)))
    assert [name for name, text in said.items() if "NOT KEPT" in text] == [line]


def test_a_log_that_is_not_there_is_told_in_a_sentence(tmp_path):
    result = subprocess.run([sys.executable, REPORT, tmp_path / "nowhere.log", tmp_path / "picture.png"],
                            capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (f"report: {tmp_path}/nowhere.log: No such file or directory; "
                             "expected the log.lammps of a run\n")


def test_missing_packages_are_named_together(tmp_path):
    """Run without what pip has installed: the script says what is missing before it does anything."""
    script = REPORT.parent / "training" / "molecules.py"
    hide = ("import importlib.util as u, runpy, sys; find = u.find_spec; "
            "u.find_spec = lambda name, *rest: None if name in ('rdkit', 'tblite') else find(name, *rest); "
            "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')")
    result = subprocess.run([sys.executable, "-c", hide, script, tmp_path / "out.extxyz"], capture_output=True,
                            text=True)
    assert result.returncode == 1
    assert re.match(r"molecules: .*rdkit, tblite.* not installed, expected .*pip install", result.stderr)
    assert not list(tmp_path.iterdir())


def test_a_run_that_did_not_end_is_refused(tmp_path):
    text = log_text()
    result = report(tmp_path, text[:text.index("fix move all nve")])
    assert result.returncode == 1 and "2 finished runs, expected three" in result.stderr


def test_a_run_of_too_few_steps_is_refused(tmp_path):
    before, move, nve = log_text().partition("fix move all nve")
    lines = nve.splitlines(keepends=True)
    table = [number for number, line in enumerate(lines) if "".join(line.split()[:1]).isdecimal()]
    result = report(tmp_path, before + move + "".join(lines[:table[0] + 2] + lines[table[-1] + 1:]))
    assert result.returncode == 1
    assert "2 lines of thermo output in the last run, expected three or more" in result.stderr
