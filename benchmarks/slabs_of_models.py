"""Slabs cut from bulk water, by models of several hosts: surface energies, and how far forces differ.

    python benchmarks/slabs_of_models.py evaluate FRAMES.extxyz water-mace-pairs -o mace.npz       (environment of MACE)
    python benchmarks/slabs_of_models.py evaluate FRAMES.extxyz water-nequip-pairs -o nequip.npz   (that of NequIP)
    python benchmarks/slabs_of_models.py compare mace.npz nequip.npz

The packaged `water-64` and every twelfth frame are cut between z = 0 and the top of the cell, molecules whole, and put
into a cell that is 20 Å taller and periodic in the plane. Nothing is relaxed. The surface energy is that of the cut,
(E(slab) − E(bulk))/2A, by each model alone.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

import les_plugins
from les_plugins.storage.zoo import structure

#: Å of vacuum; every how many frames are cut; mJ/m² of an eV/Å².
VACUUM, EVERY, MILLIJOULE = 20.0, 12, 16021.77


def main() -> None:
    """Evaluate the slabs by one model, or compare models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    evaluating = commands.add_parser("evaluate")
    evaluating.add_argument("frames", type=Path)
    evaluating.add_argument("model")
    evaluating.add_argument("-o", "--output", type=Path, required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("files", type=Path, nargs="+")
    given = parser.parse_args()
    if given.command == "evaluate":
        frames = [ase.io.read(structure("water-64")), *ase.io.read(given.frames, f"::{EVERY}")]
        energies, forces = evaluate(given.model, frames)
        np.savez(given.output, surface_energy=energies, forces=forces)
    else:
        compare(given.files)


def evaluate(model: str, frames: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """(frames,) surface energies of the cut, eV/Å², and forces of the slabs, eV/Å, of all atoms in a row."""
    calculator = les_plugins.load(model)
    energies, forces = [], []
    for frame in frames:
        bulk = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=True, calculator=calculator)
        energy = bulk.get_potential_energy()
        cut = slab(bulk)
        cut.calc = calculator
        area = np.linalg.norm(np.cross(cut.cell[0], cut.cell[1]))
        energies.append((cut.get_potential_energy() - energy) / (2.0 * area))
        forces.append(cut.get_forces())
    return np.array(energies), np.concatenate(forces)


def slab(bulk: Atoms) -> Atoms:
    """Whole molecules between vacuum, periodic in the plane."""
    cut = Atoms(bulk.numbers, bulk.get_positions(wrap=True), cell=bulk.cell, pbc=True)
    oxygen = np.flatnonzero(cut.numbers == 8)
    for hydrogen in np.flatnonzero(cut.numbers == 1):
        nearest = oxygen[np.argmin(cut.get_distances(hydrogen, oxygen, mic=True))]
        cut.positions[hydrogen] = cut.positions[nearest] + cut.get_distance(nearest, hydrogen, mic=True, vector=True)
    cut.pbc = (True, True, False)
    cell = cut.cell.array.copy()
    cell[2] = (0.0, 0.0, cell[2, 2] + VACUUM)
    cut.set_cell(cell)
    cut.center(axis=2)
    return cut


def compare(files: list[Path]) -> None:
    """A line for each model and for each pair."""
    found = {file.stem: np.load(file) for file in files}
    for name, values in found.items():
        energy = MILLIJOULE * values["surface_energy"]
        print(f"{name}: surface energy {energy.mean():.1f} mJ/m², from {energy.min():.1f} to {energy.max():.1f}")
    for one, other in combinations(found, 2):
        apart = found[one]["forces"] - found[other]["forces"]
        print(f"{one}, {other}: forces {1e3 * np.sqrt((apart**2).mean()):.1f} meV/Å apart (RMS)")


if __name__ == "__main__":
    main()
