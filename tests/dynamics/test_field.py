"""Fields in time, and what is conserved while they act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from toy_calculator import Toy, molecule

from les_plugins.dynamics import Field, FieldFunction, Settings, Trajectory, run
from les_plugins.errors import ConfigError, HostError
from les_plugins.units import SPEED_OF_LIGHT


class Pushed(Toy):
    """The toy in a field, with the results that a calculator of an adapter has."""

    takes_external_field = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._field: Any = None

    @property
    def external_field(self) -> Any:
        return self._field

    @external_field.setter
    def external_field(self, field: Any) -> None:
        self._field = field
        self.reset()

    def calculate(self, atoms: Atoms | None = None, *arguments: Any, **named: Any) -> None:
        super().calculate(atoms, *arguments, **named)
        if self._field is not None:
            self.results["field_forces"] = self.results["charges"][:, None] * self._field
            self.results["zero_field_energy"] = self.results["energy"]
            self.results["energy"] = self.results["energy"] - self.results["dipole"] @ self._field
            self.results["forces"] = self.results["forces"] + self.results["field_forces"]


def simulate(output: Path, field: Field, **settings: Any) -> Trajectory:
    chosen = Settings.of(**{"temperature": 300.0, "timestep": 0.2, "steps": 400, "every": 4, "field": field} | settings)
    calculator = Pushed()
    run(calculator, molecule(1), output, chosen, save_every=0.0)
    assert calculator.external_field is None  # given back as it was
    return Trajectory.open(output)


def test_a_static_field_conserves_kinetic_plus_potential_energy_in_the_field(tmp_path: Path) -> None:
    found = simulate(tmp_path / "md.h5", Field((0.0, 0.3, 0.1)))
    total = found["potential_energy"] + found["kinetic_energy"]
    assert np.ptp(total) < 5e-4
    assert np.ptp(found["conserved_energy"]) < 5e-4
    assert np.ptp(found["field_work"]) > 0.01
    np.testing.assert_array_equal(found["field"][7], [0.0, 0.3, 0.1])


def test_the_work_of_a_static_field_is_field_times_change_of_the_dipole(tmp_path: Path) -> None:
    field = np.array([0.0, 0.3, 0.1])
    found = simulate(tmp_path / "md.h5", Field((0.0, 0.3, 0.1)))
    work = (found["dipole"] - found["dipole"][0]) @ field
    np.testing.assert_allclose(found["field_work"], work, atol=1e-3 * np.ptp(work))


@pytest.mark.parametrize("sum_rule", [True, False])
def test_the_work_of_the_field_is_the_integral_of_field_times_current(tmp_path: Path, sum_rule: bool) -> None:
    start = molecule(1, periodic=True, formula="OHHH")  # charges that do not add up: Z* of mean 0.1 e
    start.set_masses([16.0, 1.0, 2.0, 3.0])  # or holding the centre of mass would do what the sum rule does
    chosen = Settings.of(
        temperature=300.0, timestep=0.2, steps=400, every=1, field=Field((0.3, 0.0, -0.2)), sum_rule=sum_rule
    )
    run(Pushed(), start, tmp_path / "md.h5", chosen, save_every=0.0)
    found = Trajectory.open(tmp_path / "md.h5")
    power = (found["field"] * found["current"]).sum(1)
    work = np.concatenate([[0.0], np.cumsum(0.5 * 0.2 * (power[1:] + power[:-1]))])
    np.testing.assert_allclose(found["field_work"], work, atol=1e-9)
    assert np.abs(work).max() > 0.01
    # those forces move the atoms too: what they do is what potential and kinetic energy gain
    assert np.ptp(found["conserved_energy"]) < 0.01 * np.ptp(found["field_work"])


def test_a_pulse_does_the_work_that_the_energy_without_the_field_gains(tmp_path: Path) -> None:
    found = simulate(tmp_path / "md.h5", Field((0.0, 0.0, 1.0), center=30.0, width=8.0, wavenumber=300.0))
    assert np.ptp(found["conserved_energy"]) < 2e-3
    assert abs(found["field_work"][-1]) > 0.02
    assert np.abs(found["field"][-1]).max() < 1e-6


def test_a_run_in_a_pulse_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    pulse = Field((0.0, 0.0, 1.0), center=30.0, width=8.0)
    whole = simulate(tmp_path / "whole.h5", pulse)
    simulate(tmp_path / "parts.h5", pulse, steps=150)
    run(
        Pushed(),
        molecule(1),
        tmp_path / "parts.h5",
        Settings.of(temperature=300.0, timestep=0.2, steps=400, every=4, field=pulse),
        resume=True,
    )
    parts = Trajectory.open(tmp_path / "parts.h5")
    for name in whole.names:
        np.testing.assert_array_equal(parts[name], whole[name], err_msg=name)


def test_a_pulse_has_its_envelope_and_carrier() -> None:
    pulse = Field((0.0, 2.0, 0.0), center=100.0, width=10.0, wavenumber=1000.0)
    half = 0.5 / (SPEED_OF_LIGHT * 1000.0)
    np.testing.assert_allclose(pulse.at(100.0), [0.0, 2.0, 0.0])
    np.testing.assert_allclose(pulse.at(100.0 + half), [0.0, -2.0 * np.exp(-0.5 * (half / 10.0) ** 2), 0.0])
    assert not pulse.is_static
    assert Field((0.1, 0.0, 0.0)).is_static


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"center": 1.0}, "needs both its center and its width"),
        ({"center": 1.0, "width": 0.0}, r"width of the pulse is 0\.0 fs"),
        ({"wavenumber": 100.0}, "belongs to a pulse"),
        ({"center": float("inf"), "width": 1.0}, "must be finite"),
    ],
)
def test_pulses_that_cannot_be_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Field((0.0, 0.0, 1.0), **arguments)


def test_fields_need_a_model_that_takes_them_and_no_barostat(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no long-range part that a field could act on"):
        run(Toy(), molecule(1), tmp_path / "md.h5", Settings.of(temperature=10.0, field=Field((0.0, 0.0, 1.0))))
    with pytest.raises(ConfigError, match="a field with npt"):
        Settings.of(ensemble="npt", temperature=10.0, pressure=1.0, field=Field((0.0, 0.0, 1.0)))


def ramp(time: float) -> list[float]:
    return [0.0, 0.0, 0.1 * time]


def test_a_field_may_be_any_function_of_the_time(tmp_path: Path) -> None:
    settings = Settings.of(temperature=50.0, timestep=0.5, steps=8, every=2, current=False, field=FieldFunction(ramp))
    run(Pushed(), molecule(0), tmp_path / "md.h5", settings)
    found = Trajectory.open(tmp_path / "md.h5")
    np.testing.assert_allclose(found["field"][:, 2], 0.1 * found["time"], atol=1e-12)
    assert np.ptp(found["field_work"]) > 0


def test_a_run_is_not_resumed_with_another_function_of_the_time(tmp_path: Path) -> None:
    def settings(function: Any, steps: int) -> Settings:
        return Settings.of(temperature=50.0, steps=steps, current=False, field=FieldFunction(function))

    run(Pushed(), molecule(0), tmp_path / "md.h5", settings(ramp, 4))
    with pytest.raises(ConfigError, match=r"field was .*ramp.* and is .*lambda"):
        run(Pushed(), molecule(0), tmp_path / "md.h5", settings(lambda time: [0.0, 0.0, time], 8), resume=True)
    assert run(Pushed(), molecule(0), tmp_path / "md.h5", settings(ramp, 8), resume=True).steps == 8


@pytest.mark.parametrize("value", [[0.0, 1.0], 1.0, [0.0, 0.0, float("nan")]])
def test_a_function_that_gives_no_field_is_refused_with_its_name_and_the_time(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"the field .*lambda.* at 1.5 fs; allowed: three finite numbers in V/Å"):
        FieldFunction(lambda time: value).at(1.5)
