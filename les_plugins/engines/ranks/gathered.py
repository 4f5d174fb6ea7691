"""All atoms on rank 0, for what cannot be cut into domains: slabs, open structures, hosts without a ghost exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist
from ase import Atoms
from numpy.typing import NDArray

from les_plugins.data.metrics import Floats
from les_plugins.engines.evaluation import evaluate_structure
from les_plugins.engines.lammps import box_of, check_ids, check_run
from les_plugins.engines.ranks.engine import ENERGY_UNITS, add_fix, check_lammps, per_atom, virial_of_lammps
from les_plugins.engines.ranks.failures import end_all
from les_plugins.engines.ranks.meeting import Meeting
from les_plugins.engines.ranks.outputs import add_properties, write_properties

#: Part of the energies of atoms by which their sum may miss the structure's: that of float32.
_OF_ATOMS = 1e-5


class _Whole(NamedTuple):
    """Results of all atoms, in the order of their ids, as rank 0 sends them; NaN where there are none of atoms."""

    ids: NDArray[np.int64]
    energy: float
    energies: Floats
    forces: Floats
    virial: Floats
    charge: Floats | None
    dipole: Floats | None


class GatheredForces:
    """LAMMPS' callback on every rank; rank 0 evaluates the calculator for all, made by `attach_gathered`."""

    def __init__(self, lmp: Any, calculator: Any, elements: Sequence[str], fix: str, meeting: Meeting) -> None:
        self.lmp, self.calculator, self.elements, self.fix, self.meeting = (
            lmp,
            calculator,
            tuple(elements),
            fix,
            meeting,
        )
        self._unit = ENERGY_UNITS[str(lmp.extract_global("units"))]
        self._properties = bool(getattr(calculator, "has_long_range", False))
        if self._properties:
            add_properties(lmp)

    def __call__(
        self, caller: Any, step: int, n_atoms: int, ids: NDArray[Any], positions: Floats, forces: Floats
    ) -> None:
        """Forces (own, 3) in LAMMPS' unit are written in place."""
        try:
            self._step(step, n_atoms, forces)
        except BaseException as error:  # it cannot pass through LAMMPS
            end_all(error, self.meeting.store, self.meeting.rank, f"LAMMPS, step {step}")

    def _step(self, step: int, n_own: int, forces: Floats) -> None:
        lmp, rank = self.lmp, self.meeting.rank
        check_run(lmp)
        own = per_atom(lmp, n_own)
        every: list[Any] | None = [None] * self.meeting.size if rank == 0 else None
        dist.gather_object(own, every)
        sent = [None if every is None else self._evaluate(step, every)]
        dist.broadcast_object_list(sent)
        whole = sent[0]
        assert whole is not None
        mine = np.searchsorted(whole.ids, own[0])
        if n_own:
            forces[:] = whole.forces[mine] / self._unit
        lmp.fix_external_set_energy_global(self.fix, whole.energy / self._unit)
        lmp.fix_external_set_energy_peratom(self.fix, (whole.energies[mine] / self._unit).tolist())
        lmp.fix_external_set_virial_global(self.fix, virial_of_lammps(whole.virial / self._unit))
        if self._properties and whole.charge is not None and whole.dipole is not None:
            write_properties(lmp, whole.charge[mine], whole.dipole[mine])

    def _evaluate(self, step: int, every: list[Any]) -> _Whole:
        ids, types, positions = (np.concatenate(parts) for parts in zip(*every, strict=True))
        check_ids(ids)
        order = np.argsort(ids)
        cell, origin, periodic = box_of(self.lmp)
        atoms = Atoms(
            [self.elements[kind - 1] for kind in types[order]],
            positions[order] - origin,
            cell=cell if any(periodic) else None,
            pbc=periodic,
        )
        found = evaluate_structure(self.calculator, atoms, f"LAMMPS, step {step}")
        charge = dipole = None
        if self._properties:
            results = self.calculator.results
            charge = results["charges"]
            dipole = results.get("latent_dipoles", np.zeros((len(atoms), 3))) * self._root_of_screening(periodic)
        energies = _energies_of_atoms(self.calculator, found.energy, len(atoms))
        return _Whole(ids[order], found.energy, energies, found.forces, found.virial, charge, dipole)

    def _root_of_screening(self, periodic: Sequence[bool]) -> float:
        """sqrt(ε_e): of the material in periodic structures, 1 in slabs and open ones (theory 8.3)."""
        if not all(periodic):
            return 1.0
        chi = self.calculator.reference_susceptibility
        induces = "polarizability" in self.calculator.results and chi is not None
        return float(np.sqrt(self.calculator.epsilon_infinity / (1.0 + (chi if induces else 0.0))))


def _energies_of_atoms(calculator: Any, energy: float, count: int) -> Floats:
    """(N,) eV, NaN where the calculator gives none, or only parts of them."""
    found = np.asarray(calculator.results.get("energies", np.nan), dtype=float)
    whole = found.shape == (count,) and abs(found.sum() - energy) <= _OF_ATOMS * max(1.0, np.abs(found).sum())
    return found if whole else np.full(count, np.nan)


def attach_gathered(
    lmp: Any, calculator: Any, elements: Sequence[str], meeting: Meeting, fix: str = "les"
) -> GatheredForces:
    """Let a calculator on rank 0 give the forces of all ranks' atoms; called by all of them.

    Args:
        lmp: as for `attach_ranks`, with any boundaries that the calculator takes.
        calculator: ASE calculator; used on rank 0.
        elements: chemical symbol of every type.
        meeting: the ranks.
        fix: id of the fix.

    Raises:
        ConfigError, DataError: as `attach_ranks`, but for boundaries.
    """
    check_lammps(lmp, elements, calculator.known_elements)
    forces = GatheredForces(lmp, calculator, elements, fix, meeting)
    add_fix(lmp, fix, forces)
    return forces
