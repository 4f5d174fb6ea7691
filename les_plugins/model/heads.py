"""Heads: from a host's features to latent multipoles, softness and polarizability. `LongRange` holds one set.

Equivariant heads read 1o and 2e features; edge heads build vectors and tensors from the edges of an invariant host.
Every parameter exists at construction and reaches the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from les_plugins.electrostatics.flow import PairSoftness, Transfers
from les_plugins.electrostatics.multipoles import Multipoles, spherical_to_cartesian, traceless
from les_plugins.errors import ConfigError
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, NodeFeatures
from les_plugins.model.networks import RADIAL_FUNCTIONS, ScalarHead, radial_functions, small_network
from les_plugins.model.pair_softness import SOFTNESS_SCALE, inside, make_pair_softness, neighbour_part

if TYPE_CHECKING:
    from les_plugins.config import LongRangeConfig

#: Natural size of each output at the start of training, times a network output of order one (theory 1).
CHARGE_SCALE = 0.1
DIPOLE_SCALE = 0.1
QUADRUPOLE_SCALE = 0.1
ELECTRONEGATIVITY_SCALE = 1.0
POLARIZABILITY_SCALE = 0.01
#: Channels of each factor where a quadrupole is made of products of vectors.
PRODUCT_CHANNELS = 8
#: Conserved charges: an atom's counter-charge ends at this distance, Å.
COUNTER_CHARGE_CUTOFF = 5.0


class LatentVariables(NamedTuple):
    """What the heads predict; None where a model has no such thing.

    Attributes:
        multipoles: permanent moments.
        softness: (N,) e²/eV, of atoms.
        polarizability: (N,) or (N, 3, 3) e²·Å²/eV.
        pair_softness: of pairs of neighbours, the other way of inducing charge.
        transfers: where all charge but that of `element_charges` is exchanged between neighbours: how it went.
        element_charges: (N,) e, what is left of `multipoles.charge` without the transfers.
        electronegativity: (N,) V, what a total charge that is given costs to first order.
        charge_softness: (N,) e²/eV, > 0, of atoms for a total charge that is given, which is spread in its ratio.
    """

    multipoles: Multipoles
    softness: Tensor | None
    polarizability: Tensor | None
    pair_softness: PairSoftness | None = None
    transfers: Transfers | None = None
    element_charges: Tensor | None = None
    electronegativity: Tensor | None = None
    charge_softness: Tensor | None = None


class Heads(nn.Module):
    """All heads of one model.

    Args:
        layout: the host's features.
        config: which moments and responses to predict.

    Raises:
        ConfigError: moments were asked for that the features cannot give.
    """

    element_charge: Tensor | None

    def __init__(self, layout: FeatureLayout, config: LongRangeConfig) -> None:
        super().__init__()
        if not layout.layers or any(layer.scalars < 1 for layer in layout.layers):
            raise ConfigError(f"heads need scalar features in every layer; the host offers {layout.layers}")
        kind = _kind(layout, config)
        scalars = [layer.scalars for layer in layout.layers]
        self.charge = ScalarHead(scalars, config.hidden)
        self.counter_charge_cutoff: float | None = None
        if config.total_charge == "conserved":
            if layout.cutoff is None:
                raise ConfigError(
                    "total_charge: conserved needs the host's edges, which this adapter does not provide; allowed: "
                    "free, given"
                )
            self.counter_charge_cutoff = min(COUNTER_CHARGE_CUTOFF, float(layout.cutoff))
        charges = _initial_charges(layout, config.initial_charges) if config.initial_charges else None
        if charges is not None and config.element_charges == "trained":
            self.element_charge = nn.Parameter(charges)
        else:
            self.register_buffer("element_charge", charges)
        self.dipole: nn.Module | None = None
        self.quadrupole: nn.Module | None = None
        self.softness: ScalarHead | None = None
        self.pair_softness: nn.Module | None = None
        self.polarizability: ScalarHead | None = None
        self.anisotropy: nn.Module | None = None
        vector_head, tensor_head = (EdgeHead, EdgeHead) if kind == "edge" else (VectorHead, TensorHead)
        if config.order >= 1:
            self.dipole = vector_head(layout, config.hidden, 1)
        if config.order >= 2:
            self.quadrupole = tensor_head(layout, config.hidden, 2)
        if config.response.charge == "onsite":
            self.softness = ScalarHead(scalars, config.hidden)
        if config.response.charge == "pairs":
            self.pair_softness = make_pair_softness(layout, config)
        if config.response.dipole != "none":
            self.polarizability = ScalarHead(scalars, config.hidden)
        if config.response.dipole == "anisotropic":
            self.anisotropy = tensor_head(layout, config.hidden, 2)
        self.electronegativity: ScalarHead | None = None
        self.charge_softness: ScalarHead | None = None
        if config.total_charge == "given":
            self.electronegativity = ScalarHead(scalars, config.hidden)
            self.charge_softness = ScalarHead(scalars, config.hidden)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for name in ("electronegativity", "charge_softness", "pair_softness"):
            if not hasattr(self, name):  # pickled before there was such a head
                setattr(self, name, None)

    def forward(self, features: NodeFeatures) -> LatentVariables:
        """Latent variables of every atom, in the dtype of the features."""
        softness = polarizability = transfers = None
        electronegativity = charge_softness = None
        charge = CHARGE_SCALE * self.charge(features)
        if self.counter_charge_cutoff is not None:
            if features.edges is None:
                raise ConfigError(
                    "total_charge other than free moves charge over edges: the heads were called without edges"
                )
            transfers = counter_charges(charge, features.edges, self.counter_charge_cutoff)
            charge = transfers.charges(charge.shape[0])  # not len(): a tracer follows this one
        of_element = torch.zeros_like(charge)
        if self.element_charge is not None:
            if features.species is None:
                raise ConfigError("initial_charges: this adapter does not provide the species of the atoms")
            of_element = self.element_charge.to(charge.dtype)[features.species]
            charge = charge + of_element
        multipoles = Multipoles(
            charge,
            None if self.dipole is None else DIPOLE_SCALE * self.dipole(features),
            None if self.quadrupole is None else QUADRUPOLE_SCALE * self.quadrupole(features),
        )
        if self.softness is not None:
            softness = SOFTNESS_SCALE * nn.functional.softplus(self.softness(features))
        if self.polarizability is not None:
            polarizability = nn.functional.softplus(self.polarizability(features))
            if self.anisotropy is not None:
                identity = torch.eye(3, dtype=polarizability.dtype, device=polarizability.device)
                root = polarizability[:, None, None] * identity + self.anisotropy(features)
                polarizability = root @ root.transpose(1, 2)  # positive semidefinite whatever the networks say
            polarizability = POLARIZABILITY_SCALE * polarizability
        conserved = None if transfers is None else of_element
        if self.electronegativity is not None and self.charge_softness is not None:
            electronegativity = ELECTRONEGATIVITY_SCALE * self.electronegativity(features)
            charge_softness = SOFTNESS_SCALE * nn.functional.softplus(self.charge_softness(features))
        return LatentVariables(
            multipoles,
            softness,
            polarizability,
            None if self.pair_softness is None else self.pair_softness(features),
            transfers,
            conserved,
            electronegativity,
            charge_softness,
        )


class VectorHead(nn.Module):
    """One vector an atom: a bias-free linear map of all 1o channels, gated by the last layer's scalars."""

    def __init__(self, layout: FeatureLayout, hidden: int, rank: int) -> None:
        super().__init__()
        self.mix = GatedMix(sum(layer.vectors for layer in layout.layers), layout.layers[-1].scalars, hidden, 1)

    def forward(self, features: NodeFeatures) -> Tensor:
        """(N, 3)."""
        vector: Tensor = self.mix(_vectors(features.layers), features.layers[-1].scalars).squeeze(1)
        return vector


class TensorHead(nn.Module):
    """One symmetric traceless tensor an atom, from the 2e channels; from products of gated 1o channels without them."""

    def __init__(self, layout: FeatureLayout, hidden: int, rank: int) -> None:
        super().__init__()
        gates = layout.layers[-1].scalars
        tensors = sum(layer.tensors for layer in layout.layers)
        vectors = sum(layer.vectors for layer in layout.layers)
        self.tensors: GatedMix | None = None
        self.left: GatedMix | None = None
        self.right: GatedMix | None = None
        if tensors:
            self.tensors = GatedMix(tensors, gates, hidden, 1)
        else:
            self.left = GatedMix(vectors, gates, hidden, PRODUCT_CHANNELS)
            self.right = GatedMix(vectors, gates, hidden, PRODUCT_CHANNELS)

    def forward(self, features: NodeFeatures) -> Tensor:
        """(N, 3, 3)."""
        scalars = features.layers[-1].scalars
        if self.tensors is not None:
            channels = torch.cat([layer.tensors for layer in features.layers if layer.tensors is not None], 1)
            return spherical_to_cartesian(self.tensors(channels, scalars).squeeze(1))
        if self.left is None or self.right is None:
            raise ConfigError("this head was built without vector or tensor channels")
        vectors = _vectors(features.layers)
        left, right = self.left(vectors, scalars), self.right(vectors, scalars)
        return traceless(torch.einsum("nca,ncb->nab", left, right)) / math.sqrt(PRODUCT_CHANNELS)


class GatedMix(nn.Module):
    """Bias-free linear map of equivariant channels, each multiplied by 1 + a network of invariant gates first."""

    def __init__(self, channels: int, gates: int, hidden: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, channels) / math.sqrt(channels))
        self.gate = small_network(gates, hidden, channels)

    def forward(self, values: Tensor, scalars: Tensor) -> Tensor:
        """(N, channels, d), (N, gates) → (N, out, d)."""
        return torch.einsum("oc,ncd->nod", self.weight, values * (1.0 + self.gate(scalars))[:, :, None])


class EdgeHead(nn.Module):
    """One vector (rank 1) or symmetric traceless tensor (rank 2) an atom, from the edges of an invariant host.

    Each edge contributes its direction, or the traceless outer product of it, times a scalar weight of both atoms'
    scalars and the length. Weights are bias-free in the radial functions, which vanish smoothly at the cutoff.
    """

    def __init__(self, layout: FeatureLayout, hidden: int, rank: int) -> None:
        super().__init__()
        if layout.cutoff is None:
            raise ConfigError("edge heads need the host's edges and cutoff, which this adapter does not provide")
        self.rank = rank
        self.cutoff = float(layout.cutoff)
        self.norm = math.sqrt(max(layout.mean_neighbors, 1.0))
        scalars = layout.layers[-1].scalars
        self.at_centre = nn.Linear(scalars, hidden)
        self.at_neighbor = nn.Linear(scalars, hidden, bias=False)
        self.radial = nn.Linear(RADIAL_FUNCTIONS, hidden, bias=False)
        self.out = nn.Linear(hidden, 1, bias=False)

    def forward(self, features: NodeFeatures) -> Tensor:
        """(N, 3) or (N, 3, 3)."""
        edges = features.edges
        if edges is None:
            raise ConfigError("edge heads were called without edges")
        scalars = features.layers[-1].scalars
        length = torch.linalg.norm(edges.vector, dim=1, keepdim=True).clamp(min=1e-6)
        direction = edges.vector / length
        atoms = nn.functional.silu(self.at_centre(scalars)[edges.centre] + edges.at_neighbor(self.at_neighbor(scalars)))
        weight = self.out(atoms * self.radial(radial_functions(length, self.cutoff))) / self.norm
        if self.rank == 1:
            return scalars.new_zeros(scalars.shape[0], 3).index_add(0, edges.centre, weight * direction)
        outer = traceless(direction[:, :, None] * direction[:, None, :])
        return scalars.new_zeros(scalars.shape[0], 3, 3).index_add(0, edges.centre, weight[:, :, None] * outer)


def counter_charges(charge: Tensor, edges: Edges, cutoff: float) -> Transfers:
    """The transfers by which every charge gets a counter-charge, on the atom itself and around it.

    Atom j gets the part w_ij = f_ij / (1 + Σ_k f_ik) of −q_i and atom i itself the part w_ii = 1 / (1 + Σ_k f_ik), with
    f_ij = exp(−r²/2s²) (1 − r²/c²)³, s = 1.5 Å, c the cutoff: a smooth function of the positions, whatever enters or
    leaves the cutoff. Edges have to come in both directions, as those of hosts do.

    Args:
        charge: (N,) e, of the network.
        edges: of the host; those longer than the cutoff are given no part.
        cutoff: c, Å.

    Returns:
        Transfers of −w_ij q_i from i to j; their charges have a sum of zero over each structure.
    """
    part = neighbour_part(inside(edges.vector, cutoff), cutoff)
    whole = torch.ones_like(charge).index_add(0, edges.centre, part)
    own = charge / whole
    return Transfers(*edges[:3], -part * own[edges.centre], edges.halo)


def _initial_charges(layout: FeatureLayout, charges: Mapping[str, float]) -> Tensor:
    """(elements,) e; an element that is not named starts at zero."""
    if layout.elements is None:
        raise ConfigError("initial_charges: this adapter does not provide the species of the atoms; allowed: none")
    unknown = sorted(set(charges) - set(layout.elements))
    if unknown:
        raise ConfigError(
            f"initial_charges has {', '.join(unknown)}; allowed: the model's elements, {', '.join(layout.elements)}"
        )
    return torch.tensor([float(charges.get(element, 0.0)) for element in layout.elements])


def _vectors(layers: list[LayerFeatures]) -> Tensor:
    return torch.cat([layer.vectors for layer in layers if layer.vectors is not None], 1)


def _kind(layout: FeatureLayout, config: LongRangeConfig) -> str:
    """Either "equivariant" or "edge"; they differ only where vectors or tensors are asked for."""
    needs_directions = config.order >= 1 or config.response.dipole == "anisotropic"
    if config.heads == "equivariant" and needs_directions and not layout.has_vectors:
        raise ConfigError(
            "heads: equivariant needs vector (1o) features, which this model does not have before its last layer; "
            "allowed: heads: edge, or multipoles: [charge], or a host model with two layers and L >= 1"
        )
    if config.heads == "edge" or (config.heads == "auto" and needs_directions and not layout.has_vectors):
        if needs_directions and layout.cutoff is None:
            raise ConfigError("heads: edge needs the host's edges, which this adapter does not provide")
        return "edge"
    return "equivariant"
