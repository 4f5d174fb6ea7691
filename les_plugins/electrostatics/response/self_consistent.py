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

Where charge flows between neighbours K is the Laplacian of their softness, and (K⁻¹ + D)⁻¹ would be a solution of its
own: there T' keeps the charges' self-term and K' = K of the charges. What an external field drives over the pairs is
x_s, further given charges: with them g' = g + T x_s and U = −¼ Σ κ (E·d)² + Φ·x_s + ½ x_s·T·x_s − ½ g'·R g'.

Nothing divides by κ or α: v = K'⁻¹ x' of x' = R g obeys (1 + T' K') v = g, where the operator is symmetric in the inner
product a·K'·b. An atom without softness or polarizability has x' = K' v = 0 by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import number_in, one_of
from les_plugins.electrostatics.local import to_structures
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.electrostatics.response.capacity import Capacity, capacity_of_atoms
from les_plugins.electrostatics.response.interaction import Interaction
from les_plugins.electrostatics.response.minimum import Problem, Solution, minimum_energy
from les_plugins.electrostatics.response.one_shot import InteractingResponse, Response
from les_plugins.electrostatics.response.pair_flow import PairFlow

TOLERANCES = (1e-14, 1e-2)


class SelfConsistentResponse(InteractingResponse):
    """Moments induced by the permanent ones, the external field and each other.

    Args:
        tolerance: relative residual at which the iterations end, 1e-14 … 1e-2. Energies are good to its square, forces
            and moments to itself.
        total_charge: "free", or "fixed": the induced charges of each structure add up to zero.

    Attributes:
        iterations: of the last solution; 0 where all structures are small enough for an exact one.

    Raises:
        ConfigError: a setting outside what is allowed.

    In evaluation mode each solution is the next iterations' start, if the number of atoms is the same: results then
    depend on what went before, within the tolerance. `reset` forgets it; copies and pickles do not carry it.
    """

    takes_pairs = True

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
        flow: PairFlow | None = None,
    ) -> Response:
        """Induced moments at the minimum of U, and what they lower the energy by.

        Args:
            interaction: of the call.
            potential: (N,) V, permanent and external; of the permanent moments alone where charge flows over pairs.
            field: (N, 3) V/Å, permanent and external.
            softness: (N,) κ ≥ 0, e²/eV, or None.
            polarizability: (N,) or (N, 3, 3) α, e²·Å²/eV, or None.
            flow: pairs over which charge flows, in the place of `softness`, or None.

        Returns:
            Δq, Δu; ½ g·x of each atom and of each structure. All can be differentiated any number of times.

        Raises:
            ResponseError: no minimum, or no convergence.

        Source: theory 6.3.
        """
        problem, capacity = self._problem(interaction, softness, polarizability, flow)
        induces_charge = softness is not None or flow is not None
        drive = _columns(potential[:, None] if induces_charge else None, None if polarizability is None else -field)
        drive, given = problem.with_driven_flow(drive)
        found, v, solution = self._solve(problem, "moments", drive, capacity)
        self.iterations = solution.iterations
        energy = minimum_energy(problem, found, drive, capacity)
        atomic = -0.5 * (drive * found).sum(1)
        above = given
        if solution.residual is not None:
            # U at these moments, which is above its minimum by the square of what the iterations left
            left = -0.5 * (solution.residual * found.detach()).sum(1)
            above = left if given is None else given + left
        if above is not None:
            energy = energy + to_structures(above, interaction.batch, len(interaction.cell))
            atomic = atomic + above
        transfers = None if flow is None else flow.transfers(flow.drops(v[:, 0]))
        charge = None if softness is None else -found[:, 0]
        return Response(
            charge if flow is None or transfers is None else flow.gained(transfers),
            None if polarizability is None else -found[:, -3:],
            atomic,
            energy,
            transfers,
        )

    def collective_polarizability(
        self,
        interaction: Interaction,
        softness: Tensor | None,
        polarizability: Tensor | None,
        relative: Tensor,
        flow: PairFlow | None = None,
        order: int | None = None,
    ) -> Tensor:
        """What a uniform field adds to each atom's part of the dipole, with mutual polarization.

        Args:
            interaction: of the call.
            softness: (N,) or None; polarizability: (N,) or (N, 3, 3) or None; flow: pairs or None. Not all None.
            relative: (N, 3) Å, positions from a centre of the structure; zero where they are not defined.
            order: how often induced moments induce others, 0 or 1; None: until nothing changes.

        Returns:
            (N, 3, 3) e²·Å²/eV: Δq relative + Δu, or Σ t d + Δu of pairs, for a field along the last index. Summed over
            the atoms of a structure it is symmetric, −∂²U/∂E². With its graph.
        """
        columns = []
        problem, capacity = self._problem(interaction, softness, polarizability, flow)
        for axis in range(3):
            along = torch.zeros_like(relative)
            along[:, axis] = 1.0
            charge = None if softness is None else -relative[:, axis : axis + 1]
            if flow is not None:
                charge, flow = torch.zeros_like(along[:, :1]), flow._replace(applied=flow.pairs.vector[:, axis])
                problem, capacity = self._problem(interaction, softness, polarizability, flow)
            drive = _columns(charge, None if polarizability is None else -along)
            if order is None:
                drive, _ = problem.with_driven_flow(drive)
                found, v, _ = self._solve(problem, f"field {axis}", drive, capacity)
            else:
                found, v = problem.to_order(order, drive, capacity)
            part = torch.zeros_like(relative) if softness is None else -found[:, :1] * relative
            if flow is not None:
                part = flow.transfers(flow.drops(v[:, 0])).moments(len(relative))
            columns.append(part if polarizability is None else part - found[:, -3:])
        return torch.stack(columns, 2)

    def _problem(
        self,
        interaction: Interaction,
        softness: Tensor | None,
        polarizability: Tensor | None,
        flow: PairFlow | None,
    ) -> tuple[Problem, Capacity]:
        """The equation, and K'."""
        blocks, own = capacity_of_atoms(softness, polarizability), None
        if blocks is not None:
            own = interaction.own_slope(blocks.shape[1])
            identity = torch.eye(len(own), dtype=own.dtype, device=own.device)
            blocks = torch.linalg.solve(identity + blocks * own, blocks)
        fixed = self.total_charge == "fixed" and softness is not None
        diagonal = polarizability is None or polarizability.dim() == 1
        problem = Problem(interaction, self.tolerance, fixed, flow, own, diagonal)
        return problem, Capacity(blocks, None if flow is None else flow.pairs.value, flow)

    def _solve(self, problem: Problem, name: str, drive: Tensor, capacity: Capacity) -> tuple[Tensor, Tensor, Solution]:
        """From the last solution of that name, in evaluation mode."""
        interaction = problem.interaction
        start = None if interaction.training else self._fitting(name, drive, interaction.ranks)
        found, v, solution = problem.solve(drive, capacity, problem.geometry, start)
        if interaction.training:
            self.reset()
        else:
            self._last[name] = solution.v
        return found, v, solution

    def _fitting(self, name: str, drive: Tensor, ranks: Ranks | None) -> Tensor | None:
        last = self._last.get(name)
        fits = last is not None and last.shape == drive.shape and last.device == drive.device
        if ranks is not None:  # all or none
            fits = float(ranks.maximum(drive.new_tensor(0.0 if fits else 1.0))) == 0.0
        return last if fits else None


def _columns(charge: Tensor | None, dipole: Tensor | None) -> Tensor:
    """(N, 1), (N, 3) or (N, 4)."""
    return torch.cat([part for part in (charge, dipole) if part is not None], 1)
