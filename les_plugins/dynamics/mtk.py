"""ASE's integrator of Martyna, Tobias and Klein with 3N − 3 degrees of freedom and a state that is saved and put back.

The only module that reads what ASE keeps to itself. It looks when it is imported whether this ASE still has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ase
import numpy as np
from ase import Atoms, units
from ase.md.nose_hoover_chain import IsotropicMTKNPT

from les_plugins.data.metrics import Floats
from les_plugins.errors import HostError

#: Arrays and numbers that the next step depends on: (part of the integrator, attribute).
_STATE = (
    ("", "_q"),
    ("", "_p"),
    ("", "_eps"),
    ("", "_p_eps"),
    ("", "_cell0"),
    ("", "_volume0"),
    ("_thermostat", "_eta"),
    ("_thermostat", "_p_eta"),
    ("_barostat", "_xi"),
    ("_barostat", "_p_xi"),
)
#: What else is read or set here.
_CONSTANTS = (
    ("", "_pressure_au"),
    ("", "_get_volume"),
    ("", "_num_atoms_global"),
    ("_thermostat", "_num_atoms_global"),
    ("_thermostat", "_Q"),
    ("_barostat", "_num_atoms_global"),
    ("_barostat", "_W"),
)


class MTK(IsotropicMTKNPT):
    """Constant pressure and temperature by isotropic strain of the cell.

    Args:
        atoms: the structure, without constraints.
        timestep: ASE's unit of time.
        temperature: K.
        pressure: eV/Å³.
        thermostat_time: ASE's unit of time.
        barostat_time: ASE's unit of time.
        centre_rests: count 3N − 3 degrees of freedom: with ASE's 3N, N − 1 atoms' worth would get the heat of N.
    """

    def __init__(
        self,
        atoms: Atoms,
        timestep: float,
        temperature: float,
        pressure: float,
        thermostat_time: float,
        barostat_time: float,
        centre_rests: bool,
    ) -> None:
        super().__init__(
            atoms,
            timestep,
            temperature_K=temperature,
            pressure_au=pressure,
            tdamp=thermostat_time,
            pdamp=barostat_time,
        )
        if centre_rests:
            n_atoms = self._num_atoms_global
            for part in (self, self._thermostat, self._barostat):
                part._num_atoms_global = n_atoms - 1
            self._thermostat._Q[0] *= (n_atoms - 1) / n_atoms
            self._barostat._W *= n_atoms / (n_atoms + 1)

    def set_momenta(self, momenta: Floats) -> None:
        """Put momenta (N, 3) into the atoms and into what the integrator keeps of them."""
        self._p = momenta
        self.atoms.set_momenta(momenta)

    def bath_energy(self) -> float:
        """Energy of the baths and the piston, eV; ASE's own sum asks for a free energy, which not every one has."""
        baths = self._thermostat.get_thermostat_energy() + self._barostat.get_barostat_energy()
        piston = self._p_eps**2 / (2.0 * self._barostat.W) + self._pressure_au * self._get_volume()
        return float(baths + piston)

    def state(self) -> dict[str, Any]:
        """Arrays by name."""
        return {f"{part}.{name}": np.array(getattr(_part(self, part), name)) for part, name in _STATE}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned; KeyError or ValueError where it is not that."""
        for part, name in _STATE:
            value, holder = np.array(state[f"{part}.{name}"]), _part(self, part)
            if value.shape != np.shape(getattr(holder, name)) or not np.isfinite(value).all():
                raise ValueError(f"{part}.{name} of shape {value.shape} or not finite")
            setattr(holder, name, float(value) if value.ndim == 0 else value)


def check(integrator: Any) -> None:
    """Raise HostError where ASE's integrator has not the parts that this module reads."""
    for part, name in (*_STATE, *_CONSTANTS):
        if not hasattr(_part(integrator, part), name):
            where = ".".join(["IsotropicMTKNPT", *filter(None, [part]), name])
            raise HostError(
                f"npt does not know ASE {ase.__version__}, whose integrator has no {where}: install ase>=3.25,<3.30"
            )


def _part(integrator: Any, name: str) -> Any:
    return getattr(integrator, name, None) if name else integrator


def _smallest() -> Any:
    """ASE's own integrator on two atoms, which compute nothing."""
    atoms = Atoms("H2", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]], cell=[4.0, 4.0, 4.0], pbc=True)
    return IsotropicMTKNPT(atoms, units.fs, temperature_K=1.0, pressure_au=0.0, tdamp=units.fs, pdamp=units.fs)


check(_smallest())
