"""Phonons and piezoelectric tensors of a crystal whose charge flows over pairs, through a calculator of ours."""

from __future__ import annotations

import numpy as np
import pytest
from pair_crystal import SECTION, PairCalculator, calculator, zinc_blende
from test_relaxed_piezoelectric import AtRest

from les_plugins.crystals import phonons
from les_plugins.crystals.piezoelectric import (
    clamped_piezoelectric_tensor,
    piezoelectric_tensor,
    relaxed_piezoelectric_tensor,
    voigt,
)
from les_plugins.units import VACUUM_PERMITTIVITY

CELL = zinc_blende()
PAIRS = pytest.mark.parametrize("softness", ["atoms", "edges"])


def of(softness: str) -> PairCalculator:
    return calculator(response={**SECTION["response"], "pair_softness": softness})


@PAIRS
def test_phonons_take_born_charges_that_keep_the_sum_rule_and_are_those_of_the_supercell(softness: str) -> None:
    pytest.importorskip("phonopy", reason="phonopy is not installed (extra phonons)")
    model = of(softness)
    phonon, supercells = phonons.displaced_supercells(CELL, (2, 2, 2))
    found = phonons.with_born_charges(phonons.phonons(model, phonon, supercells), model)
    assert found.sum_rule_violation is not None
    assert found.sum_rule_violation < 1e-12  # rounding: every term depends on differences of positions
    assert found.translation_violation < 1e-3  # eV/Å²: 0.01² of the displacement times a fourth derivative
    born = found.phonopy.nac_params["born"]
    of_supercell = model.get_property("born_effective_charges", supercells[-1])
    # no smallest wave vector is in them: rounding of sums over more pairs
    np.testing.assert_allclose(of_supercell[found.phonopy.supercell.u2s_map], born, rtol=0, atol=1e-10)
    without = calculator(response={"dipole": "isotropic"}).get_property("born_effective_charges", CELL)
    assert np.abs(without - born).max() > 0.01  # the flow has its part
    transverse, longitudinal = (
        (phonons.gamma_frequencies(found.phonopy, q) / found.phonopy.unit_conversion_factor) ** 2
        for q in (None, (0.0, 0.0, 1.0))
    )
    hydrogen, oxygen = found.phonopy.primitive.masses
    reduced = hydrogen * oxygen / (hydrogen + oxygen)
    splitting = born[0, 0, 0] ** 2 / (VACUUM_PERMITTIVITY * model.epsilon_infinity * CELL.get_volume() * reduced)
    assert longitudinal[-1] - transverse[-1] == pytest.approx(splitting, rel=1e-9)  # phonopy's own closed form


@PAIRS
def test_the_clamped_piezoelectric_tensor_does_not_depend_on_cell_and_images(softness: str) -> None:
    model = of(softness)
    found = clamped_piezoelectric_tensor(model, CELL)
    assert found.source == "transfers"
    scale = np.abs(found.proper).max()
    moved = CELL.repeat((2, 1, 1))
    moved.positions[[0, 3]] += moved.cell.array[1] - moved.cell.array[2]
    again = clamped_piezoelectric_tensor(model, moved)
    np.testing.assert_allclose(again.proper, found.proper, rtol=0, atol=1e-6 * scale)  # rounding over the strain
    shear = voigt(found.proper)
    expected = np.zeros((3, 6))
    expected[[0, 1, 2], [3, 4, 5]] = shear[0, 3]
    np.testing.assert_allclose(shear, expected, rtol=0, atol=1e-6 * scale)  # the symmetry of zinc blende


def test_the_relaxed_piezoelectric_tensor_is_that_of_ions_at_rest_in_strained_cells() -> None:
    model = of("atoms")
    found = relaxed_piezoelectric_tensor(model, CELL, distance=0.002)
    assert found.sum_rule_violation < 1e-12
    scale = np.abs(found.proper).max()
    assert np.abs(found.internal).max() > 0.5 * scale
    route = piezoelectric_tensor(AtRest(model), CELL, strain=3e-3)
    # third order in strain and displacement
    np.testing.assert_allclose(found.proper, route.proper, rtol=0, atol=1e-3 * scale)
