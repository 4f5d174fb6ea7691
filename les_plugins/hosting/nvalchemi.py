"""`method: nvalchemi`: the layer on nvalchemi-toolkit-ops, offered through `les_make_solver` before our own."""

from __future__ import annotations

from les_plugins.config import LongRangeConfig
from les_plugins.electrostatics import LatentElectrostatics
from les_plugins.hosting.hookspecs import hookimpl


@hookimpl
def les_make_solver(config: LongRangeConfig) -> LatentElectrostatics | None:
    """The layer for `method: nvalchemi`; None for every other method."""
    if config.method != "nvalchemi":
        return None
    from les_plugins.electrostatics.periodic.nvalchemi import NvalchemiElectrostatics

    return NvalchemiElectrostatics(
        sigma=config.sigma,
        dl=config.dl,
        remove_self_interaction=config.remove_self_interaction,
        response=config.response.solve if config.has_response else None,
        static_cell=config.static_cell,
        neutralize=config.neutralize,
        net_charge_warning=config.net_charge_warning,
        mesh_tolerance=config.mesh_tolerance,
    )
