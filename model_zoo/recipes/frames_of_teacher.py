"""Frames that one model labels for another to learn from: rattled cells, and doubled ones with waves in them.

    python model_zoo/recipes/frames_of_teacher.py mapbi3-mace $DATA/mapbi3/train.extxyz runs/mapbi3-teacher.extxyz

Every frame of the training data with its atoms displaced a little, and again twice as long along one lattice vector
with whole ions displaced along waves that only the doubled cell has room for: longer than any in the data, and their
long-range forces are those of Born charges. The frames of the source come last, as they are. Run in the environment of
the teacher's host.
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic
from ase.neighborlist import natural_cutoffs, neighbor_list
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

import les_plugins

#: Å, one standard deviation of each coordinate: bonds of molecules are stiff, ions are not.
RATTLE = {"H": 0.015, "C": 0.01, "N": 0.01, "I": 0.12, "Pb": 0.12}
#: Å, root mean square of each component of an ion's displacement along the waves.
AMPLITUDE = 0.15
#: One standard deviation of each component of the strain.
STRAIN = 0.01


def ions(atoms: Atoms) -> np.ndarray:
    """(atoms,) which ion each atom belongs to: atoms bonded to each other by H, C and N, the others alone."""
    organic = np.isin(atoms.symbols, ["H", "C", "N"])
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.15))
    keep = organic[first] & organic[second]
    graph = coo_matrix((np.ones(keep.sum()), (first[keep], second[keep])), shape=(len(atoms), len(atoms)))
    return connected_components(graph, directed=False)[1]


def rattled(atoms: Atoms, random: np.random.Generator) -> Atoms:
    """A copy, strained and with every atom displaced; molecules are whole in it, also where a boundary cut them."""
    group = ions(atoms)
    first = atoms.positions[[np.argmax(group == g) for g in group]]
    new = atoms.copy()
    new.positions = first + find_mic(atoms.positions - first, atoms.cell, atoms.pbc)[0]
    new.set_cell(new.cell.array @ (np.eye(3) + random.normal(scale=STRAIN, size=(3, 3))), scale_atoms=False)
    # Molecules keep their bonds: every ion goes where the strain takes its first atom.
    new.positions += new.cell.cartesian_positions(atoms.cell.scaled_positions(first)) - first
    width = np.array([RATTLE[symbol] for symbol in new.symbols])
    new.positions += width[:, None] * random.normal(size=new.positions.shape)
    return new


def with_waves(atoms: Atoms, random: np.random.Generator) -> Atoms:
    """A cell twice as long along one lattice vector, every kind of ion displaced along a wave of that length."""
    axis = random.integers(3)
    repeat = [1, 1, 1]
    repeat[axis] = 2
    new = rattled(atoms, random).repeat(repeat)
    group = ions(new)
    phase = 2 * np.pi * new.cell.scaled_positions(new.positions)[:, axis]
    phase = np.array([phase[np.argmax(group == g)] for g in group])
    kind = np.where(np.isin(new.symbols, ["Pb", "I"]), new.symbols, "molecule")
    for name in np.unique(kind):
        for shift in (0.0, np.pi / 2):
            wave = np.sin(phase + shift)[:, None] * random.normal(scale=AMPLITUDE, size=3)
            new.positions[kind == name] += wave[kind == name]
    width = np.array([RATTLE[symbol] for symbol in new.symbols])
    new.positions += width[:, None] * random.normal(size=new.positions.shape)
    return new


def main() -> None:
    """Read, displace, label, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", help="a model of the zoo or a .les file")
    parser.add_argument("source", type=Path, help="extended XYZ with energies and forces")
    parser.add_argument("target", type=Path, help="extended XYZ to write")
    parser.add_argument("--doubled", type=int, default=85, help="how many doubled cells at most (default 85)")
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    frames = ase.io.read(args.source, ":")
    unknown = sorted({symbol for atoms in frames for symbol in atoms.symbols} - RATTLE.keys())
    if unknown:
        parser.error(
            f"{args.source} has {', '.join(unknown)}; how far to displace is known of {', '.join(RATTLE)} alone"
        )
    calculator = les_plugins.load(args.teacher)
    new = [rattled(atoms, random) for atoms in frames]
    new += [with_waves(frames[i], random) for i in random.permutation(len(frames))[: args.doubled]]
    for atoms in new:
        atoms.calc = calculator
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    args.target.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(args.target, [*new, *frames])


if __name__ == "__main__":
    main()
