# SPDX-License-Identifier: MIT
"""mlff-train --fused: the gradient of a step by dual numbers, and its kernels, against differentiating twice."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[train]')")

from ase import Atoms  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.calculators.emt import EMT  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from ase.io import write  # noqa: E402

from mlff import ModelFile, train, train_data, train_dual, train_fit, train_model  # noqa: E402

CUTOFF = 4.0


def frames() -> list:
    """Two small periodic boxes, smaller than twice the cutoff, and a molecule, with labels drawn at random."""
    rng, out = np.random.default_rng(0), []
    for n, length in ((8, 4.4), (6, 4.2), (5, 0.0)):
        grid = np.array([(i, j, k) for i in range(2) for j in range(2) for k in range(2)])[:n] * (length or 2.4) / 2
        atoms = Atoms(("HO" * n)[:n], positions=grid + rng.normal(0.0, 0.1, (n, 3)))
        if length:
            atoms.set_cell([[length, 0, 0], [0.4, 1.1 * length, 0], [0.1, -0.2, length]])
            atoms.pbc = True
        frame = train_data.frame_from_atoms(atoms, CUTOFF)
        frame.energy, frame.forces = rng.normal(), rng.normal(0.0, 1.0, (n, 3))
        if length:
            frame.stress = rng.normal(0.0, 0.01, (3, 3))
        out.append(frame)
    return out


def small(features: int, kind: str, interactions: int, device, dtype):
    torch.manual_seed(2)
    h = train_model.Hyperparameters(features, interactions, kind, 6, CUTOFF, 1e-8, 8)
    model = train_model.PaiNN(h, ["H", "O"], 0.7, np.zeros(2)).to(device, dtype)
    data = train_data.GraphSet(frames(), ["H", "O"], np.zeros(2), CUTOFF, torch.device(device), dtype)
    atoms, edges = data.largest(3)
    return model, data.batch(torch.arange(3, device=device), (atoms + 3, edges + 50))  # padded, as in training


def gradients(model, batch, o, steps) -> tuple[float, list]:
    model.zero_grad(set_to_none=True)
    if steps:
        loss = steps.backward(batch, train_fit.loss_of_batch, o)
    else:
        loss = train_fit.loss_of_batch(train_fit.plain(model, batch, 3)(None, batch), batch, o)
        loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in model.parameters()]


def largest_deviation(model, batch, o, steps) -> float:
    """Of the loss and of each gradient, relative to the largest number in any gradient."""
    loss, expected = gradients(model, batch, o, None)
    found_loss, found = gradients(model, batch, o, steps)
    size = max(float(g.abs().max()) for g in expected)
    return max(abs(found_loss - loss) / loss, *(float((a - b).abs().max()) / size for a, b in zip(found, expected)))


@pytest.mark.parametrize("loss", ["norm", "mse", "huber"])
@pytest.mark.parametrize("kind", ["gaussian", "bessel"])
def test_dual_numbers_give_the_gradient_of_differentiating_twice(kind, loss):
    model, batch = small(12, kind, 3, "cpu", torch.float64)
    o = train_fit.Options(loss=loss, stress_weight=0.5)
    assert largest_deviation(model, batch, o, train_dual.Steps(model, 3)) < 1e-12


def test_one_interaction_and_missing_labels_are_no_special_case():
    model, batch = small(12, "gaussian", 1, "cpu", torch.float64)
    batch["energy"][0], batch["forces"][4] = np.nan, np.nan
    assert largest_deviation(model, batch, train_fit.Options(), train_dual.Steps(model, 3)) < 1e-12


# In a process of its own: the interpreter is chosen when the kernels are defined.
INTERPRETED = """
import sys
import torch
sys.path[:0] = sys.argv[1:3]
from test_train_dual import deviation_of_kernels
try:
    print(deviation_of_kernels("cpu", 32, "gaussian", 2))
except Exception as error:
    if "only 0-dimensional arrays" not in str(error):
        raise
    print("skip")
"""


def deviation_of_kernels(device: str, features: int, kind: str, interactions: int) -> float:
    from mlff import train_kernels

    model, batch = small(features, kind, interactions, device, torch.float32)
    steps = train_dual.Steps(model, 3, train_kernels)
    return largest_deviation(model, batch, train_fit.Options(stress_weight=0.5), steps)


def test_the_kernels_give_it_too_in_tritons_interpreter():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    folders = [str(Path(train.__file__).parents[1]), str(Path(__file__).parent)]
    result = subprocess.run([sys.executable, "-c", INTERPRETED, *folders], capture_output=True, text=True,
                            env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, timeout=300)
    assert result.returncode == 0, result.stderr
    if result.stdout.split()[-1] == "skip":
        pytest.skip("the interpreter of this Triton cannot loop between loaded bounds with this NumPy")
    assert float(result.stdout.split()[-1]) < 1e-5


@pytest.mark.parametrize("features, kind", [(128, "gaussian"), (48, "bessel")])
def test_the_kernels_give_it_too_on_a_gpu(features, kind):
    if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        pytest.skip("this machine has no CUDA device, or no Triton")
    # single precision: sums in other orders, and three products of TF32 for one
    assert deviation_of_kernels("cuda", features, kind, 3) < 2e-5


def test_a_training_with_dual_numbers_is_the_training_without(run, tmp_path):
    rng, images = np.random.default_rng(3), []
    for _ in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0.0, 0.1, (4, 3))
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        images.append(atoms)
    write(tmp_path / "copper.extxyz", images, format="extxyz")
    weights = []
    for name, more in (("one", []), ("two", ["--fused"])):
        model = tmp_path / f"{name}.safetensors"
        status, _, err = run(
            tmp_path / "copper.extxyz", "-o", model, "--features", "8", "--interactions", "2", "--radial-functions",
            "6", "--cutoff", "4", "--batch-size", "2", "--epochs", "4", "--validation", "0.2", "--dtype", "float64",
            "--threads", "1", "--device", "cpu", "--quiet", "--no-picture", *more, program=train.main)
        assert status == 0, err
        weights.append(ModelFile.read(model).tensors)
    for name, tensor in weights[0].items():
        np.testing.assert_allclose(weights[1][name], tensor, atol=1e-5)
