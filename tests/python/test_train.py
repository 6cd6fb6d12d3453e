# SPDX-License-Identifier: MIT
"""mlff-train: its PyTorch model against the fixtures, its batches, and small trainings on the CPU."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[train]')")

from ase import Atoms  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.calculators.emt import EMT  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from ase.io import read, write  # noqa: E402

import mlff  # noqa: E402
from mlff import ModelFile, label, train, train_data, train_fit, train_model  # noqa: E402

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
    assert all(np.array_equal(b.tensors[name], tensor) for name, tensor in a.tensors.items())


def test_a_killed_run_resumed_is_bitwise_the_undisturbed_one(run, copper, tmp_path):
    options = [str(copper), *SMALL, "--epochs", "30", "--no-picture"]
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert run(*options, "-o", one, program=train.main)[0] == 0
    command = [sys.executable, "-m", "mlff.train", *options, "-o", str(two)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[1])},
                               stdout=subprocess.DEVNULL)
    state, deadline = tmp_path / "two.safetensors.state", time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)  # into some later epoch
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not two.exists()
    epochs_done = torch.load(state, weights_only=True)["epochs_done"]
    assert 0 < epochs_done < 30
    assert run(*options, "-o", two, "--resume", program=train.main)[0] == 0
    states = [torch.load(tmp_path / f"{name}.safetensors.state", weights_only=True) for name in ("one", "two")]
    assert states[0]["history"] == states[1]["history"] and len(states[1]["history"]["loss"]) == 30
    a, b = ModelFile.read(one), ModelFile.read(two)
    assert all(np.array_equal(b.tensors[name], tensor) for name, tensor in a.tensors.items())


def test_it_stops_early_when_validation_gains_nothing(run, copper, tmp_path):
    model = tmp_path / "m.safetensors"
    options = [copper, *SMALL, "-o", model, "--epochs", "40", "--patience", "3", "--no-picture",
               "--learning-rate", "1e-30"]  # with which no weight moves
    status, out, err = run(*options, program=train.main)
    assert status == 0, err
    state = torch.load(f"{model}.state", weights_only=True)
    best = state["best"]["epoch"]
    assert best == 2 and state["epochs_done"] == best + 3 * 2
    assert "stopped early, after epoch 8: 3 evaluations without a better one than that of epoch 2" in out
    assert f"epoch {best} of 40" in ModelFile.read(model).info["training"]
    status, _, err = run(*options, "--resume", program=train.main)
    assert status == 0 and torch.load(f"{model}.state", weights_only=True)["epochs_done"] == state["epochs_done"]


def test_a_time_limit_ends_the_run_and_its_schedule(run, copper, tmp_path):
    model = tmp_path / "m.safetensors"
    options = [copper, *SMALL, "-o", model, "--time-limit", "3", "--no-picture"]
    began = time.monotonic()
    status, _, err = run(*options, "--max-minutes", str(1.0 / 60.0), program=train.main)
    assert status == 0, err
    middle = torch.load(f"{model}.state", weights_only=True)
    assert 1.0 < middle["seconds"] < 2.5
    status, _, err = run(*options, "--resume", program=train.main)
    assert status == 0, err
    state = torch.load(f"{model}.state", weights_only=True)
    assert 3.0 <= state["seconds"] < 4.0 and time.monotonic() - began < 20.0
    assert state["epochs_done"] > middle["epochs_done"] > 0
    assert state["history"]["evaluations"][-1]["epoch"] == state["epochs_done"]
    rate = state["optimizer"]["param_groups"][0]["lr"]  # half a cosine's end
    assert 0.0 <= rate < 0.01 * middle["optimizer"]["param_groups"][0]["lr"]
    training = ModelFile.read(model).info["training"]
    assert f"of {state['epochs_done']} (time limit 3 s)" in training


def test_the_energy_weight_of_the_end_counts_late_and_in_validation(copper):
    frames = train_data.read_frames(str(copper), 4.0)[:4]
    data = train_data.GraphSet(frames, ["Cu"], np.zeros(1), 4.0, CPU, torch.float64)
    o = train_fit.Options(epochs=4, batch_size=2, energy_weight=1.0, late_energy_weight=30.0, late_from=0.5)
    model = train_model.PaiNN(train_model.Hyperparameters(4, 1, "bessel", 4, 4.0, 1e-8, 4), ["Cu"], 1.0, np.zeros(1))
    trainer, weights = train_fit.Trainer(model.double(), data, o), []
    for _ in range(8):
        trainer.step(torch.arange(2))
        weights.append(float(trainer.energy_weight))
    assert weights == [1.0] * 4 + [30.0] * 4
    batch = data.batch(torch.arange(2))
    off = (batch["energy"] + 8.0, batch["forces"], batch["virial"])  # 2 eV an atom
    assert float(train_fit.loss_of_batch(off, batch, o)) == pytest.approx(60.0, rel=1e-3)
    assert float(train_fit.loss_of_batch(off, batch, o, trainer.energy_weight / 2)) == pytest.approx(30.0, rel=1e-3)


def test_the_metadata_tells_data_split_and_licence(run, copper, tmp_path):
    model = tmp_path / "m.safetensors"
    status, out, err = run(copper, *SMALL, "-o", model, "--epochs", "1", "--test-last", "4", "--test-fraction", "0.2",
                           "--validation", "0.25", "--data-licence", "CC0-1.0", "--seed", "7", program=train.main)
    assert status == 0 and "12 training, 4 validation, 8 test frames" in out, err
    info = ModelFile.read(model).info
    assert info["data"].startswith("copper.extxyz, sha256 ") and info["data_licence"] == "CC0-1.0"
    assert info["split"] == ("test: the last 4; test: 0.2 of the rest by seed 7; validation, if not yet there: 0.25 of "
                             "the rest by seed 7")

    def numbers(text):
        ends = [[int(n) for n in part.split("-")] for part in text.split()]
        return [n for part in ends for n in range(part[0], part[-1] + 1)]

    test, validation = numbers(info["test_frames"]), numbers(info["validation_frames"])
    assert len(test) == 8 and test[-4:] == [20, 21, 22, 23] and len(validation) == 4
    assert not set(test) & set(validation)
    # the errors that the file claims are those of the frames that it names
    atoms = [a for k, a in enumerate(read(copper, ":")) if k in test]
    file = ModelFile.read(model)
    frames = [train_data.frame_from_atoms(a, file.cutoff) for a in atoms]
    data = train_data.GraphSet(frames, ["Cu"], file.element_energies, file.cutoff, CPU, torch.float32)
    found = train_fit.errors(train_model.from_model_file(file), data, train_fit.Options())
    assert f"force MAE {found['force_mae']:.4g} " in info["errors_test"]


def test_a_picture_is_beside_the_model(run, copper, tmp_path):
    status, out, err = run(copper, *SMALL, "-o", tmp_path / "m.safetensors", "--epochs", "4", "--test-fraction", "0.2",
                           program=train.main)
    assert status == 0, err
    from matplotlib.image import imread
    picture = imread(tmp_path / "m.png")
    assert picture.shape[0] > 500 and picture.shape[1] > 500 and picture.std() > 0.05  # something is drawn
    status, _, err = run(copper, *SMALL, "-o", tmp_path / "n.safetensors", "--epochs", "1", "--no-picture",
                         program=train.main)
    assert status == 0 and not (tmp_path / "n.png").exists()


def test_predictions_are_energies_and_forces_beside_their_references(fixtures):
    file = ModelFile.read(fixtures / "gaussian_ev.safetensors")
    model = train_model.from_model_file(file).double()
    refs = [np.load(fixtures / f"gaussian_ev.{name}.npz") for name in ("molecule", "triclinic")]
    frames = [train_data.frame_from_atoms(fixture_frame(ref, model.elements), file.cutoff) for ref in refs]
    frames[0].energy, frames[1].forces = np.nan, frames[1].forces + 0.25
    data = train_data.GraphSet(frames, model.elements, model.element_energies, file.cutoff, CPU, torch.float64)
    found = train_fit.predictions(model, data)
    n = [len(f.symbols) for f in frames]
    assert found["energy"][0].shape == (1,) and found["force"][0].shape == (3 * sum(n),)
    np.testing.assert_allclose(found["energy"][1], found["energy"][0], atol=1e-10)
    expected = np.repeat([0.0, 0.25], [3 * k for k in n])
    np.testing.assert_allclose(found["force"][0] - found["force"][1], expected, atol=1e-10)


@pytest.mark.parametrize("name", ["gaussian_ev", "gaussian_kcal"])
def test_fine_tuning_begins_with_the_model_and_its_energies_may_be_fitted(run, fixtures, name, tmp_path):
    """Frames of the model's own energies, forces and virials; then with other energies of the elements."""
    start = fixtures / f"{name}.safetensors"
    refs = [np.load(path) for path in sorted(fixtures.glob(f"{name}.*.npz")) if "one_atom" not in path.name]
    frames = [fixture_frame(ref, ModelFile.read(start).elements) for ref in refs]
    write(tmp_path / "own.extxyz", frames, format="extxyz")
    for atoms in frames:
        atoms.calc.results["energy"] += 3.0 * len(atoms) - 20.0 * atoms.symbols.count("H")
    write(tmp_path / "other.extxyz", frames, format="extxyz")
    options = ["--fine-tune", start, "--learning-rate", "1e-30", "--warmup-epochs", "0", "--epochs", "1", "--quiet",
               "--device", "cpu", "--validation", "0", "--no-picture", "-o", tmp_path / "m.safetensors"]

    def energy_mae(*more):
        status, _, err = run(*more, *options, program=train.main)
        assert status == 0, err
        return float(ModelFile.read(tmp_path / "m.safetensors").info["errors_training"].partition("energy MAE ")[2]
                     .split()[0])

    # meV/atom: single precision and eight digits of the positions; the training step is none
    assert energy_mae(tmp_path / "own.extxyz") < 0.1
    assert energy_mae(tmp_path / "other.extxyz") > 1000
    assert energy_mae(tmp_path / "other.extxyz", "--refit-energies") < 0.1
    info = ModelFile.read(tmp_path / "m.safetensors").info
    assert info["start"].startswith(f"{name}.safetensors, sha256 ") and "fitted anew" in info["start"]


def test_fine_tuning_does_not_end_worse_than_its_start(run, copper, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert run(copper, *SMALL, "-o", first, "--epochs", "10", "--no-picture", program=train.main)[0] == 0
    status, _, err = run(copper, *SMALL, "-o", second, "--epochs", "2", "--start", first, "--learning-rate", "0.5",
                         "--no-picture", program=train.main)
    assert status == 0, err
    a, b = ModelFile.read(first), ModelFile.read(second)
    assert all(np.array_equal(b.tensors[name], tensor) for name, tensor in a.tensors.items())
    assert b.info["training"].startswith("epoch 0 of 2")


def test_distillation_is_two_commands(run, library, tmp_path):
    """Label with a calculator, train, and use the model in ASE: less than a minute on a CPU."""
    rng, frames = np.random.default_rng(8), []
    for _ in range(20):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0.0, 0.1, (4, 3))
        frames.append(atoms)
    write(tmp_path / "frames.extxyz", frames, format="extxyz")
    model = tmp_path / "m.safetensors"
    assert run(tmp_path / "frames.extxyz", "-c", "emt", "-o", tmp_path / "labelled.extxyz", program=label.main)[0] == 0
    status, _, err = run(tmp_path / "labelled.extxyz", *SMALL, "-o", model, "--epochs", "60", "--test-last", "4",
                         program=train.main)
    assert status == 0, err
    file = ModelFile.read(model)
    assert file.provenance.startswith("mlff-train on labelled.extxyz, labelled by emt (ase ")
    for atoms in frames[-4:]:
        predicted = mlff.Calculator(model, device="cpu", threads=1).get_forces(atoms)
        reference = EMT().get_forces(atoms)
        assert np.abs(predicted - reference).mean() < 0.4 * np.abs(reference).mean()


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
    (["--device", "abacus"], "abacus: unknown to PyTorch"),
    (["--start", "bessel_bias"], "the vector mixing of this model has a bias"),
    (["--start", "gaussian_ev"], "knows H C O, but the frames have Cu"),
    (["--test", "missing.extxyz"], "missing.extxyz: no such file"),
])
def test_what_cannot_be_done_is_said_in_one_line(run, copper, fixtures, tmp_path, extra, expected):
    if extra[0] == "--start":
        extra = ["--start", fixtures / f"{extra[1]}.safetensors"]
    if extra[-1] == "cuda:99" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    status, _, err = run(copper, *SMALL, "-o", tmp_path / "m.safetensors", "--epochs", "1", *extra, program=train.main)
    assert status == 1 and err.startswith("mlff-train: ") and err.count("\n") == 1 and expected in err
    assert not (tmp_path / "m.safetensors").exists()


def test_a_state_of_other_options_is_refused(run, copper, tmp_path):
    model = tmp_path / "m.safetensors"
    assert run(copper, *SMALL, "-o", model, "--epochs", "2", "--stop-after", "1", program=train.main)[0] == 0
    status, _, err = run(copper, *SMALL, "-o", model, "--epochs", "2", "--loss", "mse", "--resume", program=train.main)
    assert status == 1 and "loss = norm" in err and "found mse" in err
    for change, what in ((["--features", "12"], "model"), (["--dtype", "float64"], "dtype"),
                         (["--test-last", "3"], "frames")):
        status, _, err = run(copper, *SMALL, "-o", model, "--epochs", "2", *change, "--resume", program=train.main)
        assert status == 1 and f"begun with other {what}" in err and err.count("\n") == 1
    (tmp_path / "m.safetensors.state").write_bytes(b"nothing")
    status, _, err = run(copper, *SMALL, "-o", model, "--epochs", "2", "--resume", program=train.main)
    assert status == 1 and "is not a state of mlff-train" in err and err.count("\n") == 1


@pytest.mark.parametrize("spoil, expected", [
    (lambda a: a.calc.results.clear(), "none of 1 training frames has an energy or forces"),
    (lambda a: a.calc.results.update(energy=np.inf), "frame 0: energy is not finite"),
    (lambda a: a.positions.__setitem__(1, a.positions[0]), "frame 0: atoms 0 and 1 are at the same place"),
    (lambda a: a.info.update(virial="much"), "cannot be read in the first frame"),
])
def test_frames_that_teach_nothing_are_refused(run, copper, tmp_path, spoil, expected):
    atoms = read(copper, 0)
    spoil(atoms)
    write(tmp_path / "one.extxyz", atoms, format="extxyz")
    status, _, err = run(tmp_path / "one.extxyz", *SMALL, "-o", tmp_path / "m.safetensors", program=train.main)
    assert status == 1 and expected in err and err.count("\n") == 1


def test_a_virial_is_as_good_as_a_stress(copper):
    atoms = read(copper, 0)
    expected = train_data.frame_from_atoms(atoms, 4.0).stress
    atoms.info["virial"] = -atoms.get_volume() * atoms.get_stress(voigt=False)
    atoms.calc.results.pop("stress")
    np.testing.assert_allclose(train_data.frame_from_atoms(atoms, 4.0).stress, expected, rtol=1e-12)
    assert np.isfinite(expected).all()


def test_epsilon_rounds_the_kink_and_is_kept(run, library, copper, tmp_path):
    """Force constants by differences, about a crystal's sites, depend less on the displacement with a larger epsilon."""
    change = {}
    for epsilon in ("1e-8", "1e-2"):
        model = tmp_path / f"{epsilon}.safetensors"
        status, _, err = run(copper, *SMALL, "-o", model, "--epochs", "20", "--epsilon", epsilon, "--no-picture",
                             program=train.main)
        assert status == 0, err
        assert ModelFile.read(model).epsilon == float(epsilon)
        constants = []
        for h in (1e-3, 5e-2):
            atoms = bulk("Cu", cubic=True) * (2, 2, 2)
            atoms.positions[0, 0] += h
            constants.append(-mlff.Calculator(model, device="cpu", threads=1).get_forces(atoms)[0, 0] / h)
        change[epsilon] = abs(constants[0] / constants[1] - 1.0)
    assert change["1e-2"] < 0.5 * change["1e-8"]
