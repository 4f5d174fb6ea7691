"""Strong scaling of a model in LAMMPS on MPI ranks: seconds a step by part, and bytes sent.

    mpirun -n 2 python benchmarks/lammps_ranks.py water-mace --repeat 2

Wall time and, with `--cpu`, the CPU time of the rank that takes most: that is what a busy machine does not change.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import astuple, fields
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ase import io

from les_plugins import api
from les_plugins.engines.lammps import create_atoms, new_lammps
from les_plugins.engines.ranks.engine import Evaluator, Seconds, attach_ranks
from les_plugins.engines.ranks.meeting import meet, part
from les_plugins.hosting import registry
from les_plugins.storage import zoo


def main() -> None:
    """One row of the table, by rank 0."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--repeat", type=int, default=2, help="of 64 water molecules along each axis")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--method", default="direct")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lmp = new_lammps()
    meeting = meet(lmp)
    model, config = api.load_model(options.model)
    host = registry.host(config["host"])
    model.eval().requires_grad_(False)
    domains = host.domain_model(model, config)
    domains.long_range.electrostatics.change_settings(method=options.method)
    evaluator = Evaluator(domains, meeting, clock=time.thread_time if options.cpu else time.perf_counter)
    atoms = io.read(zoo.structure("water-64")).repeat((options.repeat,) * 3)
    create_atoms(lmp, atoms, ["H", "O"])
    lmp.commands_list([f"pair_style zero {domains.cutoff}", "pair_coeff * *", "velocity all create 300 1"])
    attach_ranks(lmp, evaluator, ["H", "O"])
    lmp.commands_list(["timestep 0.0005", "fix 1 all nve", "run 1"])  # the first steps compile what they need
    evaluator.seconds = Seconds()
    halo: Any = evaluator.domains.halo
    ranks = meeting.ranks
    before = halo.bytes, ranks.bytes, halo.seconds
    lmp.command(f"run {options.steps}")
    halo = evaluator.domains.halo
    steps = evaluator.seconds.steps
    sent = np.array([halo.bytes - before[0], ranks.bytes - before[1], halo.seconds - before[2]]) / steps
    mine = np.array([*(value / steps for value in astuple(evaluator.seconds)[1:]), *sent, lmp.extract_global("nlocal")])
    every: list[Any] = [None] * meeting.size
    dist.all_gather_object(every, mine)
    if meeting.rank == 0:
        largest = np.max(every, 0)
        names = [field.name for field in fields(Seconds)][1:]
        print(f"{len(atoms)} atoms, {meeting.size} ranks, {options.method}, {'CPU' if options.cpu else 'wall'}")
        print(", ".join(f"{name} {value:.3f} s" for name, value in zip(names, largest, strict=False)), end=", ")
        print(f"sum {largest[:4].sum():.3f} s; in exchanges of ghosts {largest[6]:.3f} s wall")
        print(f"bytes a step and rank: ghosts {largest[4]:.0f}, sums {largest[5]:.0f}; most atoms {int(largest[7])}")
    part(meeting, lmp)


if __name__ == "__main__":
    main()
