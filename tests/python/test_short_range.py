# SPDX-License-Identifier: MIT
"""The short range of a model: against values computed here in numpy, from docs/equations.md alone; how a model file gets
it; what it does to the silicon model that ships."""

import json

import ase
import ase.io
import numpy as np
import painn_numpy
import pytest

import mlff
from mlff import ModelFile, ModelFileError, short_range
from mlff.short_range import ShortRange

EXAMPLE = "examples/silicon/silicon.safetensors"
# H-H H-C H-O C-C C-O O-O; H-O has no term
TERM = ShortRange([1.1, 1.3, 0.0, 0.5, 1.4, 1.2], [2.6, 2.8, 0.0, 3.1, 2.9, 3.0])


# ------------------------------------------------------------------------- the equations once more, sharing no code


def nuclei(z_i, z_j, d):
    """The universal potential of Ziegler, Biersack and Littmark, eV; d in angstrom."""
    elementary_charge, vacuum_permittivity = 1.602176634e-19, 8.8541878128e-12  # CODATA 2018
    coulomb = elementary_charge / (4.0 * np.pi * vacuum_permittivity) * 1e10  # eV angstrom
    x = d * (z_i**0.23 + z_j**0.23) / 0.46850
    screening = (0.18175 * np.exp(-3.19980 * x) + 0.50986 * np.exp(-0.94229 * x) + 0.28022 * np.exp(-0.40290 * x)
                 + 0.02817 * np.exp(-0.20162 * x))
    return coulomb * z_i * z_j / d * screening


def table(model, term):
    """inner, outer [n][n] and atomic numbers [n]."""
    n = len(model.elements)
    inner, outer = np.zeros((n, n)), np.zeros((n, n))
    upper = np.triu_indices(n)
    inner[upper], outer[upper] = term.inner, term.outer
    inner, outer = np.maximum(inner, inner.T), np.maximum(outer, outer.T)
    return inner, outer, np.array([ase.data.atomic_numbers[e] for e in model.elements])


def expected_energies(model, term, positions, species, cell, pbc):
    """Energies of the atoms [n], eV, for a model in eV."""
    inner, outer, z = table(model, term)

    def seen(i, j, d):
        a, b = inner[species[i], species[j]], outer[species[i], species[j]]
        w = np.where(b > 0, b - a, 1.0)
        t = np.clip((d - a) / w, 0.0, 1.0)
        return np.where(d < b, b - w * (0.25 - t**7 + 0.75 * t**8), d)

    energies = painn_numpy.atom_energies(model, positions, species, cell, pbc, seen=seen)
    i, j, r = painn_numpy.edges(positions, cell, pbc, model.cutoff)
    d = np.linalg.norm(r, axis=1)
    a, b = inner[species[i], species[j]], outer[species[i], species[j]]
    y = np.clip((b - d) / np.where(b > 0, b - a, 1.0), 0.0, 1.0)
    switch = y**3 * (10.0 - 15.0 * y + 6.0 * y**2)
    np.add.at(energies, i, 0.5 * nuclei(z[species[i]], z[species[j]], d) * switch)
    return energies


# ---------------------------------------------------------------------------------------------------- the library


def with_term(model_path, tmp_path, term=TERM):
    model = ModelFile.read(model_path)
    model.short_range = term
    path = tmp_path / "term.safetensors"
    model.write(path)
    return model, mlff.Model(str(path))


@pytest.mark.parametrize("structure", ["triclinic", "molecule", "ortho"])
def test_energies_and_forces_are_those_of_the_equations(library, fixtures, tmp_path, structure):
    file, model = with_term(fixtures / "gaussian_ev.safetensors", tmp_path)
    data = np.load(fixtures / f"gaussian_ev.{structure}.npz")
    species = model.species(ase.Atoms(data["numbers"]).get_chemical_symbols())
    positions, cell, pbc = data["positions"], data["cell"], data["pbc"]
    evaluator = mlff.Evaluator(model, device="cpu", precision="double")
    given = mlff.Structure(positions, species, cell if np.any(pbc) else None, [bool(p) for p in pbc])
    result = evaluator.evaluate_one(given)
    expected = expected_energies(file, TERM, positions, species, cell, pbc)
    assert np.abs(result.atom_energies - expected).max() < 1e-9
    without = painn_numpy.atom_energies(file, positions, species, cell, pbc)
    assert np.abs(result.atom_energies - without).max() > 0.1  # the term acts
    h = 1e-4
    for atom, axis in ((0, 0), (1, 1), (2, 2)):
        slope = 0.0
        for step, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            moved = positions.copy()
            moved[atom, axis] += step * h
            slope += weight * expected_energies(file, TERM, moved, species, cell, pbc).sum() / (12 * h)
        assert result.forces[atom, axis] == pytest.approx(-slope, abs=1e-6 * np.abs(result.forces).max())


def test_two_atoms_below_the_inner_distance_feel_the_nuclei_alone(library, fixtures, tmp_path):
    _, model = with_term(fixtures / "gaussian_ev.safetensors", tmp_path)
    evaluator = mlff.Evaluator(model, device="cpu", precision="double")
    energies = []
    for d in (0.2, 0.5, 0.9, 1.35):  # C-O: in full below 1.4
        result = evaluator.evaluate_one(mlff.Structure(np.array([[0, 0, 0], [0, d, 0.0]]), np.array([1, 2])))
        h = 1e-5
        slope = (nuclei(6, 8, d + h) - nuclei(6, 8, d - h)) / (2 * h)
        assert result.forces[1, 1] == pytest.approx(-slope, rel=1e-7)
        energies.append(result.energy - nuclei(6, 8, d))
    assert np.ptp(energies) < 1e-8  # what the network gives is one number


def test_close_pairs_of_a_batch_are_told(library, fixtures, tmp_path):
    _, model = with_term(fixtures / "gaussian_ev.safetensors", tmp_path)
    evaluator = mlff.Evaluator(model, device="cpu", precision="double")
    far = mlff.Structure(np.array([[0, 0, 0], [4.0, 0, 0]]), np.array([1, 2]))
    near = mlff.Structure(np.array([[0, 0, 0], [2.0, 0, 0]]), np.array([1, 2]))
    evaluator.evaluate([far, near, far])
    close = evaluator.close_pairs()
    assert (close.count, {close.atom, close.neighbour}, close.trained) == (2, {2, 3}, 2.9)
    assert close.distance == pytest.approx(2.0, abs=1e-12)
    evaluator.evaluate([far])
    assert evaluator.close_pairs().count == 0


# --------------------------------------------------------------------------------------------------- the model file


def test_what_is_written_reads_back(library, fixtures, tmp_path):
    model, _ = with_term(fixtures / "gaussian_ev.safetensors", tmp_path)
    again = ModelFile.read(tmp_path / "term.safetensors")
    assert again.short_range == TERM
    assert again.metadata() == model.metadata()


@pytest.mark.parametrize("inner,outer", [
    ([1.0] * 5, [2.0] * 6), ([1.0] * 6, [2.0] * 7), ([2.0] * 6, [2.0] * 6), ([1.995] * 6, [2.0] * 6),
    ([1.0] * 6, [5.01] * 6), ([-0.1] * 6, [2.0] * 6), ([0.0] * 6, [0.009] * 6), ([1.0] * 6, [0.0] * 6),
    ([1.0] * 6, [float("nan")] * 6)], ids=str)
def test_distances_that_cannot_be_are_refused_here_and_by_the_library(library, fixtures, tmp_path, inner, outer):
    model = ModelFile.read(fixtures / "gaussian_ev.safetensors")
    model.short_range = ShortRange(inner, outer)
    with pytest.raises(ModelFileError, match="short_range|short range"):
        model.to_bytes()
    model.check = lambda: None
    with pytest.raises(ModelFileError, match="short_range"):
        mlff.Model(model.to_bytes())


@pytest.mark.parametrize("key", ["short_range", "short_range_inner", "short_range_outer"])
def test_a_file_with_half_a_short_range_is_refused(fixtures, key):
    model = ModelFile.read(fixtures / "gaussian_ev.safetensors")
    model.short_range = TERM
    metadata = model.metadata()
    del metadata[key]
    with pytest.raises(ModelFileError, match=f"'{key}' is missing"):
        ModelFile.from_parts(metadata, model.tensors)


# --------------------------------------------------------------------------------------------------- from frames


def water(d=0.957):
    return ase.Atoms("OHH", [[0, 0, 0], [d, 0, 0], [-0.24, 1.0, 0]])


def test_distances_are_rounded_down_and_pairs_that_never_met_get_covalent_radii():
    edges = [(["O", "H"], np.array([0, 1]), np.array([1, 0]), np.array([0.9579, 0.9579]))]
    distances = short_range.shortest_distances(edges, ["H", "O", "Si"])
    assert distances == {("H", "O"): 0.9579}
    term = short_range.from_distances(distances, ["H", "O", "Si"], 5.0, width=0.2)
    pairs = term.by_pair(["H", "O", "Si"])
    assert pairs["H", "O"] == (0.757, 0.957)
    radii = ase.data.covalent_radii
    assert pairs["O", "Si"][1] == pytest.approx(radii[8] + radii[14], abs=1e-3)
    earlier = ShortRange([0.0] * 6, [0.5] * 6)
    again = short_range.from_distances(distances, ["H", "O", "Si"], 5.0, earlier=earlier)
    assert again.outer == [0.5] * 6  # a training that went on does not forget


def test_distances_of_a_models_metadata_read_back_as_they_were_written():
    elements = ["H", "O", "Si"]
    distances = np.array([1.5504, 1.5504, 0.958, 0.958])
    edges = [(["Si", "O", "H"], np.array([0, 1, 1, 2]), np.array([1, 0, 2, 1]), distances)]
    text = short_range.format_distances(short_range.shortest_distances(edges, elements))
    assert text == "H-O 0.958 O-Si 1.550"
    assert short_range.parse_distances(text, elements, "info") == {("H", "O"): 0.958, ("O", "Si"): 1.55}


def test_zbl_takes_the_distances_of_the_frames_and_changes_nothing_there(run, library, fixtures, tmp_path):
    data = np.load(fixtures / "gaussian_ev.triclinic.npz")
    frames = [ase.Atoms(data["numbers"], data["positions"], cell=data["cell"], pbc=data["pbc"]), water()]
    ase.io.write(tmp_path / "frames.extxyz", frames, format="extxyz")
    out = tmp_path / "out.safetensors"
    model = fixtures / "gaussian_ev.safetensors"
    status, text, err = run("zbl", model, "--frames", tmp_path / "frames.extxyz", "-o", out)
    assert (status, err) == (0, "")
    assert "H-O" in text
    results = []
    for path in (model, out):
        loaded = mlff.Model(str(path))
        evaluator = mlff.Evaluator(loaded, device="cpu", precision="double")
        results.append(evaluator.evaluate([
            mlff.Structure(a.positions, loaded.species(a.get_chemical_symbols()), a.cell.array if a.pbc.any() else None)
            for a in frames]))
        assert evaluator.close_pairs().count == 0
    for before, after in zip(*results):
        assert before.energy == after.energy
        assert np.array_equal(before.forces, after.forces)
    status, text, _ = run("info", out)
    assert status == 0 and "short range" in text and "H-O 0.95" in text
    removed = tmp_path / "removed.safetensors"
    assert run("zbl", out, "--remove", "-o", removed)[0] == 0
    assert ModelFile.read(removed).to_bytes() == ModelFile.read(model).to_bytes()
    assert json.loads(run("info", removed, "--json")[1])["short_range"] is None


def test_zbl_takes_distances_by_hand_or_those_in_the_file(run, library, fixtures, tmp_path):
    out = tmp_path / "out.safetensors"
    status, text, _ = run("zbl", fixtures / "gaussian_ev.safetensors", "--distances", "O-H 0.9 C-C 1.2", "--width",
                          "0.3", "-o", out, "--json")
    rows = {row["pair"]: row for row in json.loads(text)["short_range"]}
    assert status == 0
    assert (rows["H-O"]["inner"], rows["H-O"]["outer"], rows["H-O"]["source"]) == (0.6, 0.9, "training")
    assert rows["H-H"]["source"] == "covalent radii"
    model = ModelFile.read(fixtures / "gaussian_ev.safetensors")
    model.info["shortest_distances"] = "H-H 1.300 C-O 1.100"
    model.write(tmp_path / "told.safetensors")
    assert run("zbl", tmp_path / "told.safetensors", "-o", out)[0] == 0
    assert ModelFile.read(out).short_range.by_pair(model.elements)["H", "H"][1] == 1.299


@pytest.mark.parametrize("arguments,sentence", [
    ([], "info.shortest_distances, expected --frames or --distances"),
    (["--distances", "O-Na 2.0"], "--distances: found 'O-Na 2.0', expected pairs of H C O"),
    (["--distances", "O-H"], "expected pairs of H C O"),
    (["--distances", "O-H nan"], "found 'O-H nan'"),
    (["--frames", "nowhere.extxyz"], "nowhere.extxyz: no such file"),
    (["--frames", "{folder}/salt.extxyz"], "frame 0 has Cl Na, expected elements of the model: H C O"),
    (["--frames", "{folder}/text.extxyz"], "text.extxyz: cannot be read"),
], ids=str)
def test_zbl_says_what_is_wrong(run, fixtures, tmp_path, arguments, sentence):
    ase.io.write(tmp_path / "salt.extxyz", ase.Atoms("NaCl", [[0, 0, 0], [2.4, 0, 0]]), format="extxyz")
    (tmp_path / "text.extxyz").write_text("no frames\n")
    arguments = [a.replace("{folder}", str(tmp_path)) for a in arguments]
    out = tmp_path / "out.safetensors"
    status, _, err = run("zbl", fixtures / "gaussian_ev.safetensors", "-o", out, *arguments)
    assert status == 1 and sentence in err and err.count("\n") == 1
    assert not out.exists()


def test_check_passes_on_a_model_with_the_term(run, library, fixtures, tmp_path):
    with_term(fixtures / "gaussian_ev.safetensors", tmp_path)
    status, out, err = run("check", tmp_path / "term.safetensors", "--device", "cpu")
    assert status == 0, out + err


# ------------------------------------------------------------------------------------------------------- silicon


def test_the_silicon_example_has_no_false_minimum(run, library, fixtures, tmp_path):
    """Two atoms: the network alone pulls them together somewhere below 1.8 angstrom; with the term they repel at every
    distance below the shortest of the training, more and more."""
    example = fixtures.parents[1] / EXAMPLE
    network = tmp_path / "network.safetensors"
    assert run("zbl", example, "--remove", "-o", network)[0] == 0
    distances = np.arange(0.2, 1.828, 0.004)
    pairs = [mlff.Structure(np.array([[0, 0, 0], [d, 0, 0.0]]), np.zeros(2, np.int32)) for d in distances]
    force, energy = {}, {}
    for path in (network, example):
        results = mlff.Evaluator(mlff.Model(str(path)), device="cpu", precision="double").evaluate(pairs)
        force[path] = np.array([r.forces[1, 0] for r in results])
        energy[path] = np.array([r.energy for r in results])
    assert force[network].min() < -100.0 and energy[network].min() < energy[network][-1] - 10.0
    assert force[example].min() > 1.0
    assert np.all(np.diff(energy[example]) < 0)
