"""Ferroelectric BaTiO3: energy against polarization from one domain to the other, and the same in a field.

    python examples/batio3/double_well.py MODEL.les FRAMES.extxyz OUT.png

The tetragonal cell is the mean of those of FRAMES, which are 3 x 3 x 3 cells; atoms relax in it to the polar state. The
path leads straight from that state to its mirror image. P is made with transfers, so its changes along the path are
exact, and the energy of the field is booked: the work of the field's forces, by the trapezoid rule, is compared with
E·ΔP + ½ E·Δα·E.
"""

import argparse
import sys
from pathlib import Path

import ase.io
import matplotlib as mpl
import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from scipy.interpolate import CubicSpline

import les_plugins

mpl.use("Agg")
import matplotlib.pyplot as plt

#: μC/cm² of an e/Å².
MICROCOULOMB = 1602.176634
#: V/Å.
FIELDS = (0.0, 0.01, 0.02)


def polar(calculator, frames) -> Atoms:
    """The relaxed tetragonal cell of five atoms, titanium moved along z."""
    a, b, c = np.mean([atoms.cell.lengths() for atoms in frames], axis=0) / 3.0
    scaled = [(0, 0, 0), (0.5, 0.5, 0.53), (0.5, 0.5, -0.03), (0.5, 0, 0.48), (0, 0.5, 0.48)]
    side = 0.5 * (a + b)
    atoms = Atoms("BaTiO3", scaled_positions=scaled, cell=[side, side, c], pbc=True)
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=300)
    return atoms


def path(atoms: Atoms, parts: np.ndarray) -> list[Atoms]:
    """From the mirror image of a polar structure (−1) to itself (1) and beyond, unwrapped."""
    mirrored = atoms.positions.copy()
    mirrored[:, 2] *= -1.0
    # the images of the ideal crystal, halves of the cell moved to where they were
    mirrored[:, 2] += atoms.cell[2, 2] * np.rint((atoms.positions - mirrored)[:, 2] / atoms.cell[2, 2])
    shift = (atoms.positions - mirrored)[0]  # barium stays
    middle, half = 0.5 * (atoms.positions + mirrored + shift), 0.5 * (atoms.positions - mirrored - shift)
    frames = []
    for part in parts:
        frames.append(Atoms(atoms.numbers, middle + part * half, cell=atoms.cell, pbc=True))
    return frames


def main() -> None:
    """Print polarization, barrier and field of reversal, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("frames")
    parser.add_argument("picture")
    given = parser.parse_args()
    calculator = les_plugins.load(given.model, dtype="float64")
    atoms = polar(calculator, ase.io.read(given.frames, ":"))
    parts = np.linspace(-1.25, 1.25, 51)
    frames = path(atoms, parts)
    volume, ways = atoms.get_volume(), np.diff([each.positions for each in frames], axis=0)
    energy = np.array([calculator.get_property("energy", each) for each in frames])
    polarization = np.array([calculator.get_property("dipole", each)[2] for each in frames])
    alpha = np.array([calculator.get_property("polarizability", each)[2, 2] for each in frames])
    energy -= energy[len(parts) // 2]
    polarization -= polarization[len(parts) // 2]
    spline = CubicSpline(parts, energy), CubicSpline(parts, polarization)
    fine = np.linspace(0.0, 1.0, 1001)
    reversal = float((-spline[0](fine, 1) / spline[1](fine, 1)).max())
    spontaneous = MICROCOULOMB * float(spline[1](1.0)) / volume
    sys.stdout.write(
        f"cell {atoms.cell.lengths()} Å, titanium {displacement(atoms):.3f} Å from the mean of the oxygens\n"
    )
    sys.stdout.write(f"P {spontaneous:.1f} μC/cm², barrier {-1e3 * float(spline[0](1.0)):.1f} meV\n")
    sys.stdout.write(f"field that turns the whole crystal over: {reversal:.4f} V/Å\n")

    figure, curves = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
    axis = MICROCOULOMB * polarization / volume
    for field in FIELDS:
        booked = field * polarization + 0.5 * field**2 * (alpha - alpha[len(parts) // 2])
        curves.plot(axis, 1e3 * (energy - booked), label=f"{field:g} V/Å")
        if field:
            work = work_of_the_field(calculator, frames, ways, field)
            deviation = np.abs((work - work[0]) - (booked - booked[0])).max() / np.ptp(booked)
            sys.stdout.write(
                f"field {field} V/Å: work of the forces and E·ΔP + ½ E·Δα·E agree to {100 * deviation:.3f} %\n"
            )
            curves.plot(axis[::5], 1e3 * (energy - work + work[len(parts) // 2])[::5], "k.", ms=4)
    curves.set(xlabel="P, μC/cm²", ylabel="energy, meV a formula unit")
    curves.set_title(f"{Path(given.model).name}: BaTiO$_3$, cell of 5 atoms", fontsize="medium")
    curves.legend(title="field along z\ndots: by the work of its forces", fontsize="small", title_fontsize="small")
    figure.savefig(given.picture, dpi=150)


def work_of_the_field(calculator, frames: list[Atoms], ways: np.ndarray, field: float) -> np.ndarray:
    """∫ (F(E) − F(0))·dx along the path, eV, by the trapezoid rule."""
    bare = np.array([calculator.get_property("forces", each) for each in frames])
    calculator.external_field = (0.0, 0.0, field)
    forces = np.array([calculator.get_property("forces", each) for each in frames]) - bare
    calculator.external_field = None
    steps = (0.5 * (forces[1:] + forces[:-1]) * ways).sum((1, 2))
    return np.concatenate([[0.0], np.cumsum(steps)])


def displacement(atoms: Atoms) -> float:
    """Of titanium against the mean of the three oxygens along z, Å."""
    scaled = atoms.get_scaled_positions(wrap=False)[:, 2]
    moved = scaled - np.array([0.0, 0.5, 0.0, 0.5, 0.5])
    moved -= np.rint(moved)
    return float((moved[1] - moved[2:].mean()) * atoms.cell[2, 2])


if __name__ == "__main__":
    main()
