# SPDX-License-Identifier: MIT
"""Structures for the LAMMPS tests, and the input lines that most of them share."""
import pathlib
from dataclasses import dataclass

import numpy as np

MASSES = "mass * 12.0"

# the tail of most inputs: what is printed and dumped, with all digits
OUTPUT = """
compute stress_ all pressure NULL virial
thermo_style custom step pe c_stress_[1] c_stress_[2] c_stress_[3] c_stress_[4] c_stress_[5] c_stress_[6] vol
thermo_modify format float %.17g norm no
thermo 1
dump forces_ all custom 1 atoms.dump id type x y z fx fy fz
dump_modify forces_ sort id format float %.17g
"""


@dataclass
class System:
    cell: np.ndarray  # [3][3] rows are lattice vectors, angstrom, lower triangular
    positions: np.ndarray  # [n][3] angstrom
    types: np.ndarray  # [n] from 1
    origin: np.ndarray | None = None  # [3] lower corner of the box, angstrom


def gas(cells: tuple[int, int, int], length: float, share: float, seed: int = 5, types: int = 3) -> System:
    """A `share` of the sites of a wide lattice is occupied: atoms with few neighbours, holes between them."""
    system = crystal(cells, spacing=length, amplitude=0.9, seed=seed, types=types)
    kept = np.random.default_rng(seed + 1).uniform(size=len(system.types)) < share
    return System(system.cell, system.positions[kept], system.types[kept])


def crystal(cells: tuple[int, int, int], spacing: float = 2.2, amplitude: float = 0.35, seed: int = 7,
            types: int = 3) -> System:
    """A simple cubic lattice whose atoms are displaced by up to `amplitude` angstrom, types at random."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in cells], indexing="ij"), axis=-1).reshape(-1, 3) + 0.5
    positions = grid * spacing + rng.uniform(-amplitude, amplitude, (len(grid), 3))
    return System(np.diag(np.array(cells) * spacing), positions, rng.integers(1, types + 1, len(grid)))


def lower_triangular(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cell in LAMMPS's orientation, and the rotation Q with x_lammps = x @ Q."""
    q, r = np.linalg.qr(cell.T)
    q = q * np.sign(np.diag(r))
    return cell @ q, q


def from_reference(reference, types: np.ndarray) -> tuple[System, np.ndarray, str]:
    """LAMMPS's box for a reference file: open directions get walls far outside the atoms. Also the rotation into
    LAMMPS's orientation and the arguments of `boundary`."""
    positions, pbc = reference["positions"], reference["pbc"]
    cell, q = np.eye(3), np.eye(3)
    if pbc.any():
        cell, q = lower_triangular(reference["cell"])
        positions = positions @ q
    cell, low = cell.copy(), np.zeros(3)
    for k in range(3):
        if not pbc[k]:
            low[k] = positions[:, k].min() - 8.0
            cell[k] = 0.0
            cell[k, k] = positions[:, k].max() + 8.0 - low[k]
    boundary = " ".join("p" if flag else "f" for flag in pbc)
    return System(cell, positions, types, low), q, boundary


def write_data(path: pathlib.Path, system: System, types: int = 3) -> str:
    """Writes a data file of atom_style atomic; returns its path."""
    cell, low = system.cell, np.zeros(3) if system.origin is None else system.origin
    lines = ["# made by a test", "", f"{len(system.positions)} atoms", f"{types} atom types", ""]
    for k, axis in enumerate("xyz"):
        lines.append(f"{low[k]:.17g} {low[k] + cell[k, k]:.17g} {axis}lo {axis}hi")
    if cell[1, 0] or cell[2, 0] or cell[2, 1]:
        lines.append(f"{cell[1, 0]:.17g} {cell[2, 0]:.17g} {cell[2, 1]:.17g} xy xz yz")
    lines += ["", "Atoms # atomic", ""]
    for k, (kind, x) in enumerate(zip(system.types, system.positions)):
        lines.append(f"{k + 1} {kind} {x[0]:.17g} {x[1]:.17g} {x[2]:.17g}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def setup(data: str, model: str, style: str = "mlff", elements: str = "H C O", before: str = "", units: str = "metal",
          boundary: str = "p p p") -> str:
    """Input lines up to pair_coeff; `before` comes ahead of read_data."""
    return f"""
units {units}
boundary {boundary}
{before}
read_data {data}
{MASSES}
pair_style {style}
pair_coeff * * {model} {elements}
"""


def virial_of(thermo: dict[str, np.ndarray], row: int = -1, nktv2p: float = 1.6021765e6) -> np.ndarray:
    """[6] virial xx yy zz xy xz yz in LAMMPS's unit of energy, from the pressure tensor that OUTPUT prints."""
    pressure = np.array([thermo[f"c_stress_[{k}]"][row] for k in range(1, 7)])
    return pressure * thermo["Volume"][row] / nktv2p
