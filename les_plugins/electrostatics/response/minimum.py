"""The linear system of the self-consistent response, its solution and the derivatives of both (theory 6.3).

`self_consistent.py` calls it and says what T, K and g are.
"""

from __future__ import annotations

from itertools import islice
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
#: Positions (N, 3) and cell (B, 3, 3), or what has been made of them.
Geometry = tuple[Tensor, ...]
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
        self._couplings = [] if flow is not None or own is None else interaction.couplings(WHICH[len(own)])
        self._exact: ExactSolution | None = None

    @property
    def is_exact(self) -> bool:
        """Whether all structures with atoms are solved exactly."""
        n_atoms = sum(each.n_atoms for each in self._couplings)
        return 0 < n_atoms == len(self.interaction.positions)

    @property
    def is_coupled(self) -> bool:
        """Whether products with couplings take the place of sums: on a CPU these are faster."""
        return self.is_exact and self.interaction.positions.device.type != "cpu"

    @property
    def geometry(self) -> Geometry:
        """What T is made of, with its graph: positions and cell, or tensors of the couplings."""
        if self.is_coupled:
            return tuple(tensor for each in self._couplings for tensor in each.tensors)
        return self.interaction.positions, self.interaction.cell

    def among(self, moments: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """As `Interaction.of`, with T': the self-term of the charges is in the slope where they flow over pairs."""
        if self.is_coupled:
            return self._coupled(moments, geometry)
        positions, cell = geometry
        energy, slope = self.interaction.of(moments, positions, cell)
        if self.own_charge is not None:
            slope = slope + torch.nn.functional.pad(self.own_charge * moments[:, :1], (0, moments.shape[1] - 1))
        return energy, slope

    def _coupled(self, moments: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """The same by products with the couplings."""
        slope, tensors = torch.zeros_like(moments), iter(geometry)
        for each in self._couplings:
            there = each._replace(tensors=tuple(islice(tensors, len(each.tensors))))
            slope = there.put(slope, there.fields(there.pad(moments)))
        interaction = self.interaction
        slope = slope - moments * interaction.own_slope(moments.shape[1])
        return 0.5 * to_structures((moments * slope).sum(1), interaction.batch, len(interaction.cell)), slope

    def with_driven_flow(self, drive: Tensor) -> tuple[Tensor, Tensor | None]:
        """g' of g, and the energy (N,) eV of the charges x_s that an external field drives over pairs, if it does."""
        flow = self.flow
        if flow is None or flow.applied is None:
            return drive, None
        transfers = flow.transfers(flow.applied)
        charge = flow.gained(transfers)
        moments = torch.nn.functional.pad(charge[:, None], (0, drive.shape[1] - 1))
        _, slope = self.among(moments, self.geometry)
        energy = flow.energy(transfers, flow.applied) + charge * (drive + 0.5 * slope)[:, 0]
        return drive + slope, energy

    def to_order(self, order: int, drive: Tensor, capacity: Capacity) -> tuple[Tensor, Tensor]:
        """x' and v as `solve` has them, of the series v = g − T' K' g + … up to the first power of T', with its graph.

        Args:
            order: 0 or 1.
            drive: (N, d) g, without what flows over pairs.
            capacity: K'.
        """
        v = first = self.project(drive, capacity)
        if order > 0:
            _, slope = self.among(capacity.times(first), self.geometry)
            v = self.project(self.with_driven_flow(first)[0] - slope, capacity)
        return capacity.times(v), v

    def solve(
        self,
        drive: Tensor,
        capacity: Capacity,
        geometry: Geometry,
        start: Tensor | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Solution]:
        """x' = R g and v with their graph, and what they were made of.

        Args:
            drive: (N, d) g.
            capacity: K'.
            geometry: of T, with the graph that is wanted.
            start: a v to start from.
            known: v and g of another drive: its multiple nearest to the solution is the start, and costs nothing.
        """
        batch, total = self.interaction.batch, self.interaction.total
        fixed, weight = tuple(tensor.detach() for tensor in geometry), capacity.detach()
        with torch.no_grad():
            exact = self._factored(weight)
            known_moments = None if exact is None else exact.solve(drive.detach())
        if known_moments is not None and self.is_exact:
            moments, v = known_moments
            return self._with_graph(Solution(v, None, 0, moments), drive, capacity, geometry)
        with torch.no_grad():

            def operator(v: Tensor) -> Tensor:
                return self.project(v + self.among(weight.times(v), fixed)[1], weight)

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
        return self._with_graph(solution, drive, capacity, geometry)

    def _factored(self, weight: Capacity) -> ExactSolution | None:
        """Factors of the small structures, which are the same for every drive and derivative."""
        own, blocks = self._own, weight.blocks
        if self._exact is None and self._couplings and own is not None and blocks is not None:
            self._exact = ExactSolution(self._couplings, blocks, own, self._diagonal, self.fixed_charge)
        return self._exact

    def _with_graph(
        self, solution: Solution, drive: Tensor, capacity: Capacity, geometry: Geometry
    ) -> tuple[Tensor, Tensor, Solution]:
        arguments = (self, solution.v, solution.moments, drive, *capacity[:2], *geometry)
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


def minimum_energy(problem: Problem, moments: Tensor, drive: Tensor, capacity: Capacity) -> Tensor:
    """(B,) eV: −½ g·R g of every structure, of moments x' = R g that are known.

    Args:
        problem: the equation.
        moments: (N, d) x'.
        drive: (N, d) g; capacity: K'.
    """
    energy: Tensor = _MinimumEnergy.apply(problem, moments, drive, *capacity[:2], *problem.geometry)  # type: ignore[no-untyped-call]
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
        *geometry: Tensor,
    ) -> tuple[Tensor, Tensor]:
        # what is saved has to be the output itself: it has the graph of the derivatives
        moments = Capacity(blocks, value, problem.flow).times(v) if moments is None else moments.clone()
        ctx.problem, ctx.v = problem, v
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(drive, blocks, value, moments, *geometry)
        return moments, v.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_v: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None and grad_v is None:
            return (None,) * len(ctx.needs_input_grad)
        drive, blocks, value, moments, *tensors = ctx.saved_tensors
        problem: Problem = ctx.problem
        geometry = tuple(tensors)
        capacity = Capacity(blocks, value, problem.flow)
        if grad_v is not None:
            through = -problem.among(grad_v, geometry)[1]
            grad = through if grad is None else grad + through
        assert grad is not None
        adjoint, _, _ = problem.solve(grad, capacity, geometry, known=(ctx.v, drive))
        on_drive = adjoint if grad_v is None else adjoint + grad_v
        needed = ctx.needs_input_grad[6:]
        named = _leaves(geometry, needed)
        on_geometry: list[Tensor | None] = [None] * len(geometry)
        slope = None
        if any(needed):
            with torch.enable_grad():
                _, slope = problem.among(moments, named)
                coupling = -(on_drive * slope).sum()
            on_geometry = _gradients(coupling, named, needed)
        on_capacity: tuple[Tensor | None, Tensor | None] = (None, None)
        if any(ctx.needs_input_grad[4:6]):
            if slope is None:
                _, slope = problem.among(moments, geometry)
            v = problem.project(drive - slope, capacity)
            other = problem.project(grad - problem.among(adjoint, geometry)[1], capacity)
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
        *geometry: Tensor,
    ) -> Tensor:
        ctx.problem = problem
        ctx.save_for_backward(moments, drive, blocks, value, *geometry)
        return -0.5 * to_structures((drive * moments).sum(1), problem.interaction.batch, len(problem.interaction.cell))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        moments, drive, blocks, value, *tensors = ctx.saved_tensors
        problem: Problem = ctx.problem
        geometry = tuple(tensors)
        capacity = Capacity(blocks, value, problem.flow)
        share = to_atoms(grad, problem.interaction.batch)[:, None]
        needed = ctx.needs_input_grad[5:]
        named = _leaves(geometry, needed)
        on_geometry: list[Tensor | None] = [None] * len(geometry)
        slope = None
        if any(needed):
            with torch.enable_grad():
                energy, slope = problem.among(moments, named)
                total = (grad * energy).sum()
            on_geometry = _gradients(total, named, needed)
        on_capacity: tuple[Tensor | None, Tensor | None] = (None, None)
        if any(ctx.needs_input_grad[3:5]):
            if slope is None:
                _, slope = problem.among(moments, geometry)
            v = problem.project(drive - slope, capacity)
            on_capacity = capacity.slopes(-0.5 * share * v, v)
        return None, None, -share * moments, *on_capacity, *on_geometry


def _leaves(geometry: Geometry, needed: tuple[bool, ...]) -> Geometry:
    """Other names of what T is made of: a slope in them is that of T alone, moments held fixed."""
    with torch.enable_grad():
        return tuple(x.view_as(x) if need else x for x, need in zip(geometry, needed, strict=True))


def _gradients(value: Tensor, inputs: Geometry, needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Slope in each input; with its own graph where the backward that runs is itself to be differentiated."""
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
    if not value.requires_grad:
        return [None for _ in inputs]
    found = iter(torch.autograd.grad(value, wanted, create_graph=torch.is_grad_enabled(), allow_unused=True))
    return [next(found) if need else None for need in needed]
