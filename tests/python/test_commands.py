# SPDX-License-Identifier: MIT
"""mlff as its users call it: output, files, exit codes, one sentence for each failure."""

import json
import lzma
import os
import re
import subprocess
import sys

import ase
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

import mlff
import mlff.cli
import mlff.convert.cli
import mlff.frames
import mlff.label


def atoms_of(data, with_results=True):
    atoms = ase.Atoms(data["numbers"], data["positions"], cell=data["cell"], pbc=data["pbc"])
    if with_results:
        atoms.calc = SinglePointCalculator(atoms, energy=float(data["energy"]), forces=data["forces"])
    return atoms


def write_frames(path, names, fixtures, model="gaussian_ev"):
    frames = [atoms_of(np.load(fixtures / f"{model}.{name}.npz")) for name in names]
    ase.io.write(path, frames, format="extxyz")
    return frames


# -------------------------------------------------------------------------------------------------------------- info


def test_info_shows_the_model(run, library, fixtures):
    status, out, err = run("info", fixtures / "gaussian_kcal.safetensors")
    assert (status, err) == (0, "")
    assert "H C O" in out and "4.5 angstrom" in out and "kcal/mol" in out


def test_info_json_is_json_alone(run, library, fixtures):
    status, out, err = run("info", fixtures / "bessel_bias.safetensors", "--json")
    facts = json.loads(out)
    assert (status, err) == (0, "")
    assert facts["elements"] == ["H", "O", "Au"]
    assert facts["vector_bias"] is True and facts["rotation_equivariant"] is False
    assert facts["element_energies"] == {"H": -1.5, "O": -4.25, "Au": -3.125}
    assert facts["memory_cpu"]["single"]["bytes_per_atom"] < facts["memory_cpu"]["double"]["bytes_per_atom"]


@pytest.mark.parametrize("command", [["info"], ["check"], ["bench"], ["eval", "-"]], ids=lambda c: c[0])
def test_bad_model_is_one_sentence_and_exit_code_1(run, library, tmp_path, command):
    (tmp_path / "m.safetensors").write_bytes(b"\x80\x02}q\x00.")
    status, out, err = run(command[0], tmp_path / "m.safetensors", *command[1:])
    assert (status, out) == (1, "")
    assert err.startswith("mlff: ") and "m.safetensors" in err and err.count("\n") == 1


# ------------------------------------------------------------------------------------------------------------- check


@pytest.mark.parametrize("name", ["gaussian_ev", "gaussian_kcal", "bessel_plain", "bessel_zero", "double", "odd_sizes"])
def test_check_passes_on_our_models(run, library, fixtures, name):
    status, out, err = run("check", fixtures / f"{name}.safetensors")
    assert (status, err) == (0, "")
    assert "FAILED" not in out


def test_check_says_that_a_vector_bias_breaks_rotation_and_passes(run, library, fixtures):
    status, out, _ = run("check", fixtures / "bessel_bias.safetensors", "--json")
    report = json.loads(out)
    (rotation,) = [t for t in report["tests"] if t["name"] == "rotation"]
    assert status == 0 and report["passed"] is True
    assert report["rotation_equivariant"] is False
    assert rotation["value"] > 1e-3 and rotation["bound"] is None


def test_check_fails_where_forces_are_not_the_energys(run, library, fixtures, monkeypatch):
    """A library that returns forces a thousandth too large is found out."""
    evaluate = mlff.Evaluator.evaluate

    def wrong(self, *arguments, **settings):
        results = evaluate(self, *arguments, **settings)
        for result in results:
            if result.forces is not None:
                result.forces *= 1.001
        return results

    monkeypatch.setattr(mlff.Evaluator, "evaluate", wrong)
    status, out, err = run("check", fixtures / "gaussian_ev.safetensors", "--json")
    failed = [t["name"] for t in json.loads(out)["tests"] if not t["passed"]]
    assert status == 1
    assert failed == ["forces against differences of the energy"]
    assert "1 of" in err


@pytest.mark.parametrize(
    "spoil, test",
    [
        (lambda s, r: setattr(r, "virial", r.virial.T + np.diag([0, 0, 1e-3])), "virial against differences"),
        (lambda s, r: setattr(r, "energy", r.energy + s.positions[0, 0]), "translation"),
        (lambda s, r: setattr(r, "energy", r.energy + 1e-3 * np.ptp(s.positions[:, 0])), "rotation"),
        (lambda s, r: setattr(r, "energy", r.energy + 1e-3 * s.species @ np.arange(len(s.species))), "permutation"),
        (lambda s, r: setattr(r, "energy", r.energy + 1.0), "extensivity"),
    ],
    ids=["virial", "translation", "rotation", "permutation", "extensivity"],
)
def test_check_finds_each_broken_symmetry(run, library, fixtures, monkeypatch, spoil, test):
    evaluate = mlff.Evaluator.evaluate

    def wrong(self, structures, forces=True, virial=True):
        results = evaluate(self, structures, forces, virial)
        for structure, result in zip(structures, results):
            if result.virial is not None:
                spoil(structure, result)
        return results

    monkeypatch.setattr(mlff.Evaluator, "evaluate", wrong)
    status, out, _ = run("check", fixtures / "five_elements.safetensors", "--json")
    assert status == 1
    assert any(t["name"].startswith(test) and not t["passed"] for t in json.loads(out)["tests"])


def test_check_finds_a_jump_at_the_cutoff(run, library, fixtures, monkeypatch):
    evaluate = mlff.Evaluator.evaluate

    def wrong(self, structures, forces=True, virial=True):
        results = evaluate(self, structures, forces, virial)
        for structure, result in zip(structures, results):
            if len(structure.species) == 3:  # the three atoms of the cutoff test
                near = np.linalg.norm(structure.positions[2] - structure.positions[0]) < self.model.cutoff
                result.atom_energies[0] += 1e-4 if near else 0.0
        return results

    monkeypatch.setattr(mlff.Evaluator, "evaluate", wrong)
    status, out, _ = run("check", fixtures / "gaussian_ev.safetensors", "--json")
    (jump,) = [t for t in json.loads(out)["tests"] if t["name"].startswith("jump of the energy")]
    assert status == 1
    assert jump["value"] == pytest.approx(1e-4, rel=1e-3)


# -------------------------------------------------------------------------------------------------------------- eval


def test_eval_reports_no_error_against_the_references(run, library, fixtures, tmp_path):
    write_frames(tmp_path / "in.extxyz", ["molecule", "triclinic", "ortho"], fixtures)
    status, out, err = run("eval", fixtures / "gaussian_ev.safetensors", tmp_path / "in.extxyz", "--json",
                           "--precision", "double")
    report = json.loads(out)
    assert (status, err) == (0, "")
    assert report["n_frames"] == 3 and report["precision"] == "double"
    assert report["errors"]["energy"]["count"] == 3
    # ASE writes the frames with eight decimals
    assert report["errors"]["energy"]["largest"] < 1e-3
    assert report["errors"]["forces"]["largest"] < 1e-3
    assert "virial" not in report["errors"]


def test_eval_measures_errors(run, library, fixtures, tmp_path):
    """Known deviations put into the frames come out as MAE, RMSE, mean and largest."""
    frames = write_frames(tmp_path / "in.extxyz", ["molecule", "triclinic"], fixtures)
    n = [len(f) for f in frames]
    for atoms, offset in zip(frames, (0.003, -0.001)):
        results = atoms.calc.results
        results["energy"] += offset * len(atoms)
        results["forces"] = results["forces"] + 0.002
    ase.io.write(tmp_path / "in.extxyz", frames, format="extxyz")
    _, out, _ = run("eval", fixtures / "gaussian_ev.safetensors", tmp_path / "in.extxyz", "--json")
    errors = json.loads(out)["errors"]
    assert errors["energy"]["mae"] == pytest.approx(2.0, abs=1e-3)
    assert errors["energy"]["rmse"] == pytest.approx(5**0.5, abs=1e-3)
    assert errors["energy"]["mean"] == pytest.approx(-1.0, abs=1e-3)
    assert errors["energy"]["largest"] == pytest.approx(3.0, abs=1e-3)
    assert errors["forces"]["mae"] == pytest.approx(2.0, abs=1e-3)
    assert errors["forces"]["count"] == 3 * sum(n)


@pytest.mark.parametrize("carries", ["virial", "stress"])
def test_eval_compares_virials_and_stresses(run, library, fixtures, tmp_path, carries):
    data = np.load(fixtures / "gaussian_ev.triclinic.npz")
    atoms = atoms_of(data, with_results=False)
    volume = atoms.get_volume()
    wrong = data["virial"] + 0.01 * len(atoms) * np.eye(3)
    if carries == "virial":
        atoms.info["virial"] = wrong
    else:
        stress = -wrong / volume
        voigt = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        atoms.calc = SinglePointCalculator(atoms, stress=voigt)
    ase.io.write(tmp_path / "in.extxyz", atoms, format="extxyz")
    _, out, _ = run("eval", fixtures / "gaussian_ev.safetensors", tmp_path / "in.extxyz", "--json")
    errors = json.loads(out)["errors"]
    assert errors["virial"]["mean"] == pytest.approx(-10 / 3, abs=1e-2)
    assert errors["virial"]["largest"] == pytest.approx(10, abs=1e-2)
    assert errors["stress"]["largest"] == pytest.approx(0.01 * len(atoms) / volume * 160.2176634, rel=1e-3)


def test_eval_output_keeps_every_digit(run, library, fixtures, tmp_path):
    """What ASE reads from OUT is bit by bit what the library gave; the vector bias makes the virial unsymmetric."""
    names = ["molecule", "triclinic", "ortho"]
    write_frames(tmp_path / "in.extxyz", names, fixtures, "bessel_bias")
    model = mlff.Model(fixtures / "bessel_bias.safetensors")
    out = tmp_path / "out.extxyz"
    status, _, _ = run("eval", fixtures / "bessel_bias.safetensors", tmp_path / "in.extxyz", "-o", out)
    assert status == 0 and set(os.listdir(tmp_path)) == {"in.extxyz", "out.extxyz"}
    structures = [
        mlff.Structure(a.positions, model.species(a.get_chemical_symbols()), np.array(a.cell) if a.pbc.any() else None)
        for a in ase.io.read(tmp_path / "in.extxyz", ":")
    ]
    # the same batch, so the same bits
    expected = mlff.Evaluator(model).evaluate(structures)
    written = ase.io.read(out, ":")
    assert len(written) == 3
    for atoms, structure, result in zip(written, structures, expected):
        assert np.array_equal(atoms.positions, structure.positions)
        assert atoms.calc.results["energy"] == result.energy
        assert np.array_equal(atoms.calc.results["forces"], result.forces)
        assert np.array_equal(atoms.calc.results["energies"], result.atom_energies)
        assert np.array_equal(atoms.info["virial"], result.virial)
        assert bool(atoms.pbc.any()) == (structure.cell is not None)
    assert np.abs(expected[1].virial - expected[1].virial.T).max() > 1e-6


def test_eval_of_its_own_output_has_no_error(run, library, fixtures, tmp_path):
    write_frames(tmp_path / "in.extxyz", ["molecule", "triclinic"], fixtures, "bessel_bias")
    model = fixtures / "bessel_bias.safetensors"
    run("eval", model, tmp_path / "in.extxyz", "-o", tmp_path / "out.extxyz")
    _, out, _ = run("eval", model, tmp_path / "out.extxyz", "--json")
    assert {name: e["largest"] for name, e in json.loads(out)["errors"].items()} == {
        "energy": 0.0, "forces": 0.0, "virial": 0.0, "stress": 0.0}


def test_eval_reads_and_writes_compressed_files(run, library, fixtures, tmp_path):
    write_frames(tmp_path / "in.extxyz", ["molecule"], fixtures)
    packed = tmp_path / "packed.extxyz.xz"
    packed.write_bytes(lzma.compress((tmp_path / "in.extxyz").read_bytes()))
    status, out, _ = run("eval", fixtures / "gaussian_ev.safetensors", packed, "-o", tmp_path / "out.extxyz.xz")
    assert status == 0 and "1 frames" in out
    assert lzma.decompress((tmp_path / "out.extxyz.xz").read_bytes()).count(b"\n") > 3


def test_a_compressed_file_is_decompressed_once(tmp_path, monkeypatch):
    frames = [ase.Atoms("H", [[0.0, 0.0, float(n)]]) for n in range(200)]
    ase.io.write(tmp_path / "plain.extxyz", frames, format="extxyz")
    data = (tmp_path / "plain.extxyz").read_bytes()
    taken, actual = [], lzma.LZMADecompressor

    class Counted:
        def __init__(self, *arguments, **options):
            self.actual = actual(*arguments, **options)

        def __getattr__(self, name):
            return getattr(self.actual, name)

        def decompress(self, *arguments, **options):
            out = self.actual.decompress(*arguments, **options)
            taken.append(len(out))
            return out

    monkeypatch.setattr(lzma, "LZMADecompressor", Counted)
    (tmp_path / "packed.extxyz.xz").write_bytes(lzma.compress(data))
    atoms = list(mlff.frames.read_atoms(str(tmp_path / "packed.extxyz.xz")))
    assert [a.positions[0, 2] for a in atoms] == list(range(200))
    assert sum(taken) == len(data)


def test_eval_of_many_frames_goes_through_all(run, library, fixtures, tmp_path):
    write_frames(tmp_path / "in.extxyz", ["molecule"] * 300 + ["triclinic"] * 300, fixtures)
    _, out, _ = run("eval", fixtures / "gaussian_ev.safetensors", tmp_path / "in.extxyz", "--json",
                    "--precision", "single", "--threads", "1")
    report = json.loads(out)
    assert report["n_frames"] == 600 and report["threads"] == 1
    assert report["errors"]["energy"]["count"] == 600
    assert report["errors"]["forces"]["largest"] < 1.0


def test_eval_without_references_says_so(run, library, fixtures, tmp_path):
    atoms = atoms_of(np.load(fixtures / "gaussian_ev.molecule.npz"), with_results=False)
    ase.io.write(tmp_path / "in.xyz", atoms, format="xyz")
    status, out, _ = run("eval", fixtures / "gaussian_ev.safetensors", tmp_path / "in.xyz")
    assert status == 0 and "carry no energy" in out


def test_eval_takes_frames_without_atoms_and_slabs(run, library, fixtures, tmp_path):
    slab = ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], cell=[3, 3, 0], pbc=[True, True, False])
    ase.io.write(tmp_path / "in.extxyz", [ase.Atoms(), ase.Atoms("H"), slab], format="extxyz")
    status, _, err = run("eval", fixtures / "gaussian_ev.safetensors", tmp_path / "in.extxyz",
                         "-o", tmp_path / "out.extxyz")
    assert (status, err) == (0, "")
    empty, atom, slab = ase.io.read(tmp_path / "out.extxyz", ":")
    assert len(empty) == 0 and empty.get_potential_energy() == 0
    assert np.array_equal(atom.calc.results["forces"], np.zeros((1, 3)))
    assert list(slab.pbc) == [True, True, False]


def test_eval_names_an_unknown_element_and_its_frame(run, library, fixtures, tmp_path):
    ase.io.write(tmp_path / "in.extxyz", [ase.Atoms("H"), ase.Atoms("Xe")], format="extxyz")
    status, out, err = run("eval", fixtures / "gaussian_ev.safetensors", tmp_path / "in.extxyz",
                           "-o", tmp_path / "out.extxyz")
    assert (status, out) == (1, "")
    assert "frame 1" in err and "Xe" in err and "H C O" in err
    assert not (tmp_path / "out.extxyz").exists() and os.listdir(tmp_path) == ["in.extxyz"]


def test_eval_names_the_frame_that_the_library_refuses(run, library, fixtures, tmp_path):
    twice = ase.Atoms("HHO", [[0, 0, 0], [0, 0, 0], [1, 1, 1]])
    apart = ase.Atoms("HHO", [[0, 0, 0], [0, 0, 1], [1, 1, 1]])
    ase.io.write(tmp_path / "in.extxyz", [apart, apart, twice, apart], format="extxyz")
    status, _, err = run("eval", fixtures / "gaussian_ev.safetensors", tmp_path / "in.extxyz")
    assert status == 1 and "frame 2" in err


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("", "no frames|cannot be read"),
        ("hello\n", "cannot be read in the first frame"),
        ("2\n\nH 0 0 0\n", "cannot be read"),
    ],
    ids=["empty", "text", "truncated"],
)
def test_eval_refuses_unreadable_frames(run, library, fixtures, tmp_path, content, sentence):
    (tmp_path / "in.extxyz").write_text(content)
    status, _, err = run("eval", fixtures / "gaussian_ev.safetensors", tmp_path / "in.extxyz")
    assert status == 1 and err.count("\n") == 1
    assert re.search(sentence, err)


def test_eval_does_not_write_over_its_input(run, library, fixtures, tmp_path):
    write_frames(tmp_path / "in.extxyz", ["molecule"], fixtures)
    status, _, err = run("eval", fixtures / "gaussian_ev.safetensors", tmp_path / "in.extxyz",
                         "-o", tmp_path / "in.extxyz")
    assert status == 2 and "same file" in err


# ------------------------------------------------------------------------------------------------------ bench, plugin


def test_bench_json_has_a_row_for_each_size(run, library, fixtures):
    status, out, err = run("bench", fixtures / "gaussian_ev.safetensors", "--sizes", "30,100", "--seconds", "0.05",
                           "--precision", "single", "--threads", "1", "--json")
    report = json.loads(out)
    assert (status, err) == (0, "")
    assert [row["atoms"] for row in report["sizes"]] == [30, 100]
    for row in report["sizes"]:
        assert 40 < row["neighbours"] < 66
        assert row["atom_steps_per_second"] == pytest.approx(row["atoms"] / row["seconds"])
    assert report["precision"] == "single" and report["threads"] == 1


def test_bench_replicates_a_given_structure(run, library, fixtures, tmp_path):
    write_frames(tmp_path / "in.extxyz", ["ortho"], fixtures)
    n = len(ase.io.read(tmp_path / "in.extxyz"))
    _, out, _ = run("bench", fixtures / "gaussian_ev.safetensors", "--structure", tmp_path / "in.extxyz",
                    "--sizes", f"{n},{8 * n}", "--seconds", "0.05", "--json")
    rows = json.loads(out)["sizes"]
    assert [row["atoms"] for row in rows] == [n, 8 * n]
    assert rows[0]["neighbours"] == pytest.approx(rows[1]["neighbours"], rel=1e-3)


def test_bench_refuses_to_replicate_a_molecule(run, library, fixtures, tmp_path):
    write_frames(tmp_path / "in.extxyz", ["molecule"], fixtures)
    status, _, err = run("bench", fixtures / "gaussian_ev.safetensors", "--structure", tmp_path / "in.extxyz")
    assert status == 1 and "not periodic" in err


def test_bench_asks_for_a_structure_where_the_random_one_is_too_much(run, library, fixtures):
    silicon = fixtures.parents[1] / "examples" / "silicon" / "silicon.safetensors"  # random atoms: 1e38 eV and more
    status, _, err = run("bench", silicon, "--sizes", "256", "--precision", "single", "--seconds", "0.05")
    assert status == 1 and "expected a finite number" in err and "--structure FILE" in err


def test_plugin_prints_the_path_alone(run, monkeypatch, tmp_path):
    (tmp_path / "mlffplugin.so").write_bytes(b"")
    monkeypatch.setenv("MLFF_PLUGIN", str(tmp_path / "mlffplugin.so"))
    assert run("plugin") == (0, f"{tmp_path}/mlffplugin.so\n", "")


def test_plugin_that_is_not_built_is_an_error(run, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFF_PLUGIN", str(tmp_path / "mlffplugin.so"))
    status, out, err = run("plugin")
    assert (status, out) == (1, "") and "mlffplugin.so" in err


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["info"], ["bench", "m", "--sizes", "0"], ["bench", "m", "--seconds", "-1"],
     ["eval", "m", "f", "--precision", "half"], ["eval", "m", "f", "--threads", "none"],
     ["check", "m", "--seed", "-1"]],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(run, arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "usage:" in err


@pytest.mark.parametrize("program, arguments, expected", [
    (mlff.cli.main, ["zbl", "m", "-o", "o", "--width"], "a number of 0.01 to 100 (angstrom)"),
    (mlff.cli.main, ["bench", "m", "--seconds"], "a number of seconds above 0 and below 1e6"),
    (mlff.convert.cli.main, ["nff", "c", "-o", "o", "--energy-unit", "eV", "--cutoff"],
     "a length above 0 and below 1e6 (angstrom)"),
    (mlff.label.main, ["f", "-c", "emt", "-o", "o", "--largest-force"], "a number above 0"),
], ids=["zbl", "bench", "convert", "label"])
@pytest.mark.parametrize("text", ["0", "-1", "nan", "two", "-inf"])
def test_a_number_that_cannot_be_is_refused_with_what_was_expected(run, program, arguments, expected, text):
    status, out, err = run(*arguments[:-1], f"{arguments[-1]}={text}", program=program)
    assert (status, out) == (2, "")
    assert err.endswith(f"error: argument {arguments[-1]}: '{text}' is not {expected}\n")


def test_help_is_there_for_every_command(run):
    for command in ([], ["info"], ["check"], ["eval"], ["bench"], ["zbl"], ["plugin"]):
        status, out, _ = run(*command, "--help")
        assert status == 0 and len(out) > 100


def test_output_into_a_closed_pipe_is_not_a_traceback(library, fixtures):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    command = f"{sys.executable} -m mlff info {fixtures}/gaussian_ev.safetensors | true"
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
