# SPDX-License-Identifier: MIT
"""What the two commands of the README say to wrong options, and how tests/totals.py counts."""
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*command) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments, said", [
    (["unobtainium"], "no example 'unobtainium'; there are: "),
    (["silicon", "--steps", "0"], "--steps '0': expected a whole number above 0"),
    (["silicon", "--ranks"], "--ranks '': expected a whole number above 0"),
    (["compare-silicon", "--precision", "mixed"], "--precision mixed is not for compare-silicon; it takes double"),
    (["silicon", "--precision", "half"], "--precision 'half': expected double, single or mixed"),
    (["water", "--neigh", "somewhere"], "--neigh 'somewhere': expected host or device"),
    (["silicon", "--model", "/nowhere.safetensors"], "--model '/nowhere.safetensors': no such file"),
    (["compare-silicon", "--replicate", "2"], "compare-silicon runs LAMMPS many times and sets steps, replicate"),
    (["water", "--replicate", "many"], "--replicate 'many': expected a whole number above 0"),
    (["silicon", "--quick"], "--data and --quick are not for silicon"),
    (["compare-silicon", "--data", "/nowhere.extxyz"], "--data '/nowhere.extxyz': no such file"),
    (["compare-silicon", "--ranks", "2"], "compare-silicon runs LAMMPS many times"),
    (["silicon", "copper"], "two examples named"),
    (["--frobnicate"], "unknown option '--frobnicate'"),
])
def test_example_options_that_are_wrong_are_refused_before_any_set_up(arguments, said):
    result = run(ROOT / "examples" / "run.sh", *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("examples/run.sh: ") and said in result.stderr
    assert result.stdout == ""


def test_without_an_example_the_usage_is_shown():
    result = run(ROOT / "examples" / "run.sh")
    assert result.returncode == 2 and "usage:" in result.stderr and "silicon" in result.stderr


@pytest.mark.parametrize("arguments, said", [
    (["--only", "fortran"], "--only fortran: expected some of c,python,lammps"),
    (["--sanitize", "everything"], "--sanitize everything: expected address or undefined"),
    (["--frobnicate"], "unknown option '--frobnicate'"),
])
def test_test_options_that_are_wrong_are_refused_before_any_set_up(arguments, said):
    result = run(ROOT / "tests" / "run.sh", *arguments)
    assert result.returncode == 1 and result.stderr.startswith("tests/run.sh: ") and said in result.stderr


CMOCKA = """[==========] Running 4 test(s).
[ RUN      ] adds
[       OK ] adds
[ RUN      ] skips
MLFF_TEST_DATA is not set
[  SKIPPED ] skips
[ RUN      ] fails
[  ERROR   ] --- 0x1 != 0x2
[  FAILED  ] fails
{last}
[==========] 4 test(s) run.
[  FAILED  ] 1 test(s), listed below:
[  FAILED  ] fails
"""


def totals(folder: pathlib.Path, status: int, xml: str | None) -> subprocess.CompletedProcess:
    (folder / "part.status").write_text(f"{status}\n")
    if xml is not None:
        (folder / "part.xml").write_text(f"<testsuites><testsuite>{xml}</testsuite></testsuites>")
    return run(sys.executable, ROOT / "tests" / "totals.py", folder)


def cmocka_case(last: str) -> str:
    return f'<testcase name="p"><failure/><system-out>{CMOCKA.format(last=last)}</system-out></testcase>'


def test_the_tests_of_a_cmocka_program_are_counted(tmp_path):
    result = totals(tmp_path, 8, cmocka_case("[ RUN      ] last\n[       OK ] last"))
    assert result.stdout.splitlines()[-1] == "2 passed, 1 failed, 1 skipped"
    assert "p.skips: MLFF_TEST_DATA is not set" in result.stdout
    assert "p.fails: [  ERROR   ] --- 0x1 != 0x2" in result.stdout
    assert result.returncode == 1


def test_a_test_inside_which_the_program_ended_has_failed(tmp_path):
    result = totals(tmp_path, 8, cmocka_case("[ RUN      ] last"))
    assert result.stdout.splitlines()[-1] == "1 passed, 2 failed, 1 skipped"


def test_pytest_cases_are_counted(tmp_path):
    xml = ('<testcase classname="m" name="a"/><testcase classname="m" name="b"><skipped message="no torch"/></testcase>'
           '<testcase classname="m" name="c"><failure message="1 == 2"/></testcase>')
    result = totals(tmp_path, 1, xml)
    assert result.stdout.splitlines()[-1] == "1 passed, 1 failed, 1 skipped"
    assert "m.b: no torch" in result.stdout and "m.c: 1 == 2" in result.stdout


def test_a_file_that_is_skipped_as_a_whole_says_why(tmp_path):
    xml = ('<testcase classname="m" name="a"/><testcase classname="" name="m.f"><skipped message="collection skipped">'
           '(\'/f.py\', 7, "Skipped: no torch (pip install \'.[train]\')")</skipped></testcase>')
    result = totals(tmp_path, 0, xml)
    assert "m.f: no torch (pip install '.[train]')\n" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 passed, 0 failed, 1 skipped"


def test_all_passed_is_success(tmp_path):
    result = totals(tmp_path, 0, '<testcase classname="m" name="a"/>')
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "1 passed, 0 failed, 0 skipped")


@pytest.mark.parametrize("status, xml", [(0, None), (5, ""), (139, '<testcase classname="m" name="a"/>')])
def test_a_part_without_report_or_tests_or_with_a_bad_exit_status_has_failed(tmp_path, status, xml):
    result = totals(tmp_path, status, xml)
    assert result.returncode == 1 and ", 1 failed, " in result.stdout


def test_nothing_at_all_is_no_success(tmp_path):
    result = totals(tmp_path, 0, "")
    assert result.returncode == 1 and result.stdout.splitlines()[-1] == "0 passed, 0 failed, 0 skipped"
