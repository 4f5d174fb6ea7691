"""Two training frames of different size, one for each of two processes, and what two trainings must have in common."""

from __future__ import annotations

from collections.abc import Mapping

import ase.io
import numpy as np
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from response_frames import LONG_RANGE, labelled

from les_plugins.testing import waters

__all__ = ["RESPONSE", "SECTION", "assert_same_gradients", "assert_same_weights", "write_frames"]

#: What an optimizer keeps of each parameter.
Moments = Mapping[int, Mapping[str, torch.Tensor]]
SECTION = {**LONG_RANGE, "multipoles": ["charge", "dipole", "quadrupole"]}
RESPONSE = {"born_effective_charges": 100.0, "polarizability": 100.0, "polarization": 1.0}


def write_frames() -> None:
    """train.extxyz and valid.extxyz here.

    Mean errors over both training frames are not the means of their mean errors: six atoms and three.
    """
    small = waters(1, seed=5)
    forces = np.random.default_rng(0).normal(size=(3, 3))
    small.calc = SinglePointCalculator(small, energy=-3.0, forces=forces - forces.mean(0))
    small.arrays["REF_born_effective_charges"] = np.tile(0.3 * np.eye(3).ravel(), (3, 1))
    small.info["polarizability"] = 0.1 * np.eye(3).ravel()
    small.info["polarization_dipole"] = np.array([0.1, 0.2, -0.3])
    ase.io.write("train.extxyz", [labelled(0), small])
    ase.io.write("valid.extxyz", [labelled(2), labelled(3)])


def assert_same_weights(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor], tolerance: float) -> None:
    """Of one process and of two."""
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=0.0, atol=tolerance), (name, (two[name] - value).abs().max())


def assert_same_gradients(one: Moments, two: Moments) -> None:
    """As the first moments that Adam keeps of each parameter, relative to the largest of all in float64.

    Adam's step itself hardly depends on the size of a gradient.
    """
    assert one.keys() == two.keys()
    first, second = ({key: kept["exp_avg"] for key, kept in state.items()} for state in (one, two))
    largest = max(float(value.abs().max()) for value in first.values())
    assert largest > 1e-3
    for key, value in first.items():
        assert torch.allclose(second[key], value, rtol=0.0, atol=1e-11 * largest), (key, second[key], value)
