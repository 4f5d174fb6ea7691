"""Dissociation curves of the charged dimers: DFT against a short-range and a long-range model.

    python examples/dimers/curve.py TRAIN.extxyz TEST.extxyz SHORT.les LONG.les OUT.png

Energies are relative to DFT at the largest distance; models are not shifted. The grey region was not trained on.
"""

import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import les_plugins
from les_plugins.data.frames import read_frames

LABELS = {"CC": "cation and anion", "CP": "anion and polar molecule", "PP": "two polar molecules"}


def main() -> None:
    """Read, predict, plot."""
    train_file, test_file, short_range, long_range, out = sys.argv[1:]
    models = {"short range": les_plugins.load(short_range), "long range": les_plugins.load(long_range)}
    trained_to, curves = defaultdict(float), defaultdict(list)
    for file in (train_file, test_file):
        for atoms in read_frames(file):
            label, distance = atoms.info["label"], float(atoms.info["distance"])
            if file == train_file:
                trained_to[label] = max(trained_to[label], distance)
            energies = [model.get_potential_energy(atoms.copy()) for model in models.values()]
            curves[label].append((distance, atoms.get_potential_energy(), *energies))
    figure, axes = plt.subplots(1, len(LABELS), figsize=(10.5, 3.4), layout="constrained")
    for axis, (label, title) in zip(axes, LABELS.items(), strict=True):
        distance, reference, short, long = zip(*sorted(curves[label]), strict=True)
        relative = [[e - reference[-1] for e in energies] for energies in (reference, short, long)]
        axis.axvspan(trained_to[label], distance[-1] + 0.5, color="0.92")
        axis.plot(distance, relative[0], "o", color="black", ms=4, label="DFT")
        axis.plot(distance, relative[1], "--", color="#d55e00", label="short range")
        axis.plot(distance, relative[2], "-", color="#0072b2", label="long range")
        axis.set_title(f"{title}, {len(distance)} frames", fontsize=9)
        axis.set(xlabel="distance (Å)", xlim=(distance[0] - 0.5, distance[-1] + 0.5))
        axis.tick_params(direction="in", top=True, right=True)
    axes[0].set_ylabel("energy less DFT's at the largest distance (eV)")
    names = " and ".join(Path(name).name for name in (short_range, long_range))
    figure.suptitle(f"{names} against HSE06; grey: not trained on", fontsize=9)
    axes[0].legend(frameon=False)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
