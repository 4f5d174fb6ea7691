"""Moments: shapes, and the change between spherical and Cartesian components."""

import pytest
import torch

from les_plugins import Multipoles
from les_plugins.electrostatics.multipoles import (
    cartesian_to_spherical,
    spherical_basis,
    spherical_to_cartesian,
    traceless,
)
from les_plugins.errors import GeometryError

ROUNDING = {"rtol": 1e-14, "atol": 1e-14}


def test_traceless_part_is_symmetric_traceless_and_a_projection():
    tensor = torch.randn(7, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    part = traceless(tensor)
    torch.testing.assert_close(part, part.transpose(1, 2), **ROUNDING)
    torch.testing.assert_close(part.diagonal(dim1=1, dim2=2).sum(1), torch.zeros(7, dtype=torch.float64), **ROUNDING)
    torch.testing.assert_close(traceless(part), part, **ROUNDING)
    rest = tensor - part  # isotropic and antisymmetric: orthogonal to the part
    torch.testing.assert_close((rest * part).sum((1, 2)), torch.zeros(7, dtype=torch.float64), rtol=0.0, atol=1e-13)


def test_spherical_basis_is_orthonormal_symmetric_and_traceless():
    basis = spherical_basis()
    torch.testing.assert_close(torch.einsum("mab,nab->mn", basis, basis), torch.eye(5, dtype=torch.float64), **ROUNDING)
    torch.testing.assert_close(traceless(basis), basis, **ROUNDING)


def test_spherical_components_of_a_vector_product_follow_e3nns_order():
    x, y, z = vector = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)
    components = cartesian_to_spherical(torch.outer(vector, vector))
    # √2 times e3nn's unnormalised l = 2 polynomials over √3
    expected = torch.stack([x * z, x * y, (y * y - 0.5 * (x * x + z * z)) / 3.0**0.5, y * z, 0.5 * (z * z - x * x)]) * (
        2.0**0.5
    )
    torch.testing.assert_close(components, expected, **ROUNDING)


def test_change_of_components_and_back_is_the_identity_and_keeps_the_norm():
    components = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tensor = spherical_to_cartesian(components)
    torch.testing.assert_close(cartesian_to_spherical(tensor), components, **ROUNDING)
    torch.testing.assert_close(tensor.square().sum((-1, -2)), components.square().sum(-1), rtol=1e-13, atol=0.0)
    arbitrary = torch.randn(6, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    there_and_back = spherical_to_cartesian(cartesian_to_spherical(arbitrary))
    torch.testing.assert_close(there_and_back, traceless(arbitrary), **ROUNDING)


def test_change_of_components_keeps_the_dtype():
    assert spherical_to_cartesian(torch.zeros(2, 5, dtype=torch.float32)).dtype == torch.float32
    assert cartesian_to_spherical(torch.zeros(2, 3, 3, dtype=torch.float32)).dtype == torch.float32


def test_order_is_the_highest_rank_present():
    charge, dipole, quadrupole = torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 3, 3)
    assert Multipoles(charge).order == 0
    assert Multipoles(charge, dipole).order == 1
    assert Multipoles(charge, dipole, quadrupole).order == 2
    assert Multipoles(charge, None, quadrupole).order == 2


def test_selection_and_conversion_reach_every_moment():
    moments = Multipoles(torch.arange(3.0), torch.arange(9.0).view(3, 3), torch.arange(27.0).view(3, 3, 3))
    chosen = moments.select(torch.tensor([2, 0])).to(torch.float64)
    assert chosen.charge.tolist() == [2.0, 0.0]
    assert chosen.dipole.tolist() == [[6.0, 7.0, 8.0], [0.0, 1.0, 2.0]]
    assert {moment.dtype for moment in chosen} == {torch.float64}
    assert Multipoles(torch.zeros(3)).select(torch.tensor([1])).dipole is None


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        (Multipoles(torch.zeros(3)), r"charge has shape \(3,\); allowed: \(2,\) or \(2, channels\)"),
        (Multipoles(torch.zeros(2), torch.zeros(2)), r"dipole has shape \(2,\); allowed: \(2, 3\)"),
        (Multipoles(torch.zeros(2), None, torch.zeros(2, 5)), r"quadrupole has shape \(2, 5\); allowed: \(2, 3, 3\)"),
        (
            Multipoles(torch.zeros(2, 4), torch.zeros(2, 3)),
            r"charge channels, shape \(N, channels\), cannot be combined",
        ),
    ],
)
def test_moments_of_a_wrong_shape_are_refused(moments, message):
    with pytest.raises(GeometryError, match=message):
        moments.check(2)


def test_moments_that_fit_are_accepted():
    Multipoles(torch.zeros(2, 4)).check(2)
    Multipoles(torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 3, 3)).check(2)
    assert Multipoles(torch.zeros(2)).order == 0
