"""Self-consistent response: the minimum over all induced moments together (theory 6.3). The layer calls it.

With x = (Δq, Δu), g = (Φ, −E) of the permanent moments and the external field, K = diag(κ, α) and T the smeared
interaction of the induced moments, the energy is

    U(x) = g·x + ½ x·(K⁻¹ + T)·x,    at its minimum x = −R g, U = −½ g·R g, R = (K⁻¹ + T)⁻¹.

T holds each induced moment's interaction with its own smearing, whether or not `remove_self_interaction` takes that of
the permanent ones away. That is the bound that keeps the response stable. In reciprocal space x·T·x = Σ_k (2C/V)
exp(−σ²k²/2)/k² |S(k)|² ≥ 0, in real space likewise with an integral over k, for any places of the atoms and any cutoff:
K⁻¹ + T is positive definite for any κ, α ≥ 0, and no polarization catastrophe is possible. Seen from the other side:
with D the self-term of T (2C/(σ (2π)^{3/2}) for charges, 2C/(3σ³ (2π)^{3/2}) for dipoles), the moments interact without
it, but respond with K' = (K⁻¹ + D)⁻¹, whose κ' = κ/(1 + κD) and α' stay below 1/D: charges and dipoles smeared over σ
cannot be softer than that. This is how it is computed, T' = T − D and K' in place of T and K, for K' is also what
conjugate gradients need to converge fast.

Nothing divides by κ or α: v = K'⁻¹ x' of x' = R g obeys (1 + T' K') v = g, where the operator is symmetric in the inner
product a·K'·b. An atom without softness or polarizability has x' = K' v = 0 by itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import number_in, one_of
from les_plugins.electrostatics.local import to_atoms, to_structures
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.electrostatics.response.conjugate_gradients import conjugate_gradients
from les_plugins.electrostatics.response.interaction import Interaction
from les_plugins.electrostatics.response.one_shot import InteractingResponse, Response

#: More iterations than this mean that something is wrong: natural systems need some ten.
MOST_ITERATIONS = 500
TOLERANCES = (1e-14, 1e-2)
#: Of the drive before the mean potential is taken out, relative.
ROUNDING = 1e-14


class SelfConsistentResponse(InteractingResponse):
    """Moments induced by the permanent ones, the external field and each other.

    Args:
        tolerance: relative residual at which the iterations end, 1e-14 … 1e-2. Energies are good to its square, forces
            and moments to itself.
        total_charge: "free", or "fixed": the induced charges of each structure add up to zero.

    Attributes:
        iterations: of the last solution.

    Raises:
        ConfigError: a setting outside what is allowed.

    In evaluation mode each solution is the next one's start, if the number of atoms is the same: results then depend on
    what went before, within the tolerance. `reset` forgets it; copies and pickles do not carry it.
    """

    def __init__(self, tolerance: float = 1e-8, total_charge: str = "free") -> None:
        number_in("tolerance of the response", tolerance, TOLERANCES)
        one_of("total_charge", total_charge, ("free", "fixed"))
        self.tolerance = float(tolerance)
        self.total_charge = total_charge
        self.iterations = 0
        self._last: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        return f"SelfConsistentResponse(tolerance={self.tolerance!r}, total_charge={self.total_charge!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": {}}

    def reset(self) -> None:
        """Forget the last solution: the next one starts from zero."""
        self._last = {}

    def respond(
        self,
        interaction: Interaction,
        potential: Tensor,
        field: Tensor,
        softness: Tensor | None,
        polarizability: Tensor | None,
    ) -> Response:
        """Induced moments at the minimum of U, and what they lower the energy by.

        Args:
            interaction: of the call.
            potential: (N,) V, permanent and external.
            field: (N, 3) V/Å, likewise.
            softness: (N,) κ ≥ 0, e²/eV, or None.
            polarizability: (N,) or (N, 3, 3) α, e²·Å²/eV, or None.

        Returns:
            Δq, Δu; ½ g·x of each atom and of each structure. All can be differentiated any number of times.

        Raises:
            ResponseError: no minimum, or no convergence.

        Source: theory 6.3.
        """
        problem, capacity = self._problem(interaction, softness, polarizability)
        drive = _columns(None if softness is None else potential[:, None], None if polarizability is None else -field)
        positions, cell = interaction.positions, interaction.cell
        found, solution = self._solve(problem, "moments", drive, capacity)
        self.iterations = solution.iterations
        # U at these moments, which is above its minimum by the square of what the iterations left
        above = -0.5 * (solution.residual * found.detach()).sum(1)
        energy: Tensor = _MinimumEnergy.apply(problem, found, drive, capacity, positions, cell)  # type: ignore[no-untyped-call]
        energy = energy + to_structures(above, interaction.batch, len(cell))
        return Response(
            None if softness is None else -found[:, 0],
            None if polarizability is None else -found[:, -3:],
            above - 0.5 * (drive * found).sum(1),
            energy,
        )

    def collective_polarizability(
        self,
        interaction: Interaction,
        softness: Tensor | None,
        polarizability: Tensor | None,
        relative: Tensor,
    ) -> Tensor:
        """What a uniform field adds to each atom's part of the dipole, with mutual polarization.

        Args:
            interaction: of the call.
            softness: (N,) or None; polarizability: (N,) or (N, 3, 3) or None. Not both None.
            relative: (N, 3) Å, positions from a centre of the structure; zero where they are not defined.

        Returns:
            (N, 3, 3) e²·Å²/eV: Δq relative + Δu for a field along the last index. Summed over the atoms of a structure
            it is symmetric, −∂²U/∂E². With its graph.
        """
        problem, capacity = self._problem(interaction, softness, polarizability)
        columns = []
        for axis in range(3):
            along = torch.zeros_like(relative)
            along[:, axis] = 1.0
            drive = _columns(
                None if softness is None else -relative[:, axis : axis + 1], None if polarizability is None else -along
            )
            found, _ = self._solve(problem, f"field {axis}", drive, capacity)
            part = torch.zeros_like(relative) if softness is None else -found[:, :1] * relative
            columns.append(part if polarizability is None else part - found[:, -3:])
        return torch.stack(columns, 2)

    def _problem(
        self, interaction: Interaction, softness: Tensor | None, polarizability: Tensor | None
    ) -> tuple[_Problem, Tensor]:
        """The equation, and K'."""
        capacity = _capacity(softness, polarizability)
        own = interaction.own_slope(capacity.shape[1])
        identity = torch.eye(len(own), dtype=own.dtype, device=own.device)
        capacity = torch.linalg.solve(identity + capacity * own, capacity)
        fixed = self.total_charge == "fixed" and softness is not None
        return _Problem(interaction, self.tolerance, fixed), capacity

    def _solve(self, problem: _Problem, name: str, drive: Tensor, capacity: Tensor) -> tuple[Tensor, _Solution]:
        """From the last solution of that name, in evaluation mode."""
        interaction = problem.interaction
        start = None if interaction.training else self._fitting(name, drive, interaction.ranks)
        found, solution = problem.solve(drive, capacity, interaction.positions, interaction.cell, start)
        if interaction.training:
            self.reset()
        else:
            self._last[name] = solution.v
        return found, solution

    def _fitting(self, name: str, drive: Tensor, ranks: Ranks | None) -> Tensor | None:
        last = self._last.get(name)
        fits = last is not None and last.shape == drive.shape and last.device == drive.device
        if ranks is not None:  # all or none
            fits = float(ranks.maximum(drive.new_tensor(0.0 if fits else 1.0))) == 0.0
        return last if fits else None


def _capacity(softness: Tensor | None, polarizability: Tensor | None) -> Tensor:
    """K (N, d, d) of charges, dipoles or both, symmetric."""
    blocks = []
    if softness is not None:
        blocks.append(softness[:, None, None])
    if polarizability is not None:
        if polarizability.dim() == 1:
            identity = torch.eye(3, dtype=polarizability.dtype, device=polarizability.device)
            blocks.append(polarizability[:, None, None] * identity)
        else:
            blocks.append(0.5 * (polarizability + polarizability.transpose(1, 2)))
    if len(blocks) == 1:
        return blocks[0]
    charge, dipole = blocks
    return torch.cat([torch.nn.functional.pad(charge, (0, 3)), torch.nn.functional.pad(dipole, (1, 0))], 1)


def _columns(charge: Tensor | None, dipole: Tensor | None) -> Tensor:
    """(N, 1), (N, 3) or (N, 4)."""
    return torch.cat([part for part in (charge, dipole) if part is not None], 1)


class _Solution(NamedTuple):
    """v (N, d) without graph, what it leaves of the equation, and the number of iterations."""

    v: Tensor
    residual: Tensor
    iterations: int


class _Problem:
    """One geometry's equation (1 + T' K') v = g, or its projection on induced charges that add up to zero."""

    def __init__(self, interaction: Interaction, tolerance: float, fixed_charge: bool) -> None:
        self.interaction = interaction
        self.tolerance = tolerance
        self.fixed_charge = fixed_charge

    def solve(
        self,
        drive: Tensor,
        capacity: Tensor,
        positions: Tensor,
        cell: Tensor,
        start: Tensor | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, _Solution]:
        """x' = R g with its graph, and what it was made of.

        Args:
            drive: (N, d) g.
            capacity: (N, d, d) K'.
            positions, cell: of the interaction, with the graph that is wanted.
            start: a v to start from.
            known: v and g of another drive: its multiple nearest to the solution is the start, and costs nothing.
        """
        batch, total = self.interaction.batch, self.interaction.total
        with torch.no_grad():
            places, lattice, weight = positions.detach(), cell.detach(), capacity.detach()

            def operator(v: Tensor) -> Tensor:
                return self.project(v + self.interaction.of(_times(weight, v), places, lattice)[1], weight)

            right = self.project(drive.detach(), weight)
            guess = None
            if start is not None:
                start = self.project(start, weight)
                guess = start, operator(start)
            elif known is not None:
                other, other_right = known[0], self.project(known[1].detach(), weight)
                moments = _times(weight, other)
                overlap, norm = (total((moments * g).sum(1)) for g in (right, other_right))
                share = to_atoms(overlap / torch.where(norm > 0.0, norm, 1.0), batch)[:, None]
                guess = share * other, share * other_right

            def metric(v: Tensor) -> Tensor:
                return _times(weight, v)

            # a fixed charge takes the mean potential out: what is left of it is rounding, where nothing else is
            floor: Tensor | float = 0.0
            if self.fixed_charge:
                whole = drive.detach()
                floor = ROUNDING**2 * total((whole * metric(whole)).sum(1)).clamp(min=0.0)
            settings = (self.tolerance, MOST_ITERATIONS, guess, floor)
            solution = _Solution(*conjugate_gradients(operator, metric, right, batch, total, *settings))
        found: Tensor = _InducedMoments.apply(self, solution.v, drive, capacity, positions, cell)  # type: ignore[no-untyped-call]
        return found, solution

    def project(self, v: Tensor, capacity: Tensor) -> Tensor:
        """v plus the constant of each structure with which Σ K' v of the charges is zero, where that is fixed."""
        if not self.fixed_charge:
            return v
        weight = capacity[:, 0, 0]
        charge, norm = (self.interaction.total(value) for value in (weight * v[:, 0], weight))
        mean = charge / torch.where(norm > 0.0, norm, 1.0)
        return torch.cat([v[:, :1] - to_atoms(mean, self.interaction.batch)[:, None], v[:, 1:]], 1)


class _InducedMoments(torch.autograd.Function):
    """x' = R g of a v that is known, with dx' = R dg + v-terms of dK' − R dT' x': R again, in every derivative."""

    @staticmethod
    def forward(
        ctx: Any, problem: _Problem, v: Tensor, drive: Tensor, capacity: Tensor, positions: Tensor, cell: Tensor
    ) -> Tensor:
        moments = _times(capacity, v)
        ctx.problem, ctx.v = problem, v
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(drive, capacity, positions, cell, moments)
        return moments

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None, None, None
        drive, capacity, positions, cell, moments = ctx.saved_tensors
        problem: _Problem = ctx.problem
        adjoint, _ = problem.solve(grad, capacity, positions, cell, known=(ctx.v, drive))
        places, lattice, geometry = _leaves(positions, cell, ctx.needs_input_grad[4:])
        on_geometry: list[Tensor | None] = [None, None]
        slope = None
        if geometry:
            with torch.enable_grad():
                _, slope = problem.interaction.of(moments, places, lattice)
                coupling = -(adjoint * slope).sum()
            on_geometry = _gradients(coupling, geometry)
        on_capacity = None
        if ctx.needs_input_grad[3]:
            if slope is None:
                _, slope = problem.interaction.of(moments, positions, cell)
            v = problem.project(drive - slope, capacity)
            other = problem.project(grad - problem.interaction.of(adjoint, positions, cell)[1], capacity)
            on_capacity = other[:, :, None] * v[:, None, :]
        return None, None, adjoint, on_capacity, *on_geometry


class _MinimumEnergy(torch.autograd.Function):
    """−½ g·R g of every structure. Its slopes are those of U at fixed moments, for U is stationary in them."""

    @staticmethod
    def forward(
        ctx: Any, problem: _Problem, moments: Tensor, drive: Tensor, capacity: Tensor, positions: Tensor, cell: Tensor
    ) -> Tensor:
        ctx.problem = problem
        ctx.save_for_backward(moments, drive, capacity, positions, cell)
        return -0.5 * to_structures((drive * moments).sum(1), problem.interaction.batch, len(cell))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        moments, drive, capacity, positions, cell = ctx.saved_tensors
        problem: _Problem = ctx.problem
        share = to_atoms(grad, problem.interaction.batch)[:, None]
        places, lattice, geometry = _leaves(positions, cell, ctx.needs_input_grad[4:])
        on_geometry: list[Tensor | None] = [None, None]
        slope = None
        if geometry:
            with torch.enable_grad():
                energy, slope = problem.interaction.of(moments, places, lattice)
                total = (grad * energy).sum()
            on_geometry = _gradients(total, geometry)
        on_capacity = None
        if ctx.needs_input_grad[3]:
            if slope is None:
                _, slope = problem.interaction.of(moments, positions, cell)
            v = problem.project(drive - slope, capacity)
            on_capacity = -0.5 * share[:, :, None] * v[:, :, None] * v[:, None, :]
        return None, None, -share * moments, on_capacity, *on_geometry


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


def _times(capacity: Tensor, v: Tensor) -> Tensor:
    """(N, d): K' v."""
    return (capacity @ v[:, :, None])[:, :, 0]
