"""The Boys functions against Gauss–Legendre quadrature of their definition."""

import itertools

import numpy as np
import pytest
import torch

from les_plugins.electrostatics.boys import SERIES_LIMIT, _boys, smeared_coulomb_ladder

ARGUMENTS = np.concatenate(
    [
        [0.0, 1e-300, 1e-12, 1e-6],
        np.linspace(1e-3, 20.0, 60),
        SERIES_LIMIT + np.array([-1e-9, -1e-15, 0.0, 1e-15, 1e-9]),
        np.logspace(1.0, 4.0, 40),
    ]
)


def by_quadrature(argument: float, n: int) -> float:
    # exp(−t x²) is below 1e−43 beyond x = 10/√t: cutting there keeps 120 nodes exact to rounding for every t
    nodes, weights = np.polynomial.legendre.leggauss(120)
    end = min(1.0, 10.0 / np.sqrt(max(argument, 1e-30)))
    x = 0.5 * end * (nodes + 1.0)
    return float(0.5 * end * np.sum(weights * x ** (2 * n) * np.exp(-argument * x * x)))


@pytest.mark.parametrize("n", range(9))
def test_boys_functions_equal_their_integral(n):
    values = _boys(torch.tensor(ARGUMENTS), 8)[n].numpy()
    expected = np.array([by_quadrature(t, n) for t in ARGUMENTS])
    # some hundred roundings of 1e-16; the absolute part covers F_n(1e4) of 1e-30 and below
    np.testing.assert_allclose(values, expected, rtol=1e-13, atol=1e-30)


def test_ladder_follows_its_recursion_through_autograd():
    # B_{n+1} = −(1/r) dB_n/dr = −2 dB_n/d(r²); exact up to rounding
    r_squared = torch.tensor([1e-4, 0.3, 4.0, 9.9, 10.1, 400.0], dtype=torch.float64, requires_grad=True)
    ladder = smeared_coulomb_ladder(r_squared, 1.0, 4)
    for lower, higher in itertools.pairwise(ladder):
        (slope,) = torch.autograd.grad(lower.sum(), r_squared, retain_graph=True)
        torch.testing.assert_close(-2.0 * slope, higher, rtol=1e-12, atol=0.0)


def test_ladder_starts_with_the_smeared_coulomb_kernel():
    r = torch.linspace(0.01, 30.0, 200, dtype=torch.float64)
    (first,) = smeared_coulomb_ladder(r * r, 1.3, 0)
    torch.testing.assert_close(first, torch.erf(r / (2.0**0.5 * 1.3)) / r, rtol=1e-13, atol=0.0)


def test_ladder_is_twice_differentiable_at_zero_distance():
    r_squared = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    total = sum(value.sum() for value in smeared_coulomb_ladder(r_squared, 1.0, 4))
    (first,) = torch.autograd.grad(total, r_squared, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r_squared)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()
