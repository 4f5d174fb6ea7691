"""Spread of a committee of water models on frames as they are, and displaced as far as zero-point motion goes.

    python benchmarks/committee_rattled.py COMMITTEE FRAMES.xyz

An oscillator of mass m and wavenumber ν has the variance ħ/(2 m ω) coth(ħω/2kT) in quantum, kT/(m ω²) in classical
mechanics. Frames of classical dynamics are displaced by the difference at 300 K: hydrogen along its bond (stretch), in
the plane of the molecule (bend) and out of it (libration), whole molecules along three axes (translation). The second
kind of displacement is the same for every direction: 0.12 Å for H, 0.03 Å for O. Prints RMS of `forces_std`, the
largest of an atom, and the pressure of each member with the standard deviation between them.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from numpy.typing import NDArray

import les_plugins

GPA = 1.0 / units.GPa
#: K.
TEMPERATURE = 300.0
#: Mass in u and wavenumber in 1/cm of what moves: stretch and bend with their reduced masses.
STRETCH, BEND, LIBRATION, TRANSLATION = (0.948, 3400.0), (0.948, 1640.0), (1.008, 600.0), (18.015, 200.0)
#: Å, of the displacements without directions.
ISOTROPIC = {"H": 0.12, "O": 0.03}
Floats = NDArray[np.float64]


def main() -> None:
    """Print a line a kind of frame."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("committee", type=Path)
    parser.add_argument("frames", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    widths = [added_width(*mode) for mode in (STRETCH, BEND, LIBRATION, TRANSLATION)]
    print("widths, Å: stretch {:.3f}, bend {:.3f}, libration {:.3f}, translation {:.3f}".format(*widths))
    committee = les_plugins.load(args.committee)
    frames = ase.io.read(args.frames, ":")
    assert isinstance(frames, list)
    kinds: dict[str, Callable[[Atoms, int], Atoms]] = {
        "as they are": lambda atoms, seed: atoms.copy(),
        "zero-point": lambda atoms, seed: displaced(atoms, np.random.default_rng(seed), widths),
        "isotropic": lambda atoms, seed: isotropic(atoms, np.random.default_rng(seed)),
    }
    print(f"{committee.names}, {len(frames)} frames; forces_std in meV/Å, pressures in GPa")
    for name, change in kinds.items():
        roots, pressures = [], []
        for seed, atoms in enumerate(frames):
            committee.calculate(change(atoms, seed), ["energy", "forces", "stress"])
            roots.append(1000 * np.sqrt((committee.results["forces_std"] ** 2).mean(axis=1)))
            mean, std = (committee.results[key][:3].mean() * GPA for key in ("stress", "stress_std"))
            own = [-member.results["stress"][:3].mean() * GPA for member in committee.members]
            pressures.append([*own, np.std(own, ddof=1), -mean, std])
        every, table = np.concatenate(roots), np.array(pressures)
        difference = table[:, 0] - table[:, 1]
        print(
            f"{name:12s} RMS {np.sqrt((every**2).mean()):7.1f} largest {every.max():7.1f}"
            f"  H {rms_of(roots, frames, 'H'):6.1f} O {rms_of(roots, frames, 'O'):6.1f}"
            f"  pressures {table[:, 0].mean():+.2f} {table[:, 1].mean():+.2f}, difference {difference.mean():+.2f} "
            f"± {difference.std(ddof=1):.2f}, std {np.sqrt((table[:, 2] ** 2).mean()):.2f}",
            flush=True,
        )
    committee.close()


def added_width(mass: float, wavenumber: float) -> float:
    """Å: root of quantum less classical variance of an oscillator."""
    energy = wavenumber * units.invcm
    half = 0.5 * energy / (units.kB * TEMPERATURE)
    ground = (units._hbar * units.J * units.s) ** 2 / (2.0 * mass * energy)  # ħ²/(2 m ħω), Å²
    return float(np.sqrt(ground * (1.0 / np.tanh(half) - 1.0 / half)))


def displaced(atoms: Atoms, random: np.random.Generator, widths: list[float]) -> Atoms:
    """A copy in which hydrogen moves in the frame of its molecule, and molecules as a whole."""
    new: Atoms = atoms.copy()
    hydrogen, oxygen = (np.flatnonzero(atoms.symbols == symbol) for symbol in "HO")
    stretch, bend, libration, translation = widths
    near = np.argsort(atoms.get_all_distances(mic=True)[np.ix_(oxygen, hydrogen)], axis=1)[:, :2]
    for center, pair in zip(oxygen, hydrogen[near], strict=True):
        bonds = atoms.get_distances(center, pair, mic=True, vector=True)
        normal = unit(np.cross(*bonds))
        for number, bond in zip(pair, bonds, strict=True):
            along = unit(bond)
            axes = np.stack([along, np.cross(normal, along), normal])
            new.positions[number] += (random.normal(size=3) * [stretch, bend, libration]) @ axes
        new.positions[[center, *pair]] += translation * random.normal(size=3)
    return new


def isotropic(atoms: Atoms, random: np.random.Generator) -> Atoms:
    """A copy in which every atom moves by itself."""
    new: Atoms = atoms.copy()
    width = np.array([ISOTROPIC[symbol] for symbol in new.symbols])
    new.positions += width[:, None] * random.normal(size=new.positions.shape)
    return new


def unit(vector: Floats) -> Floats:
    """Of length one."""
    found: Floats = vector / np.linalg.norm(vector)
    return found


def rms_of(roots: list[Floats], frames: list[Atoms], symbol: str) -> float:
    """Root mean square over the atoms of one element."""
    chosen = np.concatenate([values[atoms.symbols == symbol] for values, atoms in zip(roots, frames, strict=True)])
    return float(np.sqrt((chosen**2).mean()))


if __name__ == "__main__":
    main()
