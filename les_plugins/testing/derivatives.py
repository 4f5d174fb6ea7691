"""Laws of derivatives: forces, stress, second derivatives, and the gradient that training follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from les_plugins.testing.host import ContractHost, long_range_part
from les_plugins.testing.structures import waters


def slope(value: Callable[[float], float], step: float) -> float:
    """Derivative at zero by the five-point formula: error step⁴ f⁽⁵⁾/30 plus rounding 1e-15 f/step."""
    return (value(-2 * step) - 8 * value(-step) + 8 * value(step) - value(2 * step)) / (12 * step)


def random_direction(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """A change of each parameter, as large as the parameter itself; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().abs() for p in parameters]


@contextmanager
def moved(parameters: Sequence[torch.Tensor], direction: Sequence[torch.Tensor], size: float) -> Iterator[None]:
    """The parameters changed by `size` times a direction inside, and back afterwards."""
    with torch.no_grad():
        for parameter, part in zip(parameters, direction, strict=True):
            parameter.add_(part, alpha=size)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, part in zip(parameters, direction, strict=True):
                parameter.sub_(part, alpha=size)


class Derivatives(ContractHost):
    """What the host differentiates is the energy that it reports."""

    @pytest.mark.parametrize("pbc", [True, False], ids=["periodic", "open"])
    def test_forces_are_minus_the_central_difference_of_the_energy(self, pbc: bool) -> None:
        atoms = waters(pbc=pbc)
        forces = self.evaluate(self.model, [atoms]).forces.detach().numpy()
        for atom, axis in ((0, 0), (1, 1), (5, 2)):

            def moved(shift: float, atom: int = atom, axis: int = axis) -> float:
                frame = atoms.copy()
                frame.positions[atom, axis] += shift
                return self.energy(frame)

            # both errors of the formula are below 1e-6 of the largest force (theory 12)
            assert abs(-slope(moved, 1e-3) - forces[atom, axis]) < 1e-6 * np.abs(forces).max()

    def test_stress_is_the_strain_derivative_of_the_energy(self) -> None:
        atoms = waters()
        stress = self.evaluate(self.model, [atoms]).stress[0].detach().numpy()
        for strain in (np.diag([1.0, 0, 0]), np.diag([0, 1.0, 0]), np.array([[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]])):

            def strained(size: float, strain: Any = strain) -> float:
                frame = atoms.copy()
                frame.set_cell(atoms.cell.array @ (np.eye(3) + size * strain), scale_atoms=True)
                return self.energy(frame)

            difference = slope(strained, 1e-4) / atoms.get_volume()
            assert abs(difference - (stress * strain).sum()) < 1e-6 * np.abs(stress).max()  # as for the forces

    @pytest.mark.parametrize("pbc", [True, False], ids=["periodic", "open"])
    def test_hessian_row_is_the_difference_of_the_forces(self, pbc: bool) -> None:
        atoms = waters(2, pbc=pbc)
        found = self.evaluate(self.model, [atoms], training=True)
        (row,) = torch.autograd.grad(-found.forces[1, 0], found.positions)
        step, forces = 1e-4, []
        for shift in (-step, step):
            moved = atoms.copy()
            moved.positions[1, 0] += shift
            forces.append(self.evaluate(self.model, [moved]).forces.detach())
        difference = -(forces[1] - forces[0]) / (2 * step)
        # central difference: step² times the fourth derivative of the energy
        torch.testing.assert_close(row, difference, rtol=0, atol=1e-5 * row.abs().max().item())

    def test_gradient_of_a_force_loss_is_its_difference_along_the_parameters(self) -> None:
        """The double backward pass that every training step on forces needs."""
        model, atoms = self.attached(), waters(2)
        parameters = [parameter for parameter in long_range_part(model).parameters() if parameter.requires_grad]
        direction = random_direction(parameters)

        def loss() -> torch.Tensor:
            return self.evaluate(model, [atoms], training=True).forces.square().sum()

        def along(size: float) -> float:
            with moved(parameters, direction, size):
                return loss().item()

        gradient = torch.autograd.grad(loss(), parameters, allow_unused=True)
        exact = sum((g * d).sum().item() for g, d in zip(gradient, direction, strict=True) if g is not None)
        # a relative change of 1e-3 of all weights: fourth power, times derivatives of order 10³
        assert exact == pytest.approx(slope(along, 1e-3), rel=1e-6, abs=1e-8)

    @pytest.mark.parametrize("dipole", ["isotropic", "anisotropic"])
    @pytest.mark.parametrize("heads", ["auto", "edge"])
    def test_every_parameter_reaches_the_loss_of_energies_and_forces(self, heads: str, dipole: str) -> None:
        section: Mapping[str, Any] = {**self.section, "response": {"charge": True, "dipole": dipole}, "heads": heads}
        ours, bare = self.attached(section), self.make_model()
        for model in (ours, bare):
            found = self.evaluate(model, [waters()], training=True)
            (found.energy.sum() + found.forces.square().sum()).backward()
        for name, parameter in long_range_part(ours).named_parameters():
            assert parameter.grad is not None, f"{name} does not reach the loss"
            assert parameter.grad.abs().max().item() > 0.0, f"{name} has no influence on the loss"
        own = {id(parameter) for parameter in long_range_part(ours).parameters()}
        unused = [n for n, p in ours.named_parameters() if id(p) not in own and p.grad is None]
        # parameters that the host itself leaves idle stay idle, no others
        assert len(unused) == len([name for name, p in bare.named_parameters() if p.grad is None]), unused
