# SPDX-License-Identifier: MIT
"""The scripts of examples/water: preparing the frames, radial distributions, report, the table of sizes."""
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ase", reason="ASE is not installed (pip install '.[ase]')")

from ase import Atoms  # noqa: E402
from ase.io import read  # noqa: E402

WATER = Path(__file__).resolve().parents[2] / "examples" / "water"


def module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def script(path: Path, *arguments) -> subprocess.CompletedProcess:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    return subprocess.run([sys.executable, path, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env=environment)


# ------------------------------------------------------------------------------------------- prepare.py

@pytest.fixture
def deepmd(tmp_path) -> Path:
    """Two systems in DeePMD's format, of one and two sets."""
    rng = np.random.default_rng(0)
    for system, sets in (("data_0", 1), ("data_1", 2)):
        for k in range(sets):
            folder = tmp_path / "data" / system / f"set.00{k}"
            folder.mkdir(parents=True)
            for name, width in (("box", 9), ("coord", 9), ("force", 9)):
                np.save(folder / f"{name}.npy", rng.normal(0.0, 1.0, (2, width)).astype(np.float32))
            np.save(folder / "box.npy", np.tile(4.0 * np.eye(3, dtype=np.float32).ravel(), (2, 1)))
            np.save(folder / "energy.npy", rng.normal(-10.0, 1.0, 2).astype(np.float32))
        (tmp_path / "data" / system / "type.raw").write_text("0\n1\n1\n")
    (tmp_path / "data" / "data_1" / "type_map.raw").write_text("S\nH\n")
    return tmp_path / "data"


def test_deepmd_folders_become_extended_xyz(deepmd, tmp_path):
    result = script(WATER / "training" / "prepare.py", deepmd, tmp_path / "out.extxyz")
    assert result.returncode == 0, result.stderr
    frames = read(tmp_path / "out.extxyz", ":")
    assert [a.info["src"] for a in frames] == [f"data_0/set.000/{k}" for k in range(2)] + [
        f"data_1/set.00{s}/{k}" for s in range(2) for k in range(2)]
    assert str(frames[0].symbols) == "OH2" and str(frames[-1].symbols) == "SH2" and frames[0].pbc.all()
    folder = deepmd / "data_1" / "set.001"
    assert frames[-1].get_potential_energy() == pytest.approx(float(np.load(folder / "energy.npy")[1]), abs=1e-6)
    np.testing.assert_allclose(frames[-1].get_forces().ravel(), np.load(folder / "force.npy")[1], atol=1e-6)
    np.testing.assert_allclose(frames[-1].positions.ravel(), np.load(folder / "coord.npy")[1], atol=1e-6)


@pytest.mark.parametrize("spoil, said", [
    (lambda d: np.save(d / "data_0" / "set.000" / "force.npy", np.zeros((2, 6))),
     "force.npy: shape (2, 6), expected (2, 9)"),
    (lambda d: (d / "data_0" / "type.raw").write_text("0 1 7"), "type 7, expected 0 to 1"),
    (lambda d: [(d / s / "type.raw").unlink() for s in ("data_0", "data_1")], "no folder with a type.raw"),
])
def test_data_that_do_not_fit_are_refused(deepmd, tmp_path, spoil, said):
    spoil(deepmd)
    result = script(WATER / "training" / "prepare.py", deepmd, tmp_path / "out.extxyz")
    assert result.returncode == 1 and said in result.stderr and "Traceback" not in result.stderr


# ------------------------------------------------------------------------------------------- rdf.py, report.py

def test_atoms_that_do_not_see_each_other_have_a_flat_distribution():
    rng = np.random.default_rng(0)
    frames = [Atoms("O20H5", positions=12.5 * rng.random((25, 3)), cell=[12.5] * 3, pbc=True) for _ in range(300)]
    r, g, n = module(WATER / "training" / "rdf.py").oxygen_distribution(frames)
    far = r > 3.0
    assert n == 300 and len(r) == 124 and r[0] == pytest.approx(0.025)
    # 300 frames of 190 pairs: the mean over most of the volume is known to half a per cent
    assert (g[far] * r[far] ** 2).sum() / (r[far] ** 2).sum() == pytest.approx(1.0, abs=0.02)


def log_text(model: str = "water.safetensors", start: float = -30000.0) -> str:
    """A log of a minimisation, 100 steps of Langevin dynamics and 200 of NVT."""
    atoms, lines = 192, ["LAMMPS (22 Jul 2025 - Update 4)", "units metal", "timestep 0.0005"]
    for fixes, steps, seconds in (([], (0, 10, 20), 1.0), (["fix s all langevin 330 330 0.05 1"], (0, 50, 100), 2.0),
                                  (["fix h all nvt temp 330 330 0.1"], (100, 150, 200, 250, 300), 3.0)):
        lines += fixes + [f"mlff: model /somewhere/{model} (painn, 128 features, 3 interactions), elements O H",
                          "   Step  Temp  PotEng  KinEng  TotEng  Press"]
        lines += [f"{step} {300 + step} {start - 0.01 * step} 8.0 {start} 1.0" for step in steps]
        lines += [f"Loop time of {seconds} on 1 procs for {steps[-1] - steps[0]} steps with {atoms} atoms",
                  "99.0% CPU use with 1 MPI tasks x 2 OpenMP threads"]
    return "\n".join(lines) + "\n"


def distribution_text(g) -> str:
    rows = "\n".join(f"{k + 1} {0.025 + 0.05 * k} {x} 0" for k, x in enumerate(g))
    return f"# Time-averaged data\n# TimeStep Number-of-rows\n# Row c_goo[1]\n300 {len(g)}\n{rows}\n"


def test_the_report_gives_peak_temperature_and_speed(tmp_path):
    r = 0.025 + 0.05 * np.arange(124)
    (tmp_path / "log.lammps").write_text(log_text())
    (tmp_path / "rdf.txt").write_text(distribution_text(1.0 + 1.5 * np.exp(-(((r - 2.76) / 0.15) ** 2))))
    result = script(WATER / "report.py", tmp_path / "log.lammps", tmp_path / "p.png")
    assert result.returncode == 0, result.stderr
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "first peak 2.50 at 2.76" in lines["O-O"] and "data 2.90 at 2.74" in lines["O-O"]
    assert "200 steps, 500.0 K on average" in lines["NVT"] and "from 300 to 400 K" in lines["settle"]
    assert f"{300 / 5.0 * 192:.0f} atom-steps/s" in lines["speed"] and "1 rank with 2 threads" in lines["speed"]
    picture = (tmp_path / "p.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 5000


@pytest.mark.parametrize("model, shift, said", [
    ("water.safetensors", 0.0, "start        as in the reference log"),
    ("water.safetensors", 0.5, "start        NOT as in the reference log: +2.6042 meV/atom"),
    ("other.safetensors", 0.5, None),
])
def test_the_start_is_held_against_the_reference_log_of_the_same_model(tmp_path, monkeypatch, model, shift, said):
    (tmp_path / "reference.log").write_text(log_text())
    (tmp_path / "log.lammps").write_text(log_text(model, -30000.0 + shift))
    report = module(WATER / "report.py")
    monkeypatch.setattr(report, "REFERENCE_LOG", tmp_path / "reference.log")
    runs, banner = report.read_runs(str(tmp_path / "log.lammps"))
    found = report.held_against_reference(str(tmp_path / "log.lammps"), banner)
    assert found is None if said is None else found.startswith(said)


@pytest.mark.parametrize("log, table, said", [
    (log_text().partition("fix h all")[0], None, "2 finished runs, expected three"),
    ("".join(line for line in log_text().splitlines(True) if not line.startswith(("150 ", "200 ", "250 "))), None,
     "2 lines of thermo output in the last run, expected three or more"),
    (log_text(), "# a\n# b\n# c\n300 124\n1 0.1 1.0 0\n", "1 rows, expected a line with step and number of rows"),
])
def test_a_run_that_cannot_be_reported_on_is_refused(tmp_path, log, table, said):
    (tmp_path / "log.lammps").write_text(log)
    if table:
        (tmp_path / "rdf.txt").write_text(table)
    result = script(WATER / "report.py", tmp_path / "log.lammps", tmp_path / "p.png")
    assert result.returncode == 1 and said in result.stderr and "Traceback" not in result.stderr


def test_the_distribution_that_ships_is_one_of_water():
    data = json.loads((WATER / "reference" / "rdf_data.json").read_text())
    r, g = np.array(data["r"]), np.array(data["g"])
    assert data["frames"] == 400 and len(r) == len(g) == 124
    assert not g[r < 2.2].any() and 2.6 < r[g.argmax()] < 2.9 and g[(r > 5.5)].mean() == pytest.approx(1.0, abs=0.2)


# ------------------------------------------------------------------------------------------- models

MODELS = sorted(WATER.glob("**/*.safetensors"))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_that_ships_tells_where_it_is_from_and_the_readme_its_errors(path):
    from mlff import ModelFile

    file = ModelFile.read(path)
    assert file.info["data_licence"] == "LGPL-3.0 (DeePMD-kit, examples/water)" and file.licence == "MIT"
    assert "DeePMD-kit" in file.provenance and file.info["test_frames"] == "360-399"
    assert file.short_range is not None and file.info["shortest_distances"].startswith("H-H 1.3")
    quantity = module(WATER / "training" / "sizes.py").held_out(path)
    (row,) = [line for line in (WATER / "README.md").read_text().splitlines()
              if line.startswith(f"| `{path.relative_to(WATER)}`")]
    told = [float(x) for cell in row.strip("| ").split("|")[1:] for x in cell.split(",")]
    assert told[:2] == pytest.approx([quantity["force_mae"], quantity["force_rmse"]], abs=0.055)  # both are rounded
    assert told[2:] == pytest.approx([quantity["energy_mae"], quantity["energy_rmse"]], abs=0.00055)


def test_four_independent_seeds_ship():
    from mlff import ModelFile

    seeds = [ModelFile.read(WATER / f"water_seed{k}.safetensors") for k in range(4)]
    assert [f"seed {k}," in file.info["training"] for k, file in enumerate(seeds)] == [True] * 4
    assert {file.info["frames"] for file in seeds} == {"342 training, 18 validation, 40 test"}  # and no student's
    assert len({file.info["validation_frames"] for file in seeds}) == 1


# ------------------------------------------------------------------------------------------- sizes.py

def trained(folder: Path, fixtures: Path, name: str, error: float, frames: str = "360-399") -> Path:
    """A fixture's model with the metadata of a training."""
    from mlff import ModelFile

    file = ModelFile.read(fixtures / f"{name}.safetensors")
    file.info = {"test_frames": frames, "errors_test": f"force MAE {error} RMSE {1.5 * error} meV/A, "
                                                       f"energy MAE {error / 100} RMSE {error / 50} meV/atom"}
    path = folder / f"{name}.safetensors"
    file.write(path)
    return path


def test_sizes_make_a_table_and_a_plot(library, fixtures, tmp_path, monkeypatch):
    import mlff

    monkeypatch.setenv("PYTHONPATH", str(Path(mlff.__file__).parents[1]))
    models = [trained(tmp_path, fixtures, "gaussian_ev", 14.0), trained(tmp_path, fixtures, "odd_sizes", 40.0)]
    result = script(WATER / "training" / "sizes.py", *models, "-o", tmp_path / "s", "--device", "cpu", "--atoms", "64",
                    "--seconds", "0.1", "--threads", "1", "--remark", "A test.")
    assert result.returncode == 0, result.stderr
    (measurement,) = json.loads((tmp_path / "s.json").read_text())["measurements"]
    rows = measurement["rows"]
    assert [row["model"] for row in rows] == ["odd_sizes.safetensors", "gaussian_ev.safetensors"]
    assert rows[1]["force_mae"] == 14.0 and rows[1]["force_rmse"] == 21.0 and rows[1]["energy_mae"] == 0.14
    assert all(row["atom_steps_per_second"] > 0 and row["device"].startswith("cpu") for row in rows)
    text = (tmp_path / "s.md").read_text()
    assert "| 14.0, 21.0 | 0.14 |" in text and "frames 360-399 of the data." in text and "A test." in text
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def results(path: Path, device: str, speeds: dict[str, float], frames: str = "360-399") -> Path:
    rows = [{"model": f"{size}.safetensors", "size": size, "cutoff": 5.0, "parameters": 1000, "force_mae": 20.0 - k,
             "force_rmse": 30.0 - k, "energy_mae": 0.2, "energy_rmse": 0.3, "frames": frames, "bytes_an_atom": 3e4,
             "device": device, "precision": "single", "atoms": 12288, "neighbours": 54.0,
             "atom_steps_per_second": speed}
            for k, (size, speed) in enumerate(speeds.items())]
    path.write_text(json.dumps({"measurements": [{"machine": "m", "remark": f"{device} there.", "rows": rows}]}))
    return path


def test_results_of_several_machines_stand_side_by_side(tmp_path):
    files = [results(tmp_path / "a.json", "one", {"64x2": 4e6, "96x3": 2e6}),
             results(tmp_path / "b.json", "two", {"64x2": 900.0, "96x3": 300.0})]
    result = script(WATER / "training" / "sizes.py", "--results", *files, "-o", tmp_path / "s")
    assert result.returncode == 0, result.stderr
    assert "| 96x3, 5 A | 1,000 | 19.0, 29.0 | 0.20 | 30.0 | 2,000,000 (2.0) | 300 (3.0) |" in result.stdout
    assert "one there." in result.stdout and "two, single, 12,288 atoms: 54 neighbours. two there." in result.stdout
    assert len(json.loads((tmp_path / "s.json").read_text())["measurements"]) == 2
    files.append(results(tmp_path / "c.json", "three", {"64x2": 1.0}, "0-9"))
    result = script(WATER / "training" / "sizes.py", "--results", *files, "-o", tmp_path / "s")
    assert result.returncode == 1 and "errors on different frames (0-9; 360-399)" in result.stderr
    (tmp_path / "c.json").write_text("{}")
    result = script(WATER / "training" / "sizes.py", "--results", tmp_path / "c.json", "-o", tmp_path / "s")
    assert result.returncode == 1 and "c.json: expected a JSON file that sizes.py wrote" in result.stderr


def test_models_with_other_held_out_frames_are_not_compared(fixtures, tmp_path, monkeypatch):
    import mlff

    monkeypatch.setenv("PYTHONPATH", str(Path(mlff.__file__).parents[1]))
    models = [trained(tmp_path, fixtures, "gaussian_ev", 14.0), trained(tmp_path, fixtures, "odd_sizes", 40.0, "0-39")]
    result = script(WATER / "training" / "sizes.py", *models, "-o", tmp_path / "s")
    assert result.returncode == 1 and "held against different frames (0-39; 360-399)" in result.stderr
    result = script(WATER / "training" / "sizes.py", fixtures / "gaussian_ev.safetensors", "-o", tmp_path / "s")
    assert result.returncode == 1 and "metadata without errors_test" in result.stderr


# ------------------------------------------------------------------------------------------- distil.py

def test_a_committee_gives_the_mean_of_its_models(library, fixtures):
    distil = module(WATER / "training" / "distil.py")
    atoms = Atoms("HCO", positions=[[0.0, 0.0, 0.0], [1.1, 0.1, 0.0], [1.6, 1.2, 0.3]])
    models = [str(fixtures / f"{name}.safetensors") for name in ("gaussian_ev", "gaussian_kcal")]
    options = {"device": "cpu", "threads": 1}
    each = [distil.Calculator(m, **options) for m in models]
    mean = distil.committee(models, **options)
    for quantity in ("get_potential_energy", "get_forces"):
        expected = np.mean([getattr(c, quantity)(atoms) for c in each], axis=0)
        np.testing.assert_allclose(getattr(mean, quantity)(atoms), expected, rtol=1e-12)


def test_a_students_frames_keep_test_and_validation_apart(library, fixtures, tmp_path):
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    rng, images = np.random.default_rng(0), []
    for k in range(10):
        positions = [[0.0, 0.0, 0.0], [1.1, 0.1, 0.0], [1.6, 1.2, 0.3]] + rng.normal(0.0, 0.02, (3, 3))
        atoms = Atoms("HCO", positions=positions)
        atoms.calc = SinglePointCalculator(atoms, energy=float(k), forces=np.full((3, 3), 0.5))
        images.append(atoms)
    write(tmp_path / "data.extxyz", images, format="extxyz")
    distil = module(WATER / "training" / "distil.py")

    def call(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["distil.py", *map(str, arguments)])
            return distil.main()

    common = ["--test-last", 4, "--validation", 0.34, "--seed", 5]
    assert call("split", tmp_path / "data.extxyz", "-o", tmp_path / "split.extxyz", *common) == 0
    teachers = read(tmp_path / "split.extxyz", ":")
    assert [a.get_potential_energy() for a in teachers] == list(range(10))  # in the order of the file
    assert call("sample", tmp_path / "data.extxyz", fixtures / "gaussian_ev.safetensors", "-o", tmp_path / "new.extxyz",
                "--steps", 4, "--every", 2, "--timestep", 0.01, "--kelvin", 10, 20, "--device", "cpu", *common) == 0
    new = read(tmp_path / "new.extxyz", ":")
    assert len(new) == 8 and all(a.calc is None and a.info["split"] == "train" for a in new)  # of 4 training frames
    for atoms in new:
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((3, 3)))
    write(tmp_path / "labelled.extxyz", new, format="extxyz")
    assert call("join", tmp_path / "data.extxyz", tmp_path / "labelled.extxyz", "-o", tmp_path / "all.extxyz",
                "--repeat", 2, *common) == 0
    out = read(tmp_path / "all.extxyz", ":")
    energies = {name: sorted(a.get_potential_energy() for a in out if a.info["split"] == name)
                for name in ("train", "validation", "test")}
    assert energies["test"] == [6.0, 7.0, 8.0, 9.0] and len(energies["validation"]) == 2
    for name in ("validation", "test"):  # the same frames for teachers and students
        assert energies[name] == [a.get_potential_energy() for a in teachers if a.info["split"] == name]
    own = [e for e in energies["train"] if e >= 0.0]
    assert len(own) == 8 and set(own) | set(energies["validation"]) == set(map(float, range(6)))
    assert energies["train"][:8] == [-1.0] * 8 and {a.info["start"] for a in new} == {int(e) for e in own}
    with pytest.raises(SystemExit, match="are no training frames, expected the same --test-last"):
        call("join", tmp_path / "data.extxyz", tmp_path / "labelled.extxyz", "-o", tmp_path / "x.extxyz", "--test-last",
             9)
