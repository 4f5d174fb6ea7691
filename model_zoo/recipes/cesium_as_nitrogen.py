"""CsPbI3 as data that a model of MAPbI3 can begin with: cesium becomes nitrogen, the mean energy that of MAPbI3.

    python model_zoo/recipes/cesium_as_nitrogen.py $DATA/perovskites/cspbi3_train.extxyz runs/cspbi3.extxyz

Lead and iodine are learned from more frames and larger cells than those of MAPbI3. In the place of a cation that the
model is not going to know stands the nitrogen of methylammonium, whose weights stage two trains anew. All-electron
energies, -278,858 eV an atom, would lose every figure that matters in float32.
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

#: eV an atom, the mean of the training frames of MAPbI3.
MEAN_ENERGY = -19.2355


def main() -> None:
    """Read, rename, shift, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="extended XYZ with energies and forces")
    parser.add_argument("target", type=Path, help="extended XYZ to write")
    args = parser.parse_args()
    frames = ase.io.read(args.source, ":")
    mean = np.mean([atoms.get_potential_energy() / len(atoms) for atoms in frames])
    for atoms in frames:
        energy = atoms.get_potential_energy() + len(atoms) * (MEAN_ENERGY - mean)
        forces = atoms.get_forces()
        atoms.symbols[atoms.symbols == "Cs"] = "N"
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    args.target.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(args.target, frames)


if __name__ == "__main__":
    main()
