# SPDX-License-Identifier: MIT
"""Frames for training: reading, splitting, neighbour lists, batches.

A Frame keeps what training needs of a structure; a GraphSet holds many frames concatenated as tensors on the device.
eV and angstrom; the stress has ASE's sign, stress = dE/dstrain / volume.
"""
from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import torch

from .errors import MlffError


@dataclasses.dataclass
class Frame:
    symbols: list[str]  # [n]
    r: np.ndarray  # [e, 3] r_j - r_i + shift of every pair within the cutoff
    i: np.ndarray  # [e] receives
    j: np.ndarray  # [e] sends
    volume: float  # angstrom^3, 0 without a three-dimensional cell
    energy: float  # eV; nan: not known
    forces: np.ndarray  # [n, 3] eV/angstrom; nan: not known
    stress: np.ndarray  # [3, 3] eV/angstrom^3; nan: not known
    positions: np.ndarray  # [n, 3] angstrom
    cell: np.ndarray  # [3, 3] rows are lattice vectors
    periodic: np.ndarray  # [3]
    info: dict
    number: int = -1  # in its file, from 0
    source: str = ""  # path of that file


def read_frames(path: str, cutoff: float, progress=iter) -> list[Frame]:
    """All frames of a file that ASE reads (also .xz, .gz), with their neighbours."""
    from .frames import read_atoms

    frames = []
    for number, atoms in enumerate(progress(list(read_atoms(path)))):
        try:
            frame = frame_from_atoms(atoms, cutoff)
        except MlffError as error:
            raise MlffError(f"{path}: frame {number}: {error}") from None
        frame.number, frame.source = number, path
        frames.append(frame)
    return frames


def frame_from_atoms(atoms, cutoff: float) -> Frame:
    """A Frame of ASE's atoms; its labels are their calculator's results, or in info `virial` (eV, -dE/dstrain)."""
    from ase.neighborlist import neighbor_list

    from .frames import reference_virial

    i, j, r = neighbor_list("ijD", atoms, cutoff, self_interaction=False)
    known = atoms.calc.results if atoms.calc is not None else {}
    n = len(atoms)
    together = np.flatnonzero(~r.any(axis=1))  # the direction from one to the other is 0/0
    if len(together):
        raise MlffError(f"atoms {i[together[0]]} and {j[together[0]]} are at the same place")
    volume = abs(float(np.linalg.det(atoms.cell.array))) if atoms.pbc.all() else 0.0
    virial = reference_virial(atoms, known, volume, "labels")
    stress = np.full((3, 3), np.nan) if virial is None or not volume else -virial / volume
    energy = float(known.get("energy", known.get("free_energy", np.nan)))
    return Frame(atoms.get_chemical_symbols(), r, i, j, volume, energy,
                 np.asarray(known.get("forces", np.full((n, 3), np.nan)), dtype=np.float64), stress,
                 atoms.positions.copy(), atoms.cell.array.copy(), atoms.pbc.copy(), dict(atoms.info))


def require_labels(frames: list[Frame], where: str) -> None:
    """MlffError where a label is no finite number, or no frame has an energy or forces to learn from."""
    # nan stands for a label that is not there: an infinite one is what is wrong
    for f in frames:
        for name, values in (("energy", f.energy), ("forces", f.forces), ("stress", f.stress)):
            if np.isinf(values).any():
                raise MlffError(f"{where}: frame {f.number}: {name} is not finite")
    if not any(np.isfinite(f.energy) or np.isfinite(f.forces).any() for f in frames):
        raise MlffError(f"{where}: none of {len(frames)} training frames has an energy or forces, expected labels that "
                        "ASE reads (energy=... and forces in extended XYZ)")


def fingerprint(frames: list[Frame]) -> str:
    """A hash of structures and labels, which tells whether two lists of frames are the same."""
    digest = hashlib.sha256()
    for f in frames:
        digest.update(" ".join(f.symbols).encode())
        for values in (f.positions, f.cell, f.periodic, f.energy, f.forces, f.stress):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def ranges(numbers: list[int]) -> str:
    """'0 3-5 9' of ascending whole numbers."""
    out: list[list[int]] = []
    for n in numbers:
        if out and n == out[-1][1] + 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def split_by_key(frames: list[Frame], key: str, name: str) -> tuple[list[Frame], list[Frame]]:
    """(frames whose info[key] is not `name`, frames whose info[key] is `name`)."""
    missing = sum(key not in f.info for f in frames)
    if missing:
        raise ValueError(f"{missing} of {len(frames)} frames have no '{key}' in their info")
    return [f for f in frames if str(f.info[key]) != name], [f for f in frames if str(f.info[key]) == name]


def split_by_seed(frames: list[Frame], fraction: float, seed: int) -> tuple[list[Frame], list[Frame]]:
    """(the rest, a random part of `fraction`); the same for the same seed, both in the order of the file."""
    n = round(fraction * len(frames))
    chosen = np.zeros(len(frames), dtype=bool)
    chosen[np.random.default_rng(seed).permutation(len(frames))[:n]] = True
    return [f for f, c in zip(frames, chosen) if not c], [f for f, c in zip(frames, chosen) if c]


def count_elements(frames: list[Frame], elements: list[str]) -> np.ndarray:
    """[frames, elements] number of atoms."""
    return np.array([[f.symbols.count(e) for e in elements] for f in frames], dtype=np.float64)


def fit_element_energies(frames: list[Frame], elements: list[str]) -> np.ndarray:
    """Energies [elements] eV that give most of the frames' energies, by least squares (the shortest solution)."""
    known = [f for f in frames if np.isfinite(f.energy)]
    if not known:
        return np.zeros(len(elements))
    return np.linalg.lstsq(count_elements(known, elements), np.array([f.energy for f in known]), rcond=1e-8)[0]


def force_rms(frames: list[Frame]) -> float:
    """Root mean square of the force components, eV/angstrom; 1 where there are none."""
    forces = np.concatenate([f.forces.ravel() for f in frames])
    forces = forces[np.isfinite(forces)]
    rms = float(np.sqrt((forces**2).mean())) if len(forces) else 0.0
    return rms if rms > 0.0 else 1.0


class GraphSet:
    """Frames on the device, concatenated, and one atom and one edge more: the padding of batches of fixed size."""

    def __init__(self, frames: list[Frame], elements: list[str], element_energies: np.ndarray, cutoff: float,
                 device: torch.device, dtype: torch.dtype):
        self.n_frames, self.device, self.dtype = len(frames), device, dtype
        self.n_atoms = np.array([len(f.symbols) for f in frames])
        self.n_edges = np.array([len(f.i) for f in frames])
        index = {e: k for k, e in enumerate(elements)}
        energy = np.array([f.energy for f in frames]) - count_elements(frames, elements) @ element_energies
        self.volume = np.array([f.volume for f in frames])
        virial = -np.array([f.stress for f in frames]).reshape(-1, 3, 3) * self.volume[:, None, None]
        virial[self.volume == 0.0] = np.nan

        def put(a, kind=dtype):
            return torch.as_tensor(np.ascontiguousarray(a), dtype=kind, device=device)

        # per atom and per edge; the edge of the padding lies outside of the cutoff and carries nothing
        self.species = put([index[s] for f in frames for s in f.symbols] + [0], torch.long)
        self.forces = put(np.concatenate([f.forces for f in frames] + [np.full((1, 3), np.nan)]))
        self.r = put(np.concatenate([f.r for f in frames] + [[[2.0 * cutoff, 0.0, 0.0]]]))
        self.i = put(np.concatenate([f.i for f in frames] + [[0]]), torch.long)  # within its frame
        self.j = put(np.concatenate([f.j for f in frames] + [[0]]), torch.long)
        # per frame
        self.energy, self.virial = put(energy), put(virial)
        self.atoms_of, self.edges_of = put(self.n_atoms, torch.long), put(self.n_edges, torch.long)
        self.first_atom = self.atoms_of.cumsum(0) - self.atoms_of
        self.first_edge = self.edges_of.cumsum(0) - self.edges_of

    def largest(self, batch_size: int) -> tuple[int, int]:
        """Atoms and edges that no batch of this many different frames exceeds."""
        return int(np.sort(self.n_atoms)[-batch_size:].sum()), int(np.sort(self.n_edges)[-batch_size:].sum())

    def batch(self, chosen: torch.Tensor, size: tuple[int, int] | None = None) -> dict[str, torch.Tensor]:
        """The frames `chosen` [B] as one graph, padded to `size` (atoms, edges) and then one padding atom.

        With `size` all shapes are fixed and nothing waits for the device, so that it can be part of a CUDA graph.
        """
        B = len(chosen)
        n_atoms, n_edges = self.atoms_of[chosen], self.edges_of[chosen]
        A, E = size or (int(n_atoms.sum()), int(n_edges.sum()))
        end_atom, end_edge = n_atoms.cumsum(0), n_edges.cumsum(0)

        place = torch.arange(A + 1, device=self.device)
        atom_frame = torch.searchsorted(end_atom, place, right=True)  # B for padding
        k = atom_frame.clamp(max=B - 1)
        atom = torch.where(atom_frame < B, (self.first_atom[chosen] - end_atom + n_atoms)[k] + place,
                           len(self.species) - 1)
        place = torch.arange(E, device=self.device)
        edge_frame = torch.searchsorted(end_edge, place, right=True)
        k = edge_frame.clamp(max=B - 1)
        real = edge_frame < B
        edge = torch.where(real, (self.first_edge[chosen] - end_edge + n_edges)[k] + place, len(self.r) - 1)
        start = (end_atom - n_atoms)[k]
        return {
            "species": self.species[atom], "atom_frame": atom_frame, "r": self.r[edge],
            "i": torch.where(real, start + self.i[edge], A), "j": torch.where(real, start + self.j[edge], A),
            "n_atoms": n_atoms, "energy": self.energy[chosen], "forces": self.forces[atom],
            "virial": self.virial[chosen],
        }

    def epoch(self, batch_size: int, seed: int, number: int) -> torch.Tensor:
        """The frames of each batch [batches, batch_size], in an order that depends on seed and number alone.

        The last batch is filled up with the epoch's first frames.
        """
        order = np.random.default_rng([seed, number]).permutation(self.n_frames)
        n_batches = -(-self.n_frames // batch_size)
        return torch.as_tensor(np.resize(order, (n_batches, batch_size)), device=self.device)
