"""Displaced structures: rattles, strains and long waves that keep molecules whole. `growth` and recipes use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from les_plugins.data.copies import repeated
from les_plugins.data.metrics import Floats

#: Elements between two of which a short distance is a bond of a molecule; all others are ions of their own.
MOLECULAR = ("H", "B", "C", "N", "O", "F", "P", "S", "Cl")
#: A bond is shorter than this multiple of the sum of covalent radii.
BOND = 1.15
#: Part of a rattle that the atoms of one molecule get against each other: their bonds are stiff.
STIFF = 0.15

#: Å, one standard deviation of each coordinate of each atom of a structure: (N,).
Widths = Callable[[Atoms], Floats]


def ions(atoms: Atoms, molecular: tuple[str, ...] = MOLECULAR) -> NDArray[np.int64]:
    """(N,) which ion or molecule each atom belongs to.

    Args:
        atoms: the structure.
        molecular: elements that make bonds; atoms of others stand alone.
    """
    bonding = np.isin(atoms.symbols, molecular)
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BOND))
    keep = bonding[first] & bonding[second]
    graph = coo_matrix((np.ones(keep.sum()), (first[keep], second[keep])), shape=(len(atoms), len(atoms)))
    found: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def rattled(
    atoms: Atoms, random: np.random.Generator, widths: Widths, strain: float, molecular: tuple[str, ...] = MOLECULAR
) -> Atoms:
    """A copy, strained and with every atom displaced; molecules are whole in it, also where a boundary cut them.

    Args:
        atoms: the structure.
        random: draws the strain, then the displacements.
        widths: of the displacements.
        strain: one standard deviation of each component.
        molecular: as of `ions`.
    """
    group = ions(atoms, molecular)
    first = atoms.positions[[np.argmax(group == g) for g in group]]
    new: Atoms = atoms.copy()
    new.positions = first + find_mic(atoms.positions - first, atoms.cell, atoms.pbc)[0]
    new.set_cell(new.cell.array @ (np.eye(3) + random.normal(scale=strain, size=(3, 3))), scale_atoms=False)
    # Molecules keep their bonds: every ion goes where the strain takes its first atom.
    new.positions += new.cell.cartesian_positions(atoms.cell.scaled_positions(first)) - first
    new.positions += widths(new)[:, None] * random.normal(size=new.positions.shape)
    return new


def with_waves(
    atoms: Atoms,
    random: np.random.Generator,
    widths: Widths,
    strain: float,
    amplitude: float,
    molecular: tuple[str, ...] = MOLECULAR,
) -> Atoms:
    """A cell twice as long along one lattice vector, every kind of ion displaced along a wave of that length.

    Longer waves than any that the cell itself has room for: their forces are those of Born charges.

    Args:
        atoms: the structure, periodic along all axes.
        random: draws the axis, then what `rattled` draws, then the waves, then displacements again.
        widths, strain, molecular: as of `rattled`.
        amplitude: Å, root mean square of each component of an ion's displacement along the waves.
    """
    axis = random.integers(3)
    repeat = [1, 1, 1]
    repeat[axis] = 2
    new = repeated(rattled(atoms, random, widths, strain, molecular), repeat)
    group = ions(new, molecular)
    phase = 2 * np.pi * new.cell.scaled_positions(new.positions)[:, axis]
    phase = np.array([phase[np.argmax(group == g)] for g in group])
    kind = _kinds(new, molecular)
    for name in np.unique(kind):
        for shift in (0.0, np.pi / 2):
            wave = np.sin(phase + shift)[:, None] * random.normal(scale=amplitude, size=3)
            new.positions[kind == name] += wave[kind == name]
    new.positions += widths(new)[:, None] * random.normal(size=new.positions.shape)
    return new


def widths_of_elements(table: Mapping[str, float]) -> Widths:
    """Widths by element, Å."""
    return lambda atoms: np.array([table[symbol] for symbol in atoms.symbols])


def of_atoms_in_molecules(width: float) -> Widths:
    """`STIFF` times a width for every atom, Å: what an atom moves within its molecule; `moved_ions` does the rest."""
    return lambda atoms: np.full(len(atoms), STIFF * width)


def moved_ions(atoms: Atoms, random: np.random.Generator, width: float) -> Atoms:
    """A copy with every molecule or ion displaced and turned as a whole.

    Args:
        atoms: the structure, its molecules whole (`rattled` makes them so).
        random: draws displacements, then turns.
        width: Å, one standard deviation of each component of a displacement; a turn moves an atom 1 Å off the centre
            as far.
    """
    new: Atoms = atoms.copy()
    group = ions(atoms)
    for number in range(group.max() + 1):
        members = np.flatnonzero(group == number)
        new.positions[members] += random.normal(scale=width, size=3)
        if len(members) > 1:
            turn = random.normal(scale=width, size=3)
            centre = new.positions[members].mean(axis=0)
            new.positions[members] = centre + _turned(new.positions[members] - centre, turn)
    return new


def _turned(vectors: Floats, turn: Floats) -> Floats:
    """Vectors (n, 3) turned about the direction of `turn` by its length in radians (Rodrigues)."""
    angle = float(np.linalg.norm(turn))
    axis = turn / angle if angle > 0 else np.array([0.0, 0.0, 1.0])
    along = (vectors @ axis)[:, None] * axis
    turned: Floats = along + np.cos(angle) * (vectors - along) + np.sin(angle) * np.cross(axis, vectors)
    return turned


def _kinds(atoms: Atoms, molecular: tuple[str, ...]) -> NDArray[np.str_]:
    """(N,) the element of an atom that stands alone by its kind, "molecule" for the others."""
    return np.where(np.isin(atoms.symbols, molecular), "molecule", np.array(list(atoms.symbols)))
