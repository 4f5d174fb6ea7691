"""Energy of NVE in LAMMPS on MPI ranks: its drift and its scatter, by number of ranks.

    mpirun -n 1 python benchmarks/lammps_drift.py water-mace
    mpirun -n 2 python benchmarks/lammps_drift.py water-mace

The packaged 64 water molecules repeated along the first axis, 0.5 fs, from velocities of 300 K; the drift is the slope
of a straight line through the total energy after the first fifth of the run, the scatter what is left of it.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from ase import io

from les_plugins import api
from les_plugins.engines.lammps import create_atoms, new_lammps
from les_plugins.engines.ranks.engine import Evaluator, attach_ranks
from les_plugins.engines.ranks.failures import ending_all
from les_plugins.engines.ranks.meeting import meet, part
from les_plugins.hosting import registry
from les_plugins.storage import zoo


def main() -> None:
    """A line of the table, by rank 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--repeat", type=int, nargs=3, default=[2, 1, 1], help="of 64 water molecules")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lmp = new_lammps()
    meeting = meet(lmp)
    with ending_all(meeting.store, meeting.rank):
        model, config = api.load_model(options.model)
        model = model.to(getattr(torch, options.dtype)).eval().requires_grad_(False)
        domains = registry.host(config["host"]).domain_model(model, config)
        atoms = io.read(zoo.structure("water-64")).repeat(options.repeat)
        create_atoms(lmp, atoms, ["H", "O"])
        lmp.commands_list([f"pair_style zero {domains.cutoff}", "pair_coeff * *", "velocity all create 300 1 loop all"])
        attach_ranks(lmp, Evaluator(domains, meeting), ["H", "O"])
        lmp.commands_list(["timestep 0.0005", "fix 1 all nve", "thermo_style custom step pe ke etotal temp"])
        lmp.commands_list(["thermo_modify norm no", "run 0"])
        totals, temperatures = [], []
        for done in range(0, options.steps + 1, options.every):
            if done:
                lmp.command(f"run {options.every} pre no post no")
            totals.append(lmp.get_thermo("etotal"))
            temperatures.append(lmp.get_thermo("temp"))
            if meeting.rank == 0 and done % 50 == 0:
                print(f"step {done}: {totals[-1]:.5f} eV, {temperatures[-1]:.1f} K", flush=True)
        if meeting.rank == 0:
            report(np.array(totals), options, len(atoms), meeting.size)
    part(meeting, lmp)


def report(totals: Any, options: argparse.Namespace, count: int, size: int) -> None:
    """Slope and scatter, per atom."""
    times = 0.5e-3 * options.every * np.arange(len(totals))  # ps
    late = slice(len(totals) // 5, None)
    per_atom = 1e3 * (totals - totals[0]) / count
    slope, start = np.polyfit(times[late], per_atom[late], 1)
    scatter = np.std(per_atom[late] - start - slope * times[late])
    print(
        f"{count} atoms, {size} ranks, {options.dtype}, {options.steps} steps: drift {slope:.4f} meV/atom/ps, "
        f"scatter {scatter:.4f} meV/atom, first and last total energy {totals[0]:.6f} {totals[-1]:.6f} eV"
    )


if __name__ == "__main__":
    main()
