# SPDX-License-Identifier: MIT
"""Files that torch itself writes of a model with nff's layout: the library gives PyTorch's energies and forces."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[train]')")

import nff_torch  # noqa: E402

import mlff  # noqa: E402
from mlff.convert import nff  # noqa: E402
from mlff.convert.source import Conversion  # noqa: E402

NUMBERS = torch.tensor([1, 8, 8, 1, 1, 8, 6])


def trained(seed=3):
    """A model after one step of Adam, in single precision as nff trains, with its optimizer."""
    torch.manual_seed(seed)
    model = nff_torch.Painn()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.double()(positions().requires_grad_(), NUMBERS).backward()
    optimizer.step()
    return model.float(), optimizer


def positions():
    return torch.rand(len(NUMBERS), 3, dtype=torch.double, generator=torch.Generator().manual_seed(5)) * 3.5


@pytest.fixture(params=["best_model", "best_model.pth.tar"])
def written(request, tmp_path, monkeypatch):
    """The model, and a file with it that torch.save wrote."""
    nff_torch.pretend_to_be_nff(monkeypatch)
    model, optimizer = trained()
    whole = request.param == "best_model"
    state = {"epoch": 1, "optimizer": optimizer.state_dict(), "hooks": [], "model": model.state_dict()}
    torch.save(model if whole else state, tmp_path / request.param)
    if not whole:
        (tmp_path / "params.json").write_text(
            '{"details": {"model_type": "Painn", "activation": "swish", "cutoff": 4.0, "means": {"energy": -2.5}, '
            '"stddevs": {"energy": 1.75}}}')
    return model.double(), tmp_path / request.param


def test_library_gives_pytorchs_energy_and_forces(library, written):
    model, path = written
    whole = path.name == "best_model"
    request = Conversion(path.name, ["H", "C", "O"] if whole else None, "eV", "a test", "MIT",
                         params=None if whole else str(path.parent / "params.json"))
    converted = nff.convert(path, request)
    converted.check()
    assert converted.elements == ["H", "C", "O"]
    x = positions().requires_grad_()
    energy = model(x, NUMBERS)
    (gradient,) = torch.autograd.grad(energy, x)
    species = np.array([converted.elements.index({1: "H", 6: "C", 8: "O"}[int(z)]) for z in NUMBERS], np.int32)
    result = mlff.Evaluator(mlff.Model(converted.to_bytes()), device="cpu", precision="double").evaluate_one(
        mlff.Structure(x.detach().numpy(), species))
    scale = float(gradient.abs().max())
    assert result.energy == pytest.approx(float(energy.detach()), abs=1e-10)
    assert np.abs(result.forces + gradient.numpy()).max() < 1e-11 * scale + 1e-12
