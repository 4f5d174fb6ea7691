"""MACE's convolution on processors: the edges of an atom are summed by matrix products, not one by one and then added.

e3nn writes a message for every edge and MACE adds them up. Here all edges that end at an atom are the inner dimension
of one small product; energies and derivatives are the same to rounding. The calculator asks for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from e3nn import o3
from mace.modules import MACE
from torch import Tensor, nn

from les_plugins.adapters.mace.model import LongRangeMACE

#: Slots an edge at most: with few atoms of many more neighbours than the others, padding costs more than it wins.
_LARGEST_PADDING = 3.0


class _Path(NamedTuple):
    """One path of the tensor product: which irreps go in and out, and their coefficients (dim_2, dim_1 · dim_out)."""

    source: int
    dim: int
    target: int
    coefficients: Tensor


class SummedByReceiver:
    """The messages of all atoms: `forward` of a channelwise `TensorProduct` in a block of MACE that has `conv_fusion`.

    Args:
        product: that of an interaction block, as `fits` says.
    """

    def __init__(self, product: Any) -> None:
        self.product = product
        self.channels = product.irreps_in1[0].mul
        self.dims = [ir.dim for _, ir in product.irreps_in1]
        self.paths = [_path(product, instruction) for instruction in product.instructions]

    def __call__(self, nodes: Tensor, attributes: Tensor, weights: Tensor, edges: Tensor) -> Tensor:
        """Messages (N, dim_out).

        Args:
            nodes: (N, dim_1) features.
            attributes: (E, dim_2) spherical harmonics.
            weights: (E, weight_numel) radial weights.
            edges: (2, E) sender and receiver.
        """
        n_atoms, n_edges, channels = len(nodes), edges.shape[1], self.channels
        counts = torch.bincount(edges[1], minlength=n_atoms)
        slots = int(counts.max()) if n_edges else 0
        if n_atoms * slots > _LARGEST_PADDING * n_edges or not n_edges:
            messages = self.product(nodes.index_select(0, edges[0]), attributes, weights)
            return messages.new_zeros(n_atoms, messages.shape[1]).index_add(0, edges[1], messages)
        order, number = torch.argsort(edges[1], stable=True), torch.arange(n_edges, device=edges.device)
        skipped = slots * torch.arange(n_atoms, device=edges.device) - (counts.cumsum(0) - counts)  # before each atom
        place = torch.empty_like(order)  # (E,) the slot of each edge
        place[order] = number + skipped[edges[1][order]]
        edge = order.new_zeros(n_atoms * slots).index_copy(0, place, number)  # an empty slot shows any
        sender = order.new_full((n_atoms * slots,), n_atoms).index_copy(0, place, edges[0])  # or the atom of zeros
        harmonics = _Slots.apply(attributes, edge, place)
        radial = _Slots.apply(weights, edge, place).split(channels, 1)
        sent = [
            torch.cat([part, part.new_zeros(1, part.shape[1])]).index_select(0, sender).view(-1, dim, channels)
            for part, dim in zip(self._components_first(nodes), self.dims, strict=True)
        ]
        found: list[Any] = [None] * len(self.paths)
        for (source, dim, target, coefficients), weight in zip(self.paths, radial, strict=True):
            scaled = _Scaled.apply(sent[source], weight).view(n_atoms, slots * dim, channels)
            turned = (harmonics @ coefficients.to(harmonics)).view(n_atoms, slots * dim, -1)
            found[target] = _Joined.apply(scaled, turned).flatten(1)
        return torch.cat(found, 1)

    def _components_first(self, nodes: Tensor) -> list[Tensor]:
        parts = nodes.split([self.channels * dim for dim in self.dims], 1)
        return [
            part.view(-1, self.channels, dim).mT.flatten(1) if dim > 1 else part
            for part, dim in zip(parts, self.dims, strict=True)
        ]


class _Slots(torch.autograd.Function):
    """Rows of edges in the slots of their receivers: every edge has one, so that the way back is a selection too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return values.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return _Edges.apply(gradient, there, back), None, None


class _Edges(torch.autograd.Function):
    """The way back of `_Slots`; empty slots hold zeros."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        ctx.n_slots = len(values)
        return values.index_select(0, back)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        _, back = ctx.saved_tensors
        zeros = gradient.new_zeros(ctx.n_slots, *gradient.shape[1:])
        return zeros.index_copy(0, back, gradient), None, None


class _Scaled(torch.autograd.Function):
    """values (S, dim, C) times weights (S, C), whose gradient is summed over components as it is made."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(values, weights)
        return values * weights[:, None]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        values, weights = ctx.saved_tensors
        of_values = _Scaled.apply(gradient, weights) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_values, None
        of_weights = gradient[:, 0] * values[:, 0]
        for component in range(1, values.shape[1]):
            of_weights = torch.addcmul(of_weights, gradient[:, component], values[:, component])
        return of_values, of_weights


class _Joined(torch.autograd.Function):
    """Σ_s left (N, S, C) right (N, S, d) = (N, C, d), with gradients that lie in memory as the operands do."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return torch.bmm(left.mT, right)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, right = ctx.saved_tensors
        of_left = torch.bmm(right, gradient.mT) if ctx.needs_input_grad[0] else None
        return of_left, torch.bmm(left, gradient) if ctx.needs_input_grad[1] else None


def fits(product: Any) -> bool:
    """Whether a module is a tensor product of e3nn that works channel by channel, one for each edge."""
    if not isinstance(product, o3.TensorProduct) or product.internal_weights or product.shared_weights:
        return False
    several = {mul for irreps in (product.irreps_in1, product.irreps_out) for mul, _ in irreps}
    single = all(mul == 1 for mul, _ in product.irreps_in2)
    targets = sorted(each.i_out for each in product.instructions)
    channelwise = all(each.connection_mode == "uvu" and each.has_weight for each in product.instructions)
    return len(several) == 1 and single and channelwise and targets == list(range(len(product.irreps_out)))


def summed_by_receiver(model: nn.Module) -> nn.Module:
    """A model that sums so where it can; the one that is given is not changed, and all its weights are shared."""
    return _with_blocks(model, _summed)


def edge_by_edge(model: nn.Module) -> nn.Module:
    """The model without `SummedByReceiver`, as TorchScript takes it."""
    return _with_blocks(model, _not_summed)


def _with_blocks(model: Any, change: Callable[[Any], Any]) -> nn.Module:
    base: Any = model.base if isinstance(model, LongRangeMACE) else model
    if not isinstance(base, MACE):  # TorchScript, say
        return model  # type: ignore[no-any-return]
    blocks = nn.ModuleList([change(block) for block in base.interactions])
    changed = copy.copy(base)
    changed._modules = {**base._modules, "interactions": blocks}
    if not isinstance(model, LongRangeMACE):
        return changed  # type: ignore[no-any-return]
    around = copy.copy(model)
    around._modules = {**model._modules, "base": changed}
    return around


def _summed(block: Any) -> Any:
    if hasattr(block, "conv_fusion") or not fits(getattr(block, "conv_tp", None)):
        return block
    changed, product = copy.copy(block), copy.copy(block.conv_tp)
    product.forward = SummedByReceiver(block.conv_tp)
    changed._modules = {**block._modules, "conv_tp": product}
    changed.conv_fusion = True  # MACE then leaves the sum to the product
    return changed


def _not_summed(block: Any) -> Any:
    summed = getattr(getattr(block, "conv_tp", None), "forward", None)
    if not isinstance(summed, SummedByReceiver):
        return block
    changed = copy.copy(block)
    changed._modules = {**block._modules, "conv_tp": summed.product}
    del changed.conv_fusion
    return changed


def _path(product: Any, instruction: Any) -> _Path:
    first, second, out = (
        irreps[index].ir
        for irreps, index in zip(
            (product.irreps_in1, product.irreps_in2, product.irreps_out), instruction[:3], strict=True
        )
    )
    tensor = o3.wigner_3j(first.l, second.l, out.l, dtype=torch.float64) * instruction.path_weight
    table = tensor.new_zeros(product.irreps_in2.dim, first.dim, out.dim)
    table[product.irreps_in2.slices()[instruction.i_in2]] = tensor.permute(1, 0, 2)
    return _Path(instruction.i_in1, first.dim, instruction.i_out, table.flatten(1))
