"""`neutralize` of the section: the charges that a model reports are those in its energy, in every boundary."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from les_plugins import LatentElectrostatics, LongRangeConfig, Multipoles
from les_plugins.electrostatics import net_charge
from les_plugins.errors import GeometryError
from les_plugins.hosting.build import build_long_range
from les_plugins.model import long_range
from les_plugins.model.features import FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.heads import LatentVariables
from les_plugins.model.long_range import LongRange, LongRangeResult

LAYOUT = FeatureLayout((LayerLayout(4, 4, 0), LayerLayout(4)))
CELL = 8.0 * torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
#: Periodic, slab, open.
PBC = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
BATCH = torch.tensor([0] * 3 + [1] * 4 + [2] * 5)
GENERATOR = torch.Generator().manual_seed(0)
POSITIONS = 8.0 * torch.rand(12, 3, generator=GENERATOR, dtype=torch.float64)
CHARGE = torch.randn(12, generator=GENERATOR)
DIPOLE = 0.2 * torch.randn(12, 3, generator=GENERATOR)
SOFTNESS = torch.full((12,), 0.01)


class Given(nn.Module):
    """In the place of the heads."""

    def forward(self, features: NodeFeatures) -> LatentVariables:
        return LatentVariables(Multipoles(CHARGE, DIPOLE), SOFTNESS, None)


def evaluate(part: LongRange, positions: Tensor = POSITIONS) -> LongRangeResult:
    features = NodeFeatures([LayerFeatures(torch.randn(12, 4), torch.randn(12, 4, 3))] * 2)
    result: LongRangeResult = part(features, positions, CELL, PBC, BATCH)
    return result


def model(section: dict[str, Any]) -> LongRange:
    part = build_long_range(LAYOUT, LongRangeConfig.parse({"response": {"charge": True}, **section}))
    part.heads = Given()
    return part.eval()


@pytest.mark.parametrize(
    ("section", "neutral"),
    [
        ({}, (False, True, True)),
        ({"neutralize": "background"}, (False, True, True)),
        ({"neutralize": "shift"}, (True, True, True)),
        ({"neutralize": "keep"}, (False, False, False)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_the_charges_reported_are_those_in_the_energy(
    section: dict[str, Any], neutral: tuple[bool, ...], training: bool
) -> None:
    part = model(section).train(training)
    result = evaluate(part)
    charge = CHARGE.clone()
    for structure, taken_off in enumerate(neutral):
        if taken_off:
            here = torch.eq(BATCH, structure)
            charge[here] -= charge[here].mean()
    torch.testing.assert_close(result.permanent.charge, charge)
    layer = LatentElectrostatics().train(training)
    alone = layer(POSITIONS, CELL, PBC, BATCH, Multipoles(charge, DIPOLE), softness=SOFTNESS)
    # float32 heads: the mean is taken off in float32 here and there
    torch.testing.assert_close(result.energy, alone.energy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.charge, alone.charge, rtol=1e-5, atol=1e-5)
    potential = SOFTNESS.double() * result.potential
    torch.testing.assert_close(result.charge, result.permanent.charge.double() - potential)


def test_refuse_names_the_structure() -> None:
    with pytest.raises(GeometryError, match="structure 0 is periodic and carries a net charge of"):
        evaluate(model({"neutralize": "refuse"}))


@pytest.mark.parametrize("section", [{}, {"neutralize": "keep"}])
def test_forces_are_the_slope_of_the_energy_in_every_boundary(section: dict[str, Any]) -> None:
    part = model(section)

    class Moving(Given):
        def forward(self, features: NodeFeatures) -> LatentVariables:
            given = super().forward(features)
            charge = given.multipoles.charge.double() + 0.1 * positions[:, 0].sin()
            return given._replace(multipoles=Multipoles(charge, given.multipoles.dipole))

    part.heads = Moving()
    positions = POSITIONS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(evaluate(part, positions).energy.sum(), positions)
    for atom in (0, 4, 8):
        energies = []
        for step in (-1e-4, 1e-4):
            positions = POSITIONS.clone()
            positions[atom, 0] += step
            energies.append(float(evaluate(part, positions).energy.sum()))
        assert (energies[1] - energies[0]) / 2e-4 == pytest.approx(float(gradient[atom, 0]), rel=1e-6)  # theory 12


def warned(part: LongRange) -> list[tuple[float, float]]:
    """Net charge, e, and its energy, meV an atom, of every warning of an evaluation."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate(part)
    found = [re.search(r"net charge of (\S+) e, (\S+) meV an atom", str(each.message)) for each in caught]
    return [(float(match[1]), float(match[2])) for match in found if match]


@pytest.mark.parametrize("section", [{}, {"neutralize": "keep"}])
def test_the_warning_is_of_the_net_charge_that_the_coupling_lets_act(section: dict[str, Any]) -> None:
    part = model({"zero_init": True, **section})
    coupling = part.coupling
    assert isinstance(coupling, Tensor)
    assert float(evaluate(part).energy.abs().max()) == 0.0
    assert warned(part) == []
    coupling.data.fill_(1e-6)  # of some 1000 meV an atom
    assert warned(part) == []
    coupling.data.fill_(-0.25)
    ((charge, energy),), ((full_charge, full_energy),) = warned(part), warned(model(section))
    # 0.25 of the energy, and the charges that have it; four and three digits are said
    assert charge == pytest.approx(0.5 * full_charge, rel=1e-3)
    assert energy == pytest.approx(0.25 * full_energy, rel=1e-2)
    assert warned(part) == []  # once


def test_sections_of_before_read_as_the_default_energy() -> None:
    """They store 0.1, then e an atom, in every checkpoint."""
    for value, expected in ((0.1, 1.0), (0.3, 0.3), (None, None), (2, 2.0)):
        assert LongRangeConfig.parse({"net_charge_warning": value}).run.net_charge_warning == expected
    assert LongRangeConfig.parse({"neutralize": "background"}) == LongRangeConfig()


def test_layers_pickled_before_warn_at_the_default_energy() -> None:
    state = {**vars(LatentElectrostatics()), "response": "one_shot", "net_charge_warning": 0.1}
    del state["settings"]
    old = LatentElectrostatics.__new__(LatentElectrostatics)
    old.__setstate__(state)
    assert old.settings.net_charge_warning == 1.0


def test_the_mean_is_that_of_the_atoms_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks hold two and three atoms of one structure; the other's contribution is put in by hand."""

    class Ranks:
        others = ([3.0], [0.6])  # atoms and charge of the other rank

        def __init__(self) -> None:
            self.calls = iter(self.others)

        def sum(self, value: Tensor) -> Tensor:
            return value.detach() + torch.tensor(next(self.calls), dtype=value.dtype)

    charge, periodic = torch.tensor([0.5, -0.1], dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    batch = torch.zeros(2, dtype=torch.long)
    found = net_charge.neutralized(charge, periodic, batch, "shift", Ranks())  # type: ignore[arg-type]
    torch.testing.assert_close(found, charge - 1.0 / 5.0)

    given = []

    def listening(*arguments: Any) -> Tensor:
        given.append(arguments[-1])
        return CHARGE

    part = model({"neutralize": "shift"})
    part.electrostatics.ranks = ranks = Ranks()  # type: ignore[assignment]
    monkeypatch.setattr(long_range, "neutralized", listening)
    monkeypatch.setattr(LatentElectrostatics, "forward", lambda self, *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(part)
    assert given == [ranks]
