"""`StrainedFrames` and `EvaluatedCalculator`: forces and stress of an energy that is known in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from torch import nn

from les_plugins.errors import DataError, DeviceError
from les_plugins.hosting.evaluated import EvaluatedCalculator, HostResult, StrainedFrames

CRYSTAL = Atoms("OH", [[0.1, 0.2, -0.3], [1.0, 0.4, 0.7]], cell=[[4, 0, 0], [1, 5, 0], [0, -1, 6]], pbc=True)
MOLECULE = Atoms("OHH", [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
PRESSURE = 0.3


class Springs(EvaluatedCalculator):
    """Each atom on a spring at the origin, E = ½ r², and a crystal under pressure: E = P V."""

    def evaluate(self, frames: Sequence[Atoms]) -> HostResult:
        return evaluate(frames)


def evaluate(frames: Sequence[Atoms], keep_graph: bool = False, dtype: torch.dtype = torch.float64) -> HostResult:
    batch = StrainedFrames.of(frames, torch.zeros(1, dtype=dtype))
    counts = torch.tensor(batch.counts)
    volumes = torch.linalg.det(batch.cells)
    shared = torch.repeat_interleave(PRESSURE * volumes / counts, counts)
    return batch.result(0.5 * batch.moved.square().sum(1) + shared, keep_graph)


def test_forces_and_stress_are_the_derivatives_of_the_energy_of_each_structure() -> None:
    found = evaluate([CRYSTAL, MOLECULE])
    positions = torch.tensor(np.concatenate([CRYSTAL.positions, MOLECULE.positions]))
    torch.testing.assert_close(found.forces, -positions, rtol=0, atol=1e-14)  # rounding of one product
    torch.testing.assert_close(found.positions.detach(), positions, rtol=0, atol=0)
    volume, r = CRYSTAL.get_volume(), torch.tensor(CRYSTAL.positions)
    expected = r.T @ r / volume + PRESSURE * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(found.stress[0], expected, rtol=1e-13, atol=1e-14)
    energies = [0.5 * (CRYSTAL.positions**2).sum() + PRESSURE * volume, 0.5 * (MOLECULE.positions**2).sum()]
    np.testing.assert_allclose(found.energy.detach().numpy(), energies, rtol=1e-14)
    assert found.atomic_energy.shape == (5,)


def test_kept_graphs_can_be_differentiated_by_the_leaf() -> None:
    found = evaluate([MOLECULE], keep_graph=True)
    (row,) = torch.autograd.grad(found.forces[1, 0], found.positions)
    expected = torch.zeros_like(row)
    expected[1, 0] = -1.0
    torch.testing.assert_close(row, expected, rtol=0, atol=1e-14)
    assert not evaluate([MOLECULE]).forces.requires_grad


def test_the_dtype_is_that_of_the_model() -> None:
    assert all(value.dtype == torch.float32 for value in evaluate([MOLECULE], dtype=torch.float32))


def test_the_calculator_has_the_results_of_the_evaluation_alone_and_in_a_batch() -> None:
    calculator = Springs(nn.Linear(1, 1), [1, 8])
    np.testing.assert_allclose(calculator.get_property("forces", MOLECULE), -MOLECULE.positions, rtol=0, atol=1e-14)
    crystal = CRYSTAL.copy()
    crystal.calc = calculator
    expected = evaluate([CRYSTAL]).stress[0].numpy()
    np.testing.assert_allclose(crystal.get_stress(voigt=False), expected, rtol=1e-13)
    assert crystal.get_potential_energies().sum() == pytest.approx(crystal.get_potential_energy(), rel=1e-14)
    together = calculator.evaluate_batch([CRYSTAL, MOLECULE])
    np.testing.assert_allclose(together.stress[0], expected, rtol=1e-13)
    np.testing.assert_allclose(together.forces[2:], -MOLECULE.positions, rtol=0, atol=1e-14)


def test_what_the_calculator_cannot_answer_raises_an_error() -> None:
    calculator = Springs(nn.Linear(1, 1), [1, 8])
    with pytest.raises(DataError, match="Au"):
        calculator.get_property("energy", Atoms("Au"))
    with pytest.raises(PropertyNotImplementedError):
        calculator.get_property("stress", MOLECULE)
    with pytest.raises(DeviceError):
        Springs(nn.Linear(1, 1), [1, 8], device="cuda:99")
