"""The ASE calculator of NequIP and Allegro models: charges, dipole, polarizability and Born charges beside NequIP's."""

from __future__ import annotations

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import numpy as np
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from nequip.data.transforms import NeighborListTransform
from nequip_models import batch_of, tiny_host, tiny_long_range, waters

from les_plugins.adapters.nequip.calculator import LesNequIPCalculator
from les_plugins.adapters.nequip.modules import ALL_LATENT, LATENT_BORN_CHARGES
from les_plugins.errors import DataError, HostError
from les_plugins.model.outputs import read_carriers

FULL = {"response": {"charge": True, "dipole": "anisotropic"}}


@pytest.fixture(scope="module", params=["nequip", "allegro"])
def architecture(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(architecture):
    return tiny_long_range(architecture, FULL)


def test_results_agree_with_the_model(model):
    atoms = waters()
    atoms.calc = LesNequIPCalculator(model)
    output = model(batch_of([atoms]))
    assert atoms.get_potential_energy() == pytest.approx(output["total_energy"].item(), rel=1e-14)
    np.testing.assert_allclose(atoms.get_forces(), output["forces"].numpy(), atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), output["stress"][0].numpy(), atol=1e-12)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    results = atoms.calc.results
    assert results["energy"] == pytest.approx(results["short_range_energy"] + results["long_range_energy"])
    assert results["charges"].shape == (12,)
    assert results["dipole"].shape == (3,)
    assert results["polarizability"].shape == (3, 3)


def test_physical_moments_carry_the_root_of_the_screening(model):
    atoms = waters()
    plain, screened = LesNequIPCalculator(model), LesNequIPCalculator(model, epsilon_infinity=4.0)
    for name, factor in (
        ("charges", 2.0),
        ("dipole", 2.0),
        ("born_effective_charges", 2.0),
        ("polarizability", 4.0),
    ):
        np.testing.assert_allclose(
            screened.get_property(name, atoms), factor * plain.get_property(name, atoms), rtol=1e-10
        )


def test_acoustic_sum_rule_holds_exactly_for_open_structures(model):
    born = LesNequIPCalculator(model).get_property("born_effective_charges", waters(pbc=False))
    assert np.abs(born.sum(0)).max() < 1e-9 * np.abs(born).max()  # translation invariance, to rounding


def test_born_charges_of_a_molecule_are_the_derivative_of_its_dipole(model):
    calculator = LesNequIPCalculator(model)
    atoms = waters(2, pbc=False)
    born = calculator.get_property("born_effective_charges", atoms)
    step = 1e-4
    for atom, axis in ((0, 0), (4, 2)):
        dipoles = []
        for shift in (-step, step):
            moved = atoms.copy()
            moved.positions[atom, axis] += shift
            moved_dipole = calculator.get_property("dipole", moved)
            # Z* is that of the mean-free charges (see docs/decisions/index.md)
            moved_charge = calculator.get_property("charges", moved).sum() / len(atoms)
            dipoles.append(moved_dipole - moved_charge * moved.positions.sum(0))
        difference = (dipoles[1] - dipoles[0]) / (2 * step)
        np.testing.assert_allclose(born[atom, :, axis], difference, atol=1e-6 * np.abs(born).max())  # step² d³P/dr³


@pytest.mark.parametrize("total_charge", ["conserved", "free"])
def test_what_the_compiled_target_returns_keeps_the_charge_that_the_calculators_does(total_charge):
    elements = {"initial_charges": {"H": 0.3, "O": -0.5}, "element_charges": "fixed"}
    section = {"multipoles": ["charge"], "neutralize": "keep", "total_charge": total_charge, **elements}
    model = tiny_long_range("nequip", {**section, "net_charge_warning": None}, num_layers=1)
    calculator, atoms = LesNequIPCalculator(model), waters(2)
    output = model({**batch_of([atoms]), ALL_LATENT: torch.ones(1, 1)})
    expected = calculator.get_property("born_effective_charges", atoms)
    np.testing.assert_allclose(output[LATENT_BORN_CHARGES].detach(), expected, rtol=0, atol=1e-10)  # rounding
    carried = read_carriers(output)
    assert carried is not None
    total = float(calculator.results["charges"].sum())
    assert abs(total) > 0.01
    if total_charge == "conserved":
        assert total == pytest.approx(2 * (2 * 0.3 - 0.5), abs=1e-6)  # the section's numbers in float32
    assert float(carried.charge.sum()) == pytest.approx(total, abs=1e-10)
    moment = carried.total(torch.tensor(atoms.positions), torch.zeros(6, dtype=torch.long), 1)[0]
    np.testing.assert_allclose(moment, calculator.results["dipole"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("wanted", ["energy", "born_effective_charges"])
def test_one_evaluation_makes_one_neighbour_list(model, monkeypatch, wanted):
    made, forward = [], NeighborListTransform.forward
    monkeypatch.setattr(NeighborListTransform, "forward", lambda self, data: made.append(1) or forward(self, data))
    LesNequIPCalculator(model).get_property(wanted, waters())
    assert len(made) == 1


def test_an_open_structure_has_no_stress(model):
    with pytest.raises(PropertyNotImplementedError):
        LesNequIPCalculator(model).get_property("stress", waters(pbc=False))


def test_a_short_range_model_says_that_it_has_no_electrostatics(architecture):
    calculator = LesNequIPCalculator(tiny_host(architecture))
    atoms = waters()
    assert calculator.get_property("long_range_energy", atoms) == 0.0
    with pytest.raises(PropertyNotImplementedError, match="no long-range part"):
        calculator.get_property("born_effective_charges", atoms)


def test_wrong_structures_and_type_names_raise_an_error(model):
    calculator = LesNequIPCalculator(model)
    foreign = waters()
    foreign.numbers[0] = 6
    with pytest.raises(DataError, match="does not know C; it knows: H, O"):
        calculator.get_potential_energy(foreign)
    broken = waters()
    broken.positions[0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        calculator.get_potential_energy(broken)
    named = tiny_long_range("nequip", FULL)
    named.type_names = ["A", "B"]
    with pytest.raises(HostError, match="no chemical symbol"):
        LesNequIPCalculator(named)


def test_making_a_calculator_leaves_nequips_property_list_alone(model):
    LesNequIPCalculator(model)
    assert "charges" not in LesNequIPCalculator.implemented_properties
