"""Energy and pressure against volume of a student and its teacher, from single points in scaled cells.

    python benchmarks/equation_of_state.py STRUCTURE MODEL… [--scales 0.97 1.03] [--points 7] [--plot FILE.png]

A MODEL is what `les-plugins distill` takes as TEACHER. Molecules stay rigid and move with their centres. Prints the
length scale and volume where the pressure of the models vanishes, and the RMS difference of every model's curves to
those of the first. `--temperature` adds the ideal pressure of the molecules and ions, N k T / V.
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.geometry import find_mic
from numpy.typing import NDArray

from les_plugins.distillation.displacements import ions
from les_plugins.distillation.teachers import open_teacher

GPA = 1.0 / units.GPa
Floats = NDArray[np.float64]


def main() -> None:
    """Print a table, and a line a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structure", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--scales", type=float, nargs=2, default=(0.97, 1.03), help="of lengths, first and last")
    parser.add_argument("--points", type=int, default=7)
    parser.add_argument("--temperature", type=float, default=0.0, help="K")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    atoms = ase.io.read(args.structure)
    assert isinstance(atoms, Atoms)
    scales = np.linspace(*args.scales, args.points)
    frames = [scaled(atoms, scale) for scale in scales]
    volumes = np.array([frame.get_volume() for frame in frames])
    ideal = (ions(atoms).max() + 1) * units.kB * args.temperature / volumes * GPA
    curves = {}
    for name in args.models:
        energies, pressures = curve(name, frames)
        curves[name] = energies - energies.mean(), pressures, slope(volumes, energies) + ideal
    print(f"{args.structure.name}, {len(atoms)} atoms; meV/atom and GPa; ideal pressure {ideal.mean():.3f} GPa")
    print("scale   volume  " + "  ".join(f"{name:>30s}" for name in curves))
    for number, scale in enumerate(scales):
        row = [(1000 * e[number] / len(atoms), p[number], s[number]) for e, p, s in curves.values()]
        cells = ("{:9.3f} {:9.3f} {:9.3f}".format(*values) for values in row)
        print(f"{scale:.4f} {volumes[number]:8.1f}  " + "  ".join(f"{cell:>30s}" for cell in cells))
    first = next(iter(curves.values()))
    for name, (energies, pressures, slopes) in curves.items():
        energy = 1000 * rms(energies - first[0]) / len(atoms)
        print(
            f"{name}: zero of -dE/dV at {zero(scales, slopes)}, of the stress at {zero(scales, pressures)}; "
            f"from {args.models[0]}: energy {energy:.3f} meV/atom, "
            f"pressure of the stress {rms(pressures - first[1]):.3f} GPa, -dE/dV {rms(slopes - first[2]):.3f} GPa"
        )
    if args.plot:
        draw(args.plot, volumes / len(atoms), curves, len(atoms))


def scaled(atoms: Atoms, scale: float) -> Atoms:
    """A copy in a scaled cell, its molecules moved by their centres and not deformed."""
    group = ions(atoms)
    first = atoms.positions[[np.argmax(group == number) for number in group]]
    whole = first + find_mic(atoms.positions - first, atoms.cell, atoms.pbc)[0]
    counts = np.bincount(group)[:, None]
    centres = np.stack([np.bincount(group, whole[:, axis]) for axis in range(3)], axis=1) / counts
    new: Atoms = atoms.copy()
    new.positions = whole + (scale - 1.0) * centres[group]
    new.set_cell(scale * atoms.cell.array, scale_atoms=False)
    return new


def curve(name: str, frames: list[Atoms]) -> tuple[Floats, Floats]:
    """Energies, eV, and pressures of the stress, GPa."""
    calculator = open_teacher(name).calculator
    energies, pressures = [], []
    for frame in frames:
        calculator.calculate(frame, ["energy", "forces", "stress"])
        energies.append(calculator.results["energy"])
        pressures.append(-calculator.results["stress"][:3].mean() * GPA)
    return np.array(energies), np.array(pressures)


def slope(volumes: Floats, energies: Floats) -> Floats:
    """-dE/dV in GPa, of a polynomial of third order through the energies."""
    shift, width = volumes.mean(), np.ptp(volumes)
    fit = np.polynomial.Polynomial.fit((volumes - shift) / width, energies - energies.mean(), 3)
    found: Floats = -fit.deriv()((volumes - shift) / width) / width * GPA
    return found


def zero(scales: Floats, pressures: Floats) -> str:
    """Length scale at which a pressure vanishes, by linear interpolation."""
    for low in range(len(scales) - 1):
        if pressures[low] >= 0.0 > pressures[low + 1]:
            part = pressures[low] / (pressures[low] - pressures[low + 1])
            return f"scale {scales[low] + part * (scales[low + 1] - scales[low]):.4f}"
    return "no scale here"


def rms(values: Floats) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(values**2)))


def draw(path: Path, volumes: Floats, curves: dict[str, tuple[Floats, Floats, Floats]], atoms: int) -> None:
    """Energy and pressure beside each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, (energies, pressures, _)) in enumerate(curves.items()):
        style = "o-" if number == 0 else "s--"
        left.plot(volumes, 1000 * energies / atoms, style, markersize=4, label=name)
        right.plot(volumes, pressures, style, markersize=4)
    right.axhline(0.0, color="0.7", linewidth=0.8, zorder=0)
    left.set(xlabel="volume, Å³/atom", ylabel="energy less its mean, meV/atom")
    right.set(xlabel="volume, Å³/atom", ylabel="pressure by the stress, GPa")
    left.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
