# SPDX-License-Identifier: MIT
"""What is evaluated: molecules, boxes, batches, and the neighbour lists that every candidate is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

SPACING = 10.0 ** (1.0 / 3.0)  # angstrom: 0.1 atoms in a cubic angstrom, as in water
SKIN = 1.0  # angstrom: how much further than the cutoff an engine's list reaches

# Aspirin from usual bond lengths (angstrom) and angles (degrees):
# element, bonded to, length, angle to, angle, dihedral to, dihedral
ASPIRIN = """
C
C 0 1.40
C 1 1.39 0 120
C 2 1.39 1 120 0 0
C 3 1.39 2 120 1 0
C 4 1.39 3 120 2 0
C 0 1.49 1 121 2 180
O 6 1.21 0 124 1 150
O 6 1.36 0 112 1 -30
H 8 0.97 6 107 0 180
O 1 1.40 0 119 5 180
C 10 1.36 1 117 0 90
O 11 1.20 10 123 1 0
C 11 1.50 10 111 1 180
H 13 1.09 11 109.5 10 60
H 13 1.09 11 109.5 10 180
H 13 1.09 11 109.5 10 300
H 2 1.08 1 120 0 180
H 3 1.08 2 120 1 180
H 4 1.08 3 120 2 180
H 5 1.08 4 120 3 180
"""


@dataclass
class System:
    """One structure, in a cubic periodic box or in none."""

    name: str
    symbols: list[str]
    positions: np.ndarray  # [n][3] angstrom
    box: float | None = None  # angstrom

    def __len__(self) -> int:
        return len(self.positions)


def from_internal_coordinates(table: str) -> tuple[list[str], np.ndarray]:
    symbols: list[str] = []
    x: list[np.ndarray] = []
    for line in table.split("\n"):
        words = line.split()
        if not words:
            continue
        symbols.append(words[0])
        numbers = [float(w) for w in words[1:]]
        a = x[int(numbers[0])] if numbers else np.zeros(3)
        b = x[int(numbers[2])] if len(numbers) > 2 else a + [1.0, 0.0, 0.0]
        c = x[int(numbers[4])] if len(numbers) > 4 else b + [0.0, 1.0, 0.0]
        length = numbers[1] if numbers else 0.0
        angle, dihedral = np.radians(
            [numbers[3] if len(numbers) > 2 else 180.0, numbers[5] if len(numbers) > 4 else 0.0]
        )
        along = (b - a) / np.linalg.norm(b - a)
        across = (c - b) - along * np.dot(c - b, along)
        across /= np.linalg.norm(across)
        turned = np.cos(dihedral) * across + np.sin(dihedral) * np.cross(across, along)
        x.append(a + length * (np.cos(angle) * along + np.sin(angle) * turned))
    return symbols, np.array(x)


def molecule(atoms: int) -> System:
    """Ethanol, aspirin or C60."""
    from ase.build import molecule as of_ase

    if atoms == 21:
        symbols, x = from_internal_coordinates(ASPIRIN)
        return System("aspirin", symbols, x)
    name, formula = {9: ("ethanol", "CH3CH2OH"), 60: ("C60", "C60")}[atoms]
    found = of_ase(formula)
    return System(name, found.get_chemical_symbols(), found.positions)


def box(side: int) -> System:
    """A shaken simple cubic grid of side^3 atoms, two H to an O; blocks of 8 x 8 x 8 atoms are near in memory, as an
    engine that sorts its atoms has them."""
    rng = np.random.default_rng(1)
    index = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    block = index // 8
    order = np.lexsort((index[:, 2], index[:, 1], index[:, 0], block[:, 2], block[:, 1], block[:, 0]))
    x = SPACING * (index[order] + rng.uniform(0.0, 0.3, (side**3, 3)))
    symbols = np.resize(np.array(["H", "O", "H"]), side**3).tolist()
    return System("box", symbols, x, SPACING * side)


# 97,336: the largest of these grids whose edges times 384 stay below 2^31; compiled PyTorch without TF32 is right there
SIZES = (9, 21, 60, 1000, 10648, 97336, 110592, 1000000)


def of_size(atoms: int) -> System:
    return molecule(atoms) if atoms in (9, 21, 60) else box(round(atoms ** (1.0 / 3.0)))


def species(symbols: list[str], elements: tuple[str, ...]) -> np.ndarray:
    """[n] indices; elements that the model lacks are spread over those that it has: a benchmark asks for speed."""
    index = {symbol: k for k, symbol in enumerate(elements)}
    other = {symbol: k % len(elements) for k, symbol in enumerate(sorted(set(symbols) - set(elements)))}
    return np.array([index[s] if s in index else other[s] for s in symbols], np.int32)


@dataclass
class Lists:
    """Neighbours of a system's atoms within `reach`, as an engine has them: images are atoms of their own."""

    x: torch.Tensor  # [A][3] angstrom, the system's atoms first
    owner: torch.Tensor  # [A] the atom that an image belongs to
    i: torch.Tensor  # [E] ascending
    j: torch.Tensor  # [E] index into x


def with_images(x: torch.Tensor, length: float | None, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    n = len(x)
    parts, owners = [x], [torch.arange(n, device=x.device)]
    steps = range(0) if length is None else range(-int(np.ceil(reach / length)), int(np.ceil(reach / length)) + 1)
    for a in steps:
        for b in steps:
            for c in steps:
                if (a, b, c) == (0, 0, 0):
                    continue
                image = x + length * torch.tensor([a, b, c], dtype=x.dtype, device=x.device)
                near = ((image > -reach) & (image < length + reach)).all(1).nonzero()[:, 0]
                parts.append(image[near])
                owners.append(near)
    return torch.cat(parts), torch.cat(owners)


def find_neighbours(system: System, reach: float, device: str) -> Lists:
    """A cell list in PyTorch: on a GPU a million atoms take a second."""
    n = len(system)
    x, owner = with_images(torch.tensor(system.positions, device=device), system.box, reach)
    cell = ((x - x.amin(0)) / reach).long()
    size = cell.amax(0) + 1
    key = (cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2]
    sorted_key, order = torch.sort(key, stable=True)
    cells = int(size.prod())
    begin_of_cell = torch.searchsorted(sorted_key, torch.arange(cells + 1, device=x.device))

    found_i, found_j = [], []
    columns = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2)).to(x.device)  # 9 columns of three cells
    step = 50_000 if device == "cuda" else 5_000
    for first in range(0, n, step):
        atoms = torch.arange(first, min(first + step, n), device=x.device)
        ab = cell[atoms, None, :2] + columns[None]
        inside = ((ab >= 0) & (ab < size[:2])).all(2)
        column = (ab[..., 0] * size[1] + ab[..., 1]).clamp(0, int(size[0] * size[1]) - 1) * size[2]
        low = begin_of_cell[column + (cell[atoms, 2] - 1).clamp(min=0)[:, None]]
        high = begin_of_cell[column + torch.minimum(cell[atoms, 2] + 1, size[2] - 1)[:, None] + 1]
        count = torch.where(inside, high - low, 0).flatten()
        run = torch.repeat_interleave(torch.arange(len(count), device=x.device), count)
        place = torch.arange(len(run), device=x.device) - (count.cumsum(0) - count)[run]
        i, j = atoms[run // 9], order[low.flatten()[run] + place]
        near = (((x[j] - x[i]) ** 2).sum(1) < reach * reach) & (i != j)
        found_i.append(i[near])
        found_j.append(j[near])
    return Lists(x, owner, torch.cat(found_i), torch.cat(found_j))


@dataclass
class Problem:
    """What a candidate is given: structures of one call, and their neighbours."""

    systems: list[System]
    species: np.ndarray  # [N]
    frame: torch.Tensor  # [N] structure of an atom
    x: torch.Tensor  # [N][3] angstrom
    i: torch.Tensor  # [E] edges within the cutoff; r = x[j] + shift - x[i]
    j: torch.Tensor
    shift: torch.Tensor  # [E][3]
    lists: Lists | None  # within cutoff + SKIN; of a single structure

    @property
    def atoms(self) -> int:
        return len(self.species)

    @property
    def neighbours(self) -> float:
        return len(self.i) / self.atoms


def problem(systems: list[System], elements: tuple[str, ...], cutoff: float, device: str) -> Problem:
    x, i, j, shift, frame = [], [], [], [], []
    offset, lists = 0, None
    for k, system in enumerate(systems):
        lists = find_neighbours(system, cutoff + SKIN, device)
        n = len(system)
        near = torch.cat(
            [
                ((lists.x[b] - lists.x[a]) ** 2).sum(1) < cutoff**2
                for a, b in zip(lists.i.split(1 << 22), lists.j.split(1 << 22))
            ]
        )
        a, b = lists.i[near], lists.j[near]
        x.append(lists.x[:n])
        i.append(a + offset)
        j.append(lists.owner[b] + offset)
        shift.append(lists.x[b] - lists.x[lists.owner[b]])
        frame.append(torch.full((n,), k, device=device))
        offset += n
    symbols = [s for system in systems for s in system.symbols]
    return Problem(
        systems,
        species(symbols, elements),
        torch.cat(frame),
        torch.cat(x),
        torch.cat(i),
        torch.cat(j),
        torch.cat(shift),
        lists if len(systems) == 1 else None,
    )
