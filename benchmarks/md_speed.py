"""Steps of molecular dynamics a second: `les-plugins md` against ASE with the bare MACE inside the same model.

    OMP_NUM_THREADS=1 python benchmarks/md_speed.py mapbi3-mace --structure mapbi3-222
    OMP_NUM_THREADS=1 python benchmarks/md_speed.py water-mace

Processor time of a step, the shortest of the rounds, all kinds in turn: ASE's VelocityVerlet with MACE's own
calculator and no long-range part; `md` without J, and with J and a frame at every second step.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from mace.calculators import MACECalculator

from les_plugins import api
from les_plugins.dynamics import Settings, run
from les_plugins.errors import LesPluginsWarning
from les_plugins.storage.zoo import structure


def main() -> None:
    """Print one row of the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--structure", default="water-64")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    warnings.simplefilter("ignore", LesPluginsWarning)
    start = ase.io.read(structure(given.structure))
    start = Atoms(start.numbers, start.positions, cell=start.cell, pbc=True)
    MaxwellBoltzmannDistribution(start, temperature_K=300.0, rng=np.random.default_rng(0))
    model, _ = api.load_model(given.model)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    bare = MACECalculator(models=[model.base], device="cpu", default_dtype=dtype)
    calculator = api.load(given.model)

    def ase_steps() -> None:
        atoms = start.copy()
        atoms.calc = bare
        VelocityVerlet(atoms, 0.5 * units.fs).run(given.steps)

    def ours(current: bool) -> Callable[[], None]:
        def call() -> None:
            settings = Settings.of(temperature=300.0, steps=given.steps, every=2, current=current, seed=1)
            with tempfile.TemporaryDirectory() as folder:
                run(calculator, start, Path(folder) / "run.h5", settings)

        return call

    kinds, found = (ase_steps, ours(False), ours(True)), []
    for _ in range(given.rounds + 1):
        found.append([])
        for kind in kinds:
            began = time.process_time()
            kind()
            found[-1].append((time.process_time() - began) / (given.steps + 1))
    bare_time, without, with_current = np.min(found[1:], axis=0)
    print(f"{len(start)} atoms, {os.environ.get('OMP_NUM_THREADS', '?')} thread, load {os.getloadavg()[0]:.1f}")
    print("| model | ASE with bare MACE, steps/s | md without J, time over ASE's | md with J, time over ASE's |")
    print("|---|---:|---:|---:|")
    ratios = f"{without / bare_time:.2f} | {with_current / bare_time:.2f}"
    print(f"| `{given.model}` | {1.0 / bare_time:.1f} | {ratios} |")


if __name__ == "__main__":
    main()
