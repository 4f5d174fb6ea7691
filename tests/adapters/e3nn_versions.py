"""Save models and predictions under one e3nn, compare under another: `python e3nn_versions.py save|compare FOLDER`.

Run by the nox session `e3nn`; two versions cannot be in one environment.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mace_models import amplify, tiny_mace, waters

import les_plugins

#: Rounding of sums in another order; the e3nn versions differ in how they contract, not in what.
TOLERANCE = 1e-10
PROPERTIES = ("energy", "forces", "stress", "charges", "dipole", "born_effective_charges", "long_range_energy")
SECTION = {"response": {"charge": True, "dipole": "anisotropic"}, "epsilon_infinity": 1.78}
#: With and without 2e features, and edge heads on an invariant model.
MODELS = {"1o": "4x0e + 4x1o", "2e": "4x0e + 4x1o + 4x2e", "0e": "8x0e"}


def predictions(checkpoint: Path) -> dict[str, np.ndarray]:
    """What the loaded model says of a periodic structure."""
    calculator, atoms = les_plugins.load(checkpoint), waters(3)
    return {name: np.asarray(calculator.get_property(name, atoms)) for name in PROPERTIES}


def save(folder: Path) -> None:
    """Write every model and its predictions."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, irreps in MODELS.items():
        model = amplify(les_plugins.attach(tiny_mace(hidden_irreps=irreps, correlation=3), SECTION))
        les_plugins.save(model, folder / f"{name}.les", "mace")
        np.savez(folder / f"{name}.npz", **predictions(folder / f"{name}.les"))


def compare(folder: Path) -> None:
    """Load every model and compare; fails where a number differs by more than the tolerance."""
    for name in MODELS:
        expected, found = np.load(folder / f"{name}.npz"), predictions(folder / f"{name}.les")
        for quantity in PROPERTIES:
            difference = float(np.abs(found[quantity] - expected[quantity]).max())
            sys.stdout.write(f"{name} {quantity}: largest difference {difference:.1e}\n")
            if difference > TOLERANCE:
                sys.exit(f"{folder / name}: {quantity} differs by {difference:.1e} under e3nn {version('e3nn')}")


if __name__ == "__main__":
    sys.stdout.write(f"e3nn {version('e3nn')}, mace-torch {version('mace-torch')}: {' '.join(sys.argv[1:])}\n")
    {"save": save, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
