"""Rigid ions with a closed form for their LO–TO splitting: an ASE calculator and its crystal, for tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.neighborlist import neighbor_list
from torch import Tensor

from les_plugins.electrostatics import LatentElectrostatics
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.observables import born_effective_charges

#: Lattice constant of NaCl, Å; ε_∞ and Z* (e) near those of experiment.
LATTICE, EPSILON, BORN_CHARGE = 5.64, 2.33, 1.1
#: Energy of the Born–Mayer repulsion of unlike ions at the distance of neighbours, eV, and its decay length, Å. The
#: energy is the one at which the crystal is free of stress, so that nothing but the ions' own forces decides stability.
REPULSION, DECAY, CUTOFF = 0.07371561909982624, 0.32, 6.5


class RigidIons(Calculator):
    """Smeared charges of fixed size through `LatentElectrostatics`, and a repulsion of unlike ions.

    Args:
        epsilon_infinity: ε_∞; the latent charge is ±Z*/sqrt(ε_∞).
        born_charge: Z* of Na, e.
        has_long_range: whether the charges are there at all.
    """

    implemented_properties = ["energy", "forces", "stress", "born_effective_charges"]  # noqa: RUF012 (as ASE has it)
    known_elements = (11, 17)

    def __init__(
        self, epsilon_infinity: float = EPSILON, born_charge: float = BORN_CHARGE, has_long_range: bool = True
    ) -> None:
        super().__init__()
        self.epsilon_infinity, self.has_long_range = epsilon_infinity, has_long_range
        self._charge = born_charge / math.sqrt(epsilon_infinity) if has_long_range else 0.0
        self._sum = LatentElectrostatics(sigma=1.0, dl=1.2)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        assert atoms is not None
        super().calculate(atoms, list(properties), list(system_changes))
        positions = torch.tensor(atoms.positions, requires_grad=True)
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        deformation = torch.eye(3, dtype=torch.float64) + 0.5 * (strain + strain.T)
        placed, cell = positions @ deformation, (torch.tensor(atoms.cell.array) @ deformation)[None]
        charge = torch.tensor(np.where(atoms.numbers == 11, self._charge, -self._charge))
        batch, pbc = torch.zeros(len(atoms), dtype=torch.long), torch.tensor(atoms.pbc)[None]
        energy = self._sum(placed, cell, pbc, batch, Multipoles(charge, None, None)).energy.sum()
        energy = energy + self._repulsion(atoms, placed, cell[0])
        forces, virial = torch.autograd.grad(energy, (positions, strain))
        self.results: dict[str, Any] = {"energy": float(energy.detach()), "forces": -forces.numpy()}
        if atoms.pbc.all():
            stress = (virial / atoms.get_volume()).numpy()
            self.results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        if "born_effective_charges" in properties:
            if not self.has_long_range:
                raise PropertyNotImplementedError("this model has no long-range part")
            born = born_effective_charges(positions, cell.detach(), pbc, batch, charge, epsilon=self.epsilon_infinity)
            self.results["born_effective_charges"] = born.numpy()

    def _repulsion(self, atoms: Atoms, positions: Tensor, cell: Tensor) -> Tensor:
        first, second, shift = neighbor_list("ijS", atoms, CUTOFF)
        unlike = atoms.numbers[first] != atoms.numbers[second]
        first, second, shift = first[unlike], second[unlike], torch.tensor(shift[unlike], dtype=torch.float64)
        distance = (positions[second] - positions[first] + shift @ cell).norm(dim=1)
        return 0.5 * REPULSION * torch.exp((LATTICE / 2 - distance) / DECAY).sum()


def rock_salt(cubic: bool = False) -> Atoms:
    """NaCl, its primitive cell or its cubic one."""
    return bulk("NaCl", "rocksalt", a=LATTICE, cubic=cubic)
