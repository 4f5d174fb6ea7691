"""Polarization, Born effective charges, currents, forces of a field, polarizability (theory 7–9) of given moments.

Models reach them through `model.physical`; solvers and tests call them with moments of their own.
"""

from les_plugins.electrostatics.observables.born import (
    Current,
    CurrentOfForces,
    born_effective_charges,
    born_of_carriers,
    enforce_asr,
    field_forces,
    field_forces_of_carriers,
    sum_rule_violation,
)
from les_plugins.electrostatics.observables.carriers import (
    Carriers,
    Mode,
    charge_of_total,
    polarization,
    polarization_modes,
)
from les_plugins.electrostatics.observables.screening import (
    electronic_dielectric_tensor,
    electronic_screening,
    electronic_susceptibility,
    system_polarizability,
)

__all__ = [
    "Carriers",
    "Current",
    "CurrentOfForces",
    "Mode",
    "born_effective_charges",
    "born_of_carriers",
    "charge_of_total",
    "electronic_dielectric_tensor",
    "electronic_screening",
    "electronic_susceptibility",
    "enforce_asr",
    "field_forces",
    "field_forces_of_carriers",
    "polarization",
    "polarization_modes",
    "sum_rule_violation",
    "system_polarizability",
]
