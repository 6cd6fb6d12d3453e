# SPDX-License-Identifier: MIT
"""What examples/compare-silicon holds its numbers against is in the data set that it names."""

import sys
from pathlib import Path

import numpy as np
import pytest
from ase import units

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def example():
    """measure.py and report.py of the example."""
    sys.path.insert(0, str(ROOT / "examples" / "compare-silicon"))
    try:
        import measure
        import report
    finally:
        sys.path.pop(0)
    return measure, report


@pytest.fixture(scope="module")
def silicon_set(test_data):
    """Path of the data set that the example names."""
    path = test_data / "datasets" / "mlearn_Si_PBE.extxyz.xz"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    return str(path)


@pytest.fixture(scope="module")
def strained(example, silicon_set):
    """The set's strained crystals: the strain (angle or stretch) and stress [6] (GPa) of each by (mode, sign)."""
    frames = [frame for frame in example[0].all_frames(silicon_set) if frame.info["group"] == "Elastic"]
    (ground,) = [frame for frame in frames if frame.info["description"] == "Ground state crystal"]
    found = {}
    for mode in range(6):
        for sign in "", "-":
            (frame,) = [f for f in frames if f.info["description"] == f"Si 2x2x2 cell, mode {mode}, strain {sign}0.02"]
            # without the rotation: sqrt(F F^T) of F, the cell relative to the ground state's
            F = np.linalg.solve(ground.cell.array, frame.cell.array)
            values, vectors = np.linalg.eigh(F @ F.T)
            strain = vectors @ np.diag(np.sqrt(values)) @ vectors.T - np.eye(3)
            found[mode, sign] = strain, frame.get_stress(voigt=False) / units.GPa
    return ground, found


def test_reference_values_are_those_of_the_set(example, strained):
    _, report = example
    ground, found = strained
    assert ground.cell.cellpar()[0] / 2 == pytest.approx(report.DFT["lattice_constant"], abs=5e-4)

    def slope(mode, stress, strain):
        (e1, s1), (e2, s2) = found[mode, ""], found[mode, "-"]
        return (s1[stress] - s2[stress]) / (e1[strain] - e2[strain])

    for mode in range(3):
        other = (mode + 1) % 3
        assert slope(mode, (mode, mode), (mode, mode)) == pytest.approx(report.DFT["C11"], abs=0.5)
        assert slope(mode, (other, other), (mode, mode)) == pytest.approx(report.DFT["C12"], abs=0.5)
    for mode, plane in (3, (0, 1)), (4, (0, 2)), (5, (1, 2)):
        assert abs(slope(mode, plane, plane)) / 2 == pytest.approx(report.DFT["C44_clamped"], abs=0.7)
    assert report.DFT["bulk_modulus"] == pytest.approx((report.DFT["C11"] + 2 * report.DFT["C12"]) / 3, abs=0.1)


def test_held_out_frames_are_sorted_by_kind(example, silicon_set):
    measure, _ = example
    frames = measure.held_out_frames(silicon_set, None)
    kinds = [measure.kind(frame) for frame in frames]
    assert len(frames) == 25 and kinds.count("crystal's dynamics below melting") == 6
    assert kinds.count("crystal's dynamics above melting") == 4 and kinds.count("strained crystal") == 6
    assert [len(measure.held_out_frames(silicon_set, n)) for n in (1, 2, 25, 40)] == [1, 2, 25, 25]


def test_a_known_error_of_the_forces_is_found(example, silicon_set):
    measure, report = example
    frames = measure.held_out_frames(silicon_set, 3)
    errors = measure.force_errors(frames, [frame.get_forces() + 0.005 for frame in frames])
    assert errors["all"]["mae"] == pytest.approx(5.0) and errors["all"]["rmse"] == pytest.approx(5.0)
    assert report.rounded(errors["all"]["mae"]) == "5.0" and report.rounded(123.4) == "123"
