"""A zinc blende whose charge flows over pairs, with an ASE calculator of ours, for phonons and piezoelectricity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ase import Atoms
from ase.build import bulk
from response_models import TinyHost
from torch import Tensor

from les_plugins.hosting.evaluated import EvaluatedCalculator, HostResult, StrainedFrames
from les_plugins.model.response_prediction import Geometry

#: Bond length at rest, Å, and stiffness of the bonds, eV/Å².
BOND, SPRING = 1.95, 20.0
LATTICE = 4.0 * BOND / 3.0**0.5
SECTION: dict[str, Any] = {
    "multipoles": ["charge", "dipole"],
    "response": {"charge": "pairs", "dipole": "isotropic"},
    "total_charge": "conserved",
    "initial_charges": {"H": 0.5, "O": -0.5},
    "element_charges": "fixed",
    "epsilon_infinity": 2.0,
    "dl": 1.2,
    "hidden": 8,
}


class Bonds(TinyHost):
    """With springs between neighbours, which end smoothly before second neighbours begin."""

    def short_range_energies(self, scalars: Tensor, centre: Tensor, length: Tensor) -> Tensor:
        """Springs in the place of a network."""
        inside = (1.0 - (length / 2.8).clamp(max=1.0) ** 8) ** 3
        energy = 0.25 * SPRING * inside * (length - BOND) ** 2
        return torch.zeros(len(scalars), dtype=torch.float64).index_add(0, centre, energy)


class PairCalculator(EvaluatedCalculator):
    """As an adapter's."""

    def evaluate(self, frames: Sequence[Atoms]) -> HostResult:
        """One evaluation of all frames."""
        strained = StrainedFrames.of(frames, torch.zeros(1, dtype=torch.float64))
        counts = torch.tensor(strained.counts)
        batch = torch.repeat_interleave(torch.arange(len(frames)), counts)
        pbc = torch.stack([torch.as_tensor(atoms.pbc) for atoms in frames])
        species = torch.cat([torch.as_tensor(atoms.numbers) for atoms in frames]) // 8
        self.start_from(strained.positions)
        short, result = self.model.parts(Geometry(strained.moved, strained.cells, pbc, batch), species)
        return strained.result(short + result.atomic_energy, result.keep_graph)


def calculator(**changes: Any) -> PairCalculator:
    """Of a model with heads large enough to be seen."""
    model = Bonds({**SECTION, **changes})
    with torch.no_grad():
        for name, parameter in model.long_range.heads.named_parameters():
            if name.startswith(("charge.linear", "dipole.out")):
                parameter.mul_(4.0)
    model.long_range.electrostatics.change_settings(net_charge_warning=None)
    return PairCalculator(model, (1, 8))


def zinc_blende() -> Atoms:
    """The primitive cell."""
    return bulk("HO", "zincblende", a=LATTICE)
