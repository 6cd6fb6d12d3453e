# SPDX-License-Identifier: MIT
"""Where the tests find the package, the library, the fixtures and other people's checkpoints."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The installed package if there is one; else this checkout's, whose library MLFF_LIBRARY names.
if importlib.util.find_spec("mlff") is None:
    sys.path.insert(0, str(ROOT / "weights_tools"))

# Read when the library is loaded: waiting threads sleep, where else they would take the cores of other tests' programs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import mlff  # noqa: E402
import mlff.cli  # noqa: E402


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Our own small models and references (tests/fixtures/make_fixtures.py)."""
    return ROOT / "tests" / "fixtures"


@pytest.fixture(scope="session")
def library() -> Path:
    """Path of libmlff.so; the test is skipped without it."""
    try:
        return mlff.library_path()
    except mlff.MlffError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Other people's checkpoints and data; not part of the repository."""
    folder = Path(os.environ.get("MLFF_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "checkpoints").is_dir():
        pytest.skip(f"no checkpoints of other programs: {folder} is missing (MLFF_TEST_DATA names another folder)")
    return folder


@pytest.fixture
def run(capfd):
    """Runs a command in this process; gives (exit code, stdout, stderr)."""

    def call(*arguments, program=mlff.cli.main):
        try:
            status = program([str(a) for a in arguments])
        except SystemExit as stop:  # argparse
            status = stop.code
        out, err = capfd.readouterr()
        return status, out, err

    return call
