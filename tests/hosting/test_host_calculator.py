"""`LongRangeCalculator.calculate`: one evaluation of the host, and everything that follows from it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from torch import nn

from les_plugins import LongRangeConfig
from les_plugins.errors import DataError, HostError, LesPluginsWarning
from les_plugins.hosting.build import build_long_range
from les_plugins.hosting.calculator import LONG_RANGE_PROPERTIES, LongRangeCalculator
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures

HARTREE = 27.211386
WATER = Atoms("OHH", [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


class HostCalculator(Calculator):
    """Energy 0.5 and, with a part, its own; forces by differentiation. Counts its evaluations."""

    implemented_properties = ("energy", "forces")

    def __init__(self, part: nn.Module | None, unit: float = 1.0, edges_first: bool = False) -> None:
        super().__init__()
        self.part, self.unit, self.edges_first, self.evaluations = part, unit, edges_first, 0

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = ()) -> None:
        super().calculate(atoms, properties, system_changes)
        self.evaluations += 1
        leaf = torch.tensor(self.atoms.positions).requires_grad_(True)
        energy = 0.5 + 0.0 * leaf.sum()
        if self.part is not None:
            energy = energy + self.unit * self.part(*self._inputs(leaf)).energy.sum()
        (gradient,) = torch.autograd.grad(energy, leaf)
        self.results = {"energy": energy.item(), "forces": -gradient.numpy()}

    def _inputs(self, leaf: torch.Tensor) -> tuple[Any, ...]:
        pairs = torch.tensor([(i, j) for i in range(len(leaf)) for j in range(len(leaf)) if i != j]).T
        scalars = torch.tensor(self.atoms.numbers)[:, None] * torch.ones(1, 4, dtype=torch.float64)
        edges = Edges(*pairs, leaf[pairs[1]] - leaf[pairs[0]])
        given = leaf
        if self.edges_first:  # the long-range part is given positions of its own
            self.start_from(leaf)  # type: ignore[attr-defined]
            given = leaf + 0.0
        features = NodeFeatures([LayerFeatures(0.1 * scalars)], edges)
        batch = torch.zeros(len(leaf), dtype=torch.long)
        return features, given, torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.bool), batch


class Mine(LongRangeCalculator, HostCalculator):
    def __init__(self, part: nn.Module | None, **options: Any) -> None:
        super().__init__(part, **options)
        self.energy_unit = options.get("unit", 1.0)
        self.adopt(part, {1, 8}, {"susceptibility": 0.4})


@pytest.fixture
def part() -> nn.Module:
    torch.manual_seed(1)
    layout = FeatureLayout((LayerLayout(4),), cutoff=4.0)
    section = {"epsilon_infinity": 1.5, "multipoles": ["charge", "dipole"], "response": {"dipole": "isotropic"}}
    return build_long_range(layout, LongRangeConfig.parse(section)).double()


def test_a_calculator_offers_what_its_model_has(part: nn.Module) -> None:
    calculator = Mine(part)
    assert set(calculator.implemented_properties) >= {"energy", "forces", *LONG_RANGE_PROPERTIES}
    assert (calculator.epsilon_infinity, calculator.reference_susceptibility) == (1.5, 0.4)
    short = Mine(None)
    assert set(short.implemented_properties) == {"energy", "forces", "short_range_energy", "long_range_energy"}
    with pytest.raises(PropertyNotImplementedError, match="no long-range part"):
        short.get_property("born_effective_charges", WATER)
    assert HostCalculator.implemented_properties == ("energy", "forces")


def test_one_evaluation_gives_energies_charges_and_born_charges(part: nn.Module) -> None:
    calculator = Mine(part)
    calculator.calculate(WATER, ["energy", "born_effective_charges"])
    born = calculator.results["born_effective_charges"]
    assert calculator.evaluations == 1
    results = calculator.results
    assert results["short_range_energy"] == pytest.approx(0.5, abs=1e-14)
    assert results["energy"] == pytest.approx(0.5 + results["long_range_energy"], abs=1e-14)
    step, moved = 1e-4, WATER.copy()
    dipoles = []
    for sign in (1.0, -1.0):
        moved.positions = WATER.positions
        moved.positions[1, 0] += sign * step
        dipoles.append(calculator.get_property("dipole", moved))
    np.testing.assert_allclose((dipoles[0] - dipoles[1]) / (2.0 * step), born[1, :, 0], atol=1e-6)  # step² error


def test_born_charges_alone_take_no_derivative_of_the_energy(part: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    calculator, differentiate, passes = Mine(part), torch.autograd.grad, []

    def counted(outputs: Any, *args: Any, **options: Any) -> Any:
        passes.append(outputs)
        return differentiate(outputs, *args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    calculator.calculate(WATER, ["forces", "born_effective_charges"])
    together, with_energy = calculator.results.everything(), len(passes)
    passes.clear()
    calculator.reset()
    alone = calculator.get_property("born_effective_charges", WATER)
    assert len(passes) == with_energy - 1
    np.testing.assert_array_equal(alone, together["born_effective_charges"])
    assert set(calculator.results.everything()) == set(together) - {"energy", "forces", "short_range_energy"}
    for name in ("charges", "dipole", "long_range_energy"):
        np.testing.assert_array_equal(calculator.results[name], together[name])


def test_what_is_known_of_a_structure_stays_when_more_is_asked_of_it(part: nn.Module) -> None:
    calculator, moved = Mine(part), WATER.copy()
    calculator.get_property("born_effective_charges", WATER)
    forces = calculator.get_property("forces", WATER)
    assert calculator.evaluations == 2
    calculator.get_property("born_effective_charges", WATER)
    np.testing.assert_array_equal(calculator.get_property("forces", WATER), forces)
    assert calculator.evaluations == 2
    moved.positions[1, 0] += 0.1
    calculator.get_property("born_effective_charges", moved)
    assert "forces" not in calculator.results
    calculator.external_field = np.array([0.0, 0.0, 0.1])  # its forces come with Z*
    calculator.get_property("born_effective_charges", moved)
    assert np.abs(calculator.results["forces"] - forces).max() > 0.0


def test_another_leaf_gives_the_same_born_charges(part: nn.Module) -> None:
    plain, early = (
        Mine(part, edges_first=flag).get_property("born_effective_charges", WATER) for flag in (False, True)
    )
    np.testing.assert_allclose(early, plain, rtol=1e-12, atol=1e-12)


def test_the_long_range_energy_is_in_ev_whatever_the_hosts_unit(part: nn.Module) -> None:
    expected = Mine(part).get_property("long_range_energy", WATER)
    found = Mine(part, unit=1.0 / HARTREE)
    found.energy_unit = 1.0
    assert found.get_property("long_range_energy", WATER) == pytest.approx(expected, rel=1e-12)
    found.energy_unit = HARTREE
    found.reset()
    assert found.get_property("long_range_energy", WATER) == pytest.approx(HARTREE * expected, rel=1e-12)


def test_what_cannot_be_used_never_reaches_the_host(part: nn.Module) -> None:
    calculator = Mine(part)
    with pytest.raises(DataError, match="He"):
        calculator.get_property("energy", Atoms("He"))
    assert calculator.evaluations == 0


def test_a_host_that_leaves_the_part_out_is_an_error(part: nn.Module) -> None:
    calculator = Mine(part)
    calculator.part = None
    with pytest.raises(HostError, match="evaluated without its long-range part"):
        calculator.get_property("energy", WATER)


def test_calculate_without_a_structure_takes_the_last_one(part: nn.Module) -> None:
    calculator = Mine(part)
    expected = calculator.get_property("energy", WATER)
    calculator.reset()
    calculator.atoms = WATER.copy()
    calculator.calculate()
    assert calculator.results["energy"] == expected


def test_an_element_that_the_training_set_lacked_is_named_once(part: nn.Module) -> None:
    calculator = Mine(part)
    calculator.metadata = {"metadata": {"training": {"elements": ["H"]}}}
    with pytest.warns(LesPluginsWarning, match="has O"):
        calculator.calculate(WATER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.calculate(WATER)
        for known in ({"metadata": {"training": {"elements": ["H", "O"]}}}, {"metadata": {}}, {}):
            other = Mine(part)
            other.metadata = known
            other.calculate(WATER)
