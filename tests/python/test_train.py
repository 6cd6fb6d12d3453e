# SPDX-License-Identifier: MIT
"""mlff-train: its PyTorch model against the fixtures, its batches, and small trainings on the CPU."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'mlff[train]')")

from ase import Atoms  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.calculators.emt import EMT  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from ase.io import write  # noqa: E402

from mlff import ModelFile, train, train_data, train_fit, train_model  # noqa: E402

CPU = torch.device("cpu")
SMALL = ["--features", "8", "--interactions", "2", "--radial-functions", "6", "--cutoff", "4.0", "--batch-size", "2",
         "--learning-rate", "5e-3", "--ema", "0.9", "--evaluate-every", "2", "--threads", "1", "--device", "cpu",
         "--quiet"]


@pytest.fixture(scope="module")
def copper(tmp_path_factory):
    """24 frames of 4 copper atoms, rattled and strained, with EMT's energy, forces and stress; 6 are tagged test."""
    rng, frames = np.random.default_rng(3), []
    for k in range(24):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0.0, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0.0, 0.1, (4, 3))
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        frame = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True)
        frame.calc = SinglePointCalculator(frame, **labels)
        frame.info["split"] = "test" if k % 4 == 0 else "train"
        frames.append(frame)
    path = tmp_path_factory.mktemp("copper") / "copper.extxyz"
    write(path, frames, format="extxyz")
    return path


def fixture_frame(ref, symbols) -> Atoms:
    """The reference as labelled atoms; stress = -virial / volume, ASE's sign."""
    periodic = ref["pbc"].any()
    atoms = Atoms([symbols[k] for k in ref["species"]], positions=ref["positions"],
                  cell=ref["cell"] if periodic else None, pbc=ref["pbc"])
    labels = {"energy": float(ref["energy"]), "forces": ref["forces"]}
    if ref["pbc"].all():
        w = 0.5 * (ref["virial"] + ref["virial"].T) / -atoms.get_volume()
        labels["stress"] = np.array([w[0, 0], w[1, 1], w[2, 2], w[1, 2], w[0, 2], w[0, 1]])
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


@pytest.mark.parametrize("name", ["gaussian_ev", "bessel_plain", "odd_sizes", "one_interaction", "five_elements"])
def test_the_trained_network_is_the_canonical_one(fixtures, name):
    file = ModelFile.read(fixtures / f"{name}.safetensors")
    model = train_model.from_model_file(file).double()
    refs = [np.load(path) for path in sorted(fixtures.glob(f"{name}.*.npz"))]
    frames = [train_data.frame_from_atoms(fixture_frame(ref, model.elements), file.cutoff) for ref in refs]
    data = train_data.GraphSet(frames, model.elements, model.element_energies, file.cutoff, CPU, torch.float64)
    found = train_fit.errors(model, data, train_fit.Options(), chunk=4)
    # in meV, meV/angstrom and meV/angstrom^3; the labels are the references
    assert found["energy_rmse"] < 1e-9 and found["force_rmse"] < 1e-9 and found["stress_rmse"] < 1e-9
    batch = data.batch(torch.arange(len(frames)))
    _, forces, virial = train_model.energy_forces_virial(model, batch, len(frames), training=False)
    np.testing.assert_allclose(forces[:-1].numpy(), np.concatenate([r["forces"] for r in refs]), atol=1e-12)
    np.testing.assert_allclose(virial.numpy(), np.stack([r["virial"] for r in refs]), atol=1e-11)


def test_padding_changes_nothing(fixtures):
    file = ModelFile.read(fixtures / "gaussian_ev.safetensors")
    model = train_model.from_model_file(file).double()
    frames = [train_data.frame_from_atoms(fixture_frame(np.load(path), model.elements), file.cutoff)
              for path in sorted(fixtures.glob("gaussian_ev.*.npz"))]
    data = train_data.GraphSet(frames, model.elements, model.element_energies, file.cutoff, CPU, torch.float64)
    chosen, size = torch.tensor([3, 0]), (40, 3000)
    exact = train_model.energy_forces_virial(model, data.batch(chosen), 2, training=False)
    padded = train_model.energy_forces_virial(model, data.batch(chosen, size), 2, training=False)
    n = len(exact[1]) - 1
    for a, b in zip((exact[0], exact[1][:n], exact[2]), (padded[0], padded[1][:n], padded[2])):
        assert torch.equal(a, b)
    assert not padded[1][n:].any()
    assert data.largest(2)[0] == sum(sorted(len(f.symbols) for f in frames)[-2:])


def test_the_function_that_is_compiled_has_the_same_gradients(monkeypatch, copper):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)  # compiling itself takes a minute
    frames = train_data.read_frames(str(copper), 4.0)[:2]
    torch.manual_seed(1)
    model = train_model.PaiNN(train_model.Hyperparameters(4, 2, "bessel", 4, 4.0, 1e-8, 4), ["Cu"], 1.0, np.zeros(1))
    data = train_data.GraphSet(frames, ["Cu"], np.zeros(1), 4.0, CPU, torch.float32)
    batch, parameters, gradients = data.batch(torch.arange(2)), list(model.parameters()), []
    for make in (train_fit.plain, train_fit.compiled):
        predicted = make(model, batch, 2)(parameters, batch)
        loss = train_fit.loss_of_batch(predicted, batch, train_fit.Options())
        gradients.append(torch.autograd.grad(loss, parameters))
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))


def test_splits_are_disjoint_and_repeatable():
    frames = list(range(20))
    rest, part = train_data.split_by_seed(frames, 0.25, seed=5)
    assert len(part) == 5 and sorted(rest + part) == frames
    assert train_data.split_by_seed(frames, 0.25, seed=5) == (rest, part)
    assert train_data.split_by_seed(frames, 0.25, seed=6) != (rest, part)


def test_labels_that_are_missing_do_not_count(copper):
    frames = train_data.read_frames(str(copper), 4.0)[:3]
    frames[1].energy, frames[2].stress, frames[0].forces = np.nan, np.full((3, 3), np.nan), np.full((4, 3), np.nan)
    data = train_data.GraphSet(frames, ["Cu"], np.zeros(1), 4.0, CPU, torch.float64)
    batch = data.batch(torch.arange(3))
    for kind in ("mse", "huber", "norm"):
        zero = (torch.nan_to_num(batch["energy"]), torch.nan_to_num(batch["forces"]), torch.nan_to_num(batch["virial"]))
        assert float(train_fit.loss_of_batch(zero, batch, train_fit.Options(loss=kind))) < 1e-3
        one = (zero[0] + 4.0, zero[1], zero[2])  # 1 eV an atom, in the two frames with an energy
        wrong = train_fit.loss_of_batch(one, batch, train_fit.Options(loss=kind, energy_weight=1.0))
        expected = {"mse": 1.0, "huber": 20 * 0.05 * (1.0 - 0.025), "norm": 1.0}[kind]
        assert float(wrong) == pytest.approx(expected, abs=1e-3)


def test_training_learns_and_says_its_errors(run, copper, tmp_path):
    first, model = tmp_path / "first.safetensors", tmp_path / "model.safetensors"
    options = [copper, *SMALL, "--split-key", "split", "--validation", "0.2", "--epochs", "40", "--licence", "MIT"]
    status, _, err = run(*options, "-o", first, "--stop-after", "2", program=train.main)
    assert status == 0, err
    status, out, err = run(*options, "-o", model, program=train.main)
    assert status == 0, err
    assert "14 training, 4 validation, 6 test frames" in out
    before, after = ModelFile.read(first), ModelFile.read(model)
    assert after.elements == ["Cu"] and after.features == 8 and after.licence == "MIT"
    for part in ("training", "validation", "test"):
        assert "force MAE" in after.info[f"errors_{part}"] and "stress MAE" in after.info[f"errors_{part}"]
    assert after.info["shortest_distances"].startswith("Cu-Cu 2.")
    shortest = float(after.info["shortest_distances"].split()[1])
    ((inner, outer),) = after.short_range.by_pair(after.elements).values()
    assert shortest - 0.002 < outer <= shortest and inner == pytest.approx(outer - 0.25)

    def force_mae(file, part):
        return float(file.info[f"errors_{part}"].split()[2])

    assert force_mae(after, "training") < 0.5 * force_mae(before, "training")
    assert force_mae(after, "test") < 0.6 * force_mae(before, "test")


def test_a_run_in_two_parts_is_the_run_in_one(run, copper, tmp_path):
    options = [copper, *SMALL, "--epochs", "6"]
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert run(*options, "-o", one, program=train.main)[0] == 0
    status, out, _ = run(*options, "-o", two, "--stop-after", "3", program=train.main)
    assert status == 0 and "interrupted after epoch 3" in out
    assert run(*options, "-o", two, "--resume", program=train.main)[0] == 0
    a, b = ModelFile.read(one), ModelFile.read(two)
    for name, tensor in a.tensors.items():
        np.testing.assert_allclose(b.tensors[name], tensor, rtol=0, atol=1e-6, err_msg=name)


def test_a_written_file_is_held_against_the_library(library, run, copper, tmp_path):
    model = tmp_path / "model.safetensors"
    status, out, err = run(copper, *SMALL, "-o", model, "--epochs", "2", program=train.main)
    assert status == 0, err
    assert "the C library is within" in out


@pytest.mark.parametrize("extra, expected", [
    (["--resume"], "no such file, expected the state of an earlier run"),
    (["--split-key", "nothing"], "24 of 24 frames have no 'nothing' in their info"),
    (["--split-key", "split", "--test-name", "train", "--validation", "0.99"], "no frame is left for training"),
    (["--device", "cuda:99"], "cuda"),
])
def test_what_cannot_be_done_is_said_in_one_line(run, copper, tmp_path, extra, expected):
    if extra[0] == "--device" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    status, _, err = run(copper, *SMALL, "-o", tmp_path / "m.safetensors", "--epochs", "1", *extra, program=train.main)
    assert status == 1 and err.startswith("mlff-train: ") and err.count("\n") == 1 and expected in err
    assert not (tmp_path / "m.safetensors").exists()


def test_a_state_of_other_options_is_refused(run, copper, tmp_path):
    model = tmp_path / "m.safetensors"
    assert run(copper, *SMALL, "-o", model, "--epochs", "2", "--stop-after", "1", program=train.main)[0] == 0
    status, _, err = run(copper, *SMALL, "-o", model, "--epochs", "2", "--loss", "mse", "--resume", program=train.main)
    assert status == 1 and "loss = norm" in err and "found mse" in err
