"""Structures that the contract evaluates: water molecules, periodic and open. Hosts' tiny models must know H and O."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

#: Atomic numbers in every structure of the contract.
ELEMENTS = (1, 8)


def waters(n: int = 4, seed: int = 0, pbc: bool = True, edge: float = 7.0) -> Atoms:
    """n (at most eight) water molecules in random orientations, well apart, in a slightly triclinic cell.

    Args:
        n: number of molecules.
        seed: of the orientations and places.
        pbc: periodic, or open and without a cell.
        edge: length of the cell, Å.
    """
    generator = np.random.default_rng(seed)
    molecule = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    grid = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)])[:n]
    positions, numbers = [], []
    for place in grid:
        rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        positions.append(molecule @ rotation + (place + 0.5) * edge / 2 + generator.normal(scale=0.1, size=3))
        numbers += [8, 1, 1]
    cell = np.array([[edge, 0.0, 0.0], [0.4, edge, 0.0], [-0.3, 0.5, edge]])
    return Atoms(numbers, np.concatenate(positions), cell=cell if pbc else None, pbc=pbc)


def labelled_waters(count: int, seed: int = 0) -> list[Atoms]:
    """Pairs of periodic water molecules with energy, forces and stress of a Lennard-Jones potential as labels."""
    frames = []
    for number in range(count):
        atoms = waters(2, seed=seed + number)
        atoms.calc = LennardJones(sigma=1.0, epsilon=0.05, rc=3.0)
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        frames.append(atoms)
    return frames
