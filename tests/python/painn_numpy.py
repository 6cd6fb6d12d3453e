# SPDX-License-Identifier: MIT
"""PaiNN's energy in numpy, float64, written from docs/model-file.md: what the converters' tests compare with.

Energies only; forces and virial are the library's own business. Shares no code with the library.
"""

import itertools

import numpy as np

EV_IN_KCAL_PER_MOL = 23.06054783061903


def silu(x):
    return x / (1.0 + np.exp(-x))


def edges(positions, cell, pbc, cutoff):
    """Every pair i <- j with every image within the cutoff. Returns i [E], j [E], r_ij [E][3] = x_j + image - x_i."""
    reach = [0, 0, 0]
    if np.any(pbc):
        full = np.where(np.any(cell != 0, axis=1)[:, None], cell, np.eye(3))
        heights = 1.0 / np.linalg.norm(np.linalg.inv(full), axis=0)
        # positions may lie outside the cell, so images reach further by their spread
        spread = np.ptp(positions @ np.linalg.inv(full), axis=0)
        reach = [int(np.ceil(cutoff / h + s)) if p else 0 for h, s, p in zip(heights, spread, pbc)]
    found = []
    for image in itertools.product(*(range(-n, n + 1) for n in reach)):
        shift = np.asarray(image, float) @ np.asarray(cell)
        vectors = positions[None, :, :] + shift - positions[:, None, :]
        distances = np.linalg.norm(vectors, axis=2)
        near = distances < cutoff
        if image == (0, 0, 0):
            np.fill_diagonal(near, False)
        i, j = np.nonzero(near)
        found.append((i, j, vectors[i, j]))
    return tuple(np.concatenate(parts) for parts in zip(*found))


def atom_energies(model, positions, species, cell=np.zeros((3, 3)), pbc=(0, 0, 0), seen=None):
    """Energies of the atoms [n] in the model file's own unit. model: mlff.ModelFile.

    seen(i, j, d): the distances [E] that the radial functions see in the place of d; None: d.
    """
    w = {name: np.asarray(array, float) for name, array in model.tensors.items()}
    F, n = model.features, len(species)
    i, j, r = edges(np.asarray(positions, float), np.asarray(cell, float), pbc, model.cutoff)
    d = np.linalg.norm(r, axis=1)
    u = r / d[:, None]
    if seen:
        d = seen(i, j, d)
    if model.radial == "gaussian":
        rbf = np.exp(-0.5 * ((d[:, None] - w["radial.offset"]) / w["radial.width"]) ** 2)
    else:
        rbf = np.sin(d[:, None] * w["radial.frequency"]) / d[:, None]
    fc = 0.5 * (np.cos(np.pi * d / model.cutoff) + 1.0)

    def dense(name, x):
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)

    s = w["embedding.weight"][np.asarray(species)]  # [n][F]
    v = np.zeros((n, 3, F))
    for layer in range(model.interactions):
        filters = dense(f"message.{layer}.filter", rbf) * fc[:, None]  # [E][3F]
        x = dense(f"message.{layer}.context.1", silu(dense(f"message.{layer}.context.0", s)))
        ms, mR, mv = np.split(filters * x[j], 3, axis=1)
        ds, dv = np.zeros_like(s), np.zeros_like(v)
        np.add.at(ds, i, ms)
        np.add.at(dv, i, mR[:, None, :] * u[:, :, None] + mv[:, None, :] * v[j])
        s, v = s + ds, v + dv
        V, U = dense(f"update.{layer}.V", v), dense(f"update.{layer}.U", v)
        norm = np.sqrt((V**2).sum(axis=1) + model.epsilon)
        y = dense(f"update.{layer}.dense.1", silu(dense(f"update.{layer}.dense.0", np.hstack([s, norm]))))
        ys, yv, ysv = np.split(y, 3, axis=1)
        s, v = s + ys + ysv * (U * V).sum(axis=1), v + yv[:, None, :] * U
    e = dense("readout.1", silu(dense("readout.0", s)))[:, 0]
    return model.scale * e + model.shift + np.asarray(model.element_energies)[np.asarray(species)]
