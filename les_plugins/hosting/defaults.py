"""Our own heads, solver and response, offered through the same hooks as anybody else's."""

from __future__ import annotations

from torch import nn

from les_plugins.config import LongRangeConfig
from les_plugins.electrostatics import LatentElectrostatics
from les_plugins.electrostatics.layer import ResponseModel
from les_plugins.electrostatics.response.one_shot import one_shot_response
from les_plugins.electrostatics.response.self_consistent import SelfConsistentResponse
from les_plugins.hosting.hookspecs import hookimpl
from les_plugins.model.features import FeatureLayout
from les_plugins.model.heads import Heads


@hookimpl(trylast=True)
def les_make_heads(features: FeatureLayout, config: LongRangeConfig) -> nn.Module:
    """Equivariant or edge heads (`les_plugins.model.heads`)."""
    return Heads(features, config)


@hookimpl(trylast=True)
def les_make_solver(config: LongRangeConfig) -> LatentElectrostatics:
    """The layer (`les_plugins.electrostatics`)."""
    return LatentElectrostatics(
        sigma=config.sigma,
        dl=config.dl,
        remove_self_interaction=config.remove_self_interaction,
        method=config.method,
        response=config.response.solve if config.has_response else None,
        static_cell=config.static_cell,
        neutralize=config.neutralize,
        net_charge_warning=config.net_charge_warning,
        response_tolerance=config.response.tolerance,
        total_charge=config.response.total_charge,
        mesh_tolerance=config.mesh_tolerance,
    )


@hookimpl(trylast=True)
def les_make_response(config: LongRangeConfig) -> ResponseModel:
    """The one-shot response, or the self-consistent one (`les_plugins.electrostatics.response`)."""
    if config.response.solve == "self_consistent":
        return SelfConsistentResponse(config.response.tolerance, config.response.total_charge)
    return one_shot_response
