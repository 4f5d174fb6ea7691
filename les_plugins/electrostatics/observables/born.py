"""Born effective charges, currents and forces of a field (theory 7, 8): derivatives of what carries polarization."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.local import to_atoms, to_structures
from les_plugins.electrostatics.observables.carriers import Carriers, charge_of_total
from les_plugins.errors import GeometryError, HostError


def born_effective_charges(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    charge: Tensor,
    dipole: Tensor | None = None,
    epsilon: float | Tensor = 1.0,
    create_graph: bool = False,
    total_charge: Tensor | None = None,
) -> Tensor:
    """Born effective charges Z*[i, a, b] = sqrt(epsilon) ∂P_a/∂r_{i,b}.

    Args:
        positions: (N, 3) Å, with a graph: charge and dipole must be functions of this very tensor.
        cell: (B, 3, 3) Å, rows are lattice vectors; rows of open axes are not read.
        pbc: (B, 3) bool: three true (periodic), two (slab) or none (open) for each structure.
        batch: (N,) integer, the structure of each atom.
        charge: (N,) e, induced part included; (N, channels) are added up.
        dipole: (N, 3) e·Å, induced part included, or None.
        epsilon: electronic screening ε_e ≥ 0, one number or one for each structure (B,).
        create_graph: keep the graph, to differentiate the result again.
        total_charge: (B,) e, as for `charge_of_total`.

    Returns:
        (N, 3, 3) e, first index polarization, second displacement, of charges that add up to `total_charge`: so do
        the Z* of an open structure. Along periodic axes the charge part is taken at the smallest reciprocal vector of
        each, along the normal of a slab it is Σ q' r.

    Raises:
        GeometryError: positions without a graph, a wire.

    Source: theory 8.1; arXiv 2605.05746.
    """
    carriers = Carriers(charge_of_total(charge, batch, len(pbc), total_charge), dipole, False)
    return born_of_carriers(carriers, positions, cell, pbc, batch, epsilon, create_graph)


def born_of_carriers(
    carriers: Carriers,
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    epsilon: float | Tensor = 1.0,
    create_graph: bool = False,
) -> Tensor:
    """Z* of `born_effective_charges` from what carries the polarization: three derivatives where charges are fixed.

    Args:
        carriers: functions of `positions`.
        positions, cell, pbc, batch, epsilon, create_graph: as for `born_effective_charges`.

    Returns:
        (N, 3, 3) e. Of fixed charges they are ∂P_a/∂r_{i,b} at k = 0: they add up to the total charge to rounding, and
        do not depend on which cell of a crystal was given.

    Raises:
        GeometryError: as `born_effective_charges`.

    Source: theory 8.1, 8.2 and 8.6.
    """
    _check_differentiable(positions, pbc)
    born = positions.new_zeros(positions.shape[0], 3, 3, dtype=carriers.charge.dtype)
    for mode in carriers.modes(positions, cell, pbc, batch):
        row = _gradient(mode.terms.sum(), positions, create_graph)
        if mode.phase is not None:
            row = mode.phase[:, None] * row
        born = born + mode.direction[:, :, None] * row[:, None, :]
    born = born * _root(epsilon, born, batch)
    return born if create_graph else born.detach()


class Current:
    """J(v) = Σ_i Z*_i v_i = dP/dt of fixed charges, by one product in place of the three derivatives of Z*.

    Made while the graph to the positions is there: the derivative g = ∂(w·P)/∂r is linear in w, and its own derivative
    by w along v is J. It may be called once, when the velocities are known, and whatever became of the first graph.

    Args:
        carriers: fixed charges, and moments that are functions of `positions`.
        positions: (N, 3) Å, with a graph.
        batch: (N,) integer.
        epsilon: as for `born_effective_charges`.

    Raises:
        GeometryError: positions without a graph; charges that are not fixed.

    Source: theory 8.6.
    """

    def __init__(self, carriers: Carriers, positions: Tensor, batch: Tensor, epsilon: float | Tensor = 1.0) -> None:
        if not positions.requires_grad or not carriers.is_fixed:
            raise GeometryError("a current by one product needs charges that are fixed and positions with a graph")
        moment = carriers.moment
        self._charge, self._batch, self._epsilon = carriers.charge.detach(), batch, epsilon
        self._n_structures = int(batch.max()) + 1 if len(batch) else 0
        self._weight = torch.zeros(
            self._n_structures, 3, dtype=self._charge.dtype, device=positions.device, requires_grad=True
        )
        self._slope: Tensor | None = None
        if moment is not None and moment.requires_grad:
            weighted = (moment * to_atoms(self._weight, batch)).sum(1)
            self._differentiate(to_structures(weighted, batch, self._n_structures), positions)

    def _differentiate(self, weighted: Tensor, positions: Tensor) -> None:
        (self._slope,) = torch.autograd.grad(
            weighted.sum(), positions, retain_graph=True, create_graph=True, materialize_grads=True
        )

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """None: a copy of what holds it has no graph, which cannot be copied."""
        return type(None), ()

    def __call__(self, velocities: Tensor) -> Tensor:
        """(B, 3), e times the unit of velocities (N, 3); the graph is gone then."""
        v = velocities.to(self._charge)
        current = v.new_zeros(self._n_structures, 3).index_add(0, self._batch, self._charge[:, None] * v)
        if self._slope is not None and self._slope.requires_grad:
            slope, self._slope = self._slope, None
            (moved,) = torch.autograd.grad(slope, self._weight, grad_outputs=v.to(slope.dtype))
            current = current + moved
        factor = torch.as_tensor(self._epsilon, dtype=current.dtype, device=current.device).sqrt()
        return current * (factor if factor.dim() == 0 else factor[:, None])


class CurrentOfForces(Current):
    """J(v) from the very derivative that makes a host's forces: that of E + w·P, which w = 0 leaves as it is.

    It saves the derivative that `Current` takes for itself. Who differentiates adds `work` to the energy and keeps the
    graph of the derivative (`create_graph`); the gradient that arrives at `positions` is remembered.

    Attributes:
        work: (B,) eV, w·P of the moments, zero, with a graph; None where no moment depends on the positions.
    """

    work: Tensor | None = None

    def _differentiate(self, weighted: Tensor, positions: Tensor) -> None:
        self.work = weighted
        self._handle: RemovableHandle = positions.register_hook(self._keep)

    def _keep(self, gradient: Tensor) -> None:
        if gradient.requires_grad:  # else somebody else's derivative
            self._slope, self.work = gradient, None
            self._handle.remove()

    def __call__(self, velocities: Tensor) -> Tensor:
        """As `Current`.

        Raises:
            HostError: no derivative with a graph has arrived.
        """
        if self.work is not None:
            raise HostError("the current is to come from the derivative of the forces, which kept no graph")
        return super().__call__(velocities)


def field_forces(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    charge: Tensor,
    field: Tensor,
    dipole: Tensor | None = None,
    epsilon: float | Tensor = 1.0,
    total_charge: Tensor | None = None,
) -> Tensor:
    """Forces of a uniform field to first order, F[i, b] = Σ_a E_a Z*[i, a, b], without the tensor Z*.

    Args:
        positions, cell, pbc, batch, charge, dipole, epsilon, total_charge: as for `born_effective_charges`.
        field: (3,) or (B, 3) V/Å, the applied field.

    Returns:
        (N, 3) eV/Å. One derivative for open structures; for periodic ones two for each lattice axis that the field has
        a component along, and one for the dipoles. They add up to `total_charge` times the field.

    Raises:
        GeometryError: as `born_effective_charges`.

    Source: theory 7.
    """
    carriers = Carriers(charge_of_total(charge, batch, len(pbc), total_charge), dipole, False)
    return field_forces_of_carriers(carriers, positions, cell, pbc, batch, field, epsilon)


def field_forces_of_carriers(
    carriers: Carriers,
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    field: Tensor,
    epsilon: float | Tensor = 1.0,
) -> Tensor:
    """(N, 3) eV/Å of `field_forces` from what carries the polarization: one derivative where charges are fixed.

    Args:
        carriers: functions of `positions`.
        positions, cell, pbc, batch, field, epsilon: as for `field_forces`.

    Source: theory 7.
    """
    _check_differentiable(positions, pbc)
    total = positions.new_zeros(positions.shape, dtype=carriers.charge.dtype)
    strength = field.to(total.dtype).expand(len(pbc), 3)[batch]
    unphased = total.new_zeros(())
    for mode in carriers.modes(positions, cell, pbc, batch):
        along = (mode.direction * strength).sum(1)
        if not bool(along.any()):
            continue
        if mode.phase is None:
            unphased = unphased + (mode.terms * along).sum()
        else:
            total = total + (mode.phase * along)[:, None] * _gradient(mode.terms.sum(), positions, False)
    total = total + _gradient(unphased, positions, False)
    return (total * _root(epsilon, total, batch)).detach()


def sum_rule_violation(born: Tensor, batch: Tensor, total_charge: Tensor | None = None) -> Tensor:
    """(B, 3, 3) e: mean of Z* over the atoms of each structure less Q/N; the acoustic sum rule asks for zero.

    Args:
        born: (N, 3, 3) e.
        batch: (N,) integer, the structure of each atom.
        total_charge: (B,) e, Q, in the units of `born`; zero when None.

    Source: theory 8.
    """
    n_structures = int(batch.max()) + 1 if len(batch) else 0
    counts = torch.bincount(batch, minlength=n_structures).clamp(min=1)
    found = born.new_zeros(n_structures, 3, 3).index_add(0, batch, born)
    if total_charge is not None:
        found = found - total_charge[:, None, None] * torch.eye(3, dtype=born.dtype, device=born.device)
    return found / counts[:, None, None]


def enforce_asr(born: Tensor, batch: Tensor, total_charge: Tensor | None = None) -> Tensor:
    """Born effective charges (N, 3, 3) with the mean violation of the acoustic sum rule taken from every atom.

    Args:
        born, batch, total_charge: as for `sum_rule_violation`; Z* then add up to Q.
    """
    return born - sum_rule_violation(born, batch, total_charge)[batch]


def _check_differentiable(positions: Tensor, pbc: Tensor) -> None:
    if not positions.requires_grad:
        raise GeometryError(
            "positions.requires_grad is False; Born effective charges differentiate with respect to them"
        )
    if not is_traced() and bool((pbc.sum(1) == 1).any()):
        raise GeometryError(f"pbc is {pbc.tolist()}; allowed: three True, two or none for each structure; no wires")


def _root(epsilon: float | Tensor, values: Tensor, batch: Tensor) -> Tensor:
    """sqrt(ε_e), of each atom's structure where they differ, with as many axes as `values`."""
    factor = torch.as_tensor(epsilon, dtype=values.dtype, device=values.device).sqrt()
    return factor if factor.dim() == 0 else factor[batch].view(-1, *[1] * (values.dim() - 1))


def _gradient(value: Tensor, positions: Tensor, create_graph: bool) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(positions)
    (gradient,) = torch.autograd.grad(value, positions, retain_graph=True, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(positions) if gradient is None else gradient
