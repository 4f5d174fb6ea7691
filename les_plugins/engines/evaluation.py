"""One structure evaluated for an engine: energy, forces, virial, and Born effective charges that obey the sum rule.

The drivers of i-PI and LAMMPS call this with any ASE calculator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from les_plugins.data.evaluation import predict
from les_plugins.data.given_charge import charge_of_results
from les_plugins.data.labels import BORN
from les_plugins.data.metrics import Floats
from les_plugins.electrostatics.observables import enforce_asr, sum_rule_violation
from les_plugins.errors import HostError
from les_plugins.moved import renamed


@dataclass(frozen=True)
class StructureResult:
    """What an engine takes of one structure.

    Attributes:
        energy: eV.
        forces: (N, 3) eV/Å.
        virial: (3, 3) eV, −stress × volume; NaN where the calculator gives no stress, as of open structures: an
            engine that needs a pressure then says so, the others go on.
        born: (N, 3, 3) e, first index polarization, second displacement; None unless asked for.
        sum_rule_violation: largest element of the mean of Z*, e, before it was made zero; None without Z*.
        dipole: (3,) e·Å, or None.
        polarizability: (3, 3) e²·Å²/eV, or None.
    """

    energy: float
    forces: Floats
    virial: Floats
    born: Floats | None
    sum_rule_violation: float | None
    dipole: Floats | None
    polarizability: Floats | None


def evaluate_structure(
    calculator: Any, atoms: Atoms, where: str, born: bool = False, sum_rule: bool = True
) -> StructureResult:
    """Evaluate one structure.

    Args:
        calculator: ASE calculator, as of `les_plugins.load`.
        atoms: the structure.
        where: the engine's name, for messages.
        born: Born effective charges too.
        sum_rule: take the mean of Z* off every atom (acoustic sum rule), but for Q/N of a total charge Q.

    Raises:
        DataError: a prediction is NaN or infinite.
        LesPluginsError: what the calculator refuses.
    """
    names = ["energy", "forces", "charges", "dipole", "polarizability"]
    found = predict(
        calculator, atoms, names + ["stress"] * bool(atoms.pbc.all()) + [BORN] * born, f"{where}, {len(atoms)} atoms"
    )
    virial = np.full((3, 3), np.nan)
    if "stress" in found and atoms.pbc.all():
        virial = -atoms.get_volume() * voigt_6_to_full_3x3_stress(found["stress"])
    charges, violation = None, None
    if born:
        tensor, batch = torch.as_tensor(found[BORN]), torch.zeros(len(atoms), dtype=torch.long)
        total = torch.tensor([charge_of_results(calculator)], dtype=tensor.dtype)
        violation = float(sum_rule_violation(tensor, batch, total).abs().max())
        charges = (enforce_asr(tensor, batch, total) if sum_rule else tensor).numpy()
    return StructureResult(
        energy=float(found["energy"]),
        forces=found["forces"],
        virial=virial,
        born=charges,
        sum_rule_violation=violation,
        dipole=found.get("dipole"),
        polarizability=found.get("polarizability"),
    )


def check_born(calculator: Any, option: str) -> None:
    """HostError where a calculator predicts no Born charges; `option` is what asked for them."""
    if BORN not in calculator.implemented_properties or not getattr(calculator, "has_long_range", True):
        raise HostError(f"{option}: the model predicts no Born charges: it has no long-range part")


__getattr__ = renamed(__name__, {"Evaluation": "StructureResult", "evaluate": "evaluate_structure"})


def field_forces(born: Floats, field: Floats) -> Floats:
    """(N, 3) eV/Å of a uniform field (3,) V/Å on Z* (N, 3, 3): F_ib = Σ_a E_a Z*_iab (theory 7, linear term)."""
    forces: Floats = np.einsum("a,nab->nb", field, born)
    return forces
