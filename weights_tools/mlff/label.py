# SPDX-License-Identifier: MIT
"""mlff-label: energies, forces and stress of structures from any calculator of ASE, as training data."""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Callable, Iterable, Iterator

from . import label_calculators
from .cli import run_safely
from .commands import options
from .errors import MlffError, require
from .files import file_hash
from .label_output import Output

_DESCRIPTION = """Computes energy (eV), forces (eV/angstrom) and, of structures that are periodic in all directions,
stress (eV/angstrom^3, ASE's sign) of every frame of a file, and writes them as extended XYZ that mlff-train reads.
A frame that fails is reported and left out. The info of each frame gets label_calculator, label_source (the file)
and label_frame (its number there, from 0)."""
_EPILOG = """NAME is tblite (GFN2-xTB unless method= says otherwise), a model file (.safetensors), package.module:Name
of a class or function that gives a calculator of ASE, or a name of ASE's own (emt, orca, ...). KEY=VALUE go to the
calculator.

  mlff-label geometries.extxyz --calculator tblite method=GFN2-xTB -o labelled.extxyz
  mlff-label cells.extxyz --calculator big.safetensors device=cuda -o labelled.extxyz
  mlff-label cells.extxyz --calculator mace.calculators:mace_mp model=medium -o labelled.extxyz

Interrupted at any moment, the same command with --resume goes on. Exit codes: 0 some frame is labelled, 1 none is
or an input is bad, 2 wrong usage, 130 interrupted."""

# labels that a frame may have brought along: they would contradict the new ones
_LABELS = ("energy", "free_energy", "energies", "forces", "stress", "stresses", "virial", "virials", "dipole",
           "charges", "magmom", "magmoms")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlff-label", description=_DESCRIPTION, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", metavar="FRAMES", help="extended XYZ, or what else ASE reads; .xz, .gz, .bz2 too")
    parser.add_argument("-c", "--calculator", required=True, nargs="+", metavar=("NAME", "KEY=VALUE"),
                        help="what computes the labels, and its options")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT",
                        help="extended XYZ to write (.xz, .gz, .bz2 compress); never overwritten")
    parser.add_argument("--largest-force", type=options.number("a number above 0", lambda x: x > 0.0),
                        default=math.inf, metavar="F",
                        help="leave out frames with a longer force, eV/angstrom; default: none")
    parser.add_argument("--no-stress", action="store_true", help="leave stress out, which costs some calculators time")
    parser.add_argument("--processes", type=options.positive_integer, default=1, metavar="N",
                        help="frames computed at once, in processes of one thread each; default: 1, with all threads "
                        "that the calculator takes")
    parser.add_argument("--resume", action="store_true", help="go on from where an interrupted run was")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


# --------------------------------------------------------------------------------------------------------- one frame


def labelled(atoms, calculator, stress: bool = True, largest_force: float = math.inf):
    """A copy of `atoms` with the calculator's energy (eV), forces [n][3] (eV/angstrom) and, where it is wanted, known
    and the structure periodic in all directions, stress [6] (eV/angstrom^3, Voigt). Labels it had before are gone.

    The energy is the one whose gradient the forces are (ASE's free_energy, where a calculator has it). Constraints do
    not change the forces. Raises MlffError where a number is not finite or a force longer than largest_force.
    """
    import numpy as np
    from ase.calculators.calculator import PropertyNotImplementedError
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = atoms.copy()
    for name in _LABELS:
        atoms.info.pop(name, None)
        atoms.arrays.pop(name, None)
    atoms.calc = calculator
    labels = {"forces": np.array(atoms.get_forces(apply_constraint=False))}
    try:
        labels["energy"] = float(atoms.get_potential_energy(force_consistent=True))
    except PropertyNotImplementedError:
        labels["energy"] = float(atoms.get_potential_energy())
    if stress and atoms.pbc.all():
        try:
            labels["stress"] = np.array(atoms.get_stress(apply_constraint=False))
        except PropertyNotImplementedError:
            pass  # trained without
    for name, values in labels.items():
        if not np.isfinite(values).all():
            raise MlffError(f"{name}: not a finite number")
    longest = float(np.linalg.norm(labels["forces"], axis=1).max(initial=0.0))
    if longest > largest_force:
        raise MlffError(f"a force of {longest:.3g} eV/angstrom, expected at most {largest_force:.3g}")
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


class Labeller:
    """What is done to each frame, in this process or in a worker: (number, atoms) -> (number, text or None, error)."""

    def __init__(self, recipe: label_calculators.Recipe, source: str, stress: bool, largest_force: float):
        self.recipe, self.stress, self.largest_force = recipe, stress, largest_force
        self.marks = {"label_calculator": label_calculators.describe(recipe), "label_source": source}
        self.calculator = None

    def prepare(self) -> None:
        """Makes the calculator."""
        self.calculator = label_calculators.make(self.recipe)

    def __call__(self, frame: tuple) -> tuple[int, str | None, str | None]:
        from ase.io.extxyz import write_xyz

        number, atoms = frame
        try:
            result = labelled(atoms, self.calculator, self.stress, self.largest_force)
        except Exception as error:  # whatever a calculator raises concerns this frame alone
            if callable(getattr(self.calculator, "reset", None)):
                self.calculator.reset()
            kind = "" if isinstance(error, MlffError) else f"{type(error).__name__}: "
            return number, None, kind + " ".join(str(error).split())
        result.info.update(self.marks, label_frame=number)
        text = io.StringIO()
        write_xyz(text, [result])
        return number, text.getvalue(), None


# ---------------------------------------------------------------------------------------------------- many processes

_labeller: Labeller | None = None  # of a worker process


def _start_worker(labeller: Labeller) -> None:
    global _labeller
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends the work in good order
    threading.Thread(target=_end_with_parent, daemon=True).start()
    labeller.prepare()
    _labeller = labeller


def _end_with_parent() -> None:
    """A parent that is killed tells nobody."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(frame: tuple) -> tuple[int, str | None, str | None]:
    return _labeller(frame)


def run_all(labeller: Labeller, frames: Iterable[tuple], processes: int) -> Iterator[tuple]:
    """What the labeller gives for all frames, in their order; MlffError where the calculator cannot be made."""
    labeller.prepare()  # here too: a calculator that cannot be made is told of once
    if processes == 1:
        yield from map(labeller, frames)
        return
    labeller.calculator = None
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # which the workers inherit
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks

    def make_pool(n: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(n, context, _start_worker, (labeller,))

    frames, pool = iter(frames), make_pool(processes)
    waiting: deque = deque()  # [frame, future]
    try:
        while True:
            try:
                for frame in islice(frames, 4 * processes - len(waiting)):  # what waits is in memory
                    waiting.append([frame, None])
                    waiting[-1][1] = pool.submit(_work, frame)
                if not waiting:
                    return
                result = waiting[0][1].result()
            except BrokenProcessPool:
                pool.shutdown()
                yield from _one_by_one([frame for frame, _ in waiting], make_pool)
                waiting.clear()
                pool = make_pool(processes)
                continue
            waiting.popleft()
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_by_one(frames: list[tuple], make_pool: Callable) -> Iterator[tuple]:
    """A worker has ended, nobody knows on which of these frames: each gets a worker of its own."""
    for frame in frames:
        with make_pool(1) as pool:
            try:
                yield pool.submit(_work, frame).result()
            except BrokenProcessPool:
                yield frame[0], None, "the process that computed it ended (out of memory, or a crash of the calculator)"


# ----------------------------------------------------------------------------------------------------------- command


def run(args: argparse.Namespace) -> int:
    require("ase", "mlff-label", "ase")
    # Threads that wait for one another wait asleep: where other programs have the cores, a waiting thread that spins
    # keeps the one that it waits for from running (GFN2-xTB of 21 atoms took 1.4 s a frame instead of 15 ms).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from tqdm import tqdm

    from . import frames

    recipe = label_calculators.parse(args.calculator)
    images = list(frames.read_atoms(args.frames))
    labeller = Labeller(recipe, os.path.basename(args.frames), not args.no_stress, args.largest_force)
    described = {"frames": file_hash(args.frames), "calculator": labeller.marks["label_calculator"],
                 "stress": str(not args.no_stress), "largest force": str(args.largest_force)}
    output = Output(args.output, described, args.resume)
    try:
        todo = [(number, atoms) for number, atoms in enumerate(images) if number not in output.done]
        bar = tqdm(total=len(images), initial=len(images) - len(todo), unit="frame", desc="label", file=sys.stderr,
                   disable=True if args.quiet else None)
        with bar:
            for number, text, error in run_all(labeller, todo, args.processes):
                if error is None:
                    output.add(number, text)
                else:
                    output.fail(number, error)
                    bar.write(f"mlff-label: {args.frames}: frame {number}: {error}", file=sys.stderr)
                bar.set_postfix(failed=len(output.failed), refresh=False)
                bar.update()
    finally:
        output.close()
    n_failed, failed = len(output.failed), output.failed
    n = output.finish()
    if n == 0:
        number = min(failed)
        raise MlffError(f"{args.frames}: none of {n_failed} frames could be labelled; frame {number}: {failed[number]}")
    print(f"{args.output}: {n} frames labelled by {labeller.marks['label_calculator']}, {n_failed} failed")
    return 0


def main(arguments: list[str] | None = None) -> int:
    args = make_parser().parse_args(arguments)
    return run_safely("mlff-label", lambda: run(args), "interrupted; --resume goes on")


if __name__ == "__main__":
    sys.exit(main())
