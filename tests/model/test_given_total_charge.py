"""`total_charge: given`: charges add up to what a structure brings, at a price, and everything stays consistent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from few_atoms import CUTOFF
from torch import Tensor, nn

from les_plugins import LatentElectrostatics, LongRangeConfig, Multipoles
from les_plugins.electrostatics.lattice import open_directions
from les_plugins.electrostatics.total_charge import spread_total_charge
from les_plugins.errors import ConfigError, GeometryError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.heads import LatentVariables
from les_plugins.model.long_range import LongRange, LongRangeResult
from les_plugins.model.physical import LatentStructure, born_results, field_results, latent_results

LAYOUT = FeatureLayout((LayerLayout(4),), cutoff=CUTOFF, elements=("H", "O"))
BARE = LAYOUT._replace(cutoff=None)
LAYOUTS = pytest.mark.parametrize("layout", [LAYOUT, BARE], ids=["edges", "no edges"])
EPSILON = 1.78
CELL = torch.tensor([[9.0, 0.2, 0.0], [0.4, 8.5, 0.3], [-0.3, 0.5, 9.5]], dtype=torch.float64)
#: Periodic, slab, open, and an empty structure.
PBC = torch.tensor([[True, True, True], [True, False, True], [False, False, False], [False, False, False]])
TOTAL = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
BATCH = torch.tensor([0] * 3 + [1] * 4 + [2] * 3)
PLACES = torch.tensor(np.random.default_rng(5).uniform(-2.0, 2.0, (10, 3)))
SPECIES = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 0, 1])


def features(places: Tensor, batch: Tensor = BATCH, species: Tensor = SPECIES) -> NodeFeatures:
    """Smooth functions of the distances in each structure, with the graph to the positions."""
    together = (batch[:, None] == batch[None]) & ~torch.eye(len(batch), dtype=torch.bool)
    centre, neighbor = torch.nonzero(together, as_tuple=True)
    vector = places[neighbor] - places[centre]
    square = vector.square().sum(1)
    columns = [torch.exp(-square / width) * (1.0 + species[neighbor]) for width in (1.0, 2.0, 4.0)]
    near = torch.zeros(len(batch), 3, dtype=places.dtype).index_add(0, centre, torch.stack(columns, 1))
    scalars = torch.cat([species[:, None].to(places.dtype), near], 1)
    return NodeFeatures([LayerFeatures(scalars)], Edges(centre, neighbor, vector), species)


def model(layout: FeatureLayout = LAYOUT, **changes: Any) -> LongRange:
    torch.manual_seed(0)
    section = {"multipoles": ["charge"], "total_charge": "given", "epsilon_infinity": EPSILON, **changes}
    return build_long_range(layout, LongRangeConfig.parse(section)).double().eval()


def evaluate(
    part: LongRange,
    places: Tensor = PLACES,
    total: Tensor | None = TOTAL,
    batch: Tensor = BATCH,
    pbc: Tensor = PBC,
    species: Tensor = SPECIES,
) -> LongRangeResult:
    found: LongRangeResult = part(
        features(places, batch, species), places, CELL.expand(len(pbc), 3, 3), pbc, batch, total_charge=total
    )
    return found


def one(number: int) -> dict[str, Tensor]:
    """The arguments of one structure of the batch alone."""
    atoms = number == BATCH
    return {
        "places": PLACES[atoms],
        "total": TOTAL[[number]],
        "batch": torch.zeros(int(atoms.sum()), dtype=torch.long),
        "pbc": PBC[[number]],
        "species": SPECIES[atoms],
    }


class Told(nn.Module):
    """In the place of the heads."""

    def __init__(self, latent: LatentVariables) -> None:
        super().__init__()
        self.latent = latent

    def forward(self, features: NodeFeatures) -> LatentVariables:
        return self.latent


@LAYOUTS
def test_charges_add_up_to_what_each_structure_brings_over_the_root_of_its_screening(layout: FeatureLayout):
    found = evaluate(model(layout))
    sums = torch.zeros(4, dtype=torch.float64).index_add(0, BATCH, found.charge)
    torch.testing.assert_close(
        sums, torch.tensor([1.0 / EPSILON**0.5, -2.0, 0.5, 0.0], dtype=torch.float64), rtol=0, atol=1e-14
    )
    torch.testing.assert_close(found.permanent.charge, found.charge)
    torch.testing.assert_close(found.total_charge, TOTAL)
    energies = torch.zeros(4, dtype=torch.float64).index_add(0, BATCH, found.atomic_energy)
    torch.testing.assert_close(energies, found.energy, rtol=0, atol=1e-12)


def test_the_energy_is_that_of_the_spread_charges_and_of_the_spreading_by_hand():
    part = model()
    generator = torch.Generator().manual_seed(2)
    charge, chi = (torch.randn(10, generator=generator, dtype=torch.float64) for _ in range(2))
    kappa = torch.rand(10, generator=generator, dtype=torch.float64) + 0.1
    part.heads = Told(LatentVariables(Multipoles(charge), None, None, electronegativity=chi, charge_softness=kappa))
    found = evaluate(part)
    expected, price = charge.clone(), torch.zeros(4, dtype=torch.float64)
    for number, total in enumerate((1.0 / EPSILON**0.5, -2.0, 0.5)):
        atoms = number == BATCH
        missing, weight = total - charge[atoms].sum(), kappa[atoms] / kappa[atoms].sum()
        expected[atoms] += weight * missing
        price[number] = missing * (weight * chi[atoms]).sum() + 0.5 * missing**2 / kappa[atoms].sum()
    torch.testing.assert_close(found.charge, expected)
    layer = LatentElectrostatics(net_charge_warning=None)
    direct = layer(PLACES, CELL.expand(4, 3, 3), PBC, BATCH, Multipoles(expected))
    torch.testing.assert_close(found.energy, direct.energy + price, rtol=0, atol=1e-12)


def test_the_spreading_is_the_minimum_of_charge_equilibration():
    """Σ χ δ + ½ Σ δ²/κ over δ with Σ δ = Δ: its part that depends on Δ, for one χ."""
    kappa = torch.tensor([0.02, 0.05, 0.01], dtype=torch.float64)
    chi, zero = torch.full((3,), 4.2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    found = spread_total_charge(zero, torch.tensor([-1.0]).double(), kappa, chi, torch.zeros(3, dtype=torch.long))
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[:3, :3], matrix[3, :3], matrix[:3, 3] = torch.diag(1.0 / kappa), 1.0, 1.0
    solved = torch.linalg.solve(matrix, torch.cat([-chi, torch.tensor([-1.0]).double()]))[:3]
    torch.testing.assert_close(found.charge, solved)
    energy = (chi * solved).sum() + 0.5 * (solved**2 / kappa).sum()
    torch.testing.assert_close(found.atomic_energy.sum(), energy)


@LAYOUTS
def test_a_batch_of_structures_with_different_charges_is_each_of_them_alone(layout: FeatureLayout):
    part = model(layout)
    together = evaluate(part)
    for number in range(3):
        alone = evaluate(part, **one(number))
        torch.testing.assert_close(alone.energy[0], together.energy[number], rtol=0, atol=1e-12)
        torch.testing.assert_close(alone.charge, together.charge[number == BATCH], rtol=0, atol=1e-13)


def test_charges_that_add_up_already_are_left_alone_and_cost_nothing():
    charge = torch.tensor([0.6, -0.4, 0.8], dtype=torch.float64)
    one, where = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    found = spread_total_charge(charge, charge.sum()[None], one, one, where)
    torch.testing.assert_close(found.charge, charge)
    assert float(found.atomic_energy.abs().max()) < 1e-15  # rounding of the sum


@LAYOUTS
def test_forces_are_the_slope_of_the_energy_and_can_be_differentiated(layout: FeatureLayout):
    part = model(layout)
    for number in range(3):
        given = one(number)

        def energy(places: Tensor, given: dict[str, Tensor] = given) -> Tensor:
            return evaluate(part, **{**given, "places": places}).energy.sum()

        leaf = given["places"].clone().requires_grad_()
        # one projection of each, as strict once a wrong entry is not orthogonal to it
        assert torch.autograd.gradcheck(energy, leaf, atol=1e-6, fast_mode=True)
        assert torch.autograd.gradgradcheck(energy, leaf, atol=1e-5, fast_mode=True)
    parameters = dict(part.named_parameters())
    evaluate(part).energy.sum().backward()
    for name in ("electronegativity", "charge_softness"):
        used = [parameter.grad for key, parameter in parameters.items() if name in key]
        assert used
        assert all(grad is not None and bool(torch.isfinite(grad).all()) for grad in used)


def test_the_energy_does_not_depend_on_the_order_of_atoms_or_on_the_place():
    part = model()
    before = evaluate(part)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(4))
    swapped = evaluate(part, PLACES[order], batch=BATCH[order], species=SPECIES[order])
    torch.testing.assert_close(swapped.energy, before.energy, rtol=0, atol=1e-12)
    torch.testing.assert_close(swapped.charge, before.charge[order], rtol=0, atol=1e-13)
    moved = evaluate(part, PLACES + torch.tensor([3.0, -1.0, 5.0]))
    torch.testing.assert_close(moved.energy, before.energy, rtol=0, atol=1e-11)  # phases of other places


def test_the_other_sign_of_the_moments_is_that_of_the_other_charge():
    part = model()
    before = evaluate(part)
    part.flip_gauge()
    after = evaluate(part, total=-TOTAL)
    torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=1e-13)
    torch.testing.assert_close(after.charge, -before.charge, rtol=0, atol=1e-14)
    assert not torch.allclose(evaluate(part).energy[:3], before.energy[:3], atol=1e-3)
    part.zero()
    assert float(evaluate(part).energy.detach().abs().max()) == 0.0


@pytest.mark.parametrize("kind", ["open", "slab"])
def test_dipole_born_charges_and_forces_in_a_field_of_an_ion_agree_by_finite_differences(kind: str):
    part = model(response={"charge": True, "dipole": "isotropic"})
    given = one({"slab": 1, "open": 2}[kind])
    total, pbc, cell, step = given["total"], given["pbc"], CELL[None], 1e-4
    along = open_directions(cell, pbc)[0]
    field = along @ torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)

    def physical(places: Tensor, field: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        leaf = places.clone().requires_grad_()
        found = evaluate(part, **{**given, "places": leaf})
        structure = LatentStructure(found, leaf, cell, pbc, EPSILON, total_charge=total)
        dipole = latent_results(structure)["dipole"]
        born = born_results(structure)
        energy, forces, induced = field_results(structure, field)
        (slope,) = torch.autograd.grad(found.energy.sum(), leaf)
        return dipole + induced, born, forces - slope.numpy(), float(found.energy.detach().sum()) + energy

    def energy(field: Tensor) -> float:
        return physical(given["places"], field)[3]

    dipole, _, forces, _ = physical(given["places"], field)
    born = physical(given["places"], 0.0 * field)[1]
    charge, projector = float(total), along.numpy()
    np.testing.assert_allclose(projector @ born.sum(0), charge * projector, atol=1e-11)
    np.testing.assert_allclose(projector @ forces.sum(0), charge * field.numpy(), atol=1e-11)
    for axis in range(3):
        shift = torch.zeros_like(given["places"])
        shift[1, axis] = step
        up, down = (physical(given["places"] + sign * shift, field) for sign in (1, -1))
        assert forces[1, axis] == pytest.approx(-(up[3] - down[3]) / (2 * step), abs=1e-6)  # step² times a derivative
        plain = [physical(given["places"] + sign * shift, 0.0 * field)[0] for sign in (1, -1)]
        slope = projector @ (plain[0] - plain[1]) / (2 * step)
        np.testing.assert_allclose(projector @ born[1, :, axis], slope, atol=1e-6)
    for direction in along[(along.norm(dim=1) > 0.5)]:  # −dU/dE along the directions that have positions
        unit = direction / direction.norm()
        slope = (energy(field + 1e-3 * unit) - energy(field - 1e-3 * unit)) / 2e-3  # quadratic in the field
        assert slope == pytest.approx(-float(torch.tensor(dipole) @ unit), abs=1e-8)


def test_one_susceptibility_scales_the_charges_of_periodic_structures_and_is_learned_in_training_alone():
    part = model(response={"dipole": "isotropic"})
    assert part.total_charge is not None
    before = evaluate(part)
    assert float(part.total_charge.mean_susceptibility) == 0.0
    part.train()
    evaluate(part)
    chi = float(part.total_charge.mean_susceptibility)
    assert before.polarizability is not None
    volume = float(torch.linalg.det(CELL).abs())
    expected = float(before.polarizability.detach()[BATCH == 0].sum()) / (5.52635e-3 * volume)  # ε0 in e²/(eV·Å)
    assert chi == pytest.approx(expected, rel=1e-4)  # digits of ε0
    part.eval()
    found = evaluate(part)
    assert float(found.permanent.charge.detach()[BATCH == 0].sum()) == pytest.approx(
        ((1.0 + chi) / EPSILON) ** 0.5, abs=1e-13
    )
    assert float(part.total_charge.mean_susceptibility) == chi
    part.train().requires_grad_(False)  # as a host's trainer evaluates
    evaluate(part)
    assert float(part.total_charge.mean_susceptibility) == chi


def test_the_mean_susceptibility_is_kept_among_the_weights():
    part = model(response={"dipole": "isotropic"}).train()
    evaluate(part)
    again = model(response={"dipole": "isotropic"})
    again.load_state_dict(part.state_dict())
    torch.testing.assert_close(evaluate(again).energy, evaluate(part.eval()).energy)


def test_a_charge_for_a_model_that_does_not_read_it_is_an_error():
    with pytest.raises(ConfigError, match="handed to a model with total_charge: conserved"):
        evaluate(model(total_charge="conserved"))


def test_a_model_that_reads_charges_has_to_be_given_them():
    with pytest.raises(ConfigError, match="needs the total charge of every structure"):
        evaluate(model(), total=None)


@pytest.mark.parametrize(
    ("total", "message"),
    [
        (torch.zeros(3), r"total_charge has shape \(3,\); allowed: \(4,\)"),
        (torch.zeros(4, 1), r"total_charge has shape \(4, 1\)"),
        (torch.tensor([0.0, float("nan"), 0.0, 0.0]), "finite numbers"),
        (torch.zeros(4, dtype=torch.bool), "dtype torch.bool"),
        (torch.zeros(4, dtype=torch.complex64), "dtype torch.complex64"),
        ([0.0, 1.0, 0.0, 0.0], r"total_charge is a list; allowed: a dense torch tensor, \(4,\)"),
        (1.0, "total_charge is a float; allowed"),
        (np.zeros(4), "total_charge is a ndarray; allowed"),
        (torch.zeros(4).to_sparse(), "total_charge is a torch.sparse_coo; allowed"),
    ],
)
def test_total_charges_that_do_not_fit_are_refused(total: Any, message: str):
    with pytest.raises(GeometryError, match=message):
        evaluate(model(), total=total)


def test_heads_that_say_nothing_of_it_are_refused():
    part = model()
    part.heads = Told(LatentVariables(Multipoles(torch.zeros(10)), None, None))
    with pytest.raises(ConfigError, match="electronegativity and charge_softness"):
        evaluate(part)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neutralize": "shift"}, "neutralize is 'shift' with total_charge: given"),
        ({"neutralize": "refuse"}, "neutralize is 'refuse' with total_charge: given"),
        ({"zero_init": True}, "zero_init: true with total_charge: given"),
    ],
)
def test_sections_that_take_a_given_charge_off_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        model(**changes)


def test_no_net_charge_warning_of_a_charge_that_is_meant():
    evaluate(model())  # warnings are errors in the tests
