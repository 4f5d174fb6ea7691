"""What Born charges and currents cost beside forces, with transfers and with phases: ratios to an evaluation of forces.

    OMP_NUM_THREADS=1 python benchmarks/born_charges.py mapbi3-mace
    OMP_NUM_THREADS=1 python benchmarks/born_charges.py mapbi3-nequip
    OMP_NUM_THREADS=1 python benchmarks/born_charges.py water-mace --structure water-64 --repeat 1

One structure of the zoo, repeated along the first axis (192 atoms by default), one thread, processor times, the
shortest of the repeats, all kinds in turn within each repeat. `md` is a run of NVE with a frame at every second step,
with the current over without. Phases are what the same model would have without its transfers.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

import les_plugins
from les_plugins.dynamics import Settings, run
from les_plugins.errors import LesPluginsWarning
from les_plugins.storage.zoo import structure

BORN = "born_effective_charges"


def main() -> None:
    """Measure both kinds of polarization that the model has, and print a row of the table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--structure", default="mapbi3-222")
    parser.add_argument("--repeat", type=int, default=2, help="of the cell along its first axis")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40, help="of molecular dynamics")
    given = parser.parse_args()
    warnings.simplefilter("ignore", LesPluginsWarning)
    atoms = ase.io.read(structure(given.structure))
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True).repeat((given.repeat, 1, 1))
    calculator = les_plugins.load(given.model)
    calculator.get_property("dipole", atoms)
    sources = ["transfers", "phases"] if calculator.results["polarization_source"] == "transfers" else ["phases"]
    print(f"{len(atoms)} atoms, {os.environ.get('OMP_NUM_THREADS', '?')} thread, load {os.getloadavg()[0]:.1f}")
    print("| model | polarization | forces, ms | Z* | J | md with J at every second step | sum rule, e |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for source in sources:
        handle = None
        if source == "phases":  # before the calculator's own hook
            handle = calculator._part.register_forward_hook(lambda _, __, found: found._replace(transfers=None))
        print("| " + " | ".join([f"`{given.model}`", source, *measured(calculator, atoms, given)]) + " |", flush=True)
        assert calculator.results["polarization_source"] == source
        if handle is not None:
            handle.remove()


def measured(calculator: Any, atoms: Atoms, given: argparse.Namespace) -> list[str]:
    """Cells of one row."""
    generator = np.random.default_rng(0)
    velocities = generator.normal(size=(len(atoms), 3))

    def forces() -> None:
        calculator.calculate(atoms, ["forces"])

    def born() -> None:
        calculator.calculate(atoms, ["forces", BORN])

    def current() -> None:
        calculator.calculate(atoms, ["forces", "current"])
        calculator.current(velocities)

    def moved(kind: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            atoms.positions += 1e-3 * generator.normal(size=(len(atoms), 3))
            kind()

        return call

    start = atoms.positions.copy()
    times = shortest([moved(kind) for kind in (forces, born, current)], given.repeats)
    atoms.positions = start
    born()
    violation = np.abs(calculator.results[BORN].mean(0)).max()

    def dynamics(with_current: bool) -> Callable[[], None]:
        def call() -> None:
            settings = Settings.of(temperature=300.0, steps=given.steps, every=2, current=with_current, seed=1)
            with tempfile.TemporaryDirectory() as folder:
                run(calculator, atoms, Path(folder) / "run.h5", settings)

        return call

    without, including = shortest([dynamics(False), dynamics(True)], 3)
    ratios = [f"{each / times[0]:.2f}" for each in times[1:]]
    return [f"{1e3 * times[0]:.0f}", *ratios, f"{including / without:.2f}", f"{violation:.1e}"]


def shortest(kinds: list[Callable[[], None]], repeats: int) -> list[float]:
    """Processor times, s, of kinds that are called in turn, the first round not counted."""
    found = []
    for _ in range(repeats + 1):
        found.append([])
        for kind in kinds:
            began = time.process_time()
            kind()
            found[-1].append(time.process_time() - began)
    return [float(value) for value in np.min(found[1:], axis=0)]


if __name__ == "__main__":
    main()
