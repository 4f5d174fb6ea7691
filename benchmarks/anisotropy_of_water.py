"""The anisotropy of water's polarizability against DFPT, contribution by contribution.

    python benchmarks/anisotropy_of_water.py water-mace-pairs dipole_polarizability_valid.extxyz
    python benchmarks/anisotropy_of_water.py water-nequip-pairs dipole_polarizability_valid.extxyz

A depolarized Raman spectrum is the autocorrelation of the traceless part of the polarizability, so what the frames have
of it, squared, is the whole strength of the spectrum. In the environment of the model's host. The frames of the file
need `epsilon_electronic`, ε_∞ of DFPT; the models' part is α/(ε0 V).
"""

from __future__ import annotations

import argparse

import numpy as np

import les_plugins
from les_plugins.data.frames import read_frames
from les_plugins.data.metrics import errors
from les_plugins.errors import ConfigError, ResponseError
from les_plugins.model.polarizability_parts import result_name
from les_plugins.units import VACUUM_PERMITTIVITY

#: As the table of the page.
SHOWN = ("atoms", "did", "did+flow", "self-consistent")


def main() -> None:
    """Print a row for each contribution, and the factors with which contributions fit DFPT best."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("frames")
    given = parser.parse_args()
    calculator = les_plugins.load(given.model)
    reference, predicted = [], {kind: [] for kind in SHOWN}
    for atoms in read_frames(given.frames):
        reference.append(np.reshape(atoms.info["epsilon_electronic"], (3, 3)))
        for kind in list(predicted):
            try:
                alpha = calculator.get_property(result_name(kind), atoms)
            except (ConfigError, ResponseError) as error:
                print(f"{kind}: left out, {error}")
                del predicted[kind]
                continue
            predicted[kind].append(alpha / (VACUUM_PERMITTIVITY * atoms.get_volume()))
    dfpt = traceless(np.array(reference))
    found = {kind: traceless(np.array(tensors)) for kind, tensors in predicted.items()}
    print(f"{given.model}, {len(dfpt)} frames; RMS anisotropy of DFPT {gamma(dfpt):.4f}")
    print("| | r | R² | slope | off-diagonal r | R² | slope | anisotropy, of DFPT's | squared |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for kind, tensors in found.items():
        cells = [*agreement(dfpt, tensors), *agreement(off_diagonal(dfpt), off_diagonal(tensors))]
        ratio = gamma(tensors) / gamma(dfpt)
        print(f"| `{kind}` | {' | '.join(f'{value:.2f}' for value in cells)} | {ratio:.2f} | {ratio**2:.3f} |")
    parts = [found["atoms"], found["did"] - found["atoms"]]
    columns = np.stack([part.ravel() for part in parts], axis=1)
    factors = np.linalg.lstsq(columns, dfpt.ravel(), rcond=None)[0]
    left = errors(dfpt.ravel(), columns @ factors)
    print(f"best factors: atoms {factors[0]:.2f}, dipole–induced dipoles {factors[1]:.2f}; then R² {left.r2:.2f}")


def traceless(tensors: np.ndarray) -> np.ndarray:
    """(F, 3, 3): symmetric, less a third of the trace."""
    symmetric = (tensors + tensors.transpose(0, 2, 1)) / 2
    return symmetric - np.trace(symmetric, axis1=1, axis2=2)[:, None, None] * np.eye(3) / 3


def gamma(tensors: np.ndarray) -> float:
    """Root mean square anisotropy of traceless tensors: √(3/2 β : β)."""
    return float(np.sqrt(1.5 * (tensors**2).sum((1, 2)).mean()))


def off_diagonal(tensors: np.ndarray) -> np.ndarray:
    """(F, 3): xy, xz, yz."""
    return tensors[:, [0, 0, 1], [1, 2, 2]]


def agreement(reference: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """Correlation, R² as it is, slope of predicted against reference."""
    found = errors(reference.ravel(), predicted.ravel())
    return float(np.corrcoef(reference.ravel(), predicted.ravel())[0, 1]), found.r2, found.slope


if __name__ == "__main__":
    main()
