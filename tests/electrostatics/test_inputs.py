"""The layer's tensors: refused by name where they cannot be meant, cast where that is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.multipoles import spherical_to_cartesian, traceless
from les_plugins.errors import GeometryError

EVERY = ("positions", "cell", "pbc", "batch", "charge", "dipole", "quadrupole", "softness", "polarizability")
REAL = tuple(name for name in EVERY if name not in ("pbc", "batch"))


def given(make_system, **settings):
    return make_system(**settings)._asdict()


def evaluate(values, **settings):
    moments = Multipoles(values["charge"], values["dipole"], values["quadrupole"])
    geometry = (values["positions"], values["cell"], values["pbc"], values["batch"])
    response = {name: values[name] for name in ("softness", "polarizability")}
    field = values.get("external_field")
    return LatentElectrostatics(**settings)(*geometry, moments, **response, external_field=field)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda value: value.tolist(), r"a list; allowed: a torch tensor"),
        (lambda value: value.numpy(), r"a numpy.ndarray; allowed: a torch tensor"),
        (lambda value: value.to("meta"), r"on the meta device, without values; allowed: a dense tensor with values"),
        (lambda value: value.to(torch.complex128), r"dtype torch.complex128; allowed: torch"),
        (lambda value: value.to_sparse(), r"stored as torch.sparse_coo; allowed: a dense tensor with values"),
        (lambda value: value.flatten()[0], r"shape \(\); allowed"),
    ],
    ids=["list", "numpy", "meta", "complex", "sparse", "scalar"],
)
def test_what_has_no_real_values_is_refused_by_name(name, make, what, make_system):
    values = given(make_system)
    values[name] = make(values[name])
    with pytest.raises(GeometryError, match=f"^{name} (is|has) {what}"):
        evaluate(values)


@pytest.mark.parametrize("name", ["positions", "cell", "pbc", "batch", "charge"])
def test_what_every_call_needs_cannot_be_left_out(name, make_system):
    with pytest.raises(GeometryError, match=f"{name} is a None"):
        evaluate(given(make_system) | {name: None})


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.bool) for name in REAL),
        ("batch", torch.bool),
        ("batch", torch.float64),
        ("pbc", torch.int64),
        ("positions", torch.float16),
        ("cell", torch.bfloat16),
    ],
)
def test_kinds_of_numbers_that_are_not_meant_are_refused(name, dtype, make_system):
    values = given(make_system)
    values[name] = values[name].to(dtype)
    with pytest.raises(GeometryError, match=f"{name} has dtype {dtype}; allowed: torch"):
        evaluate(values)


@pytest.mark.parametrize("field", [[0.0, 0.0, 0.1], torch.ones(3, dtype=torch.complex64), torch.tensor(0.1)])
def test_fields_that_are_no_vectors_of_real_numbers_are_refused(field, make_system):
    with pytest.raises(GeometryError, match=r"external_field (is|has)"):
        evaluate(given(make_system, periodic=False) | {"external_field": field})


def test_moments_that_are_no_multipoles_are_refused(make_system):
    system = make_system()
    for wrong in (system.charge, (system.charge, system.dipole), None):
        with pytest.raises(GeometryError, match=r"multipoles is a .*; allowed: les_plugins.Multipoles"):
            LatentElectrostatics()(*system[:4], wrong)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
@pytest.mark.parametrize("periodic", [True, False, "slab"])
def test_integers_are_the_numbers_that_they_stand_for(dtype, periodic, make_system):
    values = given(make_system, order=1, periodic=periodic)
    grid = torch.cartesian_prod(*[torch.arange(0, 6, 3)] * 3)[:5]
    exact = values | {"positions": grid.double(), "charge": torch.tensor([1.0, 2.0, 0.0, 3.0, 1.0]).double()}
    if periodic:
        exact["cell"] = 7.0 * torch.eye(3).double()[None]
    cast = {name: exact[name].to(dtype) for name in ("positions", "charge", "cell", "batch")}
    expected, found = evaluate(exact), evaluate(exact | cast)
    assert found.energy.dtype == torch.float64
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_moments_of_another_precision_are_cast_and_the_result_is_in_that_of_the_positions(dtype, make_system):
    values = given(make_system)
    names = ("charge", "dipole", "quadrupole", "softness", "polarizability")
    low = {name: values[name].to(dtype) for name in names}
    found, expected = (
        evaluate(values | low),
        evaluate(values | {name: low[name].double() for name in ("charge",)} | {name: low[name] for name in names[1:]}),
    )
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=0)
    assert found.energy.dtype == torch.float64
    assert evaluate(values | {"positions": values["positions"].float()}).energy.dtype == torch.float32


@pytest.mark.parametrize("periodic", [True, False, "slab"])
@pytest.mark.parametrize("amount", [1.0, 1e-3])
def test_quadrupoles_with_an_antisymmetric_part_or_a_trace_are_refused(periodic, amount, make_system):
    values = given(make_system, periodic=periodic)
    twist, trace = torch.zeros(5, 3, 3).double(), torch.zeros(5, 3, 3).double()
    twist[2, 0, 1], twist[2, 1, 0] = amount, -amount
    trace[3, 1, 1] = amount
    with pytest.raises(GeometryError, match=rf"quadrupole has an antisymmetric part of {amount:g}, .* symmetric"):
        evaluate(values | {"quadrupole": values["quadrupole"] + twist})
    with pytest.raises(GeometryError, match=rf"quadrupole has a trace of up to {amount:g} e·Å², .* allowed: traceless"):
        evaluate(values | {"quadrupole": values["quadrupole"] + trace})


def test_polarizabilities_with_an_antisymmetric_part_are_refused(make_system):
    values = given(make_system)
    values["polarizability"][1, 0, 2] += 0.01
    with pytest.raises(
        GeometryError, match=r"polarizability has an antisymmetric part of 0.005, .* allowed: symmetric"
    ):
        evaluate(values)


def test_rounding_of_heads_in_float32_and_below_passes(make_system):
    values = given(make_system, n_atoms=200, size=20.0)
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    components = torch.randn(200, 5, generator=generator)
    turned = turn @ spherical_to_cartesian(components) @ turn.T
    assert float(turned.diagonal(dim1=1, dim2=2).sum(1).abs().max()) > 0.0  # it is rounded
    evaluate(values | {"quadrupole": turned})
    evaluate(values | {"quadrupole": turned.double()})  # as hosts cast it
    evaluate(values | {"quadrupole": turned.bfloat16()})
    evaluate(values | {"quadrupole": traceless(100.0 * turned)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_sums_that_vanish_at_cubic_sites_passes(dtype, make_system):
    """Six neighbours of rock salt: what is left of the sum is rounding, its trace as large as its elements."""
    for seed in range(100):  # which orientations leave a trace is the processor's affair
        random = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        directions = torch.linalg.qr(random)[0].to(dtype)
        left = sum(traceless(sign * 0.1 * unit[:, None] * (sign * unit)) for unit in directions for sign in (1, -1))
        trace, largest = float(left.diagonal().sum().abs()), float(left.abs().max())
        if trace > 5e-3 * largest > 0.0:  # refused beside any element that is not zero
            break
    else:
        pytest.fail("no orientation leaves a trace")
    values = given(make_system)
    found = evaluate(values | {"quadrupole": left.expand(5, 3, 3).clone()})
    without = evaluate(values | {"quadrupole": torch.zeros(5, 3, 3, dtype=dtype)})
    # 1e-8 e·Å² in the potential of charges of order 1 e
    torch.testing.assert_close(found.energy, without.energy, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (5, 3, 1)])
def test_charges_of_other_shapes_are_refused(shape, make_system):
    with pytest.raises(GeometryError, match="charge has shape"):
        evaluate(given(make_system) | {"charge": torch.zeros(shape)})


def test_numpy_numbers_are_settings(make_system):
    values = given(make_system)
    expected = evaluate(values, sigma=1.25, dl=1.5)
    found = evaluate(values, sigma=np.float64(1.25), dl=np.float32(1.5))
    torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no second device")
def test_tensors_on_two_devices_are_refused(make_system):
    values = given(make_system)
    with pytest.raises(GeometryError, match="charge is on cuda:0 and positions on cpu; allowed: one device"):
        evaluate(values | {"charge": values["charge"].cuda()})
