"""`RankForces`: `fix external` on every rank of LAMMPS, energies, forces and virial of a model evaluated by domains."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import units
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from les_plugins.data.metrics import Floats
from les_plugins.electrostatics.layer import LatentElectrostatics
from les_plugins.electrostatics.long_waves import warn_of_long_waves
from les_plugins.engines.lammps import box_of, check_ids, check_masses, check_run
from les_plugins.engines.ranks.domain import Domain, Domains
from les_plugins.engines.ranks.failures import end_all
from les_plugins.engines.ranks.meeting import Meeting
from les_plugins.errors import ConfigError, DataError, HostError
from les_plugins.hosting.domains import DomainModel
from les_plugins.model.long_range import LongRangeResult

#: eV in LAMMPS' unit of energy; both styles have Å.
ENERGY_UNITS = {"metal": 1.0, "real": units.kcal / units.mol}
#: Order of LAMMPS' virial: xx, yy, zz, xy, xz, yz.
_ROWS, _COLUMNS = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)


class Evaluation(NamedTuple):
    """One step on this rank, its graph kept.

    Attributes:
        domain: the atoms.
        energies: (own,) eV of own atoms, long range included.
        energy: eV, of all ranks.
        forces: (own, 3) eV/Å.
        virial: (3, 3) eV, of all ranks.
        latent: result of the long-range part for own atoms, or None.
    """

    domain: Domain
    energies: Floats
    energy: float
    forces: Floats
    virial: Floats
    latent: LongRangeResult | None


@dataclass
class Seconds:
    """Time of the steps so far. All but `halo` without the exchanges of ghosts in them.

    Attributes:
        steps: how many.
        lists: lists of edges, and the graph from positions to them.
        model: the host's model, and the derivative through it and the lists.
        long_range: heads, long-range sum and response, and the derivative through them; with the sums over ranks.
        halo: exchanges of ghosts, waiting for other ranks included.
    """

    steps: int = 0
    lists: float = 0.0
    model: float = 0.0
    long_range: float = 0.0
    halo: float = 0.0


class Evaluator:
    """The model on this rank's atoms, with the exchanges of all ranks.

    Args:
        model: of the host; its long-range part is made to sum over the ranks.
        meeting: the ranks.
        total_charge: e, of the structure, for a model with `total_charge: given`; else 0.
        clock: s, that `seconds` counts by.

    Raises:
        ConfigError: a total charge that the model does not read.
        HostError: a solver of a plugin, which would sum over this rank's atoms alone.
    """

    def __init__(
        self,
        model: DomainModel,
        meeting: Meeting,
        total_charge: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model, self.meeting, self.seconds, self._clock = model, meeting, Seconds(), clock
        self._last = (0.0, 0.0)
        self._looked = False
        part, device = model.long_range, torch.device("cpu")
        self._charge: Tensor | None = None
        if part is not None:
            layer: Any = part.electrostatics
            if type(layer) is not LatentElectrostatics or layer.solver != layer._solve:
                raise HostError("the model's solver (run: method) knows no ranks; allowed: auto, direct, mesh")
            layer.ranks = meeting.ranks
            device = part.gauge.device
            if part.total_charge is not None:
                self._charge = torch.tensor([total_charge], dtype=torch.float64, device=device)
        if total_charge and self._charge is None:
            raise ConfigError(
                f"the total charge is {total_charge}: the model does not read it; allowed: models trained with "
                "total_charge: given"
            )
        self.domains = Domains(meeting.ranks, model.cutoff, device, clock)

    def count_by(self, clock: Callable[[], float]) -> None:
        """Begin to count again, by another clock."""
        self.seconds, self._clock = Seconds(), clock
        self.domains.count_by(clock)

    def evaluate(
        self,
        n_own: int,
        ids: NDArray[Any],
        numbers: NDArray[Any],
        positions: Floats,
        cell: Floats,
        keep_graph: bool = False,
    ) -> Evaluation:
        """One step; called by all ranks, one without atoms too. Arguments as for `Domains.make`.

        With `keep_graph` the latent variables can be differentiated with respect to `domain.own`.
        """
        self._last = self._clock(), self.domains.seconds
        domain = self.domains.make(n_own, ids, numbers, positions, cell)
        self._count("lists")
        short, features = self.model.evaluate(domain.graph)
        self._count("model")
        total, energies, latent = short.double().sum(), short.detach().double(), None
        whole = self.meeting.ranks.sum(total)
        part = self.model.long_range
        if part is not None and features is not None:
            latent = part(features, domain.positions, domain.cell, domain.pbc, domain.batch, total_charge=self._charge)
            total = total + latent.energy.sum()  # of all ranks: every one differentiates the whole once
            whole = whole + latent.energy.detach().sum()
            energies = energies + latent.atomic_energy.detach()
            self._look_for_long_waves(latent, domain)
        # what was made last is differentiated first: the model begins when the slope comes to its energies
        handle = short.register_hook(lambda _: self._count("long_range"))
        slope, on_strain = torch.autograd.grad(total, (domain.own, domain.strain), retain_graph=keep_graph)
        handle.remove()
        virial = -self.meeting.ranks.sum(on_strain)
        self._count("model")
        self.seconds.steps += 1
        return Evaluation(domain, _array(energies), float(whole), -_array(slope), _array(virial), latent)

    def _look_for_long_waves(self, latent: LongRangeResult, domain: Domain) -> None:
        """Once, of all atoms; rank 0 warns."""
        if self._looked or latent.softness is None:
            return
        self._looked = True
        softness = self.meeting.ranks.sum(latent.softness.detach().double().sum()[None])
        if self.meeting.rank == 0:
            warn_of_long_waves(softness, domain.cell[0])

    def _count(self, name: str) -> None:
        """What has passed since the last count is of this part, or of the halo."""
        now = self._clock(), self.domains.seconds
        spent, halo = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        setattr(self.seconds, name, getattr(self.seconds, name) + spent - halo)
        self.seconds.halo += halo


class Observer:
    """What is told of every step after its forces are known; by default nothing is done with it."""

    def attached(self, lmp: Any, energy_unit: float) -> None:
        """Once, when the fix is there."""

    def wants_graph(self, step: int) -> bool:
        """Whether it differentiates what the step finds."""
        return False

    def look(self, step: int, found: Evaluation, ids: NDArray[Any]) -> None:
        """At every step on every rank; `ids` of own atoms."""


class RankForces:
    """The model on LAMMPS' ranks, made by `attach_ranks`: LAMMPS calls it at every step on every rank."""

    def __init__(
        self, lmp: Any, evaluator: Evaluator, elements: Sequence[str], fix: str, observers: Sequence[Observer] = ()
    ) -> None:
        self.lmp, self.evaluator, self.fix = lmp, evaluator, fix
        self.observers = tuple(observers)
        self.energy_unit = ENERGY_UNITS[str(lmp.extract_global("units"))]
        self._elements, self._checked = tuple(elements), False
        self._numbers = np.array([0, *(atomic_numbers[symbol] for symbol in elements)])
        for observer in self.observers:
            observer.attached(lmp, self.energy_unit)

    def __call__(
        self, caller: Any, step: int, n_atoms: int, ids: NDArray[Any], positions: Floats, forces: Floats
    ) -> None:
        """LAMMPS' callback: forces (own, 3) in LAMMPS' unit are written in place."""
        try:
            self._step(step, n_atoms, forces)
        except BaseException as error:  # it cannot pass through LAMMPS
            end_all(error, self.evaluator.meeting.store, self.evaluator.meeting.rank, f"LAMMPS, step {step}")

    def _step(self, step: int, n_own: int, forces: Floats) -> None:
        lmp, unit = self.lmp, self.energy_unit
        check_run(lmp)
        check_periodic(lmp)
        if not self._checked:
            check_masses(lmp, self._elements)  # they may have been set after the model was attached
            self._checked = True
        ids, types, positions = per_atom(lmp, n_own + lmp.extract_global("nghost"))
        check_ids(ids[:n_own])
        keep_graph = any([observer.wants_graph(step) for observer in self.observers])
        found = self.evaluator.evaluate(n_own, ids, self._numbers[types], positions, box_of(lmp)[0], keep_graph)
        check_finite(found, ids)
        if n_own:
            forces[:] = found.forces / unit
        lmp.fix_external_set_energy_global(self.fix, found.energy / unit)
        lmp.fix_external_set_energy_peratom(self.fix, (found.energies / unit).tolist())
        lmp.fix_external_set_virial_global(self.fix, virial_of_lammps(found.virial / unit))
        for observer in self.observers:
            observer.look(step, found, ids[:n_own])


def attach_ranks(
    lmp: Any,
    evaluator: Evaluator,
    elements: Sequence[str],
    fix: str = "les",
    observers: Sequence[Observer] = (),
) -> RankForces:
    """Let a model give energy, forces and virial of every atom of LAMMPS on all its ranks; called by all of them.

    An error on one rank ends all ranks with one line (`failures.end_all`): it cannot pass through LAMMPS.

    Args:
        lmp: `lammps.lammps` with units metal or real, a box that is periodic along three axes and a pair style whose
            cutoff is the model's, such as `pair_style zero CUTOFF`.
        evaluator: the model with its ranks.
        elements: chemical symbol of every type; the masses of the types must be theirs.
        fix: id of the fix.
        observers: told of every step.

    Raises:
        ConfigError: units, elements, masses, boundaries or a run style that cannot be used; no box.
    """
    check_lammps(lmp, elements, evaluator.model.elements)
    check_periodic(lmp)
    external = RankForces(lmp, evaluator, elements, fix, observers)
    add_fix(lmp, fix, external)
    return external


def add_fix(lmp: Any, fix: str, callback: Any) -> None:
    """`fix external` with energy and virial, and its callback."""
    lmp.command(f"fix {fix} all external pf/callback 1 1")
    lmp.command(f"fix_modify {fix} energy yes virial yes")
    lmp.set_fix_external_callback(fix, callback, None)


def check_lammps(lmp: Any, elements: Sequence[str], known: Sequence[int]) -> None:
    """Raise ConfigError or DataError for what no run can be made of."""
    check_run(lmp)
    if (style := lmp.extract_global("units")) not in ENERGY_UNITS:
        raise ConfigError(f"LAMMPS: units {style}; allowed: {', '.join(ENERGY_UNITS)}")
    if not lmp.extract_setting("box_exist"):
        raise ConfigError("LAMMPS: there is no box yet; pair_coeff comes after the box was made")
    if (types := lmp.extract_setting("ntypes")) != len(elements):
        raise ConfigError(f"LAMMPS: {types} atom types and {len(elements)} elements {list(elements)}; give one each")
    if strange := [symbol for symbol in elements if symbol not in atomic_numbers]:
        raise ConfigError(f"LAMMPS: {strange[0]!r} is no element")
    if unknown := [symbol for symbol in elements if atomic_numbers[symbol] not in known]:
        names = ", ".join(chemical_symbols[number] for number in known)
        raise DataError(f"LAMMPS: the model does not know {', '.join(unknown)}; it knows {names}")
    check_masses(lmp, elements)


def check_periodic(lmp: Any) -> None:
    """Raise ConfigError for a box that has no domains; `change_box` may make it one at any line of a script."""
    if not all(lmp.extract_box()[5]):
        raise ConfigError(
            "LAMMPS: boundary is not p p p; allowed by domains: periodic along three axes; --gather, or a boundary "
            "that is set before pair_coeff, has all atoms evaluated on rank 0"
        )


def check_finite(found: Evaluation, ids: NDArray[Any]) -> None:
    """Raise DataError where this rank's results are not numbers."""
    if not np.isfinite(found.energy):
        raise DataError(f"the model's energy is {found.energy}; these atoms are too far from its training")
    finite = np.isfinite(found.forces).all(1)
    if not finite.all():
        first = int(ids[int(np.argmin(finite))])
        raise DataError(f"the model's forces hold NaN or infinity on {int((~finite).sum())} atoms, first id {first}")


def virial_of_lammps(virial: Floats) -> list[float]:
    """The six numbers of (3, 3)."""
    numbers: list[float] = virial[_ROWS, _COLUMNS].tolist()
    return numbers


def per_atom(lmp: Any, count: int) -> tuple[NDArray[Any], NDArray[Any], Floats]:
    """Copies of ids, types and positions (count, 3) Å, own atoms first."""
    if not count:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros((0, 3))
    ids, types = (np.array(lmp.numpy.extract_atom(name, nelem=count)).reshape(-1)[:count] for name in ("id", "type"))
    return ids.astype(np.int64), types, np.array(lmp.numpy.extract_atom("x", nelem=count)).reshape(-1, 3)[:count]


def _array(value: Tensor) -> Floats:
    array: Floats = value.detach().cpu().double().numpy()
    return array
