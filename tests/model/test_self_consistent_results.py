"""What a calculator makes of moments that answer each other: polarizability, screening, and the field's answer."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from test_external_field import EPSILON, FIELD, OPEN, PERIODIC, SLAB, TRICLINIC, gauge, moments, positions
from torch import Tensor

from les_plugins import LatentElectrostatics, LongRangeConfig
from les_plugins.electrostatics.long_waves import screening_of_longest_wave
from les_plugins.electrostatics.response.self_consistent import SelfConsistentResponse
from les_plugins.errors import ConfigError, LesPluginsWarning
from les_plugins.hosting.build import build_long_range
from les_plugins.hosting.calculator import LatentStructure, LongRangeCalculator, field_results, latent_results
from les_plugins.model.features import FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.long_range import LongRange, LongRangeResult
from les_plugins.units import VACUUM_PERMITTIVITY

TIGHT = {"response": "self_consistent", "response_tolerance": 1e-13}
BATCH = torch.zeros(4, dtype=torch.long)
TOTALS = pytest.mark.parametrize("total_charge", ["free", "fixed"])


def result(place: Tensor, pbc: Tensor, total_charge: str = "free", field: Tensor | None = None) -> LongRangeResult:
    permanent, softness, alpha = moments(place, 0.3)
    layer = LatentElectrostatics(**TIGHT, total_charge=total_charge)
    found = layer(
        place, TRICLINIC, pbc, BATCH, permanent, softness=softness, polarizability=alpha, external_field=field
    )
    collective = layer.collective_polarizability(place, TRICLINIC, pbc, BATCH, softness, alpha)
    return LongRangeResult(*found[:6], permanent, softness, alpha, collective)


@TOTALS
def test_a_molecule_in_a_field_has_the_energy_of_the_layer_its_forces_and_its_dipole(total_charge: str) -> None:
    place = positions().requires_grad_()
    without = result(place, OPEN, total_charge)
    total = torch.tensor([0.3], dtype=torch.float64)
    energy, forces, induced = field_results(
        LatentStructure(without, place, TRICLINIC, OPEN, EPSILON, total_charge=total), FIELD
    )
    field = FIELD.clone().requires_grad_()
    within = result(place, OPEN, total_charge, field)
    added = (within.energy - without.energy).sum() + field @ gauge(without, place)
    assert energy == pytest.approx(float(added.detach()), abs=1e-10)
    (slope, rate) = torch.autograd.grad(added, (place, field))
    np.testing.assert_allclose(forces, -slope.numpy(), atol=1e-10)
    moment = (
        latent_results(LatentStructure(without, place, TRICLINIC, OPEN, EPSILON, total_charge=total))["dipole"]
        + induced
    )
    np.testing.assert_allclose(moment, -rate.numpy(), atol=1e-10)


@TOTALS
def test_a_slab_in_a_field_along_its_normal_has_the_energy_of_the_layer_its_forces_and_its_dipole(
    total_charge: str,
) -> None:
    place = positions().requires_grad_()
    normal = torch.linalg.cross(TRICLINIC[0, 2], TRICLINIC[0, 0])
    normal = normal / normal.norm()
    strength = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    without = result(place, SLAB, total_charge)
    total = torch.tensor([0.3], dtype=torch.float64)
    within = result(place, SLAB, total_charge, strength * normal)
    energy, forces, induced = field_results(
        LatentStructure(without, place, TRICLINIC, SLAB, EPSILON, total_charge=total), 0.4 * normal
    )
    added = (within.energy - without.energy).sum() + strength * (normal @ gauge(without, place))
    assert energy == pytest.approx(float(added.detach()), abs=1e-10)
    slope, rate = torch.autograd.grad(added, (place, strength))
    np.testing.assert_allclose(forces, -slope.numpy(), atol=1e-10)
    moment = (
        latent_results(LatentStructure(without, place, TRICLINIC, SLAB, EPSILON, total_charge=total))["dipole"]
        + induced
    )
    assert float(moment @ normal.numpy()) == pytest.approx(-float(rate), abs=1e-10)


def test_screening_and_dielectric_tensor_of_a_crystal_are_those_of_its_collective_polarizability() -> None:
    place = positions()
    found = result(place, PERIODIC)
    crystal = latent_results(LatentStructure(found, place, TRICLINIC, PERIODIC, EPSILON))
    assert found.collective_polarizability is not None
    volume = float(torch.linalg.det(TRICLINIC[0]).abs())
    tensor = found.collective_polarizability.sum(0)
    screening = EPSILON / (1.0 + float(tensor.trace()) / 3.0 / (VACUUM_PERMITTIVITY * volume))
    neutral = crystal["latent_charges"] - crystal["latent_charges"].mean()
    np.testing.assert_allclose(crystal["charges"], screening**0.5 * neutral, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(crystal["polarizability"], screening * tensor.numpy(), rtol=1e-12, atol=1e-14)
    assert np.trace(crystal["dielectric_tensor"]) / 3.0 == pytest.approx(EPSILON, rel=1e-12)


LAYOUT = FeatureLayout((LayerLayout(4, 2, 0),))
SECTION = {"multipoles": ["charge", "dipole"], "response": {"charge": True, "dipole": "isotropic"}}


def part(**response: object) -> LongRange:
    torch.manual_seed(0)
    return build_long_range(LAYOUT, LongRangeConfig.parse({**SECTION, "response": {**SECTION["response"], **response}}))


def call(module: LongRange, place: Tensor) -> LongRangeResult:
    generator = torch.Generator().manual_seed(1)
    features = NodeFeatures(
        [LayerFeatures(torch.randn(4, 4, generator=generator), torch.randn(4, 2, 3, generator=generator), None)]
    )
    found: LongRangeResult = module(features, place, TRICLINIC, PERIODIC, BATCH)
    return found


def test_the_section_chooses_the_response_and_its_settings() -> None:
    module = part(solve="self_consistent", total_charge="fixed", tolerance=1e-10)
    model = module.electrostatics.response_model
    assert isinstance(model, SelfConsistentResponse)
    assert (model.tolerance, model.total_charge) == (1e-10, "fixed")
    place = positions()
    found = call(module, place)
    induced = found.charge - found.permanent.charge
    assert float(induced.detach().sum()) == pytest.approx(0.0, abs=1e-14)
    assert float(induced.detach().abs().max()) > 1e-4
    assert not torch.equal(found.energy, call(part(), place).energy)


def test_parameters_of_every_head_get_gradients_from_energy_and_forces() -> None:
    module, place = part(solve="self_consistent"), positions().requires_grad_()
    found = call(module, place)
    (gradient,) = torch.autograd.grad(found.energy.sum(), place, create_graph=True)
    (found.energy.sum() + gradient.square().sum()).backward()
    assert all(value.grad is not None and bool(value.grad.abs().sum() > 0.0) for value in module.heads.parameters())


class Watcher(LongRangeCalculator):
    """A calculator without a host."""

    implemented_properties: list[str] = []  # noqa: RUF012 (as ASE has it)
    has_long_range, epsilon_infinity = True, EPSILON


@pytest.mark.parametrize("solve", ["one_shot", "self_consistent"])
def test_a_calculator_asks_for_the_collective_polarizability_where_there_is_one(solve: str) -> None:
    module, place, watcher = part(solve=solve), positions(), Watcher()
    watcher.watch(module)
    watcher.results = {"energy": 0.0}
    with watcher.observing(None), torch.no_grad():
        found = call(module, place)
    watcher.finish(place, TRICLINIC, PERIODIC)
    one_shot = latent_results(LatentStructure(found, place, TRICLINIC, PERIODIC, EPSILON))["polarizability"]
    assert np.allclose(watcher.results["polarizability"], one_shot, rtol=1e-6) == (solve == "one_shot")


@pytest.mark.parametrize("name", ["long_wave_born_charges", "dynamical_quadrupoles"])
def test_long_waves_of_moments_that_answer_each_other_are_refused(name: str) -> None:
    watcher, place = Watcher(), positions().requires_grad_()
    watcher.watch(part(solve="self_consistent"))
    with watcher.observing([name]), pytest.raises(ConfigError, match="response is self_consistent; allowed: one_shot"):
        call(watcher._part, place)  # type: ignore[arg-type]


def test_a_calculator_warns_once_where_induced_charges_make_a_conductor_of_the_cell() -> None:
    module, watcher, place = part(), Watcher(), positions()
    watcher.watch(module)
    found = call(module, place)
    screened, _ = screening_of_longest_wave(found.softness, TRICLINIC[0])  # type: ignore[arg-type]
    assert found.softness is not None
    assert screened > 0.0
    with torch.no_grad():  # softplus of a large number is the number
        module.heads.softness.network[0][-1].bias += 0.2 / screened  # type: ignore[index, union-attr]
    with watcher.observing(None), torch.no_grad():
        with pytest.warns(LesPluginsWarning, match="induced charges take"):
            call(module, place)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(module, place)
