"""Tensors that the layer refuses: kinds, devices, shapes, values. It calls this where there are values to look at.

Whatever is cast is cast exactly: integers are float64 numbers. Nothing else is put right in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.flow import PairSoftness
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.errors import GeometryError

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
#: Of positions and cells: a result comes back in the type of the positions, and half precision cannot hold it.
LENGTHS = (torch.float64, torch.float32, *INTEGERS)
#: Of moments and response coefficients, which are cast to float64 and come back in it.
VALUES = (*LENGTHS, torch.float16, torch.bfloat16)
#: Of each tensor that is no moment and no coefficient.
KINDS: dict[str, tuple[torch.dtype, ...]] = {
    "pbc": (torch.bool,),
    "batch": INTEGERS,
    "positions": LENGTHS,
    "cell": LENGTHS,
    "pair_softness.centre": INTEGERS,
    "pair_softness.neighbor": INTEGERS,
}
#: Whose values are looked at elsewhere, or never.
NO_SUM = ("cell", "pbc", "batch", "pair_softness.centre", "pair_softness.neighbor")
#: Antisymmetric part and trace that a quadrupole may have, over the largest element of all: rounding in float32 of
#: values cast up, and of TF32 products (2⁻¹¹ each) and below.
QUADRUPOLE_ROUNDING = {torch.float64: 1e-5}
COARSE_ROUNDING = 5e-3
#: Largest element, in e·Å² or e²·Å²/eV, that is taken for them where it is smaller: at a cubic site a sum over edges is
#: zero but for the rounding of its terms, which are of this size.
NATURAL = 0.1


class LayerInputs(NamedTuple):
    """Everything that `LatentElectrostatics.forward` takes of a batch of structures; see there."""

    positions: Tensor
    cell: Tensor
    pbc: Tensor
    batch: Tensor
    multipoles: Multipoles
    softness: Tensor | None
    polarizability: Tensor | None
    external_field: Tensor | None
    pair_softness: PairSoftness | None = None

    def named(self) -> dict[str, Tensor | None]:
        """Every tensor by the name that messages give it."""
        values: dict[str, Tensor | None] = self._asdict()
        del values["multipoles"], values["pair_softness"]
        pairs = {} if self.pair_softness is None else self.pair_softness._asdict()
        pairs.pop("halo", None)
        return values | self.multipoles._asdict() | {f"pair_softness.{name}": value for name, value in pairs.items()}

    def check(self) -> None:
        """Refuse what cannot be evaluated, or not as it was meant.

        Raises:
            GeometryError: names the tensor, what it is and what is allowed.
        """
        if not isinstance(self.multipoles, Multipoles):
            raise GeometryError(f"multipoles is a {_kind(self.multipoles)}; allowed: les_plugins.Multipoles")
        if not isinstance(self.pair_softness, PairSoftness | None):
            raise GeometryError(
                f"pair_softness is a {_kind(self.pair_softness)}; allowed: les_plugins.PairSoftness, or None"
            )
        _check_kinds(self.named(), self.positions)
        check_batch(self.positions, self.cell, self.pbc, self.batch)
        self.multipoles.check(len(self.positions))
        check_response(len(self.positions), self.softness, self.polarizability)
        if self.pair_softness is not None:
            if self.softness is not None:
                raise GeometryError("softness and pair_softness are two ways of inducing charge; allowed: one of them")
            check_shapes_of_pairs(self.pair_softness)
        self._check_values()

    @torch.no_grad()
    def _check_values(self) -> None:
        """A sum is finite when all its terms are, and cheaper than a test of each; one exchange with the device."""
        n_atoms, n_structures = len(self.positions), len(self.cell)
        floating = {
            name: tensor
            for name, tensor in self.named().items()
            if name not in NO_SUM and tensor is not None and tensor.numel() > 0
        }
        numbers = [tensor.sum(dtype=torch.float64) for tensor in floating.values()]
        tensors = {
            name: floating[name].to(torch.float64)
            for name in ("quadrupole", "polarizability")
            if name in floating and floating[name].dim() == 3
        }
        for tensor in tensors.values():
            numbers += [tensor.abs().amax(), (tensor - tensor.mT).abs().amax()]
            numbers.append(tensor.diagonal(dim1=1, dim2=2).sum(1).abs().amax())
        if n_structures:
            numbers.append((self.pbc.sum(1) == 1).any())
        if n_atoms:
            numbers += self.batch.aminmax()
        found = torch.stack([number.to(torch.float64) for number in numbers]).tolist() if numbers else []
        low, high = (int(index) for index in found[-2:]) if n_atoms else (0, 0)
        if (n_structures and found[-3 if n_atoms else -1]) or (n_atoms and not 0 <= low <= high < n_structures):
            refuse_flags_and_indices(self.pbc, self.batch)
        for name, total in zip(floating, found, strict=False):
            if not math.isfinite(total):
                raise GeometryError(f"{name} holds NaN or infinity; allowed: finite numbers")
        for place, name in enumerate(tensors):
            start = len(floating) + 3 * place
            largest, twice_antisymmetric, trace = found[start : start + 3]
            tolerance = max(largest, NATURAL) * QUADRUPOLE_ROUNDING.get(floating[name].dtype, COARSE_ROUNDING)
            if 0.5 * twice_antisymmetric > tolerance:
                raise GeometryError(
                    f"{name} has an antisymmetric part of {0.5 * twice_antisymmetric:.3g}, of elements up to "
                    f"{largest:.3g}; allowed: symmetric (N, 3, 3)"
                )
            if name == "quadrupole" and trace > tolerance:
                raise GeometryError(
                    f"quadrupole has a trace of up to {trace:.3g} e·Å², of elements up to {largest:.3g}; allowed: "
                    "traceless (les_plugins.electrostatics.multipoles.traceless takes the trace off)"
                )


def check_batch(positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor) -> None:
    """Refuse shapes that do not fit each other."""
    n_atoms, n_structures = len(positions), len(cell)
    for name, tensor, shape in (
        ("positions", positions, (n_atoms, 3)),
        ("cell", cell, (n_structures, 3, 3)),
        ("pbc", pbc, (n_structures, 3)),
        ("batch", batch, (n_atoms,)),
    ):
        if tuple(tensor.shape) != shape:
            raise GeometryError(f"{name} has shape {tuple(tensor.shape)}; allowed: {shape}")


def refuse_flags_and_indices(pbc: Tensor, batch: Tensor) -> None:
    """Raise GeometryError for a wire, or for atoms of structures that there are not."""
    wires = pbc.sum(1) == 1
    if bool(wires.any()):
        flags = tuple(pbc[int(wires.nonzero()[0])].tolist())
        raise GeometryError(
            f"pbc is {flags} for structure {int(wires.nonzero()[0])}; allowed: three True (periodic), two (slab) or "
            "none (open). Wires, periodic along one axis, are not built"
        )
    if len(batch) and (int(batch.min()) < 0 or int(batch.max()) >= len(pbc)):
        raise GeometryError(f"batch holds {int(batch.min())}…{int(batch.max())}; allowed: 0…{len(pbc) - 1}")


def check_response(n_atoms: int, softness: Tensor | None, polarizability: Tensor | None) -> None:
    """Refuse shapes of the response's coefficients that do not fit the atoms."""
    if softness is not None and tuple(softness.shape) != (n_atoms,):
        raise GeometryError(f"softness has shape {tuple(softness.shape)}; allowed: {(n_atoms,)}")
    if polarizability is not None and tuple(polarizability.shape) not in ((n_atoms,), (n_atoms, 3, 3)):
        raise GeometryError(
            f"polarizability has shape {tuple(polarizability.shape)}; allowed: {(n_atoms,)} or {(n_atoms, 3, 3)}"
        )


def check_shapes_of_pairs(pairs: PairSoftness) -> None:
    """Refuse shapes of `PairSoftness` that do not fit each other."""
    n_edges = len(pairs.value)
    for name, shape in (
        ("centre", (n_edges,)),
        ("neighbor", (n_edges,)),
        ("vector", (n_edges, 3)),
        ("value", (n_edges,)),
    ):
        found = tuple(getattr(pairs, name).shape)
        if found != shape:
            raise GeometryError(f"pair_softness.{name} has shape {found}; allowed: {shape}, one row an edge")


def _check_kinds(tensors: Mapping[str, Tensor | None], positions: Tensor) -> None:
    """Refuse what is no dense tensor with values, of a type that is not meant, or on another device."""
    for name, tensor in tensors.items():
        if tensor is None and name in ("dipole", "quadrupole", "softness", "polarizability", "external_field"):
            continue
        if not isinstance(tensor, Tensor):
            raise GeometryError(f"{name} is a {_kind(tensor)}; allowed: a torch tensor")
        if tensor.dim() == 0:
            raise GeometryError(f"{name} has shape (); allowed: at least one axis")
        allowed = KINDS.get(name, VALUES)
        if tensor.dtype not in allowed:
            raise GeometryError(f"{name} has dtype {tensor.dtype}; allowed: {', '.join(map(str, allowed))}")
        if tensor.is_meta or tensor.layout is not torch.strided:
            what = "on the meta device, without values" if tensor.is_meta else f"stored as {tensor.layout}"
            raise GeometryError(f"{name} is {what}; allowed: a dense tensor with values")
        if tensor.device != positions.device:
            raise GeometryError(
                f"{name} is on {tensor.device} and positions on {positions.device}; allowed: one device"
            )


def _kind(value: object) -> str:
    return "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
