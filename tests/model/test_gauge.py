"""The common sign of the latent moments: a convention that changes no energy and depends on no reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from torch import nn

from les_plugins import LongRangeConfig
from les_plugins.errors import GeometryError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.gauge import ELECTRONEGATIVITY, change_sign, covariance_with_electronegativity, read_sign
from les_plugins.model.long_range import LongRange, LongRangeResult

HYDROGEN, HELIUM, OXYGEN = 1, 2, 8


@pytest.fixture
def model() -> nn.Module:
    config = LongRangeConfig.parse({"response": {"charge": True, "dipole": "isotropic"}})
    return nn.ModuleDict({"inner": nn.ModuleList([build_long_range(FeatureLayout((LayerLayout(4, 3),)), config)])})


def evaluate(model: nn.Module) -> LongRangeResult:
    (part,) = (module for module in model.modules() if isinstance(module, LongRange))
    generator = torch.Generator().manual_seed(5)
    features = LayerFeatures(torch.randn(4, 4, generator=generator), torch.randn(4, 3, 3, generator=generator))
    places = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    cell, pbc, batch = torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.bool), torch.zeros(4, dtype=torch.long)
    result: LongRangeResult = part(NodeFeatures([features]), places, cell, pbc, batch)
    return result


def test_turning_the_sign_changes_every_moment_and_no_energy(model: nn.Module) -> None:
    before = evaluate(model)
    change_sign(model)
    after = evaluate(model)
    assert torch.equal(after.energy, before.energy)
    assert torch.equal(after.atomic_energy, before.atomic_energy)
    for name in ("charge", "dipole", "potential", "field"):
        assert torch.equal(getattr(after, name), -getattr(before, name)), name
    for old, new in zip(before.permanent, after.permanent, strict=True):
        assert torch.equal(new, -old)
    assert torch.equal(after.softness, before.softness)
    assert torch.equal(after.polarizability, before.polarizability)


def test_the_sign_is_part_of_the_saved_state(model: nn.Module) -> None:
    change_sign(model)
    assert [name for name, value in model.state_dict().items() if name.endswith("gauge") and value == -1.0]


def test_a_model_without_a_long_range_part_is_left_alone() -> None:
    change_sign(nn.Linear(1, 1))


def test_the_covariance_is_over_atoms_and_an_offset_of_all_charges_is_not_in_it() -> None:
    charges = {HYDROGEN: [0.2, 0.4], OXYGEN: [-0.6]}
    rating = np.array([ELECTRONEGATIVITY[HYDROGEN]] * 2 + [ELECTRONEGATIVITY[OXYGEN]])
    expected = np.cov(rating, [0.2, 0.4, -0.6], bias=True)[0, 1]
    assert covariance_with_electronegativity(charges)[0] == pytest.approx(expected, rel=1e-12)
    shifted = {z: [value + 1.5 for value in values] for z, values in charges.items()}
    assert covariance_with_electronegativity(shifted)[0] == pytest.approx(expected, rel=1e-12)
    assert ELECTRONEGATIVITY[HELIUM] == 0.0
    assert covariance_with_electronegativity({**charges, HELIUM: [5.0]})[0] == pytest.approx(expected, rel=1e-12)


def test_the_noise_is_the_standard_error_of_the_covariance() -> None:
    random = np.random.default_rng(1)
    drawn = [
        covariance_with_electronegativity(
            {HYDROGEN: random.normal(0.3, 0.2, 24), OXYGEN: random.normal(-0.6, 0.5, 12)}  # type: ignore[dict-item]
        )
        for _ in range(400)
    ]
    covariance, noise = np.transpose(drawn)
    # 400 draws know a standard deviation to 4 %
    assert noise.mean() == pytest.approx(covariance.std(), rel=0.15)


class Charges(Calculator):
    """Z* of fixed isotropic charges by element, with scatter, and a count of evaluations."""

    implemented_properties = ["energy", "born_effective_charges"]  # noqa: RUF012 (as ASE has it)

    def __init__(self, charges: dict[int, float], scatter: float = 0.0) -> None:
        super().__init__()
        self.charges, self.width, self.seen, self.random = charges, scatter, 0, np.random.default_rng(3)

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = ()) -> None:
        self.seen += 1
        if len(atoms) == 7:
            raise GeometryError("seven atoms")
        mean = [self.charges[int(z)] for z in atoms.numbers]
        values = self.random.normal(mean, self.width)
        self.results = {"energy": 0.0, "born_effective_charges": values[:, None, None] * np.eye(3)}


def water(count: int = 1) -> Atoms:
    return Atoms("OHH" * count, np.random.default_rng(0).normal(size=(3 * count, 3)))


def test_an_electronegative_element_ends_negative() -> None:
    right, wrong = {HYDROGEN: 0.2, OXYGEN: -0.4}, {HYDROGEN: -0.2, OXYGEN: 0.4}
    found = read_sign(Charges(right), [water()])
    assert found.decided
    assert not found.turned
    found = read_sign(Charges(wrong), [water(), water(2)])
    assert found.decided
    assert found.turned
    assert found.frames == 2


def test_all_elements_count_as_their_atoms_do() -> None:
    """A perovskite whose nitrogen is slightly negative and whose iodine is positive: the iodine tells the sign."""
    carbon, nitrogen, iodine, lead = 6, 7, 53, 82
    charge = {HYDROGEN: 0.04, carbon: 0.02, nitrogen: -0.13, iodine: 0.51, lead: 0.10}
    cell = Atoms([HYDROGEN] * 6 + [carbon, nitrogen, iodine, iodine, iodine, lead])
    assert read_sign(Charges(charge), [cell]).turned
    assert not read_sign(Charges({z: -value for z, value in charge.items()}), [cell]).turned


def test_structures_of_one_element_do_not_decide_wherever_they_stand() -> None:
    frames = [Atoms("H"), Atoms("O"), Atoms("H2", [[0, 0, 0], [0, 0, 1.0]]), Atoms("O")] * 5
    calculator = Charges({HYDROGEN: -0.2, OXYGEN: 0.4})
    for some in ([*frames, water()], [water(), *frames]):
        found = read_sign(calculator, some)
        assert (found.decided, found.turned, found.frames) == (True, True, 1)
    found = read_sign(calculator, frames)
    assert (found.decided, found.turned) == (False, False)
    assert "different electronegativity" in found.reason


def test_charges_that_scatter_more_than_elements_differ_do_not_decide() -> None:
    calculator = Charges({HYDROGEN: -0.001, OXYGEN: 0.001}, scatter=0.5)
    found = read_sign(calculator, [water() for _ in range(40)])
    assert not found.decided
    assert found.noise > abs(found.covariance) / 3
    assert found.frames == calculator.seen == 16  # it looked further, but not at everything
    assert not read_sign(Charges({HYDROGEN: 1e-9, OXYGEN: -1e-9}), [water()]).decided  # round-off


def test_a_structure_that_cannot_be_evaluated_is_passed_over() -> None:
    odd = Atoms("OHHOHHH", np.random.default_rng(0).normal(size=(7, 3)))
    calculator = Charges({HYDROGEN: -0.2, OXYGEN: 0.4})
    assert read_sign(calculator, [odd, water(), water()]).turned
    found = read_sign(calculator, [odd])
    assert not found.decided
    assert "frame 0: seven atoms" in found.reason
