"""The temperature of few atoms, whose centre of mass has no share of the heat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator

from les_plugins.dynamics import Field, Settings, Trajectory, run


class Crystal(Calculator):
    """Stiffening springs of atoms to their sites in a lattice that moves with them, and one that holds the volume."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, atoms: Atoms) -> None:
        super().__init__()
        self.sites, self.volume = atoms.get_scaled_positions(wrap=False), atoms.get_volume()
        self.springs = np.linspace(1.0, 4.0, len(atoms))[:, None]  # of one frequency they would never share their heat

    def calculate(self, atoms: Atoms, *arguments: Any, **named: Any) -> None:
        moved = atoms.positions - self.sites @ atoms.cell.array
        moved = moved - moved.mean(0)
        square = (moved**2).sum(1, keepdims=True)
        slope = (self.springs + 30.0 * square) * moved
        grown = atoms.get_volume() - self.volume
        stress = slope.T @ moved / atoms.get_volume() + 0.5 * grown / self.volume * np.eye(3)
        energy = (0.5 * self.springs * square + 7.5 * square**2).sum() + 0.25 * grown**2 / self.volume
        self.results = {
            "energy": energy,
            "forces": slope.mean(0) - slope,
            "stress": stress.ravel()[[0, 4, 8, 5, 2, 1]],
        }


@pytest.mark.parametrize(
    "chosen",
    [{"ensemble": "npt", "pressure": 1.0, "barostat_time": 200.0}, {"ensemble": "nvt"}],
    ids=["npt", "bussi"],
)
def test_eight_atoms_have_the_temperature_that_was_asked_for(tmp_path: Path, chosen: dict[str, Any]) -> None:
    crystal = bulk("Ar", "fcc", a=4.0).repeat(2)
    settings = Settings.of(
        temperature=300.0, timestep=2.0, steps=2500, every=5, thermostat_time=40.0, current=False, **chosen
    )
    run(Crystal(crystal), crystal, tmp_path / "md.h5", settings)
    found = Trajectory.open(tmp_path / "md.h5")
    # the centre of mass is at rest: seven atoms' worth of motion share the heat, and are counted here independently
    momentum = np.einsum("n,tna->ta", found.masses, found["velocities"])
    assert np.abs(momentum).max() < 1e-9
    temperature = 2.0 * found["kinetic_energy"][100:].mean() / (3 * 7 * units.kB)
    # 4 ps, some 50 times the thermostat's 2 τ, each within sqrt(2/21) = 31 %: 4 % of the mean; N/(N − 1) is 14 %
    assert temperature == pytest.approx(300.0, rel=0.1)
    assert found["temperature"][100:].mean() == pytest.approx(temperature, rel=1e-9)
    assert np.ptp(found["conserved_energy"]) < 0.05 * np.ptp(found["potential_energy"])


@pytest.mark.parametrize("thermostat", ["bussi", "langevin"])
def test_a_molecule_in_a_field_has_the_temperature_that_was_asked_for(tmp_path: Path, thermostat: str) -> None:
    class InField(Crystal):
        has_long_range, takes_external_field, external_field = True, True, None

    cluster = bulk("Ar", "fcc", a=4.0, cubic=True)
    calculator = InField(cluster)
    cluster.pbc = False
    settings = Settings.of(
        ensemble="nvt",
        temperature=300.0,
        thermostat=thermostat,
        timestep=2.0,
        steps=2500,
        every=5,
        thermostat_time=40.0,
        current=False,
        field=Field((0.0, 0.0, 0.1)),
    )
    run(calculator, cluster, tmp_path / "md.h5", settings)
    found = Trajectory.open(tmp_path / "md.h5")
    centre = np.einsum("n,tna->ta", found.masses, found["velocities"]) / units.fs
    inner = found["kinetic_energy"] - 0.5 * (centre**2).sum(1) / found.masses.sum()
    # nine degrees of freedom about the centre of mass; as above, 47 % a sample: 7 % of the mean; N/(N − 1) is 33 %
    assert 2.0 * inner[100:].mean() / (9 * units.kB) == pytest.approx(300.0, rel=0.2)
