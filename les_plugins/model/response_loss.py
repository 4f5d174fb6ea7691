"""Terms of the loss that compare a model's electric response with labels. Adapters' trainers add them to their host's.

A label that is NaN or absent does not count. Units are physical ones (theory 9.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from ase.geometry import find_mic
from torch import Tensor

from les_plugins.electrostatics.lattice import open_directions
from les_plugins.errors import DataError
from les_plugins.model.response_config import QUANTITIES
from les_plugins.model.response_prediction import Geometry, Response, Undefined


class ResponseLabels(NamedTuple):
    """Labels of a batch; NaN where a structure has none, None where no structure has one.

    Attributes:
        dipole: (B, 3) e·Å, of open structures, and of slabs along their normal.
        polarization: (B, 3) e·Å, V·P of periodic structures, any branch.
        born_effective_charges: (N, 3, 3) e, first index polarization.
        polarizability: (B, 3, 3) e²·Å²/eV; of periodic structures ε0 V (ε_∞ − 1).
    """

    dipole: Tensor | None = None
    polarization: Tensor | None = None
    born_effective_charges: Tensor | None = None
    polarizability: Tensor | None = None


class SquaredError(NamedTuple):
    """Sum of squared errors of the components that count, and how many there are; both without a dimension."""

    sum: Tensor
    components: Tensor

    @property
    def mean(self) -> Tensor:
        """Zero where nothing counts."""
        return self.sum / self.components.clamp(min=1.0)


def squared_errors(response: Response, labels: ResponseLabels) -> dict[str, SquaredError]:
    """Squared errors of each quantity that was predicted and that the batch has labels of.

    Those of dipole, polarization and polarizability are divided by the square of the number of atoms: large structures
    do not outweigh small ones.

    Args:
        response: the prediction.
        labels: of the same batch.

    Raises:
        DataError: a label of a structure that the model has no such response of; says what to set.

    Source: theory 9.3.
    """
    geometry = response.geometry
    counts = torch.bincount(geometry.batch, minlength=len(geometry.pbc)).clamp(min=1).double()
    found = {}
    if labels.dipole is not None and response.polarization is not None:
        along = open_directions(geometry.cell, geometry.pbc)
        difference = (along @ _difference(response.polarization, labels.dipole)[:, :, None]).squeeze(2)
        axes = (~geometry.pbc).sum(1).double()
        known = _known(labels.dipole) & (axes > 0)
        _check(response.no_moment, known & geometry.pbc.any(1), "dipole")
        found["dipole"] = _summed((difference / counts[:, None]).square().sum(1), axes, known)
    if labels.polarization is not None and response.polarization is not None:
        known = _known(labels.polarization) & geometry.pbc.all(1)
        _check(response.no_moment, known, "polarization")
        difference = nearest_branch(_difference(response.polarization, labels.polarization), geometry, known)
        found["polarization"] = _summed((difference / counts[:, None]).square().sum(1), 3.0, known)
    if labels.born_effective_charges is not None and response.born is not None:
        wanted = labels.born_effective_charges.double()
        if response.directions is not None:
            wanted = torch.einsum("npa,nab->npb", response.directions, wanted)
        known = _known(wanted)
        labelled = torch.zeros_like(counts).index_add(0, geometry.batch, known.double()) > 0
        _check(response.no_moment, labelled, "Born effective charges")
        each = _difference(response.born, wanted).square().sum((1, 2))
        found["born_effective_charges"] = _summed(each, float(wanted[0].numel()), known)
    if labels.polarizability is not None and response.polarizability is not None:
        known = _known(labels.polarizability)
        _check(response.no_polarizability, known, "polarizability")
        difference = _difference(response.polarizability, labels.polarizability) / counts[:, None, None]
        found["polarizability"] = _summed(difference.square().sum((1, 2)), 9.0, known)
    return found


def response_loss(errors: Mapping[str, SquaredError], weights: Mapping[str, float]) -> Tensor:
    """Σ of weight times mean squared error, zero without any label.

    Args:
        errors: of `squared_errors`.
        weights: of each quantity.
    """
    terms = [weights.get(name, 0.0) * errors[name].mean for name in QUANTITIES if name in errors]
    return torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float64)


def nearest_branch(difference: Tensor, geometry: Geometry, known: Tensor) -> Tensor:
    """(B, 3) e·Å: the shortest vector that is a difference of two dipoles up to lattice vectors times e.

    Args:
        difference: (B, 3) e·Å.
        geometry: of the batch; rows of the cell are lattice vectors.
        known: (B,) bool, periodic structures; others come back as they are.
    """
    given, cells = difference.detach().cpu().double().numpy(), geometry.cell.detach().cpu().double().numpy()
    nearest = given.copy()
    for place in np.flatnonzero(known.cpu().numpy() & np.isfinite(given).all(1)):
        nearest[place] = find_mic(given[place], cells[place])[0]  # reduces the cell first, which may be long and skewed
    return difference - torch.as_tensor(given - nearest, dtype=difference.dtype, device=difference.device)


def _known(label: Tensor) -> Tensor:
    """(n,) bool: every component of a label is a number."""
    return label.isfinite().flatten(1).all(1)


def _difference(predicted: Tensor, label: Tensor) -> Tensor:
    """Zero where there is no label: NaN would reach the weights through a product with zero."""
    given = label.double()
    known = _known(given).view(-1, *[1] * (given.dim() - 1))
    return torch.where(known, predicted - torch.where(known, given, 0.0), 0.0)


def _summed(squares: Tensor, components: Tensor | float, known: Tensor) -> SquaredError:
    count = (known * components).sum() if isinstance(components, Tensor) else known.sum() * components
    return SquaredError(torch.where(known, squares, 0.0).sum(), count.double())


def _check(undefined: Undefined, labelled: Tensor, name: str) -> None:
    if bool((labelled & undefined.structures).any()):
        raise DataError(f"response_loss: a frame has a label of its {name}, but {undefined.reason}")
