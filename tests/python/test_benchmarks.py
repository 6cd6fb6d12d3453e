# SPDX-License-Identifier: MIT
"""benchmarks/compare: it runs, agrees with itself and writes what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[train]')")

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "compare"
SIZES = {9: 1, 27: 1}  # ethanol; a periodic box shorter than the cutoff's diameter


@pytest.fixture(scope="module")
def folder(library, tmp_path_factory):
    output = tmp_path_factory.mktemp("compare")
    command = [
        sys.executable,
        str(PROGRAM),
        "--device",
        "cpu",
        "--sections",
        "sizes,batches",
        "--sizes",
        ",".join(map(str, SIZES)),
        "--batches",
        "2",
        "--seconds",
        "0.01",
        "--threads",
        "1",
        "--no-compile",
        "--output",
        str(output),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MLFF_LIBRARY": str(library)})
    assert done.returncode == 0, done.stdout + done.stderr
    return output


def test_every_candidate_of_the_cpu_is_measured_and_mixed_says_why_not(folder):
    results = json.loads((folder / "compare.json").read_text())
    assert results["machine"]["device"] == "cpu" and results["machine"]["date"]
    rows = results["sizes"]
    assert {row["atoms"] for row in rows} == set(SIZES)
    for row in rows:
        if row["candidate"].startswith("mlff mixed"):
            assert "precision mixed" in row["outcome"]
        else:
            assert row["outcome"] == "measured", row
            assert 0 < row["min_s"] <= row["median_s"] and row["samples"] >= 3 and len(row["first_s"]) == 3


def test_the_library_finds_the_neighbours_that_the_lists_name(folder):
    """Forces with our lists, with the library's own search and of PyTorch on our edges."""
    results = json.loads((folder / "compare.json").read_text())
    errors = {(row["candidate"], row["atoms"]): row["force_error"] for row in results["sizes"] if "force_error" in row}
    for atoms in SIZES:
        assert errors["mlff double", atoms] < 1e-9
        assert errors["mlff double, finds neighbours", atoms] < 1e-9
        assert 0 < errors["PyTorch eager", atoms] < 1e-4


def test_batch_is_two_structures(folder):
    results = json.loads((folder / "compare.json").read_text())
    measured = [row for row in results["batches"] if row["outcome"] == "measured"]
    assert measured and all(row["structures"] == 2 and row["atoms"] == 18 for row in measured)
    assert all(row["force_error"] < 1e-4 and row["virial_error"] < 1e-4 for row in measured)


def test_table_and_pictures_are_written(folder):
    table = (folder / "compare.md").read_text()
    assert "| mlff double |" in table and "9 (ethanol)" in table
    for name in ("speed", "batches"):
        assert (folder / f"{name}.png").stat().st_size > 5000
    assert not (folder / "layers.png").exists()


def test_kept_sections_say_which_run_measured_them(folder, library, tmp_path):
    before = json.loads((folder / "compare.json").read_text())
    before["machine"] |= {"date": "2020-02-02", "commit": "0123456789abcdef"}
    (tmp_path / "compare.json").write_text(json.dumps(before))
    options = "--keep --device cpu --sections batches --batches 2 --seconds 0.01 --threads 1 --no-compile --output"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *options.split(), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "MLFF_LIBRARY": str(library)},
    )
    assert done.returncode == 0, done.stderr
    now = json.loads((tmp_path / "compare.json").read_text())
    assert now["sizes"] == before["sizes"] and list(now["earlier"]) == ["sizes"]
    assert "* sizes: of an earlier run, 2020-02-02, commit 0123456789ab" in (tmp_path / "compare.md").read_text()
