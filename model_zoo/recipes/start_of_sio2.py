"""Write 72 atoms of α-quartz: ``start_of_sio2.py OUT.xyz``.

The lattice is the one of the frames that the model knows, in a rectangular cell of 2a × √3a × 2c; ions are placed as X-ray diffraction finds them (rounded)
and rattled by 0.02 Å.
"""

import sys

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.io import write
from ase.spacegroup import crystal

#: Lattice, Å; space group P3₁21, and the fractional coordinates of silicon and oxygen.
A, C = 4.985, 5.479
GROUP, SILICON, OXYGEN = 152, (0.4697, 0.0, 1 / 3), (0.4135, 0.2669, 0.2144)


def structure() -> Atoms:
    """72 atoms."""
    cell = crystal(["Si", "O"], [SILICON, OXYGEN], spacegroup=GROUP, cellpar=[A, A, C, 90, 90, 120])
    atoms = make_supercell(cell, [[2, 0, 0], [1, 2, 0], [0, 0, 2]])
    atoms = Atoms(atoms.numbers, atoms.positions, cell=np.diag(atoms.cell.lengths()), pbc=True)
    atoms.rattle(0.02, seed=1)
    atoms.wrap()
    return atoms


if __name__ == "__main__":
    write(sys.argv[1], structure(), format="extxyz")
