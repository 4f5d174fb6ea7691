"""`RankCalculator`: an ASE calculator on several processes of torchrun, each with its part of the structure."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from les_plugins.data.cautions import place_of_structure
from les_plugins.data.frames import check_elements_of, check_frame
from les_plugins.data.labels import BORN
from les_plugins.data.metrics import Floats
from les_plugins.data.structure_reading import StructureReading
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.engines.ranks.domain import SKIN
from les_plugins.engines.ranks.engine import Evaluation, Evaluator
from les_plugins.engines.ranks.meeting import Meeting
from les_plugins.engines.ranks.moments import Moments
from les_plugins.engines.ranks.partition import Partition, partition
from les_plugins.errors import ConfigError, DataError, HostError, LesPluginsError
from les_plugins.hosting.current import CURRENT
from les_plugins.hosting.domains import DomainModel
from les_plugins.model.material import checked_epsilon_infinity

_ALWAYS = ("energy", "forces", "stress", "energies")
_ELECTROSTATIC = ("charges", "dipole", "polarizability", BORN)


class RankCalculator(StructureReading, Calculator):
    """Energy, forces, stress and Born charges of one structure whose atoms are spread over the ranks.

    Every rank runs the same script on the same structure, and every rank has all results. Memory and time of a rank are
    those of its part. The geometry and the total charge of rank 0 count for all.

    Args:
        model: checkpoint folder or name of the zoo, of a host with domains: MACE, NequIP, Allegro, SevenNet.
        dtype: "float32" or "float64"; as it was saved when None.
        head: of a model with several heads.

    Raises:
        ConfigError: not started by torchrun.
        HostError: a host without domains.
        CheckpointError: see `les_plugins.load`.

    Results: energy, forces, stress, energies; charges, dipole, polarizability and born_effective_charges (N, 3, 3) of a
    model with a long-range part.
    """

    always: tuple[str, ...] = ()
    takes_external_field = False
    metadata: Mapping[str, Any] = {}

    def __init__(self, model: str | Path, dtype: str | None = None, head: str | None = None) -> None:
        from les_plugins import api
        from les_plugins.hosting import registry

        meeting = meet_torchrun()
        built, config = api.load_model(model, dtype)
        host = registry.host(config["host"])
        if not host.offers("domain_model"):
            raise HostError(f"{model}: models of {config['host']} have no domains; les_plugins.load takes them whole")
        metadata = config if head is None else {**config, "head": head}
        whole = host.calculator(built, metadata, "cpu")
        built.eval().requires_grad_(False)
        self._set_up(
            host.domain_model(built, metadata), meeting, whole.epsilon_infinity, whole.reference_susceptibility
        )
        self.metadata, self.total_charge_key = config, whole.total_charge_key

    @classmethod
    def of(
        cls, model: DomainModel, meeting: Meeting, epsilon_infinity: float = 1.0, susceptibility: float | None = None
    ) -> RankCalculator:
        """From a model that is there, and ranks that have met."""
        made = cls.__new__(cls)
        made._set_up(model, meeting, epsilon_infinity, susceptibility)
        return made

    def _set_up(self, model: DomainModel, meeting: Meeting, epsilon: float, susceptibility: float | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.meeting = model, meeting
        self.known_elements = [int(number) for number in model.elements]
        part = model.long_range
        self.has_long_range = part is not None
        self.takes_total_charge = part is not None and part.total_charge is not None
        self._epsilon_infinity = epsilon
        self.implemented_properties = [*_ALWAYS, *(_ELECTROSTATIC if self.has_long_range else ())]
        self._evaluator: Evaluator | None = None
        self._charge = 0.0
        self._moments: Moments | None = None
        self._susceptibility = susceptibility
        self._partition: Partition | None = None
        self._built: Floats = np.zeros((0, 3))
        self._count = -1
        self._found: Evaluation | None = None

    @property
    def epsilon_infinity(self) -> float:
        """ε_∞ that charges, dipole and Born charges are scaled with; results are cleared when it is set."""
        return self._epsilon_infinity

    @epsilon_infinity.setter
    def epsilon_infinity(self, value: float) -> None:
        self._epsilon_infinity = checked_epsilon_infinity(value, self.model.long_range)
        self._moments = self._found = None
        self.reset()  # type: ignore[no-untyped-call]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Called by all ranks in the same order.

        Raises:
            DataError: a structure that is not periodic along three axes, or of other elements or another number of
                atoms than on other ranks, or that the model cannot take; on every rank, wherever it is found.
        """
        structure: Any = self.atoms if atoms is None else atoms
        wanted = {*(properties or ()), *self.always}
        with self.results_of(structure):
            super().calculate(structure, list(properties or _ALWAYS), list(system_changes))  # type: ignore[no-untyped-call]
            self._evaluate(structure, wanted, self._checked(structure, place_of_structure()))

    def current(self, velocities: Any, atoms: Atoms | None = None) -> NDArray[Any]:
        """J = Σ Z* v = dP/dt, (3,) e times the unit of velocities (N, 3); called by all ranks."""
        structure: Any = self.atoms if atoms is None else atoms
        if self._found is None or self.check_state(structure):
            self.calculate(structure, ["forces", CURRENT])
        if self._moments is None or self._found is None or self._partition is None:
            raise HostError("current: this model has no long-range part")
        own = self._partition.atom[: self._partition.own]
        found, self._found = self._found, None  # its graph serves once
        return self._moments.current(found, np.ascontiguousarray(np.asarray(velocities, dtype=np.float64)[own]))

    def get_born_effective_charges(self, atoms: Atoms | None = None) -> Any:
        """(N, 3, 3) e, first index polarization, second displacement."""
        return self.get_property(BORN, atoms)  # type: ignore[no-untyped-call]

    def _evaluate(self, atoms: Atoms, wanted: Collection[str], charge: float) -> None:
        positions, cell, charge = self._shared(atoms, charge)
        evaluator = self._evaluator_for(charge)
        parts = self._parts(positions, cell)
        keep = bool({BORN, CURRENT} & {*wanted})
        ids, numbers = parts.atom + 1, atoms.numbers[parts.atom]
        found = evaluator.evaluate(parts.own, ids, numbers, parts.positions(positions, cell), cell, keep)
        forces = self._of_all(found.forces, parts)
        if not np.isfinite(found.energy) or not np.isfinite(forces).all():
            raise DataError("energy or forces are not finite; these atoms are too far from the model's training")
        stress = -found.virial / abs(np.linalg.det(cell))
        self.results = {
            "energy": found.energy,
            "free_energy": found.energy,
            "forces": forces,
            "energies": self._of_all(found.energies[:, None], parts)[:, 0],
            "stress": full_3x3_to_voigt_6_stress(stress),
        }
        self._found = found if CURRENT in wanted else None
        if self._moments is not None:
            self._electrostatics(found, parts, positions[parts.atom[: parts.own]], wanted)

    def _electrostatics(
        self, found: Evaluation, parts: Partition, own_positions: Floats, wanted: Collection[str]
    ) -> None:
        assert self._moments is not None
        if BORN in wanted:
            tensors = self._moments.born(found).reshape(parts.own, 9)
            self.results[BORN] = self._of_all(tensors, parts).reshape(-1, 3, 3)
        charge, _ = self._moments.of_atoms(found)
        self.results["charges"] = self._of_all(charge[:, None], parts)[:, 0]
        self.results["dipole"] = self._moments.polarization(found, own_positions)
        asked = "polarizability" in wanted or not self._moments.iterates
        if asked and (alpha := self._moments.polarizability(found)) is not None:
            self.results["polarizability"] = alpha
        self.results["polarization_source"] = self._moments.source(found)

    def _checked(self, atoms: Atoms, where: str) -> float:
        """The total charge of this rank's structure, e; all ranks raise what one of them has to."""
        refusal: LesPluginsError | None = None
        charge = 0.0
        try:
            charge = self._taken(atoms, where)
        except LesPluginsError as error:
            refusal = error
        refused = self._anywhere(refusal is not None)
        if refusal is not None:
            raise refusal
        if refused:
            raise DataError("the structure of another rank cannot be taken; its error says why")
        count = torch.tensor([len(atoms), -len(atoms)], dtype=torch.float64)
        most, fewest = self.meeting.ranks.maximum(count).tolist()
        if most != -fewest:
            raise DataError(f"the ranks have structures of other numbers of atoms; here are {len(atoms)}")
        numbers = torch.from_numpy(np.asarray(atoms.numbers, dtype=np.int64).copy())
        dist.broadcast(numbers, src=0, group=self.meeting.ranks.group)
        differ = np.flatnonzero(numbers.numpy() != atoms.numbers)
        if self._anywhere(len(differ) > 0):
            here = f"; {len(differ)} atoms here, the first is number {differ[0]}" if len(differ) else ""
            raise DataError(f"the ranks have structures with other elements than rank 0{here}")
        if self.meeting.rank == 0:  # in one voice
            self.caution(atoms, where)
        return charge

    def _taken(self, atoms: Atoms, where: str) -> float:
        """As `_checked`, on this rank alone."""
        check_frame(atoms, where)
        check_elements_of(atoms, self.known_elements, where)
        if not atoms.pbc.all():
            raise DataError(
                f"pbc is {atoms.pbc.tolist()}; allowed on ranks: periodic along three axes; les_plugins.load takes "
                "slabs and molecules in one process"
            )
        return self.total_charge_of(atoms, where) if self.takes_total_charge else 0.0

    def _anywhere(self, fact: bool) -> bool:
        """Whether it is so on any rank."""
        return float(self.meeting.ranks.maximum(torch.tensor(float(fact), dtype=torch.float64))) > 0.0

    def _shared(self, atoms: Atoms, charge: float) -> tuple[Floats, Floats, float]:
        """Positions, cell and total charge of rank 0, to the last bit the same everywhere: else lists would differ."""
        all_of_it = torch.from_numpy(np.concatenate([atoms.positions, atoms.cell.array, [[charge, 0.0, 0.0]]]))
        dist.broadcast(all_of_it, src=0, group=self.meeting.ranks.group)
        array: Floats = all_of_it.numpy()
        return array[:-4], array[-4:-1], float(array[-1, 0])

    def _evaluator_for(self, charge: float) -> Evaluator:
        if self._evaluator is None or charge != self._charge:
            self._evaluator, self._charge = Evaluator(self.model, self.meeting, charge), charge
        part = self.model.long_range
        if self._moments is None and part is not None:
            self._moments = Moments(part, self.epsilon_infinity, self._susceptibility)
        return self._evaluator

    def _parts(self, positions: Floats, cell: Floats) -> Partition:
        """New ones when any atom moved so far that a ghost might be missing."""
        known, reach = self._partition, self.model.cutoff + SKIN
        stale = known is None or len(positions) != self._count
        if known is not None and not stale and len(known.atom):
            stale = np.square(known.positions(positions, cell) - self._built).sum(1).max() >= (0.5 * SKIN) ** 2
        if self._anywhere(stale) or known is None:
            known = partition(positions, cell, self.meeting.rank, self.meeting.size, reach)
            self._partition, self._count = known, len(positions)
            self._built = known.positions(positions, cell)
        return known

    def _of_all(self, own: Floats, parts: Partition) -> Floats:
        """(N, C) of every atom from (own, C) of each rank."""
        every = np.zeros((self._count, own.shape[1]))
        every[parts.atom[: parts.own]] = own
        return self.meeting.ranks.sum(torch.from_numpy(every)).numpy()


def meet_torchrun() -> Meeting:
    """The ranks that torchrun started (gloo), which meet here unless they have before.

    Raises:
        ConfigError: torchrun did not start this process.
    """
    if not dist.is_initialized():
        if missing := [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise ConfigError(
                f"the environment has no {missing[0]}: start this script with torchrun --nproc-per-node N SCRIPT"
            )
        dist.init_process_group("gloo")
    group: Any = dist.group.WORLD
    return Meeting(Ranks(group), dist.get_rank(), dist.get_world_size(), None)
