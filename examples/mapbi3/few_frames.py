"""Write the 24 training and 4 validation frames that docs/results/foundation-models.md fine-tunes 7net-0 on.

python examples/mapbi3/few_frames.py $DATA/mapbi3 FOLDER
"""

import sys
from pathlib import Path

import ase.io


def main() -> None:
    """Frames 1, 8, 15, … and 4, 11, 18, … of the training set; every third of the validation set."""
    source, folder = map(Path, sys.argv[1:3])
    folder.mkdir(parents=True, exist_ok=True)
    train = ase.io.read(source / "train.extxyz", ":")
    chosen = {"train": train[1::7][:12] + train[4::7][:12], "valid": ase.io.read(source / "valid.extxyz", "::3")}
    for name, frames in chosen.items():
        ase.io.write(folder / f"{name}.xyz", frames, format="extxyz")
        sys.stdout.write(f"{folder / name}.xyz: {len(frames)} frames\n")


if __name__ == "__main__":
    main()
