"""How much Born charges depend on the size of the cell: one structure, and the same repeated twice along every axis.

    OMP_NUM_THREADS=1 python benchmarks/long_waves.py water-mace --structure water-64
    OMP_NUM_THREADS=1 python benchmarks/long_waves.py mapbi3-nequip --structure frame.extxyz
    OMP_NUM_THREADS=1 python benchmarks/long_waves.py water.les --structure water-64 --waves 1 2 4

Prints the part of the longest wave's field that induced charges take away, and the slope of Z* in the larger cell over
Z* in the smaller one, atoms of the first image: of `born_effective_charges`, which are taken at the smallest wave
vectors, and of `long_wave_born_charges`, which leave out what the field of the wave itself induces.

With `--waves`: the energy of a longitudinal wave as long as the cell repeated so many times along its third axis.
Charges are displaced along the wave, each by its sign times 0.02 Å cos k·r, moments and softness held fixed; the second
difference of the response's energy over that of the permanent moments is a constant of the material for charge that
flows over pairs and for dipoles, and grows with the square of the length for charge that is induced on atoms. Both are
given: the whole response, and that of charge alone, without induced dipoles. Waves shorter than some ten times σ feel
the smearing, which takes exp(−k²σ²/2) of the ratio; this factor is printed.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from torch import Tensor

import les_plugins
from les_plugins.electrostatics import LatentElectrostatics
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


def wave(calculator: Any, atoms: Atoms) -> tuple[float, float, float, float]:
    """Length of the longest wave along the third axis, Å, the response's energy over that of permanent moments, the
    same of induced charge without dipoles, and exp(−k²σ²/2)."""
    seen: list[tuple[Any, Any]] = []
    handle = calculator._part.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    calculator.get_property("energy", atoms)
    handle.remove()
    inputs, latent = seen[-1]
    positions, cell, pbc, batch = (value.detach() for value in inputs[1:5])
    positions, cell = positions.double(), cell.double()
    normal = torch.linalg.inv(cell[0])[:, 2]
    unit, phase = normal / normal.norm(), 2.0 * torch.pi * positions @ normal
    way = torch.sign(latent.permanent.charge.detach().double())[:, None] * torch.cos(phase)[:, None] * unit
    permanent = type(latent.permanent)(*(None if x is None else x.detach().double() for x in latent.permanent))
    config = calculator._part.config
    pairs = latent.pair_softness

    def energy(size: float, response: str | None, dipoles: bool = True) -> Tensor:
        layer = LatentElectrostatics(config.sigma, config.dl, response=response, net_charge_warning=None)
        moved = None
        if pairs is not None:
            vector = pairs.vector.detach().double() + size * (way[pairs.neighbor] - way[pairs.centre])
            moved = pairs._replace(vector=vector, value=pairs.value.detach().double())
        given = (latent.softness, latent.polarizability if dipoles else None)
        coefficients = [None if x is None else x.detach().double() for x in given]
        places = positions + size * way
        with torch.no_grad():
            return layer(places, cell, pbc, batch, permanent, *coefficients, pair_softness=moved).energy[0]

    step = 0.02
    kinds: list[tuple[str | None, bool]] = [(None, False), ("one_shot", True)]
    if latent.softness is not None or pairs is not None:
        kinds.append(("one_shot", False))
    first, *others = [sum(w * energy(x * step, *kind) for x, w in ((-1, 1), (0, -2), (1, 1))) for kind in kinds]
    whole, charge = [float((bent - first) / first) for bent in [*others, first][:2]]
    length = float(1.0 / normal.norm())
    return length, whole, charge, math.exp(-0.5 * (2.0 * math.pi * config.sigma / length) ** 2)


def main() -> None:
    """Evaluate twice, print one line a kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--structure", required=True, help="a structure of the zoo, or a file")
    parser.add_argument("--waves", type=int, nargs="+", metavar="N", help="also waves of N cells along the third axis")
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
        largest = np.abs(second - first).max()
        print(f"  {name}: larger over smaller {slope:.4f}, largest difference {largest:.1e} e")
        print(f"    mean of the diagonal in both, e: {means}")
    for number in args.waves or ():
        length, whole, charge, smearing = wave(calculator, atoms.repeat((1, 1, number)))
        print(
            f"  wave of {length:.1f} Å: response over permanent energy {whole:.4f}, of charge alone {charge:.4f}; "
            f"exp(−k²σ²/2) {smearing:.3f}"
        )


if __name__ == "__main__":
    main()
