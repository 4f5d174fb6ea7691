"""Response in the loss: Z* are derivatives of P, labels count once, branches do not matter, gradients are exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from one_projection import first_derivatives_hold, second_derivatives_hold
from response_models import SECTION, TinyHost, crystal
from torch import Tensor, nn

from les_plugins import LongRangeConfig
from les_plugins.electrostatics.observables import electronic_susceptibility
from les_plugins.errors import ConfigError, DataError
from les_plugins.model.carriers import latent_total_charge
from les_plugins.model.physical import LatentStructure, born_results, latent_results
from les_plugins.model.response_config import QUANTITIES, ResponseLossConfig
from les_plugins.model.response_loss import ResponseLabels, nearest_branch, response_loss, squared_errors
from les_plugins.model.response_prediction import Geometry, Response, observing, predict_response
from les_plugins.model.response_support import check_frames, check_section, unsupported
from les_plugins.units import VACUUM_PERMITTIVITY

#: Atoms move by this much in differences, Å; their error is its square times third derivatives of order one.
STEP = 1e-4
TRAINED = {**SECTION, "screening": "trained", "epsilon_infinity": 2.0}


def predicted(host: TinyHost, geometry: Geometry, species: Tensor, projections: int = 0) -> Response:
    _, result = host(geometry, species)
    return predict_response(host.long_range, result, geometry, QUANTITIES, projections)


def labels_of(response: Response) -> ResponseLabels:
    assert response.polarization is not None
    assert response.born is not None
    assert response.polarizability is not None
    return ResponseLabels(
        None, *(value.detach() for value in (response.polarization, response.born, response.polarizability))
    )


@pytest.mark.parametrize("periodic", [True, False])
def test_born_charges_are_the_derivatives_of_the_polarization(periodic):
    host = TinyHost(TRAINED)
    geometry, species = crystal(periodic=periodic)
    born = predicted(host, geometry, species).born
    for atom, axis in ((0, 0), (3, 2), (5, 1)):
        ends = []
        for sign in (1.0, -1.0):
            moved = geometry.positions.detach().clone()
            moved[atom, axis] += sign * STEP
            ends.append(predicted(host, geometry._replace(positions=moved.requires_grad_()), species).polarization[0])
        torch.testing.assert_close(born[atom, :, axis], (ends[0] - ends[1]) / (2 * STEP), rtol=0, atol=1e-6)
    # a neutral structure that moves as a whole has the same polarization
    torch.testing.assert_close(born.sum(0), torch.zeros(3, 3, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("total_charge", ["conserved", "free"])
def test_a_model_that_keeps_its_net_charge_is_trained_on_the_response_that_calculators_report(total_charge):
    elements = {"initial_charges": {"H": 0.5, "O": -0.4}, "total_charge": total_charge, "neutralize": "keep"}
    host = TinyHost({**TRAINED, **elements, "response": {}, "net_charge_warning": None})
    geometry, species = crystal(periodic=False)
    _, result = host(geometry, species)
    total = latent_total_charge(host.long_range, result, geometry.batch, 1)
    places = geometry.positions, geometry.cell, geometry.pbc
    structure = LatentStructure(result, *places, 1.0, total_charge=total)
    response = predict_response(host.long_range, result, geometry, QUANTITIES)
    net = float(total.detach())
    assert abs(net) > 0.01
    np.testing.assert_allclose(response.born.detach(), born_results(structure), rtol=0, atol=1e-12)
    np.testing.assert_allclose(response.polarization[0].detach(), latent_results(structure)["dipole"], atol=1e-12)
    if total_charge == "conserved":
        assert net == pytest.approx(4 * (0.5 - 0.4), abs=1e-6)  # the section's numbers in float32
        np.testing.assert_allclose(response.born.detach().sum(0), net * np.eye(3), rtol=0, atol=1e-12)


def test_projections_of_born_charges_are_products_with_the_tensor_and_as_large_on_average():
    host = TinyHost(TRAINED)
    geometry, species = crystal()
    born = predicted(host, geometry, species).born
    torch.manual_seed(3)
    _, result = host(geometry, species)
    means = []
    for _ in range(200):
        some = predict_response(host.long_range, result, geometry, ("born_effective_charges",), projections=2)
        torch.testing.assert_close(some.born, torch.einsum("npa,nab->npb", some.directions, born))
        means.append(float(some.born.square().mean().detach()))
    # 400 directions: the spread of w·Z* over directions is of the order of its mean
    assert sum(means) / len(means) == pytest.approx(float(born.detach().square().mean()), rel=0.1)


def test_the_loss_has_exact_derivatives_to_positions_and_weights():
    host = TinyHost(TRAINED)
    geometry, species = crystal()
    labels = labels_of(predicted(TinyHost(TRAINED, seed=5), geometry, species))
    part = host.long_range
    names = ["heads.charge.linear.0.weight", "heads.polarizability.linear.0.weight", "log_screening"]
    parameters = [part.get_parameter(name) for name in names]

    def loss(positions: Tensor, *values: Tensor) -> Tensor:
        with parametrized(part, dict(zip(names, values, strict=True))):
            _, result = host(geometry._replace(positions=positions), species)
            response = predict_response(part, result, geometry._replace(positions=positions), QUANTITIES)
        return response_loss(squared_errors(response, labels), dict.fromkeys(QUANTITIES, 1.0))

    given = (geometry.positions.detach().clone(), *(value.detach().clone() for value in parameters))
    given = tuple(value.requires_grad_() for value in given)
    assert first_derivatives_hold(loss, given)
    assert second_derivatives_hold(loss, given)


def test_a_label_of_another_branch_is_the_same_label():
    """Lattice vectors times e more or less, in a skewed cell too."""
    host = TinyHost(TRAINED)
    geometry, species = crystal(copies=2, skew=1.9)
    response = predicted(host, geometry, species)
    labels = ResponseLabels(polarization=response.polarization.detach() + 0.3)
    reference = squared_errors(response, labels)["polarization"]
    assert reference.components == 6
    assert reference.sum.item() == pytest.approx(6 * (0.3 / 8) ** 2)  # an atom
    for steps in ((1.0, 0.0, 0.0), (-2.0, 1.0, 3.0)):
        moved = labels.polarization + torch.tensor(steps, dtype=torch.float64) @ geometry.cell
        error = squared_errors(response, ResponseLabels(polarization=moved))["polarization"]
        torch.testing.assert_close(error.sum, reference.sum)


def test_the_nearest_branch_is_the_shortest_of_all():
    geometry, _ = crystal(copies=20, skew=2.1)
    torch.manual_seed(1)
    difference = 9.0 * torch.randn(20, 3, dtype=torch.float64)
    near = nearest_branch(difference, geometry, torch.ones(20, dtype=torch.bool))
    steps = torch.cartesian_prod(*[torch.arange(-6.0, 7.0, dtype=torch.float64)] * 3) @ geometry.cell[0]
    shortest = (difference[:, None] - steps).norm(dim=2).min(1).values
    torch.testing.assert_close(near.norm(dim=1), shortest)


@pytest.mark.parametrize("third", [(12.0, 7.0, 20.0), (22.0, 17.0, 20.0)])
@pytest.mark.parametrize("second", [(0.0, 5.0, 0.0), (40.0, 4.0, 0.0)])
def test_the_nearest_branch_of_a_cell_that_is_not_reduced_is_that_of_the_reduced_one(second, third):
    reduced = torch.tensor([[5.0, 0.0, 0.0], [0.0, second[1], 0.0], [2.0, third[1] % second[1], 20.0]]).double()
    cell = torch.tensor([[5.0, 0.0, 0.0], second, third]).double()
    # both have the lattice points of the other
    assert torch.linalg.solve(reduced.T, cell.T).frac().abs().max() < 1e-12
    torch.manual_seed(1)
    difference = 9.0 * torch.randn(200, 3, dtype=torch.float64)
    batch = torch.arange(200)
    geometry = Geometry(difference, cell.expand(200, 3, 3), torch.ones(200, 3, dtype=torch.bool), batch)
    near = nearest_branch(difference, geometry, torch.ones(200, dtype=torch.bool))
    # of reduced vectors 4 Å and longer, six each way reach every branch that may be the nearest
    steps = torch.cartesian_prod(*[torch.arange(-6.0, 7.0, dtype=torch.float64)] * 3) @ reduced
    shortest = (difference[:, None] - steps).norm(dim=2).min(1).values
    torch.testing.assert_close(near.norm(dim=1), shortest)
    whole = torch.linalg.solve(cell.T, (difference - near).T)
    torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-12)


def test_labels_that_are_absent_or_nan_do_not_count():
    host = TinyHost(TRAINED)
    geometry, species = crystal(copies=2)
    response = predicted(host, geometry, species)
    labels = labels_of(response)
    none = float("nan")
    changed = ResponseLabels(
        None,
        labels.polarization.clone().index_fill(0, torch.tensor([1]), none),
        (labels.born_effective_charges + 0.1).index_fill(0, torch.arange(8, 16), none),
        labels.polarizability.clone().index_fill(0, torch.tensor([0, 1]), none),
    )
    errors = squared_errors(response, changed)
    assert {name: int(error.components) for name, error in errors.items()} == {
        "polarization": 3,
        "born_effective_charges": 72,
        "polarizability": 0,
    }
    assert errors["born_effective_charges"].mean.item() == pytest.approx(0.01)
    loss = response_loss(errors, dict.fromkeys(QUANTITIES, 1.0))
    loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in host.parameters())
    assert squared_errors(response, ResponseLabels()) == {}


def test_dipoles_are_those_of_open_structures_and_along_the_normal_of_slabs():
    geometry, species = crystal(copies=3, skew=0.0)
    geometry = geometry._replace(pbc=torch.tensor([[False] * 3, [True, True, False], [True] * 3]))
    host = TinyHost(TRAINED)
    response = predicted(host, geometry, species)
    wanted = response.polarization.detach() + torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    error = squared_errors(response, ResponseLabels(dipole=wanted))["dipole"]
    assert error.components == 3 + 1
    # 0.1² + 0.2² + 0.3² of the open one, 0.3² of the slab, an atom of eight
    assert error.sum.item() == pytest.approx((0.01 + 0.04 + 0.09 + 0.09) / 64)
    # vacuum screens nothing
    result = host(geometry, species)[1]
    charge, dipole = result.charge[:8], result.dipole[:8]
    latent = ((charge - charge.mean())[:, None] * geometry.positions[:8] + dipole).sum(0)
    torch.testing.assert_close(response.polarization[0], latent)


def test_the_polarizability_of_a_crystal_is_that_of_its_dielectric_constant():
    host = TinyHost(TRAINED)
    geometry, species = crystal()
    _, result = host(geometry, species)
    volume = torch.linalg.det(geometry.cell)
    chi = electronic_susceptibility(result.polarizability, geometry.cell, geometry.pbc, geometry.batch)
    alpha = predicted(host, geometry, species).polarizability
    epsilon = 1.0 + alpha.diagonal(dim1=1, dim2=2).mean(1) / (VACUUM_PERMITTIVITY * volume)
    torch.testing.assert_close(epsilon, 2.0 * (1.0 + chi))
    host.long_range.note_epsilon_infinity(float(chi.detach()))
    assert host.long_range.config.epsilon_infinity == pytest.approx(float(epsilon.detach()))


def test_the_host_need_not_know_that_its_response_is_observed():
    host = TinyHost(TRAINED)
    geometry, species = crystal()
    alone = host(geometry, species)[0]
    with observing(host.long_range, QUANTITIES) as observed:
        energy, _ = host(geometry, species)
        forces = torch.autograd.grad(energy.sum(), geometry.positions)[0]  # frees the graph of the energy
    assert torch.equal(energy, alone)
    assert forces.isfinite().all()
    expected = predicted(host, geometry, species)
    torch.testing.assert_close(observed.response.born, expected.born)
    host(geometry, species)
    torch.testing.assert_close(observed.response.born, expected.born)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_charge": "free", "element_charges": "trained"}, "set long_range.total_charge: conserved"),
        ({"response": {"charge": True}}, "leave response.charge out of long_range"),
        ({"screening": "fixed"}, "set long_range.screening: trained"),
    ],
)
def test_labels_that_a_model_cannot_use_are_errors_that_say_what_to_set(changes, message):
    host = TinyHost({**TRAINED, **changes})
    geometry, species = crystal()
    labels = labels_of(predicted(TinyHost(TRAINED), geometry, species))
    response = predicted(host, geometry, species)
    with pytest.raises(DataError, match=message):
        squared_errors(response, labels)
    open_ones, species = crystal(periodic=False)
    response = predicted(host, open_ones, species)
    assert squared_errors(response, labels)["born_effective_charges"].components == 72


@pytest.mark.parametrize(
    "changes",
    [
        {"response": {"charge": "onsite"}},
        {"response": {"charge": "pairs"}},
        {"response": {"charge": "pairs"}, "screening": "trained"},
        {"response": {"dipole": "isotropic"}},
        {"response": {}},
        {"response": {}, "total_charge": "free"},
        {"response": {}, "total_charge": "given"},
    ],
)
def test_a_section_says_before_training_what_its_models_have_no_response_of(changes):
    host = TinyHost({**SECTION, **changes})
    (positions, cell, _, batch), species = crystal()
    for pbc in ([True] * 3, [True, True, False], [False] * 3):
        geometry = Geometry(positions, cell, torch.tensor([pbc]), batch)
        response = predict_response(host.long_range, host(geometry, species)[1], geometry, ("polarizability",))
        moment, alpha = bool(response.no_moment.structures), bool(response.no_polarizability.structures)
        has = {name: unsupported(host.long_range.config, name, pbc) is None for name in QUANTITIES}
        assert has["born_effective_charges"] is not moment
        assert has["polarizability"] is not alpha
        assert has["polarization"] is not (moment and all(pbc))  # of others it does not count
        assert has["dipole"] is not (moment and not all(pbc))


def test_weights_and_frames_that_no_model_of_a_section_serves_are_named_before_training():
    free, kept = (LongRangeConfig.parse({"total_charge": kind}) for kind in ("free", "conserved"))
    weights = ResponseLossConfig.parse({"polarization": 1.0})
    with pytest.raises(ConfigError, match=r"^run.yaml: response_loss.polarization has a weight, but .*: conserved$"):
        check_section(free, weights, "run.yaml")
    check_section(kept, weights, "run.yaml")
    weights = ResponseLossConfig.parse({"born_effective_charges": 1.0, "dipole": 1.0})
    check_section(free, weights, "run.yaml")  # open structures have both
    frames = [
        ("a.xyz, frame 0", [False] * 3, ["born_effective_charges"]),
        ("a.xyz, frame 1", [True] * 3, ["dipole"]),
        ("a.xyz, frame 2", [True] * 3, ["dipole", "born_effective_charges"]),
    ]
    with pytest.raises(DataError, match=r"^a.xyz, frame 2: has a label of its Born effective charges.*: conserved$"):
        check_frames(free, weights, frames)
    check_frames(kept, weights, frames)


def test_no_more_than_five_problems_of_a_section_are_listed_and_the_others_counted():
    section = {"a": 1, "b": 1, "c": 1, "dipole": -1.0, "polarization": "x", "polarizability": -2.0, "projections": 9}
    with pytest.raises(ConfigError) as caught:
        ResponseLossConfig.parse(section, "run.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert lines[5] == "run.yaml: 2 more problems"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"dipol": 1.0}, r"unknown key 'dipol' \(did you mean 'dipole'\?\); allowed keys: dipole, polarization"),
        ({"dipole": -1.0}, "dipole is -1.0: input should be greater than or equal to 0"),
        ({}, "every weight is 0"),
        ({"dipole": 1.0, "projections": 1}, "projections are of born_effective_charges, whose weight is 0"),
        ({"dipole": 1.0, "projections": 3}, "projections is 3"),
        ([], "expected a section of keys and values"),
    ],
)
def test_sections_that_cannot_be_used_are_errors_that_name_the_key(section, message):
    with pytest.raises(ConfigError, match=message):
        ResponseLossConfig.parse(section, "response_loss")


def test_a_screening_cannot_be_trained_in_units_of_given_charges():
    with pytest.raises(ConfigError, match="screening: trained needs total_charge"):
        LongRangeConfig.parse({"screening": "trained", "total_charge": "given"})


@contextmanager
def parametrized(module: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Plain tensors in the place of some parameters, as differences of second derivatives need them."""
    kept = {}
    for name, value in values.items():
        place, _, last = name.rpartition(".")
        holder = module.get_submodule(place)
        kept[name] = holder._parameters.pop(last)
        setattr(holder, last, value)
    try:
        yield
    finally:
        for name, parameter in kept.items():
            place, _, last = name.rpartition(".")
            holder = module.get_submodule(place)
            delattr(holder, last)
            holder.register_parameter(last, parameter)


@pytest.mark.training
def test_training_on_labels_of_a_known_model_recovers_its_born_charges_and_dielectric_constant():
    """Teacher and student have the same form: what the student misses, it could learn."""
    teacher = TinyHost({**TRAINED, "epsilon_infinity": 3.0}, seed=7)
    with torch.no_grad():  # dipoles of natural size, so that Z* differ from the charges of the elements
        teacher.long_range.heads.dipole.out.weight.mul_(10.0)
        teacher.long_range.heads.charge.linear[0].weight.mul_(3.0)
    student = TinyHost(TRAINED, seed=0)
    batches = []
    for seed in range(12):
        geometry, species = crystal(seed=10 + seed)
        batches.append((geometry, species, labels_of(predicted(teacher, geometry, species))))
    weights = {"born_effective_charges": 1.0, "polarizability": 10.0}
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30, 1e-3)

    def error_of(host: TinyHost) -> float:
        geometry, species = crystal(seed=99)
        wanted = predicted(teacher, geometry, species).born.detach()
        return float((predicted(host, geometry, species).born - wanted).detach().square().mean().sqrt())

    before = error_of(student)
    for _ in range(30):
        for geometry, species, labels in batches:
            optimizer.zero_grad()
            with observing(student.long_range, weights) as observed:
                student(geometry, species)
            response_loss(squared_errors(observed.response, labels), weights).backward()
            optimizer.step()
        scheduler.step()
    assert error_of(student) < 0.15 * before  # on a structure that it has not seen
    geometry, species, labels = batches[0]
    alpha = predicted(student, geometry, species).polarizability.diagonal(dim1=1, dim2=2).mean().detach()
    assert float(alpha) == pytest.approx(float(labels.polarizability.diagonal(dim1=1, dim2=2).mean()), rel=0.02)
