"""Write 3 × 3 × 3 cells of tetragonal BaTiO3: ``start_of_batio3.py OUT.xyz``.

The lattice is the one of the frames that the model knows, ions are displaced along z as the ferroelectric phase has them, and rattled by 0.02 Å.
"""

import sys

import numpy as np
from ase import Atoms
from ase.io import write

#: Lattice, Å, and displacements along z of titanium and oxygen against barium.
A, C, TITANIUM, OXYGEN = 3.966, 4.304, 0.10, -0.19


def structure() -> Atoms:
    """135 atoms."""
    places = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) * [A, A, C]
    places[1, 2] += TITANIUM
    places[2:, 2] += OXYGEN
    atoms = Atoms("BaTiO3", positions=places, cell=[A, A, C], pbc=True) * (3, 3, 3)
    atoms.rattle(0.02, seed=1)
    atoms.wrap()
    return atoms


if __name__ == "__main__":
    write(sys.argv[1], structure(), format="extxyz")
