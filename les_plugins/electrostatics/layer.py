"""`LatentElectrostatics`: moments in, energy, potential, field and induced moments out. Every adapter calls it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor

from les_plugins.electrostatics.checks import is_traced, one_of
from les_plugins.electrostatics.external_field import PERIODIC_FIELD, in_external_field
from les_plugins.electrostatics.flow import PairSoftness
from les_plugins.electrostatics.former import from_former_state
from les_plugins.electrostatics.groups import Facts, facts_of
from les_plugins.electrostatics.inputs import LayerInputs
from les_plugins.electrostatics.local import to_structures
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.net_charge import neutralized, refuse_net_charge, warn_of_net_charge
from les_plugins.electrostatics.parallel.processes import check_on_all_ranks
from les_plugins.electrostatics.parallel.reduction import Ranks, reduce_total
from les_plugins.electrostatics.periodic.static import refuse_uncovered, static_electrostatics, static_extent
from les_plugins.electrostatics.response.choice import ResponseModel, make_response, respond, response_name
from les_plugins.electrostatics.response.interaction import Interaction, check_interaction
from les_plugins.electrostatics.response.mutual import ORDERS, mutual_response
from les_plugins.electrostatics.response.one_shot import InteractingResponse
from les_plugins.electrostatics.response.pair_flow import PairFlow, pair_flow
from les_plugins.electrostatics.response.pair_inputs import check_pairs
from les_plugins.electrostatics.response.self_consistent import SelfConsistentResponse
from les_plugins.electrostatics.results import ElectrostaticsResult, PermanentResult, sum_channels
from les_plugins.electrostatics.settings import WARNING_ENERGY, WORKSPACE, ElectrostaticsSettings
from les_plugins.electrostatics.solver import solve_structures
from les_plugins.errors import ConfigError, GeometryError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Solver = Callable[[Tensor, Tensor, Tensor, Tensor, Multipoles], PermanentResult]


class LatentElectrostatics(torch.nn.Module):
    """Energy of Gaussian-smeared atomic multipoles and their linear response (theory 1–7, arXiv 2605.05746).

    Args:
        sigma: Gaussian smearing width, 0.1 … 10 Å.
        dl: resolution of the reciprocal sum, 0.3 … 6 Å: k_c = 2π/dl. The literature's 2.0 is not converged with dipoles
            and quadrupoles (8 meV/atom and 16 meV/Å on water); 1.2 is, below 0.01 meV.
        remove_self_interaction: leave each atom's interaction with itself out.
        method: of periodic structures: "direct", "mesh", or "auto", which takes the mesh for a structure that it is
            faster for. The energy then differs by the mesh's error between sizes on either side of that. Traced and
            compiled code always takes the direct sum.
        response: "one_shot", "self_consistent", a model of your own, or None.
        static_cell: longest lattice vectors, Å, that traced and compiled code has to cover: its grid is sized by them
            once and for all. Structures must then be periodic, with cells no longer. None: tracing is refused.
        neutralize: what is done about the net charge. "keep": nothing, the charges are summed as they are given, in a
            periodic structure with k = 0 left out; "background": the mean over the atoms is taken off every atom of
            slabs and open structures, which have no background; "shift": of all structures; "refuse": off open
            structures, and an error for others.
        net_charge_warning: energy of the net charge, meV an atom, above which a warning is given, once and not in
            training mode or a process group; None for never (docs/explanation/boundaries.md).
        response_tolerance: of the self-consistent response, see `SelfConsistentResponse`.
        total_charge: likewise, "free" or "fixed"; "fixed" needs the self-consistent response.
        mesh_tolerance: root mean square error of the mesh's forces over the root mean square force.
        process_group: of `torch.distributed`, over whose ranks the atoms of each structure are spread: every rank gives
            its own atoms, and the cell and pbc of the whole (docs/how-to/processes.md). Periodic structures only; not
            stored in checkpoints or pickles. None: one process has all atoms.
        workspace: MiB of intermediate arrays that a reciprocal sum holds at once on the CPU, 64 times that elsewhere;
            results do not depend on it.
        precision: of the matrix products of the direct sum, "double" or "single"; phases, sums over chunks of atoms and
            everything else are in double (docs/results/performance.md). Not with the self-consistent response.

    A layer starts in evaluation mode. In training mode (`train()`, as trainers call on their models) forces are
    expected to be differentiated: that costs less then, and energy and forces alone cost more.

    Raises:
        ConfigError: a setting outside what is allowed.
    """

    #: Whether the warning of a net charge was given.
    _warned = False
    ranks: Ranks | None = None

    def __init__(
        self,
        sigma: float = 1.0,
        dl: float = 1.2,
        remove_self_interaction: bool = True,
        method: str = "auto",
        response: str | ResponseModel | None = "one_shot",
        static_cell: tuple[float, float, float] | None = None,
        neutralize: str = "keep",
        net_charge_warning: float | None = WARNING_ENERGY,
        response_tolerance: float = 1e-8,
        total_charge: str = "free",
        mesh_tolerance: float = 1e-5,
        process_group: ProcessGroup | None = None,
        workspace: float = WORKSPACE,
        precision: str = "double",
    ) -> None:
        super().__init__()
        self.train(False)
        self.settings = ElectrostaticsSettings(
            sigma=sigma,
            dl=dl,
            remove_self_interaction=remove_self_interaction,
            method=method,
            static_cell=static_cell,
            neutralize=neutralize,
            net_charge_warning=net_charge_warning,
            mesh_tolerance=mesh_tolerance,
            workspace=workspace,
            precision=precision,
        )
        if not (process_group is None or isinstance(process_group, torch.distributed.ProcessGroup)):
            raise ConfigError(f"process_group is {process_group!r}; allowed: a group of torch.distributed, or None")
        self.ranks = None if process_group is None else Ranks(process_group)
        self.solver: Solver = self._solve
        self.response_model = make_response(response, response_tolerance, total_charge)

    @classmethod
    def from_settings(
        cls, settings: ElectrostaticsSettings, response: ResponseModel | None = None
    ) -> LatentElectrostatics:
        """A layer with these settings.

        Args:
            settings: of the sums.
            response: the model of the response, or None.
        """
        return cls(**vars(settings), response=response)

    def change_settings(self, **changes: Any) -> None:
        """Replace single settings, such as `static_cell` before compiling.

        Raises:
            ConfigError: a setting outside what is allowed.
        """
        self.settings = replace(self.settings, **changes)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state if "settings" in state else from_former_state(state))  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """The settings, as torch prints a module."""
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self.settings).items())
        return f"{settings}, response={response_name(self.response_model)}"

    def forward(
        self,
        positions: Tensor,
        cell: Tensor,
        pbc: Tensor,
        batch: Tensor,
        multipoles: Multipoles,
        softness: Tensor | None = None,
        polarizability: Tensor | None = None,
        external_field: Tensor | None = None,
        periodic_field: str = "refuse",
        pair_softness: PairSoftness | None = None,
        energy_scale: Tensor | None = None,
    ) -> ElectrostaticsResult:
        """Long-range energy, potential, field and total moments of a batch of structures.

        Args:
            positions: (N, 3) Å.
            cell: (B, 3, 3) Å, rows are lattice vectors; rows of open axes are not read.
            pbc: (B, 3) bool: for each structure three true (periodic), two (slab) or none (open).
            batch: (N,) integer, the structure of each atom; need not be sorted, structures may be empty.
            multipoles: permanent moments; see `Multipoles` for shapes and units.
            softness: (N,) e²/eV, ≥ 0.
            polarizability: (N,) or (N, 3, 3) e²·Å²/eV, positive semidefinite.
            external_field: (B, 3) or (3,) V/Å in latent units (theory 7). The energy of a net charge in it is counted
                from the origin of the coordinates.
            periodic_field: what a field along periodic directions does, where the positions of charges are not defined:
                "refuse", or "dipoles", −Σ u·E − ½ Σ (E_i + E)·α·(E_i + E) and the flow over pairs. The energy is then
                not that of the structure in the field: its derivatives lack what the field does to other charges.
            pair_softness: of pairs of neighbours, in the place of `softness`; every edge in both directions. In a
                process group `centre` counts this rank's atoms and `neighbor` those of all ranks, one rank after the
                other.
            energy_scale: () ≥ 0, by which the caller multiplies the energy. Read for the warning of a net charge alone.

        Returns:
            ElectrostaticsResult; computed in float64, returned in the dtype of `positions`.

        Raises:
            GeometryError: shapes that do not fit, NaN or infinity, a wire, a singular cell, a field along
                periodic directions, a net charge that is to be refused.

        Source: theory 1–7; arXiv 2605.05746.
        """
        if not is_traced():  # values are not known to a compiler
            one_of("periodic_field", periodic_field, PERIODIC_FIELD)
            inputs = LayerInputs(
                positions, cell, pbc, batch, multipoles, softness, polarizability, external_field, pair_softness
            )
            if self.ranks is None:
                inputs.check()
            else:
                facts: tuple[object, ...] = (self.extra_repr(), periodic_field)
                if isinstance(self.response_model, InteractingResponse):
                    facts += (repr(self.response_model), self.training)
                check_on_all_ranks(self.ranks, inputs, facts)
        elif external_field is not None:
            raise GeometryError("external_field cannot be traced or compiled: evaluate the model as it is")
        elif self.ranks is not None:
            raise ConfigError("process_group cannot be traced or compiled: evaluate the model as it is")
        dtype = positions.dtype if positions.is_floating_point() else torch.float64
        batch = batch.long()
        coordinates, lattice, moments = positions.double(), cell.double(), multipoles.to(torch.float64)
        # read from the device once, for every sum of this call
        known = None if is_traced() or not len(cell) else facts_of(lattice, pbc, batch)
        charge = self._neutralized(coordinates, lattice, pbc, batch, moments.charge, known, energy_scale)
        moments = Multipoles(charge, moments.dipole, moments.quadrupole)  # torch 2.4 compiles no _replace
        if moments.charge.dim() == 2:
            if external_field is not None:
                raise GeometryError("external_field with charge channels, shape (N, channels): give charge as (N,)")
            if softness is not None or polarizability is not None or pair_softness is not None:
                raise GeometryError("charge channels, shape (N, channels), have no response: give charge as (N,)")
            geometry, solver = (coordinates, lattice, pbc, batch), self._solver_of(known)
            every = sum_channels([solver(*geometry, Multipoles(column)) for column in moments.charge.unbind(1)])
            energy = reduce_total(every.energy, self.ranks)
            values = [value.to(dtype) for value in (energy, *every[1:], moments.charge)]
            return ElectrostaticsResult(values[0], values[1], values[2], values[3], values[4], None)
        permanent = self._solver_of(known)(coordinates, lattice, pbc, batch, moments)
        energy, atomic, potential, field = permanent
        charge, dipole = moments.charge, moments.dipole

        flow = None if pair_softness is None else self._flow(pair_softness, batch, external_field)
        driving_potential, driving_field = potential, field
        if external_field is not None:
            geometry, driving = (coordinates, lattice, pbc, batch), (potential, field)
            driving_potential, driving_field, work = in_external_field(
                *geometry, moments, *driving, softness, external_field, periodic_field
            )
            atomic = atomic + work
            energy = energy.index_add(0, batch, work)
            if flow is not None:  # which the field reaches along the edges
                driving_potential = potential
        transfers = None
        if self.response_model is not None and not (softness is None and polarizability is None and flow is None):
            kappa = None if softness is None else softness.double()
            alpha = None if polarizability is None else polarizability.double()
            induced = respond(
                self.response_model,
                lambda: self._interaction(coordinates, lattice, pbc, batch, known),
                driving_potential,
                driving_field,
                kappa,
                alpha,
                flow,
            )
            atomic = atomic + induced.atomic_energy
            response_energy = induced.energy
            if response_energy is None:
                response_energy = to_structures(induced.atomic_energy, batch, cell.shape[0])
            energy = energy + response_energy
            charge = charge if induced.charge is None else charge + induced.charge
            if induced.dipole is not None:
                dipole = induced.dipole if dipole is None else dipole + induced.dipole
            transfers = None if induced.flow is None else induced.flow.to(dtype)
        energy = reduce_total(energy, self.ranks)
        total = None if dipole is None else dipole.to(dtype)
        values = [value.to(dtype) for value in (energy, atomic, potential, field, charge)]
        return ElectrostaticsResult(values[0], values[1], values[2], values[3], values[4], total, transfers)

    def collective_polarizability(
        self,
        positions: Tensor,
        cell: Tensor,
        pbc: Tensor,
        batch: Tensor,
        softness: Tensor | None,
        polarizability: Tensor | None,
        pair_softness: PairSoftness | None = None,
        mutual: str | None = None,
    ) -> Tensor | None:
        """Each atom's part of its structure's polarizability, with mutual polarization (`self_consistent`).

        Args:
            positions, cell, pbc, batch, softness, polarizability, pair_softness: as for `forward`.
            mutual: "none", "first_order" (dipole–induced dipole) or "self_consistent", whatever the response of the
                layer; None: as its response has it.

        Returns:
            (N, 3, 3) e²·Å²/eV, float64: takes the place of `polarizability` in `electronic_screening` and in
            `system_polarizability`, there without softness of either kind. Charge induced on atoms counts along open
            directions only. None without coefficients, and of other responses where `mutual` is None.

        Source: theory 9.1, 9.4.
        """
        model = self.response_model if mutual is None else mutual_response(self.response_model, mutual)
        nothing = all(coefficient is None for coefficient in (softness, polarizability, pair_softness))
        if nothing or not isinstance(model, SelfConsistentResponse):
            return None
        places = positions.double()
        kappa = None if softness is None else softness.double()
        alpha = None if polarizability is None else polarizability.double()
        facts, order = facts_of(cell.double(), pbc, batch) if len(cell) else None, ORDERS[mutual] if mutual else None
        interaction = self._interaction(places, cell.double(), pbc, batch, facts)
        relative = torch.zeros_like(places) if kappa is None else interaction.relative_positions(kappa)
        flow = None if pair_softness is None else self._flow(pair_softness, batch, None)
        return model.collective_polarizability(interaction, kappa, alpha, relative, flow, order)

    def _flow(self, pairs: PairSoftness, batch: Tensor, external_field: Tensor | None) -> PairFlow:
        """The pairs of a call; refused where they have no meaning and values can be looked at."""
        flow = pair_flow(pairs, batch, external_field, self.ranks)
        if not is_traced():
            check_pairs(pairs, batch, flow.atoms)
        return flow

    def _neutralized(
        self,
        positions: Tensor,
        cell: Tensor,
        pbc: Tensor,
        batch: Tensor,
        charge: Tensor,
        facts: Facts | None,
        scale: Tensor | None,
    ) -> Tensor:
        """The charges by `neutralize`; raises and warns where values can be looked at."""
        settings, neutralize = self.settings, self.settings.neutralize
        if neutralize == "refuse":
            refuse_net_charge(charge, pbc, batch, self.ranks)
        periodic = None if facts is None else all(axes == 3 for axes in facts.axes)
        charge = neutralized(charge, pbc, batch, neutralize, self.ranks, periodic)
        silent = self.training or self._warned or is_traced() or self.ranks is not None or neutralize == "shift"
        if not silent and (limit := settings.net_charge_warning) is not None:
            counted = charge if scale is None else scale.detach().sqrt() * charge
            self._warned = warn_of_net_charge(positions, cell, pbc, batch, counted, settings.sigma, limit)
        return charge

    def _solver_of(self, facts: Facts | None) -> Solver:
        """The solver of one call, the layer's own with what is known of the batch."""
        if facts is None or self.solver != self._solve:
            return self.solver
        return partial(self._solve, facts=facts)

    def _interaction(
        self, positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, facts: Facts | None = None
    ) -> Interaction:
        check_interaction(self.settings.precision)
        geometry = positions, cell, pbc, batch
        own = self.settings.sigma, self.settings.remove_self_interaction
        known = (self.settings, facts) if self.ranks is None and self.solver == self._solve else None
        return Interaction(self._solver_of(facts), *geometry, *own, self.training, self.ranks, known)

    def _solve(
        self,
        positions: Tensor,
        cell: Tensor,
        pbc: Tensor,
        batch: Tensor,
        multipoles: Multipoles,
        facts: Facts | None = None,
    ) -> PermanentResult:
        """Every structure by the method of its own boundary conditions."""
        if is_traced():
            return self._solve_static(positions, cell, pbc, batch, multipoles)
        if self.settings.static_cell is not None:
            self.check_static_cell(cell, pbc)
        settings, ranks, training = self.settings, self.ranks, self.training
        return solve_structures(positions, cell, pbc, batch, multipoles, settings, ranks, training, facts)

    def check_static_cell(self, cell: Tensor, pbc: Tensor) -> None:
        """Refuse structures that compiled code with this `static_cell` does not cover.

        Args:
            cell: (B, 3, 3) Å.
            pbc: (B, 3) bool.

        Raises:
            GeometryError: an open structure, or lattice vectors that are too long; says which lengths are needed.
        """
        refuse_uncovered(cell, pbc, self.static_lengths(), self.settings.cutoff)

    def static_lengths(self) -> tuple[float, float, float]:
        """`static_cell`.

        Raises:
            ConfigError: there is none, and tracing needs it.
        """
        if self.settings.static_cell is None:
            raise ConfigError(
                "long_range without static_cell cannot be traced or compiled, for the number of reciprocal vectors "
                "depends on the cell; set static_cell to the longest lattice vectors, in Å, that are to be covered"
            )
        return self.settings.static_cell

    def _solve_static(
        self, positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, multipoles: Multipoles
    ) -> PermanentResult:
        """The same sum on a grid of fixed size, without operations that depend on values; NaN where it does not fit."""
        extent = static_extent(self.static_lengths(), self.settings.cutoff)
        atomic, fields = static_electrostatics(positions, cell, pbc, batch, multipoles, self.settings, extent)
        energy = to_structures(atomic, batch, cell.shape[0])
        return PermanentResult(energy, atomic, fields.potential, -fields.gradient)
