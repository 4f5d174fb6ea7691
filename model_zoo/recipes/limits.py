"""What a model must not be used for, each with the number that shows it. `add.py` writes them on the cards.

What `limits` finds is computed from the model alone; what holds for all models of a set of data stands in data.json.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.units import Debye

from les_plugins.data.frames import read_frames
from les_plugins.data.labels import BORN
from les_plugins.storage import zoo

#: Measured of the free molecule: dipole (CRC Handbook), D; energy that takes one hydrogen off at 0 K (CRC), eV.
WATER_DIPOLE, WATER_BOND = 1.855, 5.10
#: A hydrogen that is taken off: its distance from oxygen, Å.
FAR = 3.0


def limits(calculator: Any, system: str, structure: str, long_range: bool) -> dict[str, float]:
    """Numbers by name; those of water also of the lone molecule."""
    atoms = read_frames(zoo.structure(structure))[0]
    found: dict[str, float] = {}
    if long_range:
        # of `charges` the mean is taken off
        found["net_charge_e"] = float(np.sum(calculator.get_property("latent_charges", atoms)))
        small = calculator.get_property(BORN, atoms)
        doubled = calculator.get_property(BORN, atoms * (2, 1, 1))[: len(atoms)]
        found["doubled_cell_slope"] = float((doubled * small).sum() / (small**2).sum())
        found["doubled_cell_largest_e"] = float(np.abs(doubled - small).max())
    if "water" in system:
        found |= lone_water(calculator, long_range)
    return found


def lone_water(calculator: Any, long_range: bool) -> dict[str, float]:
    """A molecule alone in open boundaries: its dipole, and the energy that pulls one hydrogen off."""
    water = molecule("H2O")
    found = {"water_bond_eV": _pulled(calculator, water)}
    if long_range:
        found["water_dipole_D"] = float(np.linalg.norm(calculator.get_property("dipole", water))) / Debye
    return found


def _pulled(calculator: Any, water: Atoms) -> float:
    """Energy of one hydrogen `FAR` from oxygen, less that of the molecule, eV."""
    away = water.copy()
    oxygen, hydrogen = away.positions[0].copy(), away.positions[1].copy()
    away.positions[1] = oxygen + FAR * (hydrogen - oxygen) / np.linalg.norm(hydrogen - oxygen)
    return float(calculator.get_property("energy", away) - calculator.get_property("energy", water))


def lines(found: dict[str, float], facts: dict[str, Any]) -> list[str]:
    """The section of the card: numbers of `limits`, and what data.json says of the system's data."""
    written = []
    if "net_charge_e" in found:
        net = found["net_charge_e"]
        fixed = abs(net) < 1e-4  # of 192 charges in float32
        written.append(
            "- Systems with a charge: "
            + (
                "charges always sum to zero."
                if fixed
                else "no charge can be given; latent charges of the packaged structure, with the induced ones, sum to "
                f"{net:+.2f} e."
            )
        )
        slope, largest = found["doubled_cell_slope"], found["doubled_cell_largest_e"]
        if largest > 1e-3:
            written.append(
                f"- Cells larger than the packaged structure: Z* of the doubled cell are {slope:.3f} times its own, "
                f"up to {largest:.3f} e apart."
            )
        else:
            written.append(
                f"- Z* do not depend on the cell: in the doubled one {slope:.4f} times, at most {largest:.0e} e apart."
            )
    if "water_dipole_D" in found:
        written.append(
            f"- Lone molecules: the dipole of one is {found['water_dipole_D']:.2f} D, measured {WATER_DIPOLE} D."
        )
    if "water_bond_eV" in found:
        written.append(
            f"- Dissociation: to pull one hydrogen {FAR:g} Å off a lone molecule takes {found['water_bond_eV']:.1f} eV, "
            f"measured {WATER_BOND:.1f} eV to take it away."
        )
    if "stress" not in facts.get("labels", ""):
        written.append(f"- Pressure, and runs at constant pressure: no stress was trained. {facts['pressure']}")
    if "constant_pressure" in facts:
        written.append(f"- Runs at constant pressure: {facts['constant_pressure']}")
    written.append(f"- Zero-point motion, as in path integrals: {facts['zero_point']}")
    return written
