"""Which response a layer has, by name or as a model. The layer and whoever builds it call it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from les_plugins.electrostatics.checks import one_of
from les_plugins.electrostatics.response.interaction import Interaction
from les_plugins.electrostatics.response.one_shot import InteractingResponse, Response, one_shot_response
from les_plugins.electrostatics.response.pair_flow import PairFlow, with_flow
from les_plugins.electrostatics.response.self_consistent import SelfConsistentResponse
from les_plugins.errors import ConfigError

#: A function with the call of `one_shot_response`, or an object that asks for the interaction of induced moments.
ResponseModel = Callable[[Tensor, Tensor, "Tensor | None", "Tensor | None"], Response] | InteractingResponse


def make_response(
    response: str | ResponseModel | None, tolerance: float = 1e-8, total_charge: str = "free"
) -> ResponseModel | None:
    """The model of a response.

    Args:
        response: "one_shot", "self_consistent", a model, or None.
        tolerance, total_charge: of the self-consistent one.

    Raises:
        ConfigError: an unknown name, or a setting outside what is allowed.
    """
    if response is not None and not isinstance(response, str):
        return response
    one_of("response", response, ("one_shot", "self_consistent", None))
    if response == "self_consistent":
        return SelfConsistentResponse(tolerance, total_charge)
    if total_charge != "free":
        raise ConfigError(f"total_charge is {total_charge!r}; allowed: 'free', or response='self_consistent'")
    return None if response is None else one_shot_response


def respond(
    model: ResponseModel,
    interaction: Callable[[], Interaction],
    potential: Tensor,
    field: Tensor,
    softness: Tensor | None,
    polarizability: Tensor | None,
    flow: PairFlow | None,
) -> Response:
    """What a model induces.

    Args:
        model: of the response.
        interaction: makes that of the call, for models that ask for it.
        potential: (N,) V; with an external field Φ_i − E·(r_i − r̄) for softness on atoms, Φ_i for pairs.
        field: (N, 3) V/Å, the external one included.
        softness, polarizability: as for `one_shot_response`.
        flow: pairs over which charge flows, or None.

    Raises:
        ConfigError: pairs, of a model that does not know them.
    """
    if flow is not None and not takes_pairs(model):
        raise ConfigError(
            f"pair_softness with the response {response_name(model)}, which induces charge on atoms alone; allowed: "
            "'one_shot', 'self_consistent' or a response whose takes_pairs is True"
        )
    if not isinstance(model, InteractingResponse):
        induced = model(potential, field, softness, polarizability)
        return induced if flow is None else with_flow(induced, flow, potential)
    arguments = (interaction(), potential, field, softness, polarizability)
    return model.respond(*arguments) if flow is None else model.respond(*arguments, flow=flow)  # type: ignore[call-arg]


def takes_pairs(model: ResponseModel | None) -> bool:
    """Whether charge can flow over pairs in this response."""
    return model is one_shot_response or bool(getattr(model, "takes_pairs", False))


def response_name(model: ResponseModel | None) -> str:
    """As it is printed: the same in every process for the same model and settings."""
    return getattr(model, "__qualname__", repr(model))
