"""Write the 24 training and 4 validation frames that docs/results/foundation-models.md fine-tunes 7net-0 on.

python examples/water/few_frames.py $DATA/water FOLDER
"""

import sys
from pathlib import Path

import ase.io


def main() -> None:
    """Frames of the training set without Born charges, so that those are of structures never seen."""
    source, folder = map(Path, sys.argv[1:3])
    folder.mkdir(parents=True, exist_ok=True)
    measured = [atoms.get_potential_energy() for atoms in ase.io.read(source / "rpbe_d3_bec_valid.extxyz", ":")]
    train = [
        atoms
        for atoms in ase.io.read(source / "rpbe_d3_train.extxyz", ":")
        if min(abs(atoms.get_potential_energy() - energy) for energy in measured) > 1e-6
    ]
    chosen = {"train": train[::3][:24], "valid": train[1::21]}  # numbers 0, 3, 6, … and 1, 22, 43, …: none of both
    chosen["born"] = ase.io.read(source / "rpbe_d3_bec_valid.extxyz", "::5")
    for name, frames in chosen.items():
        ase.io.write(folder / f"{name}.xyz", frames, format="extxyz")
        sys.stdout.write(f"{folder / name}.xyz: {len(frames)} frames\n")


if __name__ == "__main__":
    main()
