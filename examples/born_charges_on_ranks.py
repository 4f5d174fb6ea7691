"""Born charges and a short NVE run of a large structure, its atoms spread over processes.

torchrun --nproc-per-node 2 examples/born_charges_on_ranks.py mapbi3-mace mapbi3-222 2
"""

from __future__ import annotations

import sys
import time

import ase.io
import numpy as np
import torch
import torch.distributed as dist
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet

from les_plugins.engines.ranks.calculator import RankCalculator
from les_plugins.storage.zoo import structure

torch.set_num_threads(1)
model, name, repeat = sys.argv[1], sys.argv[2], int(sys.argv[3])
unit = ase.io.read(structure(name))
atoms = Atoms(unit.numbers, unit.positions, cell=unit.cell, pbc=True).repeat(repeat)  # the same on every rank

atoms.calc = RankCalculator(model)
atoms.get_forces()
began = time.perf_counter()
born = atoms.calc.get_born_effective_charges(atoms)
seconds = time.perf_counter() - began

MaxwellBoltzmannDistribution(atoms, temperature_K=300.0, rng=np.random.default_rng(0))
energies = [atoms.get_total_energy()]
dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
dynamics.run(10)

if dist.get_rank() == 0:
    for symbol in sorted(set(atoms.symbols)):
        own = born[atoms.symbols == symbol]
        print(f"{symbol}: mean Z* {np.trace(own.mean(0)) / 3:+.4f} e of {len(own)} atoms")
    print(f"{len(atoms)} atoms on {dist.get_world_size()} ranks: Z* in {seconds:.1f} s")
    print(f"mean Z* of all atoms: {np.abs(born.mean(0)).max():.1e} e")
    print(f"energy of 10 steps within {1e3 * np.ptp(energies) / len(atoms):.3f} meV/atom")
dist.barrier()
dist.destroy_process_group()
