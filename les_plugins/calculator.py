"""The ASE side that every adapter shares: from a `LongRangeResult` to physical results under ASE's names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray
from torch import Tensor, nn

from les_plugins.batch import BatchResult, evaluate_one_by_one
from les_plugins.electrostatics.lattice import open_directions
from les_plugins.errors import ConfigError, HostError
from les_plugins.frames import check_elements_of, check_frame
from les_plugins.long_range import LongRange, LongRangeResult
from les_plugins.long_waves import OneShotResponse, long_waves, warn_of_long_waves
from les_plugins.observables import (
    born_effective_charges,
    electronic_dielectric_tensor,
    electronic_screening,
    field_forces,
    polarization,
    system_polarizability,
)

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
PERIODIC_PROPERTIES = ("polarization", "dielectric_tensor", "dynamical_quadrupoles", "long_wave_born_charges")
#: What a short-range model has of them.
SHORT_RANGE_PROPERTIES = ("short_range_energy", "long_range_energy")


class LongRangeCalculator:
    """Mixin before a host's own ASE calculator: what every calculator with a long-range part offers beside it.

    An adapter calls `watch` with its long-range part when it is made; in `calculate` it makes the host's own evaluation
    inside `observing` and calls `finish` after it. Born effective charges and the forces of a field are then
    derivatives of the graph that the host's forces come from: no second evaluation of the model. Where its host
    can evaluate several structures at once, it fills in `host_batch`.

    Attributes:
        has_long_range: whether the model has a long-range part; set by the adapter.
        epsilon_infinity: ε_∞ of the material.
        always: properties to compute with every structure, asked for or not; molecular dynamics sets Born effective
            charges for the steps that it records.
    """

    has_long_range: bool
    implemented_properties: list[str]
    known_elements: list[int]
    epsilon_infinity: float
    results: dict[str, Any]
    always: tuple[str, ...] = ()
    _external_field: NDArray[Any] | None = None
    _part: nn.Module | None = None
    _latent: LongRangeResult | None = None
    _leaf: Tensor | None = None
    _long_waves_seen: bool = False
    _wanted: frozenset[str] = frozenset()
    _derived: dict[str, Any]

    @property
    def takes_external_field(self) -> bool:
        """Whether `external_field` can be set."""
        return self._part is not None

    @property
    def external_field(self) -> NDArray[Any] | None:
        """Uniform field (3,) V/Å that acts on energy, forces and dipole (PHYSICS 5), or None.

        Open structures: energy U(E), forces −dU/dr, dipole −dU/dE; a net charge feels it, work counted from the origin
        of the coordinates. Periodic: forces F0 + E·Z* + ½ E·(∂α/∂r)·E; the energy holds −½ E·α·E but not −E·P, which
        has no periodic form: a trajectory books it as work. Slabs: the one along the normal, the other in the plane.
        Stress is left out, charges are those without the field.
        """
        return self._external_field

    @external_field.setter
    def external_field(self, field: Any) -> None:
        if field is not None:
            field = np.asarray(field, dtype=float)
            if field.shape != (3,) or not np.isfinite(field).all():
                raise ConfigError(f"external_field is {field.tolist()}; allowed: three finite numbers in V/Å, or None")
            if self._part is None:
                if self.has_long_range:
                    raise HostError("external_field: this host's adapter cannot apply fields; those of les-plugins can")
                raise HostError("external_field: this model has no long-range part that a field could act on")
        self._external_field = field
        self.reset()  # type: ignore[attr-defined]

    def watch(self, part: nn.Module) -> None:
        """Remember the model's long-range part, a `LongRange`; called once by the adapter."""
        self._part = part.eval()  # no head has a dropout: it says that this is no training
        self.implemented_properties = [*self.implemented_properties, *PERIODIC_PROPERTIES]

    @contextmanager
    def observing(self, properties: Sequence[str] | None, positions: Tensor | None = None) -> Iterator[None]:
        """The host's evaluation of one structure takes place inside; the model keeps no hook afterwards.

        Args:
            properties: what is wanted of it beside energy and forces.
            positions: (N, 3) Å, the leaf that the host's graph starts from, where that is not the very tensor that the
                long-range part is given.
        """
        self._latent, self._derived, self._leaf = None, {}, positions
        self._wanted = frozenset((*(properties or ()), *self.always))
        handle = None if self._part is None else self._part.register_forward_hook(self._look)
        try:
            yield
        finally:
            self._leaf = None
            if handle is not None:
                handle.remove()

    def finish(self, positions: Tensor, cell: Tensor, pbc: Tensor, energy_unit: float = 1.0) -> None:
        """After the host's evaluation: long-range results into `results`, and what the field adds.

        Args:
            positions: (N, 3) Å.
            cell: (1, 3, 3) Å.
            pbc: (1, 3) bool.
            energy_unit: eV in the host's unit of energy.
        """
        latent, self._latent = self._latent, None  # it holds a graph
        if latent is None:
            raise HostError("the model was evaluated without its long-range part")
        self.results.update(latent_results(latent, positions, cell, pbc, self.epsilon_infinity))
        self.results["long_range_energy"] *= energy_unit
        if bool(pbc.any()) and not bool(pbc.all()):  # a host divides by the volume of a cell that a slab has not
            for name in ("stress", "stresses"):
                self.results.pop(name, None)
        self.results["short_range_energy"] = self.results["energy"] - self.results["long_range_energy"]
        derived, self._derived = self._derived, {}
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
            return self._evaluate_in_fields(frames, np.asarray(fields, dtype=float))
        for number, atoms in enumerate(frames):
            check_frame(atoms, f"structure {number}")
            check_elements_of(atoms, self.known_elements, f"structure {number}")
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
        positions, cell, pbc, batch = inputs[1:5]
        if isinstance(module, LongRange):
            with torch.set_grad_enabled(torch.is_grad_enabled() and self._external_field is not None):
                output = module.with_collective_polarizability(output, positions, cell, pbc, batch)
        self._latent = output
        if not self._long_waves_seen and output.softness is not None and bool(pbc.all()):
            self._long_waves_seen = warn_of_long_waves(output.softness, cell[0])
        positions = positions if self._leaf is None else self._leaf
        if "born_effective_charges" in self._wanted:
            born = born_results(output, positions, cell, pbc, self.epsilon_infinity)
            self._derived["born_effective_charges"] = born
        if {"dynamical_quadrupoles", "long_wave_born_charges"} & self._wanted and bool(pbc.all()):
            response = _one_shot_response(module, output)
            self._derived.update(long_wave_results(output, positions, cell, pbc, self.epsilon_infinity, response))
        if self._external_field is not None:
            field = torch.as_tensor(self._external_field, dtype=torch.float64, device=positions.device)
            energy, forces, dipole = field_results(output, positions, cell, pbc, self.epsilon_infinity, field)
            self._derived.update(field_energy=energy, field_forces=forces, field_dipole=dipole)


def latent_results(
    latent: LongRangeResult, positions: Tensor, cell: Tensor, pbc: Tensor, epsilon_infinity: float
) -> dict[str, Any]:
    """Results of one structure that need no derivative.

    Args:
        latent: result of the long-range part for one structure.
        positions: (N, 3) Å.
        cell: (1, 3, 3) Å.
        pbc: (1, 3) bool.
        epsilon_infinity: ε_∞ of the material; not used for open structures.

    Returns:
        charges (N,) e, dipole (3,) e·Å and polarizability (3, 3) e²·Å²/eV, scaled to physical ones by ε_e (PHYSICS 6);
        polarization (3,) e/Å², the dipole over the volume, and dielectric_tensor (3, 3), electronic, of periodic ones;
        long_range_energy, eV; latent_charges (N,), latent_dipoles (N, 3), latent_quadrupoles (N, 3, 3), not scaled.
        The dipole along periodic directions is one branch: that of the positions as given, mean charge removed; only
        its changes along unwrapped positions have a meaning.
    """
    batch = torch.zeros(len(positions), dtype=torch.long, device=positions.device)
    screening = electronic_screening(epsilon_infinity, _dipolar(latent), cell, pbc, batch)[0]
    charge = latent.charge if latent.charge.dim() == 1 else latent.charge.sum(1)
    moment = polarization(positions.double(), batch, charge.double(), latent.dipole)[0]
    off_origin = charge.double().mean() * positions.double().sum(0)
    moment = moment - off_origin + open_directions(cell.double(), pbc)[0] @ off_origin
    results = {
        "charges": screening.sqrt() * charge,
        "dipole": screening.sqrt() * moment,
        "latent_charges": charge,
    }
    if latent.dipole is not None:
        results["latent_dipoles"] = latent.dipole
    if latent.permanent.quadrupole is not None:
        results["latent_quadrupoles"] = latent.permanent.quadrupole
    if latent.softness is not None or latent.polarizability is not None:
        total = _whole_polarizability(latent, positions, pbc, batch, cell)
        results["polarizability"] = screening * total
    if bool(pbc.all()):
        cell = cell.double()
        results["polarization"] = results["dipole"] / torch.linalg.det(cell[0]).abs()
        tensor = electronic_dielectric_tensor(epsilon_infinity, _dipolar(latent), cell, pbc, batch)
        results["dielectric_tensor"] = tensor[0]
    found: dict[str, Any] = {name: _array(value) for name, value in results.items()}
    found["long_range_energy"] = float(latent.energy.detach())
    return found


def born_results(
    latent: LongRangeResult, positions: Tensor, cell: Tensor, pbc: Tensor, epsilon_infinity: float
) -> NDArray[Any]:
    """Physical Born effective charges (N, 3, 3) e of one structure, first index polarization.

    Args:
        latent: result of the long-range part, its graph to `positions` kept.
        positions: (N, 3) Å, the leaf that the graph starts from.
        cell, pbc, epsilon_infinity: as for `latent_results`.
    """
    batch = torch.zeros(len(positions), dtype=torch.long, device=positions.device)
    screening = electronic_screening(epsilon_infinity, _dipolar(latent), cell, pbc, batch).detach()
    born = born_effective_charges(positions, cell, pbc, batch, latent.charge, latent.dipole, epsilon=screening)
    return _array(born)


def _one_shot_response(part: nn.Module, latent: LongRangeResult) -> OneShotResponse | None:
    """What induced the moments, for `long_waves`."""
    if latent.softness is None and latent.polarizability is None:
        return None
    if not isinstance(part, LongRange):
        raise HostError("long-wave quantities of induced moments: this model's long-range part is not les-plugins' own")
    if part.config.response.solve != "one_shot":
        raise ConfigError(
            "long-wave quantities (dynamical_quadrupoles, long_wave_born_charges, piezoelectricity): the model's "
            f"response is {part.config.response.solve}; allowed: one_shot, or no response, for what a wave's own field "
            "induces is to be taken out"
        )
    return OneShotResponse(latent.permanent, part.config.sigma, latent.softness, latent.polarizability)


def long_wave_results(
    latent: LongRangeResult,
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    epsilon_infinity: float,
    response: OneShotResponse | None = None,
) -> dict[str, NDArray[Any]]:
    """Physical dynamical_quadrupoles (N, 3, 3, 3) e·Å, last two symmetric, and long_wave_born_charges (N, 3, 3) e.

    Arguments as for `born_results`, of a periodic structure, and what induced the moments. The latter are Z* to the
    fourth order of the cell's smallest wave vectors, where born_effective_charges are to the second.
    """
    batch = torch.zeros(len(positions), dtype=torch.long, device=positions.device)
    screening = float(electronic_screening(epsilon_infinity, _dipolar(latent), cell, pbc, batch)[0].detach())
    found = long_waves(
        positions, cell[0], latent.charge, latent.dipole, latent.permanent.quadrupole, screening, response
    )
    return {"dynamical_quadrupoles": _array(found.quadrupoles), "long_wave_born_charges": _array(found.born)}


def field_results(
    latent: LongRangeResult, positions: Tensor, cell: Tensor, pbc: Tensor, epsilon_infinity: float, field: Tensor
) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """What a uniform field adds to energy, forces and dipole of one structure (PHYSICS 5).

    With either response the energy is exactly quadratic in the field: U(E) = U(0) − P·E − ½ E·α·E.

    Args:
        latent: result of the long-range part without field, its graph to `positions` kept.
        positions: (N, 3) Å.
        cell, pbc, epsilon_infinity: as for `latent_results`.
        field: (3,) V/Å.

    Returns:
        Energy, eV (without −P·E of periodic directions); forces (N, 3) eV/Å; dipole (3,) e·Å: with the dipole of
        `latent_results` it is −∂U/∂E, so along open directions it also takes off the net induced charge at its centre.
    """
    batch = torch.zeros(len(positions), dtype=torch.long, device=positions.device)
    place, cell = positions.double(), cell.double()
    screening = electronic_screening(epsilon_infinity, _dipolar(latent), cell, pbc, batch)
    alpha = _whole_polarizability(latent, place, pbc, batch, cell)
    induced = screening[0] * (alpha @ field)
    along = open_directions(cell, pbc)[0].detach()
    energy = -0.5 * (field @ induced)
    forces = torch.zeros_like(place)
    if not bool(pbc.all()):
        moment, off_centre = _moment_about_centre(latent, place)
        energy, induced = energy - (along @ field) @ moment, induced - along @ off_centre
    if bool(pbc.any()):
        forces = field_forces(
            positions,
            cell,
            pbc,
            batch,
            latent.charge,
            field - along @ field,
            latent.dipole,
            epsilon=screening.detach(),
        ).double()
    if energy.requires_grad:
        # an atom on its own: some hosts' graphs do not reach its position
        (slope,) = torch.autograd.grad(energy, positions, retain_graph=True, materialize_grads=True)
        forces = forces - slope
    return float(energy.detach()), _array(forces), _array(induced)


def _dipolar(latent: LongRangeResult) -> Tensor | None:
    """Polarizabilities of atoms that add up to that of a periodic structure."""
    return latent.polarizability if latent.collective_polarizability is None else latent.collective_polarizability


def _whole_polarizability(
    latent: LongRangeResult, positions: Tensor, pbc: Tensor, batch: Tensor, cell: Tensor
) -> Tensor:
    """(3, 3) −∂²U/∂E² of one structure."""
    softness = latent.softness if latent.collective_polarizability is None else None
    return system_polarizability(positions, pbc, batch, softness, _dipolar(latent), cell)[0]


def _moment_about_centre(latent: LongRangeResult, positions: Tensor) -> tuple[Tensor, Tensor]:
    """P = −∂U/∂E at zero field, along open directions, and what Σ q r + Σ u has beyond it: r̄ Σ Δq (PHYSICS 5)."""
    permanent, charge = (
        value.double() if value.dim() == 1 else value.double().sum(1)
        for value in (latent.permanent.charge, latent.charge)
    )
    moment, off_centre = charge @ positions, torch.zeros_like(positions[0])
    if latent.dipole is not None:
        moment = moment + latent.dipole.double().sum(0)
    if latent.softness is not None:
        kappa = latent.softness.double()
        centre = kappa @ positions / kappa.sum().clamp(min=torch.finfo(kappa.dtype).tiny)
        off_centre = (charge - permanent).sum() * centre
    return moment - off_centre, off_centre


def _array(value: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = value.detach().cpu().double().numpy()
    return array
