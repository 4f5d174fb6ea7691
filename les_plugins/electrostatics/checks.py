"""What the layer refuses, in words: shapes, values, boundaries, settings. And whether there are values to look at."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from les_plugins.errors import ConfigError, GeometryError
from les_plugins.multipoles import Multipoles


def is_traced() -> bool:
    """Whether a tracer or compiler records what is done, and values cannot be looked at."""
    return (
        torch.compiler.is_compiling() or get_proxy_mode() is not None or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


def check_static_cell(lengths: tuple[float, ...] | None) -> None:
    """Refuse a `static_cell` that is not three positive lengths, or None."""
    if lengths is not None and not (len(lengths) == 3 and all(math.isfinite(x) and x > 0.0 for x in lengths)):
        raise ConfigError(f"static_cell is {list(lengths)!r}; allowed: three positive lengths in Å, or none")


def check_batch(positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor) -> None:
    """Refuse shapes, flags and indices that do not fit each other."""
    n_atoms, n_structures = len(positions), len(cell)
    for name, tensor, shape in (
        ("positions", positions, (n_atoms, 3)),
        ("cell", cell, (n_structures, 3, 3)),
        ("pbc", pbc, (n_structures, 3)),
        ("batch", batch, (n_atoms,)),
    ):
        if tuple(tensor.shape) != shape:
            raise GeometryError(f"{name} has shape {tuple(tensor.shape)}; allowed: {shape}")
    if pbc.dtype != torch.bool:
        raise GeometryError(f"pbc has dtype {pbc.dtype}; allowed: torch.bool")
    wires = pbc.sum(1) == 1
    if bool(wires.any()):
        flags = tuple(pbc[int(wires.nonzero()[0])].tolist())
        raise GeometryError(
            f"pbc is {flags} for structure {int(wires.nonzero()[0])}; allowed: three True (periodic), two (slab) or "
            "none (open). Wires, periodic along one axis, are not built"
        )
    if n_atoms and (int(batch.min()) < 0 or int(batch.max()) >= n_structures):
        raise GeometryError(f"batch holds {int(batch.min())}…{int(batch.max())}; allowed: 0…{n_structures - 1}")


def check_response(n_atoms: int, softness: Tensor | None, polarizability: Tensor | None) -> None:
    """Refuse shapes of the response's coefficients that do not fit the atoms."""
    if softness is not None and tuple(softness.shape) != (n_atoms,):
        raise GeometryError(f"softness has shape {tuple(softness.shape)}; allowed: {(n_atoms,)}")
    if polarizability is not None and tuple(polarizability.shape) not in ((n_atoms,), (n_atoms, 3, 3)):
        raise GeometryError(
            f"polarizability has shape {tuple(polarizability.shape)}; allowed: {(n_atoms,)} or {(n_atoms, 3, 3)}"
        )


def check_finite(
    positions: Tensor,
    multipoles: Multipoles,
    softness: Tensor | None,
    polarizability: Tensor | None,
    external_field: Tensor | None,
) -> None:
    """A sum is finite when all its terms are, and far cheaper than a test of each."""
    for name, tensor in (
        ("positions", positions),
        *multipoles._asdict().items(),
        ("softness", softness),
        ("polarizability", polarizability),
        ("external_field", external_field),
    ):
        if tensor is not None and not math.isfinite(tensor.detach().sum(dtype=torch.float64).item()):
            raise GeometryError(f"{name} holds NaN or infinity; allowed: finite numbers")


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuse a setting outside `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
