"""All of Z* beside energy + forces and alone, for models of every host with conserved charges: ratios, by size.

    OMP_NUM_THREADS=1 python benchmarks/born_of_hosts.py mapbi3-mace mapbi3-nequip
    OMP_NUM_THREADS=1 python benchmarks/born_of_hosts.py tensornet m3gnet --profile

Models of the zoo, or those of `small_models.py`, in the environment of their host; liquid water and MAPbI3 repeated to
192 and 1,536 atoms. One thread, processor times, the shortest of the repeats, all kinds in turn; alone is an
evaluation that is asked for Z* and makes no forces. With `--profile` the largest operators of all are printed too.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from born_charges import BORN, shortest
from small_models import MODELS, calculator_of
from torch.profiler import ProfilerActivity, profile

import les_plugins
from les_plugins.errors import LesPluginsWarning
from les_plugins.storage.zoo import structure

#: Repeats of 96 atoms of MAPbI3 or 192 of water.
CELLS = {192: ((2, 1, 1), (1, 1, 1)), 384: ((2, 2, 1), (2, 1, 1)), 1536: ((4, 2, 2), (2, 2, 2))}


def main() -> None:
    """A line for each model and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 1536], choices=list(CELLS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    warnings.simplefilter("ignore", LesPluginsWarning)
    threads = os.environ.get("OMP_NUM_THREADS", "?")
    print(f"{threads} thread, load {os.getloadavg()[0]:.1f}")
    print("| model | atoms | energy + forces, ms | with Z*, ratio | Z* alone, ratio |")
    print("|---|---:|---:|---:|---:|")
    for name in given.models:
        calculator = calculator_of(name) if name in MODELS else les_plugins.load(name)
        for size in given.sizes:
            atoms = periodic(name, size)
            kinds = [moved(calculator, atoms, properties) for properties in (["forces"], ["forces", BORN], [BORN])]
            times = shortest(kinds, given.repeats if size < 1000 else max(2, given.repeats // 2))
            assert calculator.results["polarization_source"] == "transfers"
            assert np.abs(calculator.results[BORN].mean(0)).max() < 1e-5
            ratios = f"{times[1] / times[0]:.2f} | {times[2] / times[0]:.2f}"
            print(f"| {name} | {size} | {1e3 * times[0]:.0f} | {ratios} |", flush=True)
            if given.profile:
                for kind in kinds:
                    with profile(activities=[ProfilerActivity.CPU]) as found:
                        kind()
                    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=22))


def periodic(name: str, size: int) -> Atoms:
    """MAPbI3 for its models, else water."""
    kind = "mapbi3-222" if name.startswith("mapbi3") else "water-64"
    atoms = ase.io.read(structure(kind))
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    return atoms.repeat(CELLS[size][kind == "water-64"])


def moved(calculator: Any, atoms: Atoms, properties: list[str]) -> Callable[[], None]:
    """An evaluation of a structure that is a little different each time."""
    generator = np.random.default_rng(0)

    def call() -> None:
        atoms.positions += 1e-3 * generator.normal(size=(len(atoms), 3))
        calculator.calculate(atoms, properties)

    return call


if __name__ == "__main__":
    main()
