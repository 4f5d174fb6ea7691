"""MACE's messages summed by receiver: the numbers of MACE, in everything that is differentiated once or twice."""

import numpy as np
import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import torch
from mace.calculators import MACECalculator
from mace_models import tiny_mace, waters

from les_plugins import api
from les_plugins.adapters.mace import by_receiver
from les_plugins.adapters.mace.by_receiver import SummedByReceiver, edge_by_edge, fits, summed_by_receiver
from les_plugins.adapters.mace.calculator import LesMACECalculator

#: The same sums in another order, in double precision, of forces of some eV/Å.
ROUNDING = 1e-10
SECTION = {"multipoles": ["charge", "dipole"], "response": {"dipole": "isotropic"}, "total_charge": "conserved"}


@pytest.fixture
def model():
    return api.attach(tiny_mace(hidden_irreps="4x0e+4x1o", max_ell=3), SECTION).eval()


def edges_of(n_atoms, n_edges):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(n_atoms, (2, n_edges), generator=generator)


def arguments(product, n_atoms=4, n_edges=9):
    generator = torch.Generator().manual_seed(1)
    sizes = ((n_atoms, product.irreps_in1.dim), (n_edges, product.irreps_in2.dim), (n_edges, product.weight_numel))
    return [torch.randn(*size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes]


def test_energy_forces_and_stress_are_those_of_maces_own_calculator(model):
    """And the calculator leaves the model that it was given alone."""
    bare, atoms = model.base, waters(4)
    keys = list(bare.state_dict())
    found, expected = (
        kind(bare) if kind is LesMACECalculator else kind(models=[bare], device="cpu", default_dtype="float64")
        for kind in (LesMACECalculator, MACECalculator)
    )
    assert all(isinstance(block.conv_tp.forward, SummedByReceiver) for block in found.models[0].interactions)
    assert not any(hasattr(block, "conv_fusion") for block in bare.interactions)
    assert list(found.models[0].state_dict()) == keys == list(bare.state_dict())
    for structure in (atoms, waters(2, pbc=False)):
        for name in ("energy", "forces", *(["stress"] if structure.pbc.all() else [])):
            values = [calculator.get_property(name, structure) for calculator in (found, expected)]
            np.testing.assert_allclose(*values, rtol=0, atol=ROUNDING, err_msg=name)


def test_born_charges_and_currents_are_those_of_edges_one_by_one(model, monkeypatch):
    """A current differentiates the derivative of the energy."""
    atoms, velocities = waters(3), np.random.default_rng(0).normal(size=(9, 3))
    found = LesMACECalculator(model)
    values = [found.get_property("born_effective_charges", atoms), found.current(velocities, waters(3))]
    monkeypatch.setattr("les_plugins.adapters.mace.calculator.summed_by_receiver", lambda given: given)
    plain = LesMACECalculator(model)
    assert not hasattr(plain.models[0].interactions[0], "conv_fusion")
    for value, expected in zip(
        values, [plain.get_property("born_effective_charges", atoms), plain.current(velocities, waters(3))], strict=True
    ):
        assert np.abs(expected).max() > 1e-6
        np.testing.assert_allclose(value, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("layer", [0, 1])
def test_messages_are_those_of_e3nn_and_twice_differentiable(model, layer):
    product = model.base.interactions[layer].conv_tp
    assert fits(product)
    given, edges = arguments(product), edges_of(4, 9)
    summed = SummedByReceiver(product)
    every = product(given[0][edges[0]], *given[1:])
    expected = every.new_zeros(4, every.shape[1]).index_add(0, edges[1], every)
    torch.testing.assert_close(summed(*given, edges), expected, rtol=0, atol=1e-13)

    def some(*values):
        return summed(*values, edges)[:, ::7]

    assert torch.autograd.gradcheck(some, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(some, given, fast_mode=True)


def test_few_atoms_with_many_neighbours_and_no_edges_at_all(model, monkeypatch):
    product = model.base.interactions[1].conv_tp
    summed, given, edges = SummedByReceiver(product), arguments(product), edges_of(4, 9)
    slots = []
    monkeypatch.setattr(by_receiver._Slots, "apply", lambda *values: slots.append(values))
    edges[1] = 2  # 4 atoms × 9 slots for 9 edges
    every = product(given[0][edges[0]], *given[1:])
    found = summed(*given, edges)
    torch.testing.assert_close(found[2], every.sum(0), rtol=0, atol=1e-13)
    assert not slots
    assert not found[[0, 1, 3]].any()
    nothing = summed(given[0], given[1][:0], given[2][:0], edges[:, :0])
    assert nothing.shape == found.shape
    assert not nothing.any()


def test_the_way_back_is_the_model_as_it_was(model):
    back = edge_by_edge(summed_by_receiver(model))
    for block, given in zip(back.base.interactions, model.base.interactions, strict=True):
        assert block.conv_tp is given.conv_tp
        assert not hasattr(block, "conv_fusion")
    assert back.long_range is model.long_range


def test_what_is_no_mace_stays_as_it_is():
    other = torch.nn.Linear(1, 1)
    assert summed_by_receiver(other) is edge_by_edge(other) is other
