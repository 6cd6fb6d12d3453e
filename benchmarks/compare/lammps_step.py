# SPDX-License-Identifier: MIT
"""A step of LAMMPS end to end: its own clock, the pair style's part of it, and the evaluation's."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from systems import SKIN, SPACING, molecule

REBUILD = 20  # steps between two neighbour lists, always: part of the time, as in a run at room temperature

# The timestep is so small that nothing moves: random weights would throw atoms about.
SCRIPT = """
units metal
atom_modify map array
{atoms}
mass * 12.0
plugin load {plugin}
pair_style mlff device {device} precision {precision} {neigh}
pair_coeff * * {model} {elements}
neighbor {skin} bin
neigh_modify every {rebuild} delay 0 check no
timestep 0.000001
thermo 1000000
velocity all create 300.0 1
fix 1 all nve
run {warm}
run {steps} pre no
"""


def atoms_commands(atoms: int, elements: tuple[str, ...]) -> str:
    """Ethanol in a large box, or a shaken grid as systems.box has it."""
    types = len(elements)
    if atoms == 9:
        ethanol = molecule(9)
        x = ethanol.positions - ethanol.positions.min(0) + 12.0
        lines = ["region box block 0 30 0 30 0 30", f"create_box {types} box"]
        for k, (a, b, c) in enumerate(x):
            lines.append(f"create_atoms {k % types + 1} single {a:.6f} {b:.6f} {c:.6f}")
        return "\n".join(lines)
    side = round(atoms ** (1.0 / 3.0))
    lines = [
        f"lattice sc {SPACING:.16f}",
        f"region box block 0 {side} 0 {side} 0 {side}",
        f"create_box {types} box",
        "create_atoms 1 box",
    ]
    lines += [f"set group all type/fraction {k} {1.0 / k:.6f} {k}" for k in range(2, types + 1)]
    return "\n".join(lines + ["displace_atoms all random 0.32 0.32 0.32 1234"])


def parse(text: str) -> dict:
    """Seconds a step of the last run: the loop and its parts."""
    loops = re.findall(r"Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms", text)
    if not loops:
        return {}
    seconds, steps, atoms = float(loops[-1][0]), int(loops[-1][1]), int(loops[-1][2])
    breakdown = text[text.rindex("MPI task timing breakdown") :]
    parts = dict(re.findall(r"^(\w+) +\|[^|\n]*\| *(\S+) *\|", breakdown, re.MULTILINE))
    return {
        "steps": steps,
        "atoms": atoms,
        "step_s": seconds / steps,
        "parts_s": {name.lower(): float(value) / steps for name, value in parts.items() if name != "Section"},
    }


def run(
    lmp: str,
    plugin: str,
    model: str,
    elements: tuple[str, ...],
    device: str,
    precision: str,
    neigh: str,
    atoms: int,
    steps: int,
    threads: int,
) -> dict:
    row = {"atoms": atoms, "precision": precision, "neigh": neigh, "outcome": "measured"}
    elements = elements[:2]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "in.step"
        script.write_text(
            SCRIPT.format(
                atoms=atoms_commands(atoms, elements),
                plugin=plugin,
                device=device,
                precision=precision,
                neigh="neigh device" if neigh == "device" else "",
                model=Path(model).resolve(),
                elements=" ".join(elements),
                skin=SKIN,
                rebuild=REBUILD,
                warm=3,
                steps=steps,
            )
        )
        command = [lmp, "-in", str(script), "-log", "none"]
        environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment)
        except (OSError, subprocess.TimeoutExpired) as error:
            return row | {"outcome": f"{error}"}
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
        return row | {"outcome": said[0] if said else f"lmp ended with status {done.returncode}"}
    figures = parse(done.stdout)
    return row | (figures or {"outcome": "lmp printed no loop time"})
