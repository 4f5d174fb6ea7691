"""Polarization, Born charges and polarizability of a batch with their graph to the weights, in physical units.

`response_loss` compares them with labels; `observing` takes them while a host's model runs forward.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.observables import Carriers, system_polarizability
from les_plugins.errors import HostError
from les_plugins.model.carriers import carriers_of, latent_total_charge
from les_plugins.model.long_range import LongRange, LongRangeResult
from les_plugins.model.response_support import FREE, ON_SITE, SCREENING
from les_plugins.units import VACUUM_PERMITTIVITY


class Geometry(NamedTuple):
    """Where the atoms of a batch are: positions (N, 3) Å, cell (B, 3, 3) Å, pbc (B, 3) bool, batch (N,) integer."""

    positions: Tensor
    cell: Tensor
    pbc: Tensor
    batch: Tensor


class Undefined(NamedTuple):
    """Structures (B,) bool that a model has no physical value of, and why, with what to set."""

    structures: Tensor
    reason: str


class Response(NamedTuple):
    """Physical response of a batch; None for what was not asked for.

    Attributes:
        geometry: of the batch, without a graph.
        polarization: (B, 3) e·Å, the dipole of whole structures; of periodic ones the branch of the positions.
        born: (N, 3, 3) e, first index polarization; with directions (N, n, 3), their products with Z*.
        directions: (N, n, 3) unit vectors that the first index was multiplied by, or None.
        polarizability: (B, 3, 3) e²·Å²/eV, ε0 V (ε_∞ − 1) of periodic structures.
        no_moment: structures without a polarization, and so without Z*.
        no_polarizability: structures without a polarizability.
    """

    geometry: Geometry
    polarization: Tensor | None
    born: Tensor | None
    directions: Tensor | None
    polarizability: Tensor | None
    no_moment: Undefined
    no_polarizability: Undefined


def predict_response(
    part: LongRange,
    result: LongRangeResult,
    geometry: Geometry,
    quantities: Collection[str],
    projections: int = 0,
    create_graph: bool = True,
) -> Response:
    """Physical response of a batch.

    Args:
        part: the model's long-range part.
        result: of its forward pass.
        geometry: as given to it; `positions` with a graph.
        quantities: what to predict, of `response_config.QUANTITIES`.
        projections: random directions that Z* is multiplied by, one backward pass each; 0: the tensor, three passes.
        create_graph: keep the graph of Z* to the weights.

    Source: theory 8, 9.3.
    """
    positions, cell, pbc, batch = geometry.positions, geometry.cell.double(), geometry.pbc, geometry.batch
    screening = screening_in_training(part, pbc)
    root = screening.sqrt()
    still = Geometry(positions.detach(), cell.detach(), pbc, batch)
    total_charge = latent_total_charge(part, result, batch, len(pbc), screening)
    carriers = carriers_of(result, batch, len(pbc), total_charge)
    fixed, moment = _apart(carriers, positions.double())
    total = born = directions = alpha = None
    if "dipole" in quantities or "polarization" in quantities:
        each = moment + fixed[:, None] * positions.double()
        total = root[:, None] * each.new_zeros(len(pbc), 3).index_add(0, batch, each)
    if "born_effective_charges" in quantities:
        directions = _directions(projections, batch, len(pbc)) if projections and create_graph else None
        unit = torch.eye(3, dtype=moment.dtype, device=moment.device)
        along = unit.expand(len(batch), 3, 3) if directions is None else directions
        rows = [_slope((along[:, k] * moment).sum(), positions, create_graph) for k in range(along.shape[1])]
        born = root[batch][:, None, None] * (torch.stack(rows, 1).double() + fixed[:, None, None] * along)
    if "polarizability" in quantities:
        alpha = _polarizability(part, result, Geometry(positions.double(), cell, pbc, batch), screening)
    unscreened = _unscreened(part, result, pbc)
    no_moment = _without_moment(result, carriers, pbc, unscreened)
    return Response(still, total, born, directions, alpha, no_moment, unscreened)


def screening_in_training(part: LongRange, pbc: Tensor) -> Tensor:
    """(B,) ε_e of a model while it trains: its own number for periodic structures, 1 for slabs and open ones."""
    own = part.trained_screening()
    if own is None:
        own = torch.tensor(part.config.epsilon_infinity, device=pbc.device)
    return torch.where(pbc.all(1), own.double(), torch.ones((), dtype=torch.float64, device=own.device))


class Observed:
    """What `observing` saw.

    Attributes:
        response: of the last forward pass; None before the first.
    """

    response: Response | None = None


@contextmanager
def observing(part: LongRange, quantities: Collection[str], projections: int = 0) -> Iterator[Observed]:
    """While open, every forward pass of the part is followed by a prediction of its response.

    The host differentiates the energy afterwards, so the graph is still there, and it need not know of any of this.

    Args:
        part: the long-range part in a host's model.
        quantities, projections: as for `predict_response`; the graph is kept, and projections are used, while the part
            is in training mode and has weights that train.
    """
    observed, signature = Observed(), inspect.signature(part.forward)

    def after(module: LongRange, positional: tuple[Any, ...], named: dict[str, Any], result: LongRangeResult) -> None:
        given = signature.bind(*positional, **named).arguments
        geometry = Geometry(given["positions"], given["cell"], given["pbc"], given["batch"])
        if not geometry.positions.requires_grad:
            raise HostError(
                "response_loss: the host's model runs without derivatives of the positions; forces need them"
            )
        trains = module.training and any(parameter.requires_grad for parameter in module.parameters())
        observed.response = predict_response(module, result, geometry, quantities, projections, trains)

    handle = part.register_forward_hook(after, with_kwargs=True)
    try:
        yield observed
    finally:
        handle.remove()


def _unscreened(part: LongRange, result: LongRangeResult, pbc: Tensor) -> Undefined:
    unknown = result.dipolar is not None and part.trained_screening() is None
    return Undefined(pbc.all(1) & unknown, SCREENING)


def _without_moment(result: LongRangeResult, carriers: Carriers, pbc: Tensor, unscreened: Undefined) -> Undefined:
    """A polarization needs charges that stay wherever there is a lattice."""
    if carriers.is_fixed:
        return unscreened
    return Undefined(pbc.any(1), FREE if result.softness is None else ON_SITE)


def _apart(carriers: Carriers, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Charges (N,) e that go where their atoms go, and moments (N, 3) e·Å that need no origin; latent."""
    moment = positions.new_zeros(positions.shape) if carriers.moment is None else carriers.moment.double()
    charge = carriers.charge.double()
    if carriers.is_fixed:
        return charge, moment
    # no charge is one atom's for good: all of P is differentiated
    return torch.zeros_like(charge), charge[:, None] * positions + moment


def _polarizability(part: LongRange, result: LongRangeResult, geometry: Geometry, screening: Tensor) -> Tensor:
    """(B, 3, 3) ε_e Σ α of the atoms, and of periodic structures ε0 V (ε_e − 1) of what screens them."""
    whole = part.with_collective_polarizability(result, *geometry)
    softness = whole.softness if whole.collective_polarizability is None else None
    places = (geometry.positions, geometry.pbc, geometry.batch)
    total = system_polarizability(*places, softness, whole.dipolar, geometry.cell)
    unit = torch.eye(3, dtype=total.dtype, device=total.device)
    volume = torch.linalg.det(geometry.cell).abs()
    background = torch.where(geometry.pbc.all(1), VACUUM_PERMITTIVITY * volume * (screening - 1.0), 0.0 * screening)
    found: Tensor = screening[:, None, None] * total + background[:, None, None] * unit
    return found


def _directions(count: int, batch: Tensor, n_structures: int) -> Tensor:
    """(N, count, 3) random unit vectors, the same for all atoms of a structure.

    The mean square of w·Z* over w is a third of the sum over Z*'s first index: its mean over the other two is that of
    the nine components.
    """
    drawn = torch.randn(n_structures, count, 3, dtype=torch.float64, device=batch.device)
    unit: Tensor = drawn / torch.linalg.norm(drawn, dim=2, keepdim=True)
    return unit[batch]


def _slope(value: Tensor, positions: Tensor, create_graph: bool) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(positions)
    (slope,) = torch.autograd.grad(
        value, positions, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return slope
