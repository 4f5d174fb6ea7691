"""Does a model hold its system together? Two picoseconds at constant temperature; bonds and temperature after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import get_distances

from les_plugins.data.metrics import Floats
from les_plugins.dynamics import Settings, Trajectory, run

#: A pair is a bond below this multiple of the sum of covalent radii, broken above the second, crushed below the third.
BOND, BROKEN, CRUSHED = 1.25, 1.6, 0.55
#: Allowed deviation of the mean temperature of the last half. 192 atoms fluctuate by 6 %, their mean over 1 ps by 2 %.
TEMPERATURE = 0.10


@dataclass(frozen=True)
class Stability:
    """How a simulation went.

    Attributes:
        picoseconds, temperature, timestep: what was simulated; ps, K, fs.
        mean_temperature: K, over the last half.
        bonds: (shortest, longest), Å, of the bonds of the start, by pair of elements.
        broken_bonds: bonds of the start that were ever longer than `BROKEN` × the sum of covalent radii.
        crushed_pairs: pairs that were ever nearer than `CRUSHED` × the sum.
        passed: nothing broken or crushed, and the temperature right.
    """

    picoseconds: float
    temperature: float
    timestep: float
    mean_temperature: float
    bonds: dict[str, tuple[float, float]]
    broken_bonds: int
    crushed_pairs: int
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def stability(
    calculator: Any,
    start: Atoms,
    temperature: float,
    folder: Path,
    picoseconds: float = 2.0,
    timestep: float = 0.5,
    track: Callable[[range], Iterable[int]] = iter,
) -> Stability:
    """Simulate at constant temperature (Bussi) and look at every tenth femtosecond.

    Args:
        calculator: ASE calculator.
        start: the structure, near equilibrium; velocities are drawn unless it has some.
        temperature: K.
        folder: where the trajectory goes.
        picoseconds: length.
        timestep: fs.
        track: wraps the step numbers, for a progress bar.

    Raises:
        DataError: the simulation came apart altogether.
    """
    steps, every = round(1000.0 * picoseconds / timestep), max(1, round(10.0 / timestep))
    settings = Settings.of(
        ensemble="nvt", temperature=temperature, timestep=timestep, steps=steps, every=every, current=False, seed=1
    )
    path = folder / "stability.h5"
    run(calculator, start, path, settings, track=track)
    trajectory = Trajectory.open(path)
    temperatures = trajectory["temperature"]
    mean = float(temperatures[len(temperatures) // 2 :].mean())
    bonds, broken, crushed = _bonds(start, trajectory["positions"], trajectory["cell"])
    right = abs(mean - temperature) <= TEMPERATURE * temperature
    passed = right and not broken and not crushed
    return Stability(picoseconds, temperature, timestep, mean, bonds, broken, crushed, passed)


def _bonds(start: Atoms, positions: Floats, cells: Floats) -> tuple[dict[str, tuple[float, float]], int, int]:
    radii = covalent_radii[start.numbers]
    sums = radii[:, None] + radii[None, :]
    upper = np.triu(np.ones(sums.shape, dtype=bool), 1)
    bonded = upper & (start.get_all_distances(mic=True) < BOND * sums)
    names = np.array([["-".join(sorted((a, b))) for b in start.symbols] for a in start.symbols])
    shortest = np.full(sums.shape, np.inf)
    longest = np.zeros(sums.shape)
    for place, cell in zip(positions, cells, strict=True):
        distances = get_distances(place, place, cell=cell, pbc=start.pbc)[1]
        shortest, longest = np.minimum(shortest, distances), np.maximum(longest, distances)
    found = {}
    for name in sorted(set(names[bonded])):
        of = bonded & (names == name)
        found[str(name)] = (float(shortest[of].min()), float(longest[of].max()))
    broken = int((longest[bonded] > BROKEN * sums[bonded]).sum())
    return found, broken, int((shortest[upper] < CRUSHED * sums[upper]).sum())
