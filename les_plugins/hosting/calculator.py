"""The ASE side that every adapter shares: checks before the host's evaluation, physical results after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, final

import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from torch import Tensor, nn

from les_plugins.data.cautions import place_of_structure
from les_plugins.data.frames import check_elements_of, check_frame
from les_plugins.data.near_origin import near_origin
from les_plugins.data.structure_reading import trained_charge_key
from les_plugins.electrostatics.long_waves import warn_of_long_waves
from les_plugins.electrostatics.observables import Carriers
from les_plugins.errors import HostError
from les_plugins.hosting.current import CURRENT, CurrentEvaluation
from les_plugins.hosting.results import Results, check_finite, everything, exact
from les_plugins.model.carriers import keeps_charge, latent_total_charge
from les_plugins.model.long_range import LongRange, LongRangeResult, as_result
from les_plugins.model.physical import (
    LatentStructure,
    born_results,
    field_results,
    latent_results,
    long_wave_results,
)
from les_plugins.model.polarizability_parts import NAMES, polarizability_results

__all__ = [
    "LONG_RANGE_PROPERTIES",
    "PERIODIC_PROPERTIES",
    "SHORT_RANGE_PROPERTIES",
    "LatentStructure",
    "LongRangeCalculator",
    "born_results",
    "field_results",
    "latent_results",
    "long_wave_results",
]

#: Properties that a calculator with a long-range part has beyond those of its host.
LONG_RANGE_PROPERTIES = (
    "charges",
    "dipole",
    "polarizability",
    "born_effective_charges",
    "long_range_energy",
    "short_range_energy",
    "latent_charges",
    "latent_dipoles",
    "latent_quadrupoles",
)
#: Beyond these, of structures that are periodic along three axes.
PERIODIC_PROPERTIES = (
    "polarization",
    "dielectric_tensor",
    "susceptibility",
    "dynamical_quadrupoles",
    "long_wave_born_charges",
)
#: Derivatives of the long-range part's result: who asks for these and no energy is given no derivative of it.
_DERIVATIVES = frozenset(("born_effective_charges", "dynamical_quadrupoles", "long_wave_born_charges"))
#: What a short-range model has of them.
SHORT_RANGE_PROPERTIES = ("short_range_energy", "long_range_energy")


@dataclass
class Observation:
    """One evaluation of a model: what is wanted of it, and what its long-range part returned.

    Attributes:
        wanted: properties beside energy and forces.
        leaf: (N, 3) Å, what the host's graph starts from, where it is not what the long-range part is given.
        latent: result of the long-range part.
        total_charge: (1,) e, latent, of the structure; None for zero.
        derived: results that need the graph, which is gone after the host's evaluation.
    """

    wanted: frozenset[str]
    leaf: Tensor | None = None
    latent: LongRangeResult | None = None
    total_charge: Tensor | None = None
    derived: dict[str, Any] = field(default_factory=dict)

    @property
    def ends_without_energy(self) -> bool:
        """Whether derivatives of the long-range part's result are all that is wanted, and what comes with them."""
        without = {*LONG_RANGE_PROPERTIES, *PERIODIC_PROPERTIES, *NAMES} - {"short_range_energy"}
        return bool(self.wanted & _DERIVATIVES) and self.wanted <= without


class _Ended(BaseException):  # no error: what a host does about errors is not for it
    """All that was asked for is there: the host need not go on to its energy, forces and stress."""


#: The evaluation that this thread is in: threads that share a model see their own only.
_current: ContextVar[Observation | None] = ContextVar("observation", default=None)


class LongRangeCalculator(CurrentEvaluation):
    """Mixin before a host's own ASE calculator: what every calculator with a long-range part offers beside it.

    `class Mine(LongRangeCalculator, HostCalculator)` makes the host's calculator and then calls `adopt`: that is all,
    where the host's own `calculate` evaluates the model once. `evaluate_host` and `geometry` are filled in where it
    does not, and `host_batch` where the host can evaluate several structures at once. Born effective charges and the
    forces of a field are derivatives of the graph that the host's forces come from: no second evaluation of the model.

    Args:
        model: with a long-range part, or a bare one.
        device: torch device.
        epsilon_infinity: ε_∞ that scales charges, dipole, polarizability and Born charges of periodic structures; the
            model's own when None.
        metadata: config.json of the checkpoint that the model came from, kept as `calc.metadata`.

    Properties beyond the host's: `LONG_RANGE_PROPERTIES` and `PERIODIC_PROPERTIES`; those that are derivatives, such as
    born_effective_charges (N, 3, 3), are computed only when asked for. An open structure has no stress.

    Raises:
        DataError: when a structure with NaN, a singular cell or an element that the model does not know is evaluated.
        DeviceError: a device that this machine does not have.

    Attributes:
        always: properties to compute with every structure, asked for or not; molecular dynamics sets the
            current for the steps that it records.
    """

    implemented_properties: list[str]
    known_elements: list[int]
    atoms: Any
    results: dict[str, Any]
    always: tuple[str, ...] = ()
    _observation: Observation | None = None
    _long_waves_seen: bool = False

    def adopt(
        self,
        part: nn.Module | None,
        elements: Iterable[int],
        metadata: Mapping[str, Any] | None = None,
        epsilon_infinity: float | None = None,
    ) -> None:
        """The last step of an adapter's `__init__`: what the model is made of, and what the calculator offers for it.

        Args:
            part: the model's `LongRange`; None for a short-range model.
            elements: atomic numbers that the model knows.
            metadata: config.json of the checkpoint it came from.
            epsilon_infinity: that scales results of periodic structures; the model's own when None.
        """
        self.metadata = dict(metadata or {})
        self.known_elements = [int(number) for number in elements]
        self.total_charge_key = trained_charge_key(self.metadata)
        self.has_long_range = part is not None
        if part is not None:
            self._part = part.eval()  # no head has a dropout: it says that this is no training
            self.takes_total_charge |= part.config.total_charge == "given"  # type: ignore[union-attr]
        # by attribute: the class of a packaged model's part is a copy that came with it
        own = 1.0 if part is None else part.config.epsilon_infinity  # type: ignore[union-attr]
        self.epsilon_infinity = float(own if epsilon_infinity is None else epsilon_infinity)  # type: ignore[arg-type]
        every = (*LONG_RANGE_PROPERTIES, *PERIODIC_PROPERTIES, *NAMES)
        offered = every if part is not None else SHORT_RANGE_PROPERTIES
        self.implemented_properties = [*self.implemented_properties, *offered]

    @final
    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Everything cheap at once; Born effective charges when they are among `properties`.

        Where they are all that is asked for, energy, forces and stress are not made. Without changes of the structure
        what is known of it already stays among the `results`.

        Raises:
            DataError: a structure that the model cannot take (`check`), or whose energy or forces are not finite.
        """
        structure: Atoms = self.atoms if atoms is None else atoms
        known = {} if len(system_changes) else everything(self.results)
        with self.results_of(structure):
            self.check(structure, place_of_structure())
            with self.observing(properties):
                try:
                    self.evaluate_host(structure, list(properties or ("energy",)), list(system_changes))
                except _Ended:
                    self.results = {}
            self.atoms = structure.copy()  # a host keeps what it was given, which may be a copy by the origin
            if self._part is not None:
                self.finish(*self.geometry(structure), self.energy_unit)
            elif self.has_long_range:
                self.settle(bool(structure.pbc.all()))  # of compiled code, whose outputs the adapter has read
            else:
                self.finish_short_range(bool(structure.pbc.all()))
            self.results = Results({**known, **everything(self.results)})

    def evaluate_host(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """The host's own evaluation of a checked structure, once, into `results`; by default its `calculate`."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[misc]

    def geometry(self, atoms: Atoms) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (N, 3) Å, cell (1, 3, 3) Å and pbc (1, 3) of the structure that was evaluated, on its device."""
        latent = None if self._observation is None else self._observation.latent
        device = None if latent is None else latent.charge.device
        positions, cell = (torch.as_tensor(value, device=device) for value in (atoms.positions, atoms.cell.array))
        return positions, cell[None], torch.as_tensor(atoms.pbc, device=device)[None]

    def near(self, atoms: Atoms) -> Atoms:
        """The structure by the origin, for hosts whose graphs have coordinates in the precision of the model."""
        return near_origin(atoms, keep_open=self._part is not None and keeps_charge(self._part))

    def start_from(self, positions: Tensor) -> None:
        """For `evaluate_host`: the leaf (N, 3) Å of its graph, where the long-range part is given another tensor."""
        if self._observation is not None:
            self._observation.leaf = positions

    def watch(self, part: nn.Module) -> None:
        """Remember the model's long-range part, a `LongRange`, where `adopt` is not called."""
        self._part = part.eval()  # no head has a dropout: it says that this is no training
        self.implemented_properties = [*self.implemented_properties, *PERIODIC_PROPERTIES, *NAMES]

    def check(self, atoms: Atoms, where: str = "structure") -> None:
        """Before the host's evaluation: errors for what it cannot use, one warning for what it does not read.

        Raises:
            DataError: no atoms, NaN, a singular cell, atoms in one place, an element that the model does not know.
        """
        check_frame(atoms, where)
        check_elements_of(atoms, self.known_elements, where)
        self.caution(atoms, where)
        if self.takes_total_charge:
            self.total_charge_of(atoms, where)

    @contextmanager
    def observing(self, properties: Sequence[str] | None, positions: Tensor | None = None) -> Iterator[None]:
        """The host's evaluation of one structure takes place inside; the model keeps no hook afterwards.

        Several calculators may evaluate one model at once, each in a thread of its own.

        Args:
            properties: what is wanted of it beside energy and forces.
            positions: (N, 3) Å, the leaf that the host's graph starts from, where that is not the very tensor that the
                long-range part is given.
        """
        observation = Observation(frozenset((*(properties or ()), *self.always)), positions)
        self._observation, self._product = observation, None
        handle = None if self._part is None else self._part.register_forward_hook(self._look)
        token = _current.set(observation)
        try:
            yield
        finally:
            _current.reset(token)
            observation.leaf = None
            if handle is not None:
                handle.remove()

    def finish(self, positions: Tensor, cell: Tensor, pbc: Tensor, energy_unit: float = 1.0) -> None:
        """After the host's evaluation: long-range results into `results`, and what the field adds.

        Args:
            positions: (N, 3) Å.
            cell: (1, 3, 3) Å.
            pbc: (1, 3) bool.
            energy_unit: eV in the host's unit of energy.

        Raises:
            DataError: energy or forces are not finite.
        """
        observation, self._observation = self._observation, None  # it holds a graph
        if observation is None or observation.latent is None:
            raise HostError("the model was evaluated without its long-range part")
        self.add_latent(observation.latent, positions, cell, pbc, energy_unit, observation.total_charge)
        derived = observation.derived
        self._product = derived.get(CURRENT)
        for name in ("born_effective_charges", "dynamical_quadrupoles", "long_wave_born_charges", *NAMES):
            if name in derived:
                self.results[name] = derived[name]
        if "field_forces" in derived:
            self.results["zero_field_energy"] = self.results["energy"]
            self.results["energy"] = self.results["energy"] + derived["field_energy"]
            self.results["free_energy"] = self.results["energy"]
            self.results["field_forces"] = derived["field_forces"]
            self.results["forces"] = self.results["forces"] + derived["field_forces"]
            self.results["dipole"] = self.results["dipole"] + derived["field_dipole"]
            for name in ("polarization", "stress", "stresses", "energies", "node_energy"):
                self.results.pop(name, None)
        self.settle(bool(pbc.all()))

    def add_latent(
        self,
        latent: LongRangeResult,
        positions: Tensor,
        cell: Tensor,
        pbc: Tensor,
        energy_unit: float = 1.0,
        total_charge: Tensor | None = None,
        carriers: Carriers | None = None,
    ) -> None:
        """The long-range results that need no derivative into `results`, and the short-range energy.

        Args:
            latent: result of the long-range part for one structure.
            positions, cell, pbc, energy_unit: as for `finish`.
            total_charge: (1,) e, latent; zero when None.
            carriers: what carries the polarization, where `latent` does not say it.
        """
        susceptibility = self.susceptibility_for(latent, cell, pbc)
        structure = LatentStructure(
            latent, positions, cell, pbc, self.epsilon_infinity, susceptibility, total_charge, carriers
        )
        self.results = exact(self.results)
        self.results.update(latent_results(structure))
        self.results["long_range_energy"] *= energy_unit
        if "energy" in self.results:
            self.results["short_range_energy"] = self.results["energy"] - self.results["long_range_energy"]

    def finish_short_range(self, periodic: bool) -> None:
        """After the evaluation of a model without a long-range part; `periodic`: along all three axes."""
        self.results["short_range_energy"], self.results["long_range_energy"] = self.results["energy"], 0.0
        self.settle(periodic)

    def settle(self, periodic: bool) -> None:
        """The last step: no stress where there is no volume, float64 everywhere, nothing that is not finite.

        Args:
            periodic: along all three axes: a host divides by the volume of a cell that a slab or a molecule has not.

        Raises:
            DataError: energy or forces are not finite.
        """
        if not periodic:
            for name in ("stress", "stresses"):
                self.results.pop(name, None)
        self.results = exact(self.results)
        check_finite(self.results, getattr(self, "atoms", None))

    def get_born_effective_charges(self, atoms: Atoms | None = None) -> Any:
        """(N, 3, 3) e, first index polarization, second displacement."""
        return self.get_property("born_effective_charges", atoms)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """As ASE's; says what is missing when a short-range model is asked for electrostatics."""
        if not self.has_long_range and name in LONG_RANGE_PROPERTIES and name not in SHORT_RANGE_PROPERTIES:
            raise PropertyNotImplementedError(f"{name}: this model has no long-range part, train it with one")
        return super().get_property(name, atoms, allow_calculation)  # type: ignore[misc]

    def _look(self, module: nn.Module, inputs: Sequence[Any], output: LongRangeResult) -> LongRangeResult | None:
        observation = _current.get()
        if observation is None or observation is not self._observation:
            return None  # another thread's evaluation of the same model
        output = as_result(output)
        positions, cell, pbc, batch = inputs[1:5]
        if isinstance(module, LongRange):
            with torch.set_grad_enabled(torch.is_grad_enabled() and self._external_field is not None):
                output = module.with_collective_polarizability(output, positions, cell, pbc, batch)
        observation.latent = output
        if not self._long_waves_seen and output.softness is not None and bool(pbc.all()):
            self._long_waves_seen = warn_of_long_waves(output.softness, cell[0])
        positions = positions if observation.leaf is None else observation.leaf
        screening = self.screening_of(output, cell, pbc)
        total = observation.total_charge = latent_total_charge(module, output, batch, len(pbc), screening)
        susceptibility = self.susceptibility_for(output, cell, pbc)
        structure = LatentStructure(output, positions, cell, pbc, self.epsilon_infinity, susceptibility, total)
        derived, wanted = observation.derived, set(observation.wanted)
        if CURRENT in wanted and not structure.carriers.is_fixed:
            wanted.add("born_effective_charges")
        if "born_effective_charges" in wanted:
            derived["born_effective_charges"] = born_results(structure)
        if {"dynamical_quadrupoles", "long_wave_born_charges"} & wanted and bool(pbc.all()):
            derived.update(long_wave_results(structure, module, wanted))
        if kinds := [name for name in NAMES if name in wanted]:
            with torch.no_grad():
                derived.update(polarizability_results(structure, module, kinds))
        if self._external_field is not None:
            field = torch.as_tensor(self._external_field, dtype=torch.float64, device=positions.device)
            energy, forces, dipole = field_results(structure, field)
            derived.update(field_energy=energy, field_forces=forces, field_dipole=dipole)
        elif observation.ends_without_energy:
            raise _Ended
        # the last derivative before the host's own
        return self.keep_current(structure, derived) if CURRENT in wanted else None
