"""Polarizability of structures from that of their atoms, to the first or to every order of mutual polarization.

The layer's `collective_polarizability` calls it where such an order is asked for (theory 9.4).
"""

from __future__ import annotations

from torch import Tensor

from les_plugins.electrostatics.checks import one_of
from les_plugins.electrostatics.response.capacity import Capacity, capacity_of_atoms
from les_plugins.electrostatics.response.choice import ResponseModel
from les_plugins.electrostatics.response.interaction import Interaction
from les_plugins.electrostatics.response.minimum import Problem
from les_plugins.electrostatics.response.pair_flow import PairFlow
from les_plugins.electrostatics.response.self_consistent import SelfConsistentResponse

#: How often induced moments induce others: never, once (dipole–induced dipole), until nothing changes.
ORDERS: dict[str, int | None] = {"none": 0, "first_order": 1, "self_consistent": None}


class MutualPolarization(SelfConsistentResponse):
    """Mutual polarization of moments whose response knows of none: α of an atom is what it shows by itself.

    Its own smeared dipole is left out, i ≠ j in Σ α_i T_ij α_j, as it is in the one-shot response that the α were
    trained with. All orders exist for α below the inverse self-term, 3 σ³ (2π)^{3/2}/(2C) = 0.26 σ³ e²·Å²/eV (σ in Å)
    for certain, and beyond that where the structure allows it: Thole's polarization catastrophe is an error.
    Charge that flows over pairs has its self-term, without which a pair would gain by charging itself.
    """

    def __init__(self, tolerance: float = 1e-8) -> None:
        super().__init__(tolerance, "fixed")  # a uniform field brings no charge

    def _problem(
        self,
        interaction: Interaction,
        softness: Tensor | None,
        polarizability: Tensor | None,
        flow: PairFlow | None,
    ) -> tuple[Problem, Capacity]:
        """The equation, and K itself in the place of K'."""
        blocks = capacity_of_atoms(softness, polarizability)
        fixed = softness is not None
        problem = Problem(interaction, self.tolerance, fixed, flow)
        return problem, Capacity(blocks, None if flow is None else flow.pairs.value, flow)


def mutual_response(model: ResponseModel | None, order: str) -> SelfConsistentResponse:
    """What polarizes the moments of a layer mutually: its own self-consistent response, or `MutualPolarization`.

    Args:
        model: the layer's response.
        order: one of `ORDERS`.

    Raises:
        ConfigError: another order.
    """
    one_of("mutual", order, tuple(ORDERS))
    return model if isinstance(model, SelfConsistentResponse) else MutualPolarization()
