"""Polarization without phases in any host with conserved charges: laws that its tests call (theory 8.6)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from ase import Atoms

CONSERVED = {
    "total_charge": "conserved",
    "response": {"charge": False, "dipole": "anisotropic"},
    "epsilon_infinity": 1.78,
}
CHARGED = {**CONSERVED, "initial_charges": {"O": -0.6, "H": 0.3}}
FIELD = np.array([0.05, -0.1, 0.2])


def check_born_charges_of_transfers(calculator: Any, atoms: Atoms, periodic: bool) -> None:
    """The sum rule, the derivative of the dipole, and the same in a cell twice as long."""
    born = np.array(calculator.get_property("born_effective_charges", atoms))
    largest = np.abs(born).max()
    assert calculator.results["polarization_source"] == "transfers"
    assert np.abs(born.sum(0)).max() < 1e-10 * len(atoms) * largest  # rounding
    step = 1e-3
    dipoles = []
    for sign in (-1, 1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * step
        dipoles.append(np.array(calculator.get_property("dipole", moved)))
    # step² times the third derivative of the dipole
    np.testing.assert_allclose((dipoles[1] - dipoles[0]) / (2 * step), born[1, :, 2], rtol=0, atol=1e-4 * largest)
    if periodic:
        twice = calculator.get_property("born_effective_charges", atoms.repeat((2, 1, 1)))
        np.testing.assert_allclose(twice, np.concatenate([born, born]), rtol=0, atol=1e-6 * largest)
        waves = calculator.get_property("long_wave_born_charges", atoms)
        np.testing.assert_allclose(waves, born, rtol=0, atol=1e-12 * largest)


def check_current(calculator: Any, atoms: Atoms) -> None:
    """J is Z* times the velocities, from the evaluation of the forces, which are the same with it and without."""
    velocities = np.random.default_rng(0).normal(size=(len(atoms), 3))
    born = np.array(calculator.get_property("born_effective_charges", atoms))
    energy, forces = (calculator.get_property(name, atoms) for name in ("energy", "forces"))
    calculator.reset()
    calculator.always = ("current",)
    assert calculator.get_property("energy", atoms) == energy
    # derivatives may be added up in another order
    np.testing.assert_allclose(
        calculator.get_property("forces", atoms), forces, rtol=0, atol=1e-12 * np.abs(forces).max()
    )
    copy.deepcopy(calculator)  # a graph of torch cannot be copied: the copy has none
    calculator.always = ()
    assert "born_effective_charges" not in calculator.results
    expected = np.einsum("nab,nb->a", born, velocities)
    tolerance = 1e-10 * np.abs(born).max() * len(atoms)  # rounding
    np.testing.assert_allclose(calculator.current(velocities), expected, rtol=0, atol=tolerance)
    # the graph is gone: it is evaluated again
    np.testing.assert_allclose(calculator.current(-velocities, atoms), -expected, rtol=0, atol=tolerance)


def check_work_of_a_field(calculator: Any, atoms: Atoms) -> None:
    """In a crystal: what the field's forces do along a path is E·ΔP and the energy of what it induces."""
    way = 0.3 * np.random.default_rng(1).normal(size=(len(atoms), 3))
    steps, work = 16, 0.0
    frames = [atoms.copy() for _ in range(steps + 1)]
    for number, frame in enumerate(frames):
        frame.positions += number / steps * way
    dipoles = [np.array(calculator.get_property("dipole", frames[end])) for end in (0, -1)]
    calculator.external_field = FIELD
    energies = []
    for number, frame in enumerate(frames):
        calculator.get_property("forces", frame)
        pushed = calculator.results["field_forces"]
        work += (0.5 if number in (0, steps) else 1.0) / steps * float((pushed * way).sum())
        energies.append(calculator.results["energy"] - calculator.results["zero_field_energy"])
    calculator.external_field = None
    assert abs(work) > 1e-3
    gained = FIELD @ (dipoles[1] - dipoles[0]) - (energies[-1] - energies[0])
    np.testing.assert_allclose(work, gained, rtol=1e-2)  # the trapezoid rule with 16 steps
