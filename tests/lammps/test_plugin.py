# SPDX-License-Identifier: MIT
"""Loading, loading again, unloading; a plugin for another LAMMPS refuses. (FAULTS 21, 48)"""
import pathlib
import shutil
import subprocess

import pytest
from conftest import ROOT

import systems


def script(data: str, model: str, style: str = "mlff") -> str:
    return systems.setup(data, model, style=style) + systems.OUTPUT + "run 0\n"


def test_a_second_load_is_ignored(lammps, installation, crystal, model):
    again = f"plugin load {installation.plugin}\n"
    run = lammps(again + script(crystal, model) + again + "run 0\n" + again)
    assert len(run.thermo()["PotEng"]) == 2


def test_a_second_copy_of_the_plugin_is_harmless(lammps, installation, crystal, model, tmp_path):
    copy = shutil.copy(installation.plugin, tmp_path / "mlffplugin.so")
    run = lammps(f"plugin load {copy}\n" + script(crystal, model) + f"plugin load {copy}\nrun 0\n")
    assert len(run.thermo()["PotEng"]) == 2


@pytest.mark.parametrize("style", ["mlff threads 4", "hybrid/overlay mlff threads 4 zero 5.0"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_unload_in_use_and_load_again(lammps, installation, crystal, model, style, ranks):
    """While the threads of the library still wait for work."""
    text = script(crystal, model, style)
    if style.startswith("hybrid"):
        text = text.replace("* * ", "* * mlff ").replace("pair_coeff", "pair_coeff * * zero\npair_coeff")
    unload = f"plugin unload pair mlff\nplugin load {installation.plugin}\nclear\n"
    run = lammps(text + unload + text + unload + text + "plugin unload pair mlff\nplugin clear\n", ranks=ranks)
    energies = run.thermo()["PotEng"]
    assert len(energies) == 3 and (energies == energies[0]).all()


def test_after_unload_the_style_is_unknown(lammps, crystal, model):
    text = script(crystal, model)
    lammps.fails(text + "plugin unload pair mlff\nclear\n" + text, "pair style", "mlff")


def test_the_plugin_path_loads_it(lammps, installation, crystal, model):
    folder = str(pathlib.Path(installation.plugin).parent)
    for ranks in (1, 2):
        run = lammps(script(crystal, model), load=False, ranks=ranks, environment={"LAMMPS_PLUGIN_PATH": folder})
        assert len(run.thermo()["PotEng"]) == 1


def test_only_the_entry_point_is_visible(installation):
    """Two plugins, or the plugin and libmlff in one Python, must not take each other's functions."""
    nm = shutil.which("nm")
    if not nm:
        pytest.skip("no nm")
    symbols = subprocess.run([nm, "-D", "--defined-only", installation.plugin], capture_output=True, text=True,
                             check=True).stdout.split("\n")
    names = {line.split()[-1] for line in symbols if line}
    assert names == {"lammpsplugin_init"}


# ------------------------------------------------------------------------------------------- another LAMMPS


@pytest.fixture(scope="module")
def foreign_plugins(installation, compiler, tmp_path_factory):
    """Entry points of plugins that were built for another version, other integers or another MPI. Behind them is a
    style that ends the program, because it must never be reached."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "style.cpp").write_text("#include <cstdlib>\nvoid *make_pair_mlff(void *) { std::abort(); }\n")
    other_mpi = "MPICH_VERSION" if "Open MPI" in installation.help else "OPEN_MPI"
    (folder / "mpi").mkdir()
    (folder / "mpi" / "mpi.h").write_text(f"#define {other_mpi} 1\n")
    version = installation.version_number()
    plugins = {"version": (20200101, "LAMMPS_SMALLBIG", []), "sizes": (version, "LAMMPS_BIGBIG", []),
               "mpi": (version, "LAMMPS_SMALLBIG", [f"-I{folder / 'mpi'}"])}
    for name, (number, sizes, include) in plugins.items():
        subprocess.run([compiler, "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", f"-D{sizes}", *include,
                        *[f"-I{path}" for path in (*installation.include, ROOT / "core" / "include")],
                        f"-DMLFF_LAMMPS_VERSION_NUMBER={number}", '-DMLFF_LAMMPS_VERSION="another day"',
                        "-DOMPI_SKIP_MPICXX", "-DMPICH_SKIP_MPICXX", str(ROOT / "pair_mlff" / "plugin.cpp"),
                        str(folder / "style.cpp"), "-o", str(folder / f"foreign_{name}.so"), "-ldl"], check=True)
    return folder


@pytest.mark.parametrize("name,parts", [
    ("version", ("built for LAMMPS another day", "is version", "expected 20200101")),
    ("sizes", ("the tagint of this LAMMPS has 4 bytes, expected 8",)),
    ("mpi", ("this LAMMPS runs with", "expected ")),
])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_plugin_for_another_lammps_refuses(lammps, foreign_plugins, crystal, model, name, parts, ranks):
    plugin = foreign_plugins / f"foreign_{name}.so"
    run = lammps(f"plugin load {plugin}\n" + script(crystal, model), load=False, ranks=ranks, status=1)
    lines = [line for line in run.screen.splitlines() if "pair style mlff is not available" in line]
    assert len(lines) == 1 and lines[0].startswith("WARNING")
    for part in parts:
        assert part in lines[0]
    assert lines[0] in (run.folder / "log.lammps").read_text()
    assert [line for line in run.screen.splitlines() if line.startswith("ERROR") and "mlff" in line]


def test_a_foreign_plugin_in_the_plugin_path_spoils_nothing_else(lammps, foreign_plugins, tmp_path, crystal):
    shutil.copy(foreign_plugins / "foreign_version.so", tmp_path / "mlffplugin.so")
    text = f"units metal\nread_data {crystal}\nmass * 1.0\npair_style zero 3.0\npair_coeff * *\nrun 0\n"
    run = lammps(text, load=False, environment={"LAMMPS_PLUGIN_PATH": str(tmp_path)})
    assert "pair style mlff is not available" in run.screen
