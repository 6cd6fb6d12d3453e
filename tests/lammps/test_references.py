# SPDX-License-Identifier: MIT
"""Energy, forces and virial in LAMMPS equal the float64 references of tests/fixtures, structure by structure."""
import numpy as np
import pytest
from conftest import FIXTURES

import systems

MANIFEST = [tuple(line.split()) for line in (FIXTURES / "manifest.txt").read_text().splitlines() if line.strip()]
# energy in eV an atom; forces and virial relative to the largest in double, root mean square over that of the
# reference in single
BOUNDS = {"double": (1e-8, 1e-9), "single": (1e-5, 3e-6)}


@pytest.fixture(scope="module", params=BOUNDS)
def evaluated(request, module_lammps):
    """One LAMMPS process evaluates all references, with `clear` in between."""
    lammps, scripts, usable = module_lammps, [], []
    for model, structure in MANIFEST:
        reference = np.load(FIXTURES / f"{model}.{structure}.npz")
        system, q, boundary = systems.from_reference(reference, reference["species"] + 1)
        if model == "bessel_bias" and not np.allclose(q, np.eye(3)):
            continue  # not rotation-equivariant, and LAMMPS's orientation is another
        data = systems.write_data(lammps.folder / f"{request.param}.{model}.{structure}.data", system,
                                  types=system.types.max())
        symbols = model_elements(FIXTURES / f"{model}.safetensors")[:system.types.max()]
        scripts.append(systems.setup(data, str(FIXTURES / f"{model}.safetensors"), boundary=boundary,
                                     style=f"mlff precision {request.param}", elements=" ".join(symbols))
                       + systems.OUTPUT.replace("atoms.dump", f"{model}.{structure}.dump") + "run 0\n")
        usable.append((model, structure, q))
    run = lammps("clear\n".join(scripts))
    return request.param, run, usable


def model_elements(path) -> list[str]:
    from safetensors import safe_open
    with safe_open(path, framework="np") as file:
        return file.metadata()["elements"].split()


def test_every_reference_is_met(evaluated):
    precision, run, usable = evaluated
    energy_bound, bound = BOUNDS[precision]
    norm = largest if precision == "double" else root_mean_square
    thermo = run.thermo()
    assert len(thermo["PotEng"]) == len(usable) > 35
    for row, (model, structure, q) in enumerate(usable):
        reference = np.load(FIXTURES / f"{model}.{structure}.npz")
        n = len(reference["species"])
        error = abs(thermo["PotEng"][row] - float(reference["energy"])) / n
        assert error < energy_bound, f"{model} {structure}: energy off by {error:g} eV an atom"

        forces = reference["forces"] @ q
        error = norm(run.forces(file=f"{model}.{structure}.dump") - forces)
        assert error <= bound * max(norm(forces), 1e-3), f"{model} {structure}: forces off by {error:g}"

        w = q.T @ reference["virial"].reshape(3, 3) @ q
        w = 0.5 * (w + w.T)  # LAMMPS has six components; a model with vector biases has more
        virial = np.array([w[0, 0], w[1, 1], w[2, 2], w[0, 1], w[0, 2], w[1, 2]])
        error = norm(systems.virial_of(thermo, row) - virial)
        assert error <= bound * max(norm(virial), 1e-2), f"{model} {structure}: virial off by {error:g}"


def largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
