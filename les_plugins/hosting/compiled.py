"""What compiled models of every host return, and the calculator of a compiled model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from ase import Atoms
from torch import Tensor

from les_plugins.electrostatics import LatentElectrostatics
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.errors import DataError, GeometryError
from les_plugins.hosting.calculator import LONG_RANGE_PROPERTIES, SHORT_RANGE_PROPERTIES, LongRangeCalculator
from les_plugins.model.long_range import LongRangeResult
from les_plugins.model.outputs import read_carriers


def compiled_result(output: Mapping[str, Tensor]) -> LongRangeResult:
    """What a compiled model of any host returned for one structure, as a `LongRangeResult`.

    Args:
        output: long_range_energy (1,) or (1, 1), latent_charges (N,) or (N, 1), latent_dipoles (N, 3),
            latent_quadrupoles and latent_polarizability (N, 3, 3); zero where the model has none.

    Returns:
        On the CPU in float64; NaN for potential, field and atomic energies, which are not among them.
    """
    energy, charge, dipole, quadrupole, alpha = (
        output[name].detach().cpu().double()
        for name in (
            "long_range_energy",
            "latent_charges",
            "latent_dipoles",
            "latent_quadrupoles",
            "latent_polarizability",
        )
    )
    charge = charge.view(-1)
    unknown = torch.full_like(charge, torch.nan)
    return LongRangeResult(
        energy=energy.view(-1),
        atomic_energy=unknown,
        potential=unknown,
        field=torch.full_like(dipole, torch.nan),
        charge=charge,
        dipole=dipole,
        permanent=Multipoles(charge, None, quadrupole.view(-1, 3, 3)),
        softness=None,
        polarizability=alpha.view(-1, 3, 3),
    )


class CompiledCalculator(LongRangeCalculator):
    """Mixin before a host's calculator of compiled code: structures are periodic, with cells that its grid covers.

    An adapter calls `cover` when it is made, and `add_compiled` in `evaluate_host` with what the model returned. Users
    make one with the adapter's `from_compiled_model`.

    Args:
        model: the compiled model.
        device: the torch device that it was compiled for.
        about: what the model's file says of itself.
        epsilon_infinity: as for `LongRangeCalculator`.

    Raises:
        DataError: also for an open structure, or a cell that is not covered, when it is evaluated.
    """

    _grid: LatentElectrostatics

    def cover(self, dl: float | str, lengths: Sequence[float | str], epsilon_infinity: float | str) -> None:
        """What the code was compiled for: the last step of an adapter's `__init__`, in the place of `adopt`.

        Numbers, or texts of them, as the hosts' files have them.

        Args:
            dl: resolution, Å.
            lengths: longest lattice vectors, Å.
            epsilon_infinity: that scales the results.
        """
        first, second, third = (float(length) for length in lengths)
        self.has_long_range = True
        self.epsilon_infinity = float(epsilon_infinity)
        hosts = [name for name in self.implemented_properties if name not in SHORT_RANGE_PROPERTIES]
        self.implemented_properties = [*hosts, *LONG_RANGE_PROPERTIES]
        self._grid = LatentElectrostatics(dl=float(dl), static_cell=(first, second, third))

    def check(self, atoms: Atoms, where: str = "structure") -> None:
        """As every calculator's; and the grid of the compiled code has to cover the cell.

        Raises:
            DataError: also for an open structure, or a cell that is not covered.
        """
        super().check(atoms, where)
        try:
            self._grid.check_static_cell(*self.geometry(atoms)[1:])
        except GeometryError as error:
            raise DataError(f"{where}: the compiled model cannot evaluate it: {error}") from None

    def add_compiled(self, output: Mapping[str, Tensor], atoms: Atoms, born: Tensor | None) -> None:
        """The long-range results of one structure into `results`.

        Args:
            output: of the compiled model, see `compiled_result` and `read_carriers`.
            atoms: the structure.
            born: (N, 3, 3) e, latent Born effective charges, or None.
        """
        latent = compiled_result(output)
        positions, cell, pbc = self.geometry(atoms)
        carriers = read_carriers(output)
        total = None if carriers is None else carriers.charge.sum().reshape(1)
        self.add_latent(latent, positions, cell, pbc, self.energy_unit, total, carriers)
        if born is not None:
            screening = self.screening_of(latent, cell, pbc)
            self.results["born_effective_charges"] = screening**0.5 * born.detach().cpu().double()

    def geometry(self, atoms: Atoms) -> tuple[Tensor, Tensor, Tensor]:
        """Of the structure, on the CPU."""
        return LongRangeCalculator.geometry(self, atoms)
