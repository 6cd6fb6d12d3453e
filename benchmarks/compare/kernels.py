# SPDX-License-Identifier: MIT
"""What the GPU itself was busy with in a step: PyTorch's profiler sees the kernels of every library in the process.

Profiled after everything else is timed: from then on launches cost a little more.
"""

from __future__ import annotations

import re

import torch

from candidates import Refused
from systems import Problem

STEPS = 5


def short(name: str) -> str:
    """A kernel's name without its namespace, parameters and spaces: message_kernel<float,21>."""
    name = re.sub(r"^void ", "", name.replace("mlff::", "").replace("(anonymous namespace)::", ""))
    return name.split("(", 1)[0].replace(" ", "")


def profile(candidate, problem: Problem) -> dict:
    """Kernels and copies of a step, seconds and how many; those of the same name together, longest first."""
    row = {"candidate": candidate.name, "atoms": problem.atoms, "outcome": "measured"}
    try:
        candidate.open(problem)
        for _ in range(3):
            candidate.step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as seen:
            for _ in range(STEPS):
                candidate.step()
    except Refused as refusal:
        return row | {"outcome": str(refusal)}
    finally:
        candidate.close()
    events = [e for e in seen.key_averages() if e.self_device_time_total > 0]
    parts: dict[str, list[float]] = {}
    for event in events:
        part = parts.setdefault(short(event.key), [0.0, 0.0])
        part[0] += 1e-6 * event.self_device_time_total / STEPS
        part[1] += event.count / STEPS
    longest = sorted(parts.items(), key=lambda item: -item[1][0])
    if not longest:
        return row | {"outcome": "the profiler saw no kernels"}
    return row | {
        "gpu_s": sum(p[0] for p in parts.values()),
        "launches": sum(p[1] for p in parts.values()),
        "kernels": [{"name": name, "s": s, "launches": n} for name, (s, n) in longest],
    }
