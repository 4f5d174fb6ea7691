"""A gas of ions with a known answer: point charges ±1 e and a Born–Mayer repulsion, written as extended XYZ.

    python examples/quickstart/make_data.py [FOLDER]

Three Na and three Cl ions lie at random in a box of 10 Å, most of them further apart than a short-range model of 4 Å
sees. Labels: energy, forces and, in the test file, the exact dipole and Born effective charges, which no model is
trained on. Their names begin with REF_: names of ASE's own (energy, forces) are taken for results of a calculation.
"""

import sys
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

COULOMB_CONSTANT = 14.3996  # eV·Å/e²
REPULSION, RANGE = 1256.3, 0.317  # eV, Å: a textbook Born-Mayer potential of NaCl
BOX, SMALLEST_DISTANCE = 10.0, 2.4  # Å
CHARGES = {"Na": 1.0, "Cl": -1.0}


def main() -> None:
    """Write train.xyz, valid.xyz and test.xyz."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart/data")
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name, count in (("train", 80), ("valid", 20), ("test", 40)):
        frames = [label(ions(random), with_moments=name == "test") for _ in range(count)]
        ase.io.write(folder / f"{name}.xyz", frames, format="extxyz")
        sys.stdout.write(f"{folder / name}.xyz: {count} frames\n")


def ions(random: np.random.Generator) -> Atoms:
    """Six ions at random, no two of them closer than 2.4 Å."""
    positions: list[np.ndarray] = []
    while len(positions) < 6:
        place = random.uniform(0.0, BOX, size=3)
        if all(np.linalg.norm(place - other) > SMALLEST_DISTANCE for other in positions):
            positions.append(place)
    return Atoms("NaClNaClNaCl", positions)


def label(atoms: Atoms, with_moments: bool) -> Atoms:
    """The structure with its exact labels."""
    charges = np.array([CHARGES[symbol] for symbol in atoms.symbols])
    energy, forces = 0.0, np.zeros((len(atoms), 3))
    for i in range(len(atoms)):
        for j in range(i):
            apart = atoms.positions[i] - atoms.positions[j]
            distance = np.linalg.norm(apart)
            coulomb = COULOMB_CONSTANT * charges[i] * charges[j] / distance
            repulsion = REPULSION * np.exp(-distance / RANGE)
            energy += coulomb + repulsion
            force = (coulomb / distance + repulsion / RANGE) * apart / distance
            forces[i] += force
            forces[j] -= force
    atoms.info["REF_energy"], atoms.arrays["REF_forces"] = energy, forces
    if with_moments:
        atoms.info["REF_dipole"] = charges @ atoms.positions
        atoms.arrays["REF_born_effective_charges"] = (charges[:, None, None] * np.eye(3)).reshape(-1, 9)
    return atoms


if __name__ == "__main__":
    main()
