"""The ASE side that every adapter shares: checks before the host's evaluation, physical results after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray
from torch import Tensor, nn

from les_plugins.data.batch import BatchResult, evaluate_one_by_one
from les_plugins.data.cautions import Cautions
from les_plugins.data.frames import check_elements_of, check_frame
from les_plugins.electrostatics.long_waves import warn_of_long_waves
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting.results import check_finite, exact
from les_plugins.model.long_range import LongRange, LongRangeResult
from les_plugins.model.material import Material, finite_numbers
from les_plugins.model.physical import (
    born_results,
    field_results,
    latent_results,
    long_wave_results,
    one_shot_response,
)

__all__ = [
    "LONG_RANGE_PROPERTIES",
    "PERIODIC_PROPERTIES",
    "SHORT_RANGE_PROPERTIES",
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


#: The evaluation that this thread is in: threads that share a model see their own only.
_current: ContextVar[Observation | None] = ContextVar("observation", default=None)


class LongRangeCalculator(Material):
    """Mixin before a host's own ASE calculator: what every calculator with a long-range part offers beside it.

    An adapter calls `watch` with its long-range part when it is made. In `calculate` it calls `check`, makes the host's
    own evaluation inside `observing`, and calls `finish` after it, or `finish_short_range` for a model without a
    long-range part. Born effective charges and the forces of a field are then derivatives of the graph that the host's
    forces come from: no second evaluation of the model. Where its host can evaluate several structures at once, it
    fills in `host_batch`.

    Attributes:
        takes_total_charge: whether the model reads the total charge of a structure.
        always: properties to compute with every structure, asked for or not; molecular dynamics sets Born effective
            charges for the steps that it records.
    """

    takes_total_charge: bool = False
    implemented_properties: list[str]
    known_elements: list[int]
    results: dict[str, Any]
    always: tuple[str, ...] = ()
    _observation: Observation | None = None
    _cautions: Cautions | None = None
    _long_waves_seen: bool = False

    def watch(self, part: nn.Module) -> None:
        """Remember the model's long-range part, a `LongRange`; called once by the adapter."""
        self._part = part.eval()  # no head has a dropout: it says that this is no training
        self.implemented_properties = [*self.implemented_properties, *PERIODIC_PROPERTIES]

    def check(self, atoms: Atoms, where: str = "structure") -> None:
        """Before the host's evaluation: errors for what it cannot use, one warning for what it does not read.

        Raises:
            DataError: no atoms, NaN, a singular cell, atoms in one place, an element that the model does not know.
        """
        check_frame(atoms, where)
        check_elements_of(atoms, self.known_elements, where)
        if self._cautions is None:
            self._cautions = Cautions()
        screened = self.has_long_range and self.epsilon_infinity > 1.0
        self._cautions.look(atoms, where, screened, self.takes_total_charge)

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
        self._observation = observation
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
        for name in ("born_effective_charges", "dynamical_quadrupoles", "long_wave_born_charges"):
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
    ) -> None:
        """The long-range results that need no derivative into `results`, and the short-range energy.

        Args:
            latent: result of the long-range part for one structure.
            positions, cell, pbc, energy_unit: as for `finish`.
            total_charge: (1,) e, latent; zero when None.
        """
        susceptibility = self.susceptibility_for(latent, cell, pbc)
        self.results = exact(self.results)
        self.results.update(
            latent_results(latent, positions, cell, pbc, self.epsilon_infinity, susceptibility, total_charge)
        )
        self.results["long_range_energy"] *= energy_unit
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

    def evaluate_batch(self, frames: Sequence[Atoms], fields: Any = None) -> BatchResult:
        """Energies, forces and stresses of several structures, each with its own cell and boundary conditions.

        In one evaluation of the model; one by one in a field, and where `host_batch` says so. `results` are lost.

        Args:
            frames: structures, not changed.
            fields: (B, 3) V/Å, the field on each structure in place of `external_field`, or None.

        Raises:
            DataError, GeometryError: as `calculate`, with the number of the structure.
            ConfigError: fields of another shape.
        """
        if fields is not None:
            fields = finite_numbers(fields, "fields", "three numbers in V/Å for each structure")
        if not len(frames):
            return BatchResult(np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3, 3)))
        if fields is not None:
            return self._evaluate_in_fields(frames, fields)
        for number, atoms in enumerate(frames):
            self.check(atoms, f"structure {number}")
        self.reset()  # type: ignore[attr-defined]
        together = None
        if self._external_field is None:
            together = self.host_batch(frames, any(atoms.pbc.all() for atoms in frames))
        if together is None:
            return evaluate_one_by_one(self, frames)
        energy, forces, tensors = together
        stress = np.full((len(frames), 3, 3), np.nan)
        if tensors is not None:
            periodic = np.array([atoms.pbc.all() for atoms in frames])
            stress[periodic] = _array(tensors).reshape(-1, 3, 3)[periodic]
        return BatchResult(_array(energy).reshape(-1), _array(forces), stress)

    def _evaluate_in_fields(self, frames: Sequence[Atoms], fields: NDArray[Any]) -> BatchResult:
        if fields.shape != (len(frames), 3):
            raise ConfigError(f"fields has shape {fields.shape}; allowed: {(len(frames), 3)}, V/Å for each structure")
        before, found = self._external_field, []
        try:
            for field, atoms in zip(fields, frames, strict=True):
                self.external_field = field
                found.append(self.evaluate_batch([atoms]))
        finally:
            self.external_field = before
        energy, forces, stress = (np.concatenate([getattr(one, name) for one in found]) for name in BatchResult._fields)
        return BatchResult(energy, forces, stress)

    def host_batch(self, frames: Sequence[Atoms], stress: bool) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """For an adapter: one evaluation of the model for several structures, by the host's own batches.

        Args:
            frames: checked structures.
            stress: whether one of them has a stress.

        Returns:
            Energies (B,) or (B, 1) eV, forces (N, 3) eV/Å, and stresses (B, 3, 3) eV/Å³ of ASE's sign or None; those of
            open structures are not read. None where these structures cannot be put into one batch.
        """
        return None

    def get_born_effective_charges(self, atoms: Atoms | None = None) -> Any:
        """(N, 3, 3) e, first index polarization, second displacement."""
        return self.get_property("born_effective_charges", atoms)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """As ASE's; says what is missing when a short-range model is asked for electrostatics."""
        if not self.has_long_range and name in LONG_RANGE_PROPERTIES and name not in SHORT_RANGE_PROPERTIES:
            raise PropertyNotImplementedError(f"{name}: this model has no long-range part, train it with one")
        return super().get_property(name, atoms, allow_calculation)  # type: ignore[misc]

    def _look(self, module: nn.Module, inputs: Sequence[Any], output: LongRangeResult) -> None:
        observation = _current.get()
        if observation is None or observation is not self._observation:
            return  # another thread's evaluation of the same model
        positions, cell, pbc, batch = inputs[1:5]
        if isinstance(module, LongRange):
            with torch.set_grad_enabled(torch.is_grad_enabled() and self._external_field is not None):
                output = module.with_collective_polarizability(output, positions, cell, pbc, batch)
        observation.latent = output
        if not self._long_waves_seen and output.softness is not None and bool(pbc.all()):
            self._long_waves_seen = warn_of_long_waves(output.softness, cell[0])
        positions = positions if observation.leaf is None else observation.leaf
        total = observation.total_charge = _total_charge(module, output)
        material = (self.epsilon_infinity, self.susceptibility_for(output, cell, pbc))
        derived = observation.derived
        if "born_effective_charges" in observation.wanted:
            derived["born_effective_charges"] = born_results(output, positions, cell, pbc, *material, total)
        if {"dynamical_quadrupoles", "long_wave_born_charges"} & observation.wanted and bool(pbc.all()):
            response = one_shot_response(module, output)
            derived.update(long_wave_results(output, positions, cell, pbc, material[0], response, material[1], total))
        if self._external_field is not None:
            field = torch.as_tensor(self._external_field, dtype=torch.float64, device=positions.device)
            energy, forces, dipole = field_results(output, positions, cell, pbc, material[0], field, material[1], total)
            derived.update(field_energy=energy, field_forces=forces, field_dipole=dipole)


def keeps_charge(part: nn.Module) -> bool:
    """Whether a long-range part leaves the net charge of its heads on open structures (`neutralize: keep`)."""
    section = getattr(part, "_section", None)
    return isinstance(section, Mapping) and section.get("neutralize") == "keep"


def _total_charge(part: nn.Module, latent: LongRangeResult) -> Tensor | None:
    """(1,) e, latent: what the heads themselves say where `neutralize: keep` asks for it, else None for zero."""
    return None if not keeps_charge(part) else latent.permanent.charge.double().sum().reshape(1)


def _array(value: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = value.detach().cpu().double().numpy()
    return array
