"""The linear system of the self-consistent response, its solution and the derivatives of both (theory 6.3).

`self_consistent.py` calls it and says what T, K and g are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.local import to_atoms, to_structures
from les_plugins.electrostatics.response.capacity import Capacity
from les_plugins.electrostatics.response.conjugate_gradients import conjugate_gradients
from les_plugins.electrostatics.response.exact import ExactSolution
from les_plugins.electrostatics.response.interaction import Interaction
from les_plugins.electrostatics.response.pair_flow import PairFlow

#: More iterations than this mean that something is wrong: natural systems need some ten.
MOST_ITERATIONS = 500
#: Of the drive before the mean potential is taken out, relative.
ROUNDING = 1e-14
#: Of q, u_x, u_y, u_z, by the number of moments that an atom has.
WHICH = {1: slice(0, 1), 3: slice(1, 4), 4: slice(0, 4)}


class Solution(NamedTuple):
    """v (N, d) without graph, what it leaves of the equation or None, number of iterations, K' v where it is known."""

    v: Tensor
    residual: Tensor | None
    iterations: int
    moments: Tensor | None = None


class Problem:
    """One geometry's equation (1 + T' K') v = g, or its projection on induced charges that add up to zero."""

    def __init__(
        self,
        interaction: Interaction,
        tolerance: float,
        fixed_charge: bool,
        flow: PairFlow | None = None,
        own: Tensor | None = None,
        diagonal: bool = False,
    ) -> None:
        self.interaction = interaction
        self.tolerance = tolerance
        self.fixed_charge = fixed_charge
        self.flow = flow
        self.own_charge = None if flow is None else interaction.own_slope(1)
        self._own, self._diagonal = own, diagonal
        self._exact: ExactSolution | None = None
        self._tried = False

    def among(self, moments: Tensor, positions: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """As `Interaction.of`, with T': the self-term of the charges is in the slope where they flow over pairs."""
        energy, slope = self.interaction.of(moments, positions, cell)
        if self.own_charge is not None:
            slope = slope + torch.nn.functional.pad(self.own_charge * moments[:, :1], (0, moments.shape[1] - 1))
        return energy, slope

    def with_driven_flow(self, drive: Tensor) -> tuple[Tensor, Tensor | None]:
        """g' of g, and the energy (N,) eV of the charges x_s that an external field drives over pairs, if it does."""
        flow = self.flow
        if flow is None or flow.applied is None:
            return drive, None
        transfers = flow.transfers(flow.applied)
        charge = flow.gained(transfers)
        moments = torch.nn.functional.pad(charge[:, None], (0, drive.shape[1] - 1))
        _, slope = self.among(moments, self.interaction.positions, self.interaction.cell)
        energy = flow.energy(transfers, flow.applied) + charge * (drive + 0.5 * slope)[:, 0]
        return drive + slope, energy

    def to_order(self, order: int, drive: Tensor, capacity: Capacity) -> tuple[Tensor, Tensor]:
        """x' and v as `solve` has them, of the series v = g − T' K' g + … up to the first power of T', with its graph.

        Args:
            order: 0 or 1.
            drive: (N, d) g, without what flows over pairs.
            capacity: K'.
        """
        interaction = self.interaction
        v = first = self.project(drive, capacity)
        if order > 0:
            _, slope = self.among(capacity.times(first), interaction.positions, interaction.cell)
            v = self.project(self.with_driven_flow(first)[0] - slope, capacity)
        return capacity.times(v), v

    def solve(
        self,
        drive: Tensor,
        capacity: Capacity,
        positions: Tensor,
        cell: Tensor,
        start: Tensor | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Solution]:
        """x' = R g and v with their graph, and what they were made of.

        Args:
            drive: (N, d) g.
            capacity: K'.
            positions, cell: of the interaction, with the graph that is wanted.
            start: a v to start from.
            known: v and g of another drive: its multiple nearest to the solution is the start, and costs nothing.
        """
        batch, total = self.interaction.batch, self.interaction.total
        places, lattice, weight = positions.detach(), cell.detach(), capacity.detach()
        with torch.no_grad():
            exact = self._factored(weight)
            known_moments = None if exact is None else exact.solve(drive.detach())
        if exact is not None and known_moments is not None and exact.is_whole:
            moments, v = known_moments
            return self._with_graph(Solution(v, None, 0, moments), drive, capacity, positions, cell)
        with torch.no_grad():

            def operator(v: Tensor) -> Tensor:
                return self.project(v + self.among(weight.times(v), places, lattice)[1], weight)

            right = self.project(drive.detach(), weight)
            guess = None
            if start is not None:
                start = self.project(start, weight)
                guess = start, operator(start)
            elif known is not None:
                other, other_right = known[0], self.project(known[1].detach(), weight)
                moments = weight.times(other)
                overlap, norm = (total((moments * g).sum(1)) for g in (right, other_right))
                share = to_atoms(overlap / torch.where(norm > 0.0, norm, 1.0), batch)[:, None]
                guess = share * other, share * other_right

            if exact is not None and known_moments is not None:  # the others iterate
                here, v = exact.places(right), self.project(known_moments[1], weight)
                other, image = (right.new_zeros(()),) * 2 if guess is None else guess
                guess = torch.where(here, v, other), torch.where(here, right, image)

            # where charge is kept, a constant potential goes out: what is left of it may be rounding alone
            floor: Tensor | float = 0.0
            if self.fixed_charge or self.flow is not None:
                floor = ROUNDING**2 * total(weight.magnitude(drive.detach())).clamp(min=0.0)
            settings = (self.tolerance, MOST_ITERATIONS, guess, floor)
            solution = Solution(*conjugate_gradients(operator, weight.times, right, batch, total, *settings))
        return self._with_graph(solution, drive, capacity, positions, cell)

    def _factored(self, weight: Capacity) -> ExactSolution | None:
        """Factors of the small structures, which are the same for every drive and derivative."""
        if not self._tried:
            self._tried = True
            own, blocks = self._own, weight.blocks
            if self.flow is None and own is not None and blocks is not None:
                matrices = self.interaction.matrices(WHICH[len(own)])
                if matrices:
                    self._exact = ExactSolution(matrices, blocks, own, self._diagonal, self.fixed_charge)
        return self._exact

    def _with_graph(
        self, solution: Solution, drive: Tensor, capacity: Capacity, positions: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Solution]:
        arguments = (self, solution.v, solution.moments, drive, *capacity[:2], positions, cell)
        found, v = _InducedMoments.apply(*arguments)  # type: ignore[no-untyped-call]
        return found, v, solution

    def project(self, v: Tensor, capacity: Capacity) -> Tensor:
        """v plus the constant of each structure with which Σ K' v of the charges is zero, where that is fixed."""
        if not self.fixed_charge or capacity.blocks is None:
            return v
        weight = capacity.blocks[:, 0, 0]
        charge, norm = (self.interaction.total(value) for value in (weight * v[:, 0], weight))
        mean = charge / torch.where(norm > 0.0, norm, 1.0)
        return torch.cat([v[:, :1] - to_atoms(mean, self.interaction.batch)[:, None], v[:, 1:]], 1)


def minimum_energy(
    problem: Problem, moments: Tensor, drive: Tensor, capacity: Capacity, positions: Tensor, cell: Tensor
) -> Tensor:
    """(B,) eV: −½ g·R g of every structure, of moments x' = R g that are known.

    Args:
        problem: the equation.
        moments: (N, d) x'.
        drive: (N, d) g; capacity: K'.
        positions, cell: of the interaction, with the graph that is wanted.
    """
    energy: Tensor = _MinimumEnergy.apply(problem, moments, drive, *capacity[:2], positions, cell)  # type: ignore[no-untyped-call]
    return energy


class _InducedMoments(torch.autograd.Function):
    """x' = R g of a v that is known, and this v = g − T' x' up to a constant that K' does not see.

    dx' = R dg + v-terms of dK' − R dT' x': R again, in every derivative.
    """

    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        v: Tensor,
        moments: Tensor | None,
        drive: Tensor,
        blocks: Tensor | None,
        value: Tensor | None,
        positions: Tensor,
        cell: Tensor,
    ) -> tuple[Tensor, Tensor]:
        # what is saved has to be the output itself: it has the graph of the derivatives
        moments = Capacity(blocks, value, problem.flow).times(v) if moments is None else moments.clone()
        ctx.problem, ctx.v = problem, v
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(drive, blocks, value, positions, cell, moments)
        return moments, v.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_v: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None and grad_v is None:
            return (None,) * 8
        drive, blocks, value, positions, cell, moments = ctx.saved_tensors
        problem: Problem = ctx.problem
        capacity = Capacity(blocks, value, problem.flow)
        if grad_v is not None:
            through = -problem.among(grad_v, positions, cell)[1]
            grad = through if grad is None else grad + through
        assert grad is not None
        adjoint, _, _ = problem.solve(grad, capacity, positions, cell, known=(ctx.v, drive))
        on_drive = adjoint if grad_v is None else adjoint + grad_v
        places, lattice, geometry = _leaves(positions, cell, ctx.needs_input_grad[6:])
        on_geometry: list[Tensor | None] = [None, None]
        slope = None
        if geometry:
            with torch.enable_grad():
                _, slope = problem.among(moments, places, lattice)
                coupling = -(on_drive * slope).sum()
            on_geometry = _gradients(coupling, geometry)
        on_capacity: tuple[Tensor | None, Tensor | None] = (None, None)
        if any(ctx.needs_input_grad[4:6]):
            if slope is None:
                _, slope = problem.among(moments, positions, cell)
            v = problem.project(drive - slope, capacity)
            other = problem.project(grad - problem.among(adjoint, positions, cell)[1], capacity)
            on_capacity = capacity.slopes(other, v)
        return None, None, None, on_drive, *on_capacity, *on_geometry


class _MinimumEnergy(torch.autograd.Function):
    """−½ g·R g of every structure. Its slopes are those of U at fixed moments, for U is stationary in them."""

    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        moments: Tensor,
        drive: Tensor,
        blocks: Tensor | None,
        value: Tensor | None,
        positions: Tensor,
        cell: Tensor,
    ) -> Tensor:
        ctx.problem = problem
        ctx.save_for_backward(moments, drive, blocks, value, positions, cell)
        return -0.5 * to_structures((drive * moments).sum(1), problem.interaction.batch, len(cell))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        moments, drive, blocks, value, positions, cell = ctx.saved_tensors
        problem: Problem = ctx.problem
        capacity = Capacity(blocks, value, problem.flow)
        share = to_atoms(grad, problem.interaction.batch)[:, None]
        places, lattice, geometry = _leaves(positions, cell, ctx.needs_input_grad[5:])
        on_geometry: list[Tensor | None] = [None, None]
        slope = None
        if geometry:
            with torch.enable_grad():
                energy, slope = problem.among(moments, places, lattice)
                total = (grad * energy).sum()
            on_geometry = _gradients(total, geometry)
        on_capacity: tuple[Tensor | None, Tensor | None] = (None, None)
        if any(ctx.needs_input_grad[3:5]):
            if slope is None:
                _, slope = problem.among(moments, positions, cell)
            v = problem.project(drive - slope, capacity)
            on_capacity = capacity.slopes(-0.5 * share * v, v)
        return None, None, -share * moments, *on_capacity, *on_geometry


def _leaves(positions: Tensor, cell: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Other names of positions and cell: a slope in them is that of the geometry alone, moments held fixed."""
    with torch.enable_grad():
        places = positions.view_as(positions) if needed[0] else positions
        lattice = cell.view_as(cell) if needed[1] else cell
    wanted = [places if needed[0] else None, lattice if needed[1] else None]
    return places, lattice, wanted if any(needed) else []


def _gradients(value: Tensor, inputs: list[Tensor | None]) -> list[Tensor | None]:
    """Slope in each input; with its own graph where the backward that runs is itself to be differentiated."""
    wanted = [x for x in inputs if x is not None]
    if not value.requires_grad:
        return [None for _ in inputs]
    found = iter(torch.autograd.grad(value, wanted, create_graph=torch.is_grad_enabled(), allow_unused=True))
    return [None if x is None else next(found) for x in inputs]
