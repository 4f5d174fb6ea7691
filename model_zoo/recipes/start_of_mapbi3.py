"""Crystals of MAPbI3 for a teacher to grow from, made of lattice parameters and geometry alone.

    python model_zoo/recipes/start_of_mapbi3.py runs/mapbi3-start.xyz

The cubic perovskite at several lattice constants, in cells of four and of eight formula units that leave room for
tilts of the octahedra; methylammonium of ideal bond lengths and tetrahedral angles, turned at random.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.io import write
from scipy.spatial.transform import Rotation

#: Å, bonds of methylammonium.
CARBON_NITROGEN, CARBON_HYDROGEN, NITROGEN_HYDROGEN = 1.49, 1.09, 1.04
TETRAHEDRAL = np.deg2rad(109.5)
#: √2 × √2 × 2 along c and along a, and 2 × 2 × 2.
ALONG_C, ALONG_A = [[1, 1, 0], [-1, 1, 0], [0, 0, 2]], [[2, 0, 0], [0, 1, 1], [0, -1, 1]]
DOUBLED = [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
#: Å, of the cubic cell, and which of all crystals become frames.
LATTICE, FRAMES = (6.2, 6.3, 6.4, 6.5), (3, 4, 1, 6)


def methylammonium() -> Atoms:
    """CH3NH3 about the middle of its bond, staggered."""
    half = CARBON_NITROGEN / 2
    places, symbols = [(0, 0, -half), (0, 0, half)], "CN"
    for start, length, side in ((0.0, CARBON_HYDROGEN, -1), (np.pi / 3, NITROGEN_HYDROGEN, 1)):
        for turn in start + 2 * np.pi * np.arange(3) / 3:
            wide, along = length * np.sin(TETRAHEDRAL), side * (half - length * np.cos(TETRAHEDRAL))
            places.append((wide * np.cos(turn), wide * np.sin(turn), along))
            symbols += "H"
    return Atoms(symbols, places)


def crystal(edge: float, matrix: list[list[int]], random: np.random.Generator) -> Atoms:
    """The cubic perovskite in a supercell, its molecules turned."""
    corners = [(0, 0, 0), (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)]
    atoms = make_supercell(Atoms("PbI3", scaled_positions=corners, cell=[edge] * 3, pbc=True), matrix)
    for lead in atoms.positions[atoms.symbols == "Pb"]:
        molecule = methylammonium()
        turn = Rotation.random(random_state=int(random.integers(2**31))).as_matrix()
        molecule.positions = molecule.positions @ turn.T + lead + edge / 2
        atoms += molecule
    return atoms


def main() -> None:
    """Build and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="extended XYZ to write")
    parser.add_argument("--lattice", type=float, nargs=4, default=LATTICE, help="Å, of the cubic cell")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    found = [crystal(edge, matrix, random) for edge in args.lattice for matrix in (ALONG_C, ALONG_A, DOUBLED)]
    args.target.parent.mkdir(parents=True, exist_ok=True)
    write(args.target, [found[number] for number in FRAMES])


if __name__ == "__main__":
    main()
