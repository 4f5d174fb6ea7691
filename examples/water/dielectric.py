"""ε_∞ of frames of different density, predicted from latent polarizabilities against DFPT.

    python examples/water/dielectric.py MODEL.les FRAMES.extxyz OUT.png

A model is given one number, the material's ε_∞, and scales every frame to it: ε_∞ = ε_e (1 + χ), where χ is the
frame's Σ tr α/(3 ε0 V). ε_e is held at its mean over the frames; what is left, 1 + χ, follows density and structure.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import les_plugins
from les_plugins.data.frames import read_frames
from les_plugins.units import VACUUM_PERMITTIVITY


def main() -> None:
    """Read, predict, print, plot."""
    model, file, out = sys.argv[1:]
    calculator = les_plugins.load(model)
    rows = []
    for atoms in read_frames(file):
        reference = np.trace(np.reshape(atoms.info["epsilon_electronic"], (3, 3))) / 3
        epsilon = np.trace(calculator.get_property("dielectric_tensor", atoms)) / 3
        polarizability = np.trace(calculator.get_property("polarizability", atoms)) / 3
        volume = atoms.get_volume()
        screening = epsilon - polarizability / (VACUUM_PERMITTIVITY * volume)  # ε_e: ε_∞ is ε_e (1 + χ)
        rows.append((reference, epsilon / screening, screening, len(atoms) / volume))
    reference, ratio, screening, density = np.transpose(rows)
    predicted = screening.mean() * ratio

    def beside_density(values: np.ndarray) -> np.ndarray:
        return values - np.polyval(np.polyfit(density, values, 1), density)

    correlation = np.corrcoef(reference, predicted)[0, 1]
    at_density = np.corrcoef(beside_density(reference), beside_density(predicted))[0, 1]
    slope = np.polyfit(reference, predicted, 1)[0]
    print(f"{len(rows)} frames: DFPT {reference.mean():.3f} ± {reference.std():.3f}", end=", ")
    print(f"predicted {predicted.mean():.3f} ± {predicted.std():.3f}")
    print(f"correlation {correlation:.3f}, with the density taken out {at_density:.3f}; slope {slope:.2f}")

    figure, axis = plt.subplots(figsize=(4.6, 3.8), layout="constrained")
    points = axis.scatter(reference, predicted, c=density, s=14, cmap="viridis")
    ends = [min(reference.min(), predicted.min()), max(reference.max(), predicted.max())]
    axis.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
    axis.set(xlabel="ε$_∞$ = tr/3, DFPT", ylabel="ε$_∞$ = tr/3, predicted")
    title = f"{Path(model).name}, water, {len(rows)} frames\ncorrelation {correlation:.2f}, slope {slope:.2f}"
    axis.set_title(title, fontsize=9)
    axis.tick_params(direction="in", top=True, right=True)
    figure.colorbar(points, label="density (atoms/Å³)")
    figure.savefig(out, dpi=200)


if __name__ == "__main__":
    main()
