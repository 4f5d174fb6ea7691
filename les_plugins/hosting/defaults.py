"""Our own heads, solvers and responses, offered by name through the same hooks as anybody else's.

Finding plugins imports this module, and no torch: the parts are imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from les_plugins.hosting.hookspecs import hookimpl

if TYPE_CHECKING:
    from les_plugins.config import LongRangeConfig
    from les_plugins.electrostatics import LatentElectrostatics
    from les_plugins.electrostatics.response.choice import ResponseModel
    from les_plugins.hosting.hookspecs import HeadsFactory, ResponseFactory, SolverFactory


@hookimpl
def les_heads() -> Mapping[str, HeadsFactory]:
    """Equivariant or edge heads (`les_plugins.model.heads`); "auto" takes the former where the host has vectors."""
    from les_plugins.model.heads import Heads

    return {"auto": Heads, "equivariant": Heads, "edge": Heads}


@hookimpl
def les_solvers() -> Mapping[str, SolverFactory]:
    """The layer (`les_plugins.electrostatics`), its periodic sum done in three ways, and nvalchemi-toolkit-ops'."""
    return {"auto": make_layer, "direct": make_layer, "mesh": make_layer, "nvalchemi": make_nvalchemi_layer}


@hookimpl
def les_responses() -> Mapping[str, ResponseFactory]:
    """To the permanent moments alone, or to all moments (`les_plugins.electrostatics.response`)."""
    from les_plugins.electrostatics.response.one_shot import one_shot_response

    return {"one_shot": lambda config: one_shot_response, "self_consistent": make_self_consistent_response}


def make_layer(config: LongRangeConfig) -> LatentElectrostatics:
    """The layer of a section."""
    from les_plugins.electrostatics import LatentElectrostatics

    return LatentElectrostatics.from_settings(config.electrostatics())


def make_nvalchemi_layer(config: LongRangeConfig) -> LatentElectrostatics:
    """The layer on nvalchemi-toolkit-ops, an optional package."""
    from les_plugins.electrostatics.nvalchemi import NvalchemiElectrostatics, check_response

    check_response(config.response.solve if config.has_response else None)
    return NvalchemiElectrostatics.from_settings(config.electrostatics())


def make_self_consistent_response(config: LongRangeConfig) -> ResponseModel:
    """Induced moments with mutual polarization."""
    from les_plugins.electrostatics.response.self_consistent import SelfConsistentResponse

    total_charge = "fixed" if config.response.conserve_charge else "free"
    return SelfConsistentResponse(config.response.tolerance, total_charge)
