"""A toy that reads total charges, by a closed form, and a tiny model that does; for tests of what calculators read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import nn
from toy_calculator import Toy, molecule

from les_plugins import LongRangeConfig
from les_plugins.data.structure_reading import StructureReading
from les_plugins.hosting.build import build_long_range
from les_plugins.hosting.evaluated import EvaluatedCalculator, HostResult, StrainedFrames
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures

#: V and V/e of the charged toy.
ELECTRONEGATIVITY, HARDNESS = 2.0, 0.7


class ChargedToy(StructureReading, Toy):
    """A toy whose energy is quadratic in the total charge; its charges add up to it."""

    takes_total_charge, has_long_range, epsilon_infinity = True, True, 1.0
    always: tuple[str, ...] = ()

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes: Any = ()
    ) -> None:
        assert atoms is not None
        with self.results_of(atoms):
            super().calculate(atoms, properties, system_changes)
            self.atoms = atoms.copy()
            charge = self.total_charge_of(atoms)
            self.results["energy"] += ELECTRONEGATIVITY * charge + 0.5 * HARDNESS * charge**2
            missing = (charge - self.results["charges"].sum()) / len(atoms)
            self.results["charges"] = self.results["charges"] + missing

    def current(self, velocities: Any, atoms: Atoms | None = None) -> Any:
        """J of charges that are carried along."""
        if atoms is not None and self.check_state(atoms):
            self.calculate(atoms)
        return self.results["charges"] @ velocities


class TinyIons(EvaluatedCalculator):
    """The calculator of a long-range part with `total_charge: given`, its features densities of neighbours."""

    def __init__(self, metadata: dict[str, Any] | None = None, **section: Any) -> None:
        torch.manual_seed(1)
        layout = FeatureLayout((LayerLayout(2),), cutoff=None, elements=("H", "O"))
        config = {"multipoles": ["charge"], "total_charge": "given", "net_charge_warning": None, **section}
        model = nn.Module()
        model.long_range = build_long_range(layout, LongRangeConfig.parse(config))
        super().__init__(model.double(), [1, 8], metadata)

    def evaluate(self, frames: Sequence[Atoms]) -> HostResult:
        strained = StrainedFrames.of(frames, torch.zeros(1, dtype=torch.float64))
        batch = torch.repeat_interleave(torch.arange(len(frames)), torch.tensor(strained.counts))
        species = torch.tensor(np.concatenate([atoms.numbers for atoms in frames]) == 8).long()
        centre, neighbor = torch.nonzero(
            (batch[:, None] == batch) & ~torch.eye(len(batch), dtype=torch.bool), as_tuple=True
        )
        vector = strained.moved[neighbor] - strained.moved[centre]
        density = torch.zeros(len(batch), dtype=torch.float64).index_add(0, centre, torch.exp(-vector.square().sum(1)))
        features = NodeFeatures(
            [LayerFeatures(torch.stack([species.double(), density], 1))], Edges(centre, neighbor, vector), species
        )
        pbc = torch.tensor(np.array([atoms.pbc for atoms in frames]))
        charges = None
        if self.takes_total_charge:
            charges = torch.tensor([self.total_charge_of(atoms) for atoms in frames], dtype=torch.float64)
        found = self.model.long_range(features, strained.moved, strained.cells, pbc, batch, total_charge=charges)
        return strained.result(found.atomic_energy)


def ion(charge: Any = None, seed: int = 1, **info: Any) -> Atoms:
    """A water molecule, out of shape, with what `info` is to hold."""
    atoms = molecule(seed)
    atoms.info.update(info if charge is None else {"charge": charge, **info})
    return atoms


def toy_energy(atoms: Atoms, charge: float, spring: float = 0.3) -> float:
    """eV, of the charged toy."""
    toy = Toy(spring=spring)
    toy.calculate(atoms)
    return float(toy.results["energy"]) + ELECTRONEGATIVITY * charge + 0.5 * HARDNESS * charge**2
