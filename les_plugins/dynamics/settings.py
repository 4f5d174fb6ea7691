"""Settings of a simulation: checked, compared on restart, and written beside the trajectory as JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from les_plugins.dynamics.field import Field as ElectricField
from les_plugins.dynamics.field import FieldFunction
from les_plugins.errors import ConfigError
from les_plugins.model.polarizability_parts import result_name

Ensemble = Literal["nve", "nvt", "npt"]
Thermostat = Literal["bussi", "langevin"]
#: K; a simulation that gets there has come apart and is stopped.
HOTTEST = 1e5
#: Settings that may change when a run is continued.
OF_ONE_SITTING = frozenset({"steps"})


class Settings(BaseModel):
    """What a simulation is, but for its model and its start.

    Attributes:
        ensemble: nve, nvt or npt (isotropic, Martyna–Tobias–Klein).
        thermostat: of nvt: bussi (stochastic velocity rescaling, keeps dynamics) or langevin.
        temperature: K; of the start in nve, of the bath otherwise.
        pressure: bar, of npt.
        timestep: fs.
        steps: number of steps from the start.
        every: a frame is recorded every so many steps, the start among them.
        thermostat_time: fs, τ; Langevin's friction is 1/τ.
        barostat_time: fs, of npt.
        seed: of the velocities and of the thermostat's noise.
        velocities: draw from Maxwell–Boltzmann, keep those of the start, or auto: keep where there are any.
        current: record J(t) = Σ Z* v, at the cost of one product or of the derivatives for Z*.
        sum_rule: take the mean of Z* off every atom in J.
        field: V/Å, static, a pulse or a function of time; or None.
        polarizability: kinds of `model.polarizability_parts` that are recorded beside the model's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ensemble: Ensemble = "nve"
    thermostat: Thermostat | None = None
    temperature: float | None = Field(default=None, ge=0, lt=HOTTEST, allow_inf_nan=False)
    pressure: float | None = Field(default=None, ge=-1e8, le=1e8, allow_inf_nan=False)
    timestep: float = Field(default=0.5, ge=1e-6, le=20, allow_inf_nan=False)
    steps: int = Field(default=1000, ge=0, le=10**12)
    every: int = Field(default=4, ge=1, lt=10**9)
    thermostat_time: float = Field(default=100.0, ge=1e-3, le=1e12, allow_inf_nan=False)
    barostat_time: float = Field(default=1000.0, ge=1e-3, le=1e12, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0)
    velocities: Literal["auto", "draw", "keep"] = "auto"
    current: bool = True
    sum_rule: bool = True
    field: ElectricField | FieldFunction | None = None
    polarizability: tuple[str, ...] = ()

    @classmethod
    def of(cls, **values: Any) -> Settings:
        """Settings from keyword arguments.

        Raises:
            ConfigError: a value or a combination that is not allowed, in words.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            given = f" is {first['input']!r}" if name else ""
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{name}{given}: {message}" if name else message) from None

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.ensemble != "nve" and not self.temperature:
            raise ValueError(f"{self.ensemble} needs a temperature above 0 K: give --temperature")
        if self.thermostat is not None and self.ensemble != "nvt":
            raise ValueError(
                f"thermostat {self.thermostat} with ensemble {self.ensemble}: thermostats are for nvt"
                + (" (npt has a Nosé–Hoover chain of its own)" if self.ensemble == "npt" else "")
            )
        if self.ensemble == "nvt" and self.thermostat is None:
            object.__setattr__(self, "thermostat", "bussi")
        if (self.pressure is not None) != (self.ensemble == "npt"):
            raise ValueError(
                "npt needs a pressure in bar: give --pressure"
                if self.ensemble == "npt"
                else f"pressure {self.pressure} bar with ensemble {self.ensemble}: a pressure is for npt"
            )
        if self.ensemble == "npt" and self.field is not None:
            raise ValueError("a field with npt: the stress in a field is not built; use nve or nvt")
        for kind in self.polarizability:
            result_name(kind)  # says which are allowed
        if self.velocities == "draw" and self.temperature is None:
            raise ValueError("velocities draw needs a temperature: give --temperature")
        return self

    @property
    def polarizability_series(self) -> tuple[str, ...]:
        """Names of the series of `polarizability`."""
        return tuple(dict.fromkeys(result_name(kind) for kind in self.polarizability))

    @property
    def n_frames(self) -> int:
        """Frames that the whole run records."""
        return self.steps // self.every + 1

    def differences(self, other: dict[str, Any]) -> list[str]:
        """In words, where `other` (a dumped Settings) is another simulation than this one."""
        mine, other = self.model_dump(mode="json"), {"polarizability": [], **other}  # older runs do not know it
        names = [name for name in mine if name not in OF_ONE_SITTING and mine[name] != other.get(name)]
        return [f"{name} was {other.get(name)!r} and is {mine[name]!r}" for name in names]
