"""What a uniform field does in molecular dynamics of any host: laws that the tests of each host call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from torch import nn

from les_plugins.dynamics import Field, Settings, Trajectory, run

FIELD = np.array([0.05, -0.1, 0.2])
_LONG_WAVES = ("long_wave_born_charges", "dynamical_quadrupoles")


def check_periodic_forces(calculator: Any, atoms: Atoms) -> None:
    """To first order in the field they are those without it plus E·Z*, first index polarization."""
    small = 1e-5
    without = calculator.get_property("forces", atoms).copy()
    born = calculator.get_property("born_effective_charges", atoms)
    assert np.abs(born - born.transpose(0, 2, 1)).max() > 1e-3 * np.abs(born).max()  # the two indices are told apart
    calculator.external_field = small * FIELD
    within = calculator.get_property("forces", atoms)
    expected = np.einsum("a,nab->nb", FIELD, born)
    # the second order, and rounding of the forces over the small field
    np.testing.assert_allclose((within - without) / small, expected, atol=2e-5 * np.abs(expected).max() + 1e-6)
    assert "stress" not in calculator.results
    calculator.external_field = None


def check_long_waves(calculator: Any, atoms: Atoms) -> None:
    """Dynamical quadrupoles and Z* of long waves turn with the crystal, cell and all."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ turn.T)
    turned.positions = atoms.positions @ turn.T
    before, after = ([calculator.get_property(name, frame) for name in _LONG_WAVES] for frame in (atoms, turned))
    for ours, theirs, indices in zip(before, after, ("ia,jb,nab->nij", "ib,ja,kc,nbac->nijk"), strict=True):
        assert np.abs(ours).max() > 1e-3
        expected = np.einsum(indices, *([turn] * (ours.ndim - 1)), ours)
        np.testing.assert_allclose(theirs, expected, atol=1e-9 * np.abs(ours).max())  # rounding, over k²


def check_one_evaluation(calculator: Any, model: nn.Module, atoms: Atoms) -> None:
    """Energy, forces, field and Born charges come from one evaluation, and the model keeps no hook of it."""
    calls: list[int] = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    calculator.always, calculator.external_field = ("born_effective_charges",), FIELD
    for name in ("forces", "born_effective_charges", "dipole"):
        assert np.isfinite(calculator.get_property(name, atoms)).all()
    calculator.always, calculator.external_field = (), None
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == hooks
    handle.remove()
    assert len(calls) == 1


def check_conserved_energy(calculator: Any, atoms: Atoms, folder: Path) -> None:
    """The work of a pulse is what the energy gains along a trajectory."""
    pulse = Field((0.0, 0.1, 0.3), center=0.6, width=0.5)
    settings = Settings.of(temperature=100.0, timestep=0.1, steps=12, every=2, field=pulse)
    run(calculator, atoms, folder / "md.h5", settings)
    found = Trajectory.open(folder / "md.h5")
    assert np.ptp(found["field_work"]) > 1e-4
    # the trapezoid rule and Verlet's step: both of second order in 0.1 fs
    assert np.ptp(found["conserved_energy"]) < 0.02 * np.ptp(found["kinetic_energy"])
