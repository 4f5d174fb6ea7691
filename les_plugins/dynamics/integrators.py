"""ASE's integrators behind one face: made from settings, with a state that can be saved and put back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.constraints import FixCom

from les_plugins.data.metrics import Floats
from les_plugins.dynamics.settings import Settings
from les_plugins.errors import ConfigError, GeometryError


class Integrator:
    """One of ASE's integrators on a structure with velocities and a calculator.

    Args:
        atoms: the structure; a constraint on its centre of mass is added where that does not move by itself.
        settings: the simulation.

    Raises:
        GeometryError: npt without three periodic directions, or with constraints.
        ConfigError: no velocities to start Bussi's thermostat from, or an atom that two constraints hold.
    """

    def __init__(self, atoms: Atoms, settings: Settings) -> None:
        _check_held_once(atoms)
        self.atoms, self.settings = atoms, settings
        self._random = _random_streams(settings.seed)[1]
        self._rests = _rests_by_itself(atoms, settings)
        self._ase = self._make()

    @property
    def degrees_of_freedom(self) -> int:
        """Degrees of freedom that the temperature is counted with: those that have a share of the heat."""
        return _degrees_of_freedom(self.atoms) - 3 * self._rests

    def step(self, forces: Floats | None) -> Floats | None:
        """One step; `forces` are those of the present positions, where known, and the new ones are returned."""
        if self.settings.ensemble == "npt":
            self._ase.step()
            if self._rests:
                # the baths scale a motion of the centre of mass, be it of rounding errors, until it has all the heat
                self._ase.set_momenta(_at_rest(self.atoms.get_momenta(), self.atoms))
            return None
        new: Floats = self._ase.step(forces)
        return new

    def temperature(self) -> float:
        """K, of the degrees of freedom that have a share of the heat."""
        momenta = self.atoms.get_momenta()
        if self._rests:
            momenta = _at_rest(momenta, self.atoms)
        kinetic = 0.5 * float((momenta**2 / self.atoms.get_masses()[:, None]).sum())
        return 2.0 * kinetic / (max(self.degrees_of_freedom, 1) * units.kB)

    def conserved_offset(self) -> float:
        """Energy, eV, that makes potential + kinetic energy a constant of the motion; NaN where there is none."""
        if self.settings.ensemble == "npt":
            return float(self._ase.bath_energy())
        if self.settings.thermostat == "bussi":
            return -float(self._ase.transferred_energy)
        return math.nan if self.settings.thermostat == "langevin" else 0.0

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on beside positions, momenta and cell: arrays by name."""
        found: dict[str, Any] = {"random": np.array(json.dumps(self._random.bit_generator.state))}
        if self.settings.thermostat == "bussi":
            found["transferred_energy"] = np.array(self._ase.transferred_energy)
        if self.settings.ensemble == "npt":
            found |= self._ase.state()
        return found

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned; KeyError, TypeError or ValueError where it is not that."""
        self._random.bit_generator.state = json.loads(str(state["random"]))
        if self.settings.thermostat == "bussi":
            self._ase.transferred_energy = float(state["transferred_energy"])
        if self.settings.ensemble == "npt":
            self._ase.set_state(state)

    def _make(self) -> Any:
        from ase.md.bussi import Bussi
        from ase.md.langevin import Langevin
        from ase.md.verlet import VelocityVerlet

        settings, timestep = self.settings, self.settings.timestep * units.fs
        relaxation = settings.thermostat_time * units.fs
        if settings.ensemble == "npt":
            if not self.atoms.pbc.all():
                raise GeometryError(
                    f"npt: pbc is {self.atoms.pbc.tolist()}; a pressure needs three periodic directions"
                )
            if self.atoms.constraints:
                raise GeometryError("npt: the start has constraints, which ASE's integrator does not take")
            from les_plugins.dynamics.mtk import MTK

            return MTK(
                self.atoms,
                timestep,
                temperature=float(settings.temperature or 0.0),
                pressure=(settings.pressure or 0.0) * 1e5 * units.Pascal,
                thermostat_time=relaxation,
                barostat_time=settings.barostat_time * units.fs,
                centre_rests=self._rests,
            )
        if may_hold_centre(self.atoms, settings):
            self.atoms.set_constraint(FixCom())
        if settings.thermostat == "bussi":
            if self.atoms.get_kinetic_energy() < 1e-12:
                raise ConfigError("bussi: the start has no velocities to rescale; use velocities draw, or langevin")
            bussi = Bussi(self.atoms, timestep, settings.temperature, relaxation, rng=self._random)
            if self._rests:
                _leave_centre_alone(bussi)
            return bussi
        if settings.thermostat == "langevin":
            return Langevin(
                self.atoms,
                timestep,
                temperature_K=settings.temperature,
                friction=1.0 / relaxation,
                fixcm=False,
                rng=self._random,
            )
        return VelocityVerlet(self.atoms, timestep)


def may_hold_centre(atoms: Atoms, settings: Settings) -> bool:
    """Whether the centre of mass is held: not with constraints of the start, nor where a field may push a molecule."""
    pushed = settings.field is not None and not atoms.pbc.all()
    return not atoms.constraints and not pushed and len(atoms) > 1


def _rests_by_itself(atoms: Atoms, settings: Settings) -> bool:
    """Whether the centre of mass begins at rest, unheld, and no bath moves it: it has no share of the heat."""
    if len(atoms) < 2 or atoms.constraints:
        return False
    return settings.ensemble == "npt" or not (may_hold_centre(atoms, settings) or settings.thermostat == "langevin")


def _leave_centre_alone(bussi: Any) -> None:
    """Let ASE's Bussi scale what moves about the centre of mass, which a field may push."""
    atoms, free = bussi.atoms, bussi.ndof - 3
    bussi.target_kinetic_energy *= free / bussi.ndof
    bussi.ndof = free

    def scale() -> None:
        momenta = atoms.get_momenta()
        moving = _at_rest(momenta, atoms)
        kinetic = 0.5 * float((moving**2 / atoms.get_masses()[:, None]).sum())
        alpha = bussi.calculate_alpha(kinetic)
        atoms.set_momenta(momenta + (alpha - 1.0) * moving)
        bussi.transferred_energy += (alpha**2 - 1.0) * kinetic

    bussi.scale_velocities = scale


def _check_held_once(atoms: Atoms) -> None:
    """ConfigError for an atom that two constraints hold: ASE takes its degrees of freedom off twice."""
    held: dict[tuple[int, int], str] = {}
    for constraint in atoms.constraints:
        name = type(constraint).__name__
        if name not in ("FixAtoms", "FixCartesian", "FixCom"):
            continue
        indices = range(len(atoms)) if name == "FixCom" else np.unique(constraint.get_indices()).tolist()
        axes = np.flatnonzero(constraint.mask).tolist() if name == "FixCartesian" else range(3)
        places = [(index, axis) for index in indices for axis in axes]
        if twice := [place for place in places if place in held]:
            raise ConfigError(
                f"the start has the constraints {held[twice[0]]} and {name} on atom {twice[0][0]}, whose degrees of "
                "freedom would be counted off twice: keep one of them"
            )
        held |= dict.fromkeys(places, name)


def _degrees_of_freedom(atoms: Atoms) -> int:
    try:
        return int(atoms.get_number_of_degrees_of_freedom())
    except NotImplementedError:
        names = ", ".join(type(constraint).__name__ for constraint in atoms.constraints)
        raise ConfigError(
            f"the start has the constraints {names}, and ASE cannot tell how many degrees of freedom they take: remove "
            "them, or use one such as FixAtoms"
        ) from None


def keeps_velocities(atoms: Atoms, settings: Settings) -> bool:
    """Whether a run begins with the velocities of its start."""
    present = atoms.has("momenta") and bool(np.abs(atoms.get_momenta()).max() > 0)
    return settings.velocities == "keep" or (settings.velocities == "auto" and present)


def set_velocities(atoms: Atoms, settings: Settings) -> str:
    """Velocities of the start, centre of mass at rest, constraints obeyed; says where they are from.

    Args:
        atoms: the structure; its momenta are set in place.
        settings: `velocities`, `temperature` and `seed` are read.

    Raises:
        ConfigError: velocities are to be kept and there are none, or to be drawn without a temperature.
    """
    if keeps_velocities(atoms, settings):
        if not atoms.has("momenta") or not atoms.get_momenta().any():
            raise ConfigError("velocities keep: the start has no velocities; draw them at a --temperature")
        atoms.set_momenta(atoms.get_momenta())
        _rest(atoms)
        return "start"
    if settings.temperature is None:
        raise ConfigError("the start has no velocities: give --temperature to draw them (0 for a start at rest)")
    random = _random_streams(settings.seed)[0]
    masses = atoms.get_masses()[:, None]
    atoms.set_momenta(random.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * settings.temperature))
    _rest(atoms)
    free = _degrees_of_freedom(atoms) - (3 if len(atoms) > 1 and not atoms.constraints else 0)
    kinetic = atoms.get_kinetic_energy()
    if kinetic > 0:
        # exactly the temperature that was asked for: a small system's draw alone may be far from it
        atoms.set_momenta(atoms.get_momenta() * math.sqrt(0.5 * free * units.kB * settings.temperature / kinetic))
    return "drawn"


def _random_streams(seed: int) -> list[np.random.Generator]:
    """Independent streams for the velocities of the start and for the thermostat."""
    return [np.random.Generator(np.random.PCG64(child)) for child in np.random.SeedSequence(seed).spawn(2)]


def _rest(atoms: Atoms) -> None:
    if len(atoms) > 1 and not atoms.constraints:
        atoms.set_momenta(_at_rest(atoms.get_momenta(), atoms))


def _at_rest(momenta: Floats, atoms: Atoms) -> Floats:
    """Momenta (N, 3) about the centre of mass."""
    masses = atoms.get_masses()
    still: Floats = momenta - masses[:, None] * (momenta.sum(0) / masses.sum())
    return still
