"""What `les-plugins demo` runs: a model of the zoo on a packaged box of water, checked, simulated, and its spectrum."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from les_plugins.data.evaluation import Evaluation, evaluate
from les_plugins.data.frames import read_frames
from les_plugins.data.labels import BORN, LabelKeys
from les_plugins.dynamics import Settings, Trajectory, run
from les_plugins.errors import DataError
from les_plugins.storage import zoo
from les_plugins.units import SPEED_OF_LIGHT

TRAJECTORY = "md.h5"
#: Models of water of one host, the one that is free to use first; the demo names the others with their errors.
MODELS = ("water-free", "water-mace")
#: Measured bands of liquid water, cm⁻¹: libration, bend, stretch (Bertie and Lan, Appl. Spectrosc. 50, 1047, 1996).
BANDS = (686.0, 1644.0, 3404.0)
#: Interval of the demo's frames, fs: resolves 4,170 cm⁻¹, above the O–H stretch.
TIMESTEP, EVERY = 1.0, 4


@dataclass(frozen=True)
class Checked:
    """Results on the packaged structure, and how they compare with those stored when the model was made.

    Attributes:
        atoms: the structure, with velocities.
        evaluation: computed here against stored.
        born: Z* (N, 3, 3) e, computed here.
        dipole: (3,) e·Å.
        energy: eV.
    """

    atoms: Atoms
    evaluation: Evaluation
    born: Any
    dipole: Any
    energy: float


def stored_predictions(entry: zoo.Entry) -> Atoms:
    """The packaged structure of a model, with what the model gave for it when it was made as labels."""
    stored = json.loads((entry.folder / zoo.PREDICTIONS).read_text(encoding="utf-8"))
    atoms = read_frames(zoo.structure(stored["structure"]))[0]
    results = {name: np.array(stored[name]) for name in ("forces", BORN) if name in stored}
    results["energy"] = stored["energy"]
    calculator = SinglePointCalculator(atoms)
    calculator.results = results
    atoms.calc = calculator
    return atoms


def check(calculator: Any, entry: zoo.Entry) -> Checked:
    """Compute energy, forces, Z* and dipole of the packaged structure, and compare with what is stored.

    Raises:
        DataError: numbers that differ from the stored ones by more than rounding.
    """
    atoms = stored_predictions(entry)
    if BORN not in atoms.calc.results:
        raise DataError(f"{entry.name} has no long-range part, and so no Born charges to show; choose another model")
    result = evaluate(calculator, [atoms], entry.name, LabelKeys())
    for comparison in result.comparisons.values():
        scale = float(np.abs(comparison.reference).max())
        largest = float(np.abs(comparison.predicted - comparison.reference).max())
        if not largest <= 1e-4 * scale:  # float32 features, other processors: some 1e-6
            raise DataError(
                f"{entry.name}: {comparison.name} differs from the stored value by {largest:.3g} "
                f"{comparison.quantity.unit} (largest value {scale:.3g}): this installation does "
                "not compute what the model card says"
            )
    born = calculator.get_property(BORN, atoms)
    return Checked(
        atoms, result, born, calculator.get_property("dipole", atoms), calculator.get_potential_energy(atoms)
    )


def simulate(
    calculator: Any, atoms: Atoms, folder: Path, steps: int, track: Callable[[range], Iterable[int]] = iter
) -> Trajectory:
    """Constant-energy dynamics from the packaged positions and velocities, with J(t), to `folder/md.h5`."""
    settings = Settings.of(timestep=TIMESTEP, steps=steps, every=EVERY)
    start = atoms.copy()
    run(calculator, start, folder / TRAJECTORY, settings, track=track)
    return Trajectory.open(folder / TRAJECTORY)


def resolution(trajectory: Trajectory) -> float:
    """The resolution of a spectrum of one segment, the whole trajectory, cm⁻¹."""
    return 1.0 / (SPEED_OF_LIGHT * trajectory.frames * trajectory.interval)


def errors_of_forces(summary: Mapping[str, Any]) -> str:
    """What a model misses, of the `summary` of its metrics: against DFT, or against its teacher and DFT."""
    forces, energy = summary["forces_rmse_meV_per_A"], summary["energy_rmse_meV_per_atom"]
    of_teacher = summary.get("first_principles_forces_rmse_meV_per_A")
    if of_teacher is None:
        return f"its errors against DFT: on validation frames, forces {forces:.1f} meV/Å, energy {energy:.2f} meV/atom"
    return (
        f"its errors: against its teacher on validation frames, forces {forces:.1f} meV/Å, energy {energy:.2f} "
        f"meV/atom; against DFT of another functional, forces {of_teacher:.1f} meV/Å"
    )


def other_models(name: str) -> list[str]:
    """A line for each other model of `MODELS` that the zoo has: its errors, its licence, and how to run it."""
    found = []
    for other in MODELS:
        if other == name or other not in zoo.names():
            continue
        metrics = zoo.entry(other).metrics
        errors, licence = errors_of_forces(metrics["summary"]), metrics["data"]["licence"]
        found.append(f"les-plugins demo --model {other}: {errors}; data: {licence}")
    return found


def mean_born_charges(born: Any) -> Any:
    """(N,) e, a third of the trace of each atom's Z*."""
    return np.trace(born, axis1=1, axis2=2) / 3.0
