"""Strong scaling of a model in LAMMPS on MPI ranks: seconds a step by part, memory, and bytes sent.

    mpirun -n 2 python benchmarks/lammps_ranks.py water-mace --repeat 2
    mpirun -n 2 python benchmarks/lammps_ranks.py water-mace --repeat 2 --wall

Processor time of the rank that takes most, which a busy machine changes little; with `--wall` as many steps more by the
wall, with the load of the machine. The halo is the exchange of ghosts, without which the other parts are counted.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ase import io

from les_plugins import api
from les_plugins.engines.lammps import create_atoms, new_lammps
from les_plugins.engines.ranks.engine import Evaluator, attach_ranks
from les_plugins.engines.ranks.meeting import Meeting, meet, part
from les_plugins.hosting import registry
from les_plugins.storage import zoo


def main() -> None:
    """One row of the table, by rank 0."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--repeat", type=int, nargs="+", default=[2], help="of 64 water molecules, along each axis")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--method", default="direct")
    parser.add_argument("--wall", action="store_true", help="wall time too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lmp = new_lammps()
    meeting = meet(lmp)
    model, config = api.load_model(options.model)
    host = registry.host(config["host"])
    model.eval().requires_grad_(False)
    domains = host.domain_model(model, config)
    domains.long_range.electrostatics.change_settings(method=options.method)
    evaluator = Evaluator(domains, meeting)
    atoms = io.read(zoo.structure("water-64")).repeat(
        options.repeat if len(options.repeat) == 3 else options.repeat * 3
    )
    create_atoms(lmp, atoms, ["H", "O"])
    lmp.commands_list([f"pair_style zero {domains.cutoff}", "pair_coeff * *", "velocity all create 300 1"])
    attach_ranks(lmp, evaluator, ["H", "O"])
    lmp.commands_list(["timestep 0.0005", "fix 1 all nve", "run 1"])  # the first steps compile what they need
    if meeting.rank == 0:
        print(f"{len(atoms)} atoms, {meeting.size} ranks, {options.method}")
    clocks: list[tuple[str, Callable[[], float]]] = [("processor", time.thread_time), ("wall", time.perf_counter)]
    for name, clock in clocks[: 1 + int(options.wall)]:
        evaluator.count_by(clock)
        row = measured(lmp, evaluator, meeting, options.steps)
        if meeting.rank == 0:
            print(f"{name}: {row}")
    part(meeting, lmp)


def measured(lmp: Any, evaluator: Evaluator, meeting: Meeting, steps: int) -> str:
    """Of some steps, a step: the largest of all ranks."""
    halo: Any = evaluator.domains.halo
    before = halo.bytes, meeting.ranks.bytes
    lmp.command(f"run {steps}")
    halo, seconds = evaluator.domains.halo, evaluator.seconds
    parts = {field.name: getattr(seconds, field.name) / seconds.steps for field in fields(seconds)[1:]}
    sent = [(halo.bytes - before[0]) / seconds.steps, (meeting.ranks.bytes - before[1]) / seconds.steps]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    every: list[Any] = [None] * meeting.size
    own = [*parts.values(), sum(parts.values()), *sent, lmp.extract_global("nlocal"), memory]
    dist.all_gather_object(every, own)
    largest = np.max(every, 0)
    count = len(parts) + 1
    split = ", ".join(f"{name} {value:.3f} s" for name, value in zip([*parts, "sum"], largest[:count], strict=True))
    ghosts, sums, most, peak = largest[count:]
    return (
        f"{split}; load {os.getloadavg()[0]:.1f}\n"
        f"  bytes: ghosts {ghosts:.0f}, sums {sums:.0f}; most atoms {int(most)}; peak memory {peak:.1f} GiB"
    )


if __name__ == "__main__":
    main()
