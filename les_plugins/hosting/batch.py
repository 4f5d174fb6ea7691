"""Several structures in one evaluation: base of `LongRangeCalculator`; `engines.torch_sim` calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from les_plugins.data.batch import BatchResult, evaluate_one_by_one
from les_plugins.errors import ConfigError
from les_plugins.model.material import Material, finite_numbers


class BatchEvaluation(Material):
    """What a calculator does with several structures at once.

    Attributes:
        energy_unit: eV in the host's unit of energy.
        length_unit: Å in the host's unit of length.
    """

    energy_unit: float = 1.0
    length_unit: float = 1.0

    def check(self, atoms: Atoms, where: str = "structure") -> None:
        """Raise DataError for a structure that the model cannot take."""
        raise NotImplementedError

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

    def in_ase_units(
        self, energy: Tensor, forces: Tensor, stress: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What a host's batch returned in the host's units, as `host_batch` returns it."""
        unit, length = self.energy_unit, self.length_unit
        return energy * unit, forces * (unit / length), None if stress is None else stress * (unit / length**3)


def _array(value: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = value.detach().cpu().double().numpy()
    return array
