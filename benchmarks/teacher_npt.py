"""The volume of a crystal at constant pressure as a teacher of `les-plugins distill` has it.

    python benchmarks/teacher_npt.py sevennet:7net-0 mapbi3-222.xyz --scale 1.0262 --steps 700

Run in the environment of the teacher's host. Relaxes the structure in a cell `--scale` times as long, then runs ASE's
isotropic dynamics of Martyna, Tobias and Klein and prints step, volume (Å³), temperature (K) and potential energy (eV).
"""

import argparse

import ase.io
import numpy as np
import torch
from ase import units
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import FIRE

from les_plugins.distillation.teachers import open_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher")
    parser.add_argument("structure")
    parser.add_argument("--scale", type=float, default=1.0, help="of the cell's lengths")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--timestep", type=float, default=1.5, help="fs")
    parser.add_argument("--hydrogen-mass", type=float, default=3.0, help="u")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--pressure", type=float, default=1.0, help="bar")
    parser.add_argument("--every", type=int, default=20, help="steps between lines")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    atoms = ase.io.read(args.structure)
    atoms.calc = open_teacher(args.teacher).calculator
    atoms.set_cell(atoms.cell * args.scale, scale_atoms=True)
    FIRE(atoms, logfile=None).run(fmax=0.3, steps=60)
    masses = atoms.get_masses()
    masses[atoms.numbers == 1] = args.hydrogen_mass
    atoms.set_masses(masses)
    random = np.random.default_rng(args.seed)
    MaxwellBoltzmannDistribution(atoms, temperature_K=args.temperature, rng=random)
    dynamics = IsotropicMTKNPT(
        atoms,
        args.timestep * units.fs,
        temperature_K=args.temperature,
        pressure_au=args.pressure * 1e5 * units.Pascal,
        tdamp=100 * units.fs,
        pdamp=1000 * units.fs,
    )

    def say() -> None:
        volume, temperature, energy = atoms.get_volume(), atoms.get_temperature(), atoms.get_potential_energy()
        print(f"{dynamics.nsteps:6d} {volume:9.1f} {temperature:7.1f} {energy:11.3f}", flush=True)

    dynamics.attach(say, interval=args.every)
    dynamics.run(args.steps)


if __name__ == "__main__":
    main()
