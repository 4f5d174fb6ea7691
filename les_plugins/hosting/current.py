"""The current J = dP/dt of a structure in motion: base of `LongRangeCalculator`; molecular dynamics asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from les_plugins.electrostatics.observables import Current, CurrentOfForces
from les_plugins.hosting.batch import BatchEvaluation
from les_plugins.model.long_range import LongRangeResult
from les_plugins.model.physical import LatentStructure, current_of

#: Asks an evaluation to keep what `CurrentEvaluation.current` needs.
CURRENT = "current"


class CurrentEvaluation(BatchEvaluation):
    """What a calculator does with velocities.

    Attributes:
        keeps_force_graph: whether the host keeps the graph of its forces where a `LongRangeResult` asks for it. A
            current then costs no derivative of its own.
    """

    keeps_force_graph: bool = False
    atoms: Any
    results: Mapping[str, Any]
    _product: Current | None = None

    def keep_current(self, structure: LatentStructure, derived: dict[str, Any]) -> LongRangeResult | None:
        """During an evaluation: what `current` needs, under `CURRENT`, where it does not take all of Z*.

        Args:
            structure: the one evaluated.
            derived: results that need the graph.

        Returns:
            What the host is to go on with in the place of the long-range result, or None.
        """
        kind = CurrentOfForces if self.keeps_force_graph else Current
        if (current := current_of(structure, kind)) is None:
            return None
        derived[CURRENT] = current
        work = getattr(current, "work", None)
        latent = structure.latent
        if work is None:
            return None
        atomic = latent.atomic_energy + work / len(latent.atomic_energy)  # of one structure; hosts sum either
        return latent._replace(energy=latent.energy + work, atomic_energy=atomic, keep_graph=True)

    def current(self, velocities: Any, atoms: Atoms | None = None) -> NDArray[Any]:
        """J = Σ Z* v = dP/dt, (3,) e times the unit of velocities.

        By one product where the model's polarization is made with transfers (theory 8.6), with "current" among `always`
        in the evaluation of the forces; else with all of Z*.

        Args:
            velocities: (N, 3) in any unit.
            atoms: the structure; that of the last evaluation when None.
        """
        structure: Atoms = self.atoms if atoms is None else atoms
        changed = self.check_state(structure)
        if changed or (self._product is None and "born_effective_charges" not in self.results):
            self.calculate(structure, ["forces", CURRENT])  # type: ignore[attr-defined]
        product, self._product = self._product, None  # its graph serves once
        if product is not None:
            found: NDArray[Any] = product(torch.as_tensor(velocities))[0].cpu().numpy()
            return found
        born = self.get_property("born_effective_charges", structure)  # type: ignore[attr-defined]
        return np.asarray(np.einsum("nab,nb->a", born, velocities))
