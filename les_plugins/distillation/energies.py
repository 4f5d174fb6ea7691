"""The zero of a student's energies: one energy an element, by least squares over the frames or of isolated atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from les_plugins.data.evaluation import predict
from les_plugins.distillation.teachers import Teacher
from les_plugins.errors import HostError, raising

Zero = Literal["least-squares", "isolated"]
#: Å, edge of the box of an isolated atom: beyond the cutoff of every short-range teacher.
BOX = 25.0


@dataclass(frozen=True)
class ZeroOfEnergy:
    """Energies of the elements.

    Attributes:
        energies: eV, by element.
        how: "least-squares" or "isolated".
        spread: eV an atom, root mean square of what is left of the energies of the frames.
    """

    energies: dict[str, float]
    how: Zero
    spread: float

    def __str__(self) -> str:
        listed = ", ".join(f"{element} {energy:.4f}" for element, energy in self.energies.items())
        how = "by least squares over the frames" if self.how == "least-squares" else "of the teacher's isolated atoms"
        return f"E0s {how}: {listed} eV; they leave {1000 * self.spread:.1f} meV/atom"


def zero_of_energy(frames: Sequence[Atoms], isolated: Mapping[int, float] | None = None) -> ZeroOfEnergy:
    """Energies of the elements of labelled frames.

    Least squares give the solution of smallest norm: where all frames have one composition, only its sum is determined.

    Args:
        frames: labelled.
        isolated: energies of single atoms by atomic number, eV, in the place of a fit.
    """
    elements = sorted({int(z) for atoms in frames for z in atoms.numbers})
    counts = np.array([[np.count_nonzero(atoms.numbers == z) for z in elements] for atoms in frames], dtype=float)
    energies = np.array([atoms.get_potential_energy() for atoms in frames])
    sizes = counts.sum(axis=1)
    if isolated is not None:
        found = np.array([isolated[z] for z in elements])
    else:  # an atom more weighs as much in a small frame as in a large one
        found = np.linalg.lstsq(counts / sizes[:, None], energies / sizes, rcond=None)[0]
    left = (energies - counts @ found) / sizes
    named = {chemical_symbols[z]: float(energy) for z, energy in zip(elements, found, strict=True)}
    how: Zero = "least-squares" if isolated is None else "isolated"
    return ZeroOfEnergy(named, how, float(np.sqrt((left**2).mean())))


def isolated_atoms(teacher: Teacher, elements: Sequence[int]) -> dict[int, float]:
    """The teacher's energies of single atoms in a large box, eV, by atomic number.

    Raises:
        DataError: one is not finite.
        HostError: the teacher cannot compute a single atom.
    """
    return {z: _isolated(teacher, z) for z in elements}


def _isolated(teacher: Teacher, z: int) -> float:
    symbol = chemical_symbols[z]
    atom = Atoms([z], [[BOX / 2] * 3], cell=[BOX] * 3, pbc=True, info={"charge": 0.0})
    where = f"--zero-of-energy isolated: {teacher.name}, an atom of {symbol} alone"
    with raising(HostError, where):
        return float(predict(teacher.calculator, atom, ["energy"], where)["energy"])
