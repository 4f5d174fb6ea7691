"""How much Born charges depend on the size of the cell: one structure, and the same repeated twice along every axis.

    OMP_NUM_THREADS=1 python benchmarks/long_waves.py water-mace --structure water-64
    OMP_NUM_THREADS=1 python benchmarks/long_waves.py mapbi3-nequip --structure frame.extxyz

Prints the part of the longest wave's field that induced charges take away, and the slope of Z* in the larger cell over
Z* in the smaller one, atoms of the first image: of `born_effective_charges`, which are taken at the smallest wave
vectors, and of `long_wave_born_charges`, which leave out what the field of the wave itself induces.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

import les_plugins
from les_plugins.electrostatics.long_waves import screening_of_longest_wave
from les_plugins.errors import LesPluginsWarning
from les_plugins.storage.zoo import structure

NAMES = ("born_effective_charges", "long_wave_born_charges")


def born(calculator: Any, atoms: Atoms) -> tuple[list[np.ndarray], float]:
    """Both kinds of Z*, and the screening of the cell's longest wave."""
    seen: list[float] = []

    def look(_: Any, inputs: Any, output: Any) -> None:
        soft = output.softness
        seen.append(0.0 if soft is None else screening_of_longest_wave(soft, inputs[2][0])[0])

    handle = calculator._part.register_forward_hook(look)
    found = [np.array(calculator.get_property(name, atoms)) for name in NAMES]
    handle.remove()
    return found, seen[-1]


def main() -> None:
    """Evaluate twice, print one line a kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--structure", required=True, help="a structure of the zoo, or a file")
    args = parser.parse_args()
    atoms = ase.io.read(args.structure if Path(args.structure).exists() else structure(args.structure))
    atoms = Atoms(atoms.get_chemical_symbols(), atoms.positions, cell=atoms.cell, pbc=True)
    warnings.simplefilter("ignore", LesPluginsWarning)
    calculator = les_plugins.load(args.model)
    small, before = born(calculator, atoms)
    large, after = born(calculator, atoms.repeat(2))
    print(f"{args.model}: screening of the longest wave {before:.3f}, in the larger cell {after:.3f}")
    symbols = np.array(atoms.get_chemical_symbols())
    for name, first, second in zip(NAMES, small, large, strict=True):
        second = second[: len(atoms)]
        slope = float((first * second).sum() / (first * first).sum())
        means = ", ".join(
            f"{element} {np.trace(first[symbols == element].mean(0)) / 3:.3f} "
            f"{np.trace(second[symbols == element].mean(0)) / 3:.3f}"
            for element in dict.fromkeys(symbols)
        )
        print(f"  {name}: larger over smaller {slope:.3f}; mean of the diagonal in both, e: {means}")


if __name__ == "__main__":
    main()
