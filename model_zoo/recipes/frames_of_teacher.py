"""Frames that one model labels for another to learn from: rattled cells, and doubled ones with waves in them.

    python model_zoo/recipes/frames_of_teacher.py mapbi3-mace $DATA/mapbi3/train.extxyz runs/mapbi3-teacher.extxyz

Every frame of the training data with its atoms displaced a little, and again twice as long along one lattice vector
with whole ions displaced along waves that only the doubled cell has room for: longer than any in the data, and their
long-range forces are those of Born charges. The frames of the source come last, as they are. Run in the environment of
the teacher's host. `les-plugins distill` does the same, and more, for any material.
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

import les_plugins
from les_plugins.distillation.displacements import rattled, widths_of_elements, with_waves

#: Å, one standard deviation of each coordinate: bonds of molecules are stiff, ions are not.
RATTLE = {"H": 0.015, "C": 0.01, "N": 0.01, "I": 0.12, "Pb": 0.12}
#: Å, root mean square of each component of an ion's displacement along the waves.
AMPLITUDE = 0.15
#: One standard deviation of each component of the strain.
STRAIN = 0.01
#: Elements of the molecules.
ORGANIC = ("H", "C", "N")


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
    widths = widths_of_elements(RATTLE)
    new = [rattled(atoms, random, widths, STRAIN, ORGANIC) for atoms in frames]
    drawn = random.permutation(len(frames))[: args.doubled]
    new += [with_waves(frames[i], random, widths, STRAIN, AMPLITUDE, ORGANIC) for i in drawn]
    for atoms in new:
        atoms.calc = calculator
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    args.target.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(args.target, [*new, *frames])


if __name__ == "__main__":
    main()
