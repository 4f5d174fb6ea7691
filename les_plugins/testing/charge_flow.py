"""Laws of charge that flows over a host's edges (`response: {charge: pairs}`), with both kinds of softness."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError
from les_plugins.hosting.calculator import LongRangeCalculator
from les_plugins.model.features import NodeFeatures
from les_plugins.model.heads import LatentVariables
from les_plugins.testing.derivatives import moved, random_direction, slope
from les_plugins.testing.host import ContractHost, long_range_part
from les_plugins.testing.structures import waters
from les_plugins.units import VACUUM_PERMITTIVITY

KINDS = pytest.mark.parametrize("kind", ["atoms", "edges"])


class ChargeFlow(ContractHost):
    """A host's edges carry charge as any others do, or its adapter raises the error that it hands none over."""

    @KINDS
    def test_flow_keeps_the_charge_of_every_structure_of_a_batch_or_an_error_is_raised(self, kind: str) -> None:
        model = self._with_flow(kind)
        if model is None:
            return
        frames = [waters(2, seed=1), waters(1, seed=2, pbc=False), waters(3, seed=3)]
        evaluation, latent = self.evaluate_with_latent(model, frames)
        assert latent.flow is not None
        counts = torch.tensor([len(atoms) for atoms in frames])
        batch = torch.repeat_interleave(torch.arange(len(frames)), counts)
        induced = latent.flow.charges(len(batch)).detach()
        sums = torch.zeros(3, dtype=torch.float64).index_add(0, batch, induced.double())
        torch.testing.assert_close(sums, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-14)  # rounding
        assert induced.abs().max().item() > 1e-5
        for number, atoms in enumerate(frames):
            alone = self.evaluate(model, [atoms])
            # rounding of sums in another order
            torch.testing.assert_close(alone.energy[0], evaluation.energy[number], rtol=1e-9, atol=1e-9)

    @KINDS
    def test_forces_and_stress_with_flow_are_derivatives_of_the_energy_or_an_error_is_raised(self, kind: str) -> None:
        model, atoms = self._with_flow(kind), waters(2, seed=4)
        if model is None:
            return
        found = self.evaluate(model, [atoms])
        forces, stress = found.forces.detach().numpy(), found.stress[0].detach().numpy()
        strain = np.array([[0.5, 0.2, 0.0], [0.2, -0.3, 0.1], [0.0, 0.1, 0.4]])

        def moved(size: float) -> float:
            frame = atoms.copy()
            frame.positions[1, 2] += size
            return self.evaluate(model, [frame]).energy.item()

        def strained(size: float) -> float:
            frame = atoms.copy()
            frame.set_cell(atoms.cell.array @ (np.eye(3) + size * strain), scale_atoms=True)
            return self.evaluate(model, [frame]).energy.item()

        # both errors of the formula are below 1e-6 of the largest (theory 12)
        assert abs(-slope(moved, 1e-3) - forces[1, 2]) < 1e-6 * np.abs(forces).max()
        difference = slope(strained, 1e-4) / atoms.get_volume()
        assert abs(difference - (stress * strain).sum()) < 1e-6 * np.abs(stress).max()

    @KINDS
    def test_gradient_of_a_force_loss_in_the_softness_is_its_difference_or_an_error_is_raised(self, kind: str) -> None:
        model, atoms = self._with_flow(kind), waters(2)
        if model is None:
            return
        head = getattr(long_range_part(model).heads, "pair_softness", None)
        if head is None:
            pytest.skip("heads of a plugin, whose parameters have other names")
        parameters = list(head.parameters())
        direction = random_direction(parameters)

        def loss() -> Tensor:
            return self.evaluate(model, [atoms], training=True).forces.square().sum()

        def along(size: float) -> float:
            with moved(parameters, direction, size):
                return loss().item()

        gradient = torch.autograd.grad(loss(), parameters)
        assert all(part.abs().max().item() > 0.0 for part in gradient)
        exact = sum((g * d).sum().item() for g, d in zip(gradient, direction, strict=True))
        # the change is small beside the loss: its rounding, 1e-15 of it, over the step
        assert exact == pytest.approx(slope(along, 1e-2), rel=1e-5, abs=1e-12 * loss().item())

    @KINDS
    def test_born_charges_with_flow_are_those_of_the_doubled_cell_or_an_error_is_raised(self, kind: str) -> None:
        model, atoms = self._with_flow(kind, total_charge="conserved"), waters(2, seed=5)
        if model is None or not isinstance(calculator := self.calculator(model), LongRangeCalculator):
            return
        one = calculator.get_property("born_effective_charges", atoms).copy()
        two = calculator.get_property("born_effective_charges", atoms.repeat((2, 1, 1)))
        # no smallest wave vector is in them: rounding, and of the sum of 1e5 wave vectors
        np.testing.assert_allclose(two, np.tile(one, (2, 1, 1)), rtol=0, atol=1e-8)
        np.testing.assert_allclose(one.sum(0), 0.0, rtol=0, atol=1e-8)  # acoustic sum rule

    @KINDS
    def test_born_charges_with_flow_are_the_slope_of_the_polarization_or_an_error_is_raised(self, kind: str) -> None:
        model, atoms = self._with_flow(kind, total_charge="conserved"), waters(2, seed=7)
        if model is None or not isinstance(calculator := self.calculator(model), LongRangeCalculator):
            return
        born = calculator.get_property("born_effective_charges", atoms).copy()
        assert calculator.results["polarization_source"] == "transfers"
        volume = atoms.get_volume()
        for axis in range(3):

            def polarization(size: float, axis: int = axis) -> float:
                frame = atoms.copy()
                frame.positions[4] += size * np.eye(3)[axis]
                return float(volume * calculator.get_property("polarization", frame) @ np.array([0.6, -0.3, 0.7]))

            # step⁴ times the fifth derivative of P
            expected = np.array([0.6, -0.3, 0.7]) @ born[4, :, axis]
            assert slope(polarization, 1e-3) == pytest.approx(expected, abs=1e-6 * np.abs(born).max())

    def test_the_polarizability_with_flow_is_the_slope_of_the_dipole_in_a_field_or_an_error_is_raised(self) -> None:
        model, atoms = self._with_flow("atoms"), waters(2, seed=8, pbc=False)
        if model is None or not getattr(calculator := self.calculator(model), "takes_external_field", False):
            return
        found = calculator.get_property("polarizability", atoms).copy()
        atomic = self.latent(model, [atoms]).polarizability
        assert atomic is not None
        flow = np.trace(found) - 3.0 * float(atomic.detach().sum())
        assert flow > 1e-3  # e²·Å²/eV: charge answers too

        def dipole(field: Floats) -> Floats:
            calculator.external_field = field
            return np.array(calculator.get_property("dipole", atoms))

        columns = [(dipole(1e-2 * axis) - dipole(-1e-2 * axis)) / 2e-2 for axis in np.eye(3)]
        # linear in the field: rounding over its size
        np.testing.assert_allclose(found, np.stack(columns, 1), rtol=0, atol=1e-9)

    def test_the_screening_of_a_crystal_holds_the_flow_or_an_error_is_raised(self) -> None:
        model, atoms = self._with_flow("atoms"), waters(2, seed=9)
        if model is None or not isinstance(calculator := self.calculator(model), LongRangeCalculator):
            return
        alpha = calculator.get_property("polarizability", atoms)
        scale = 1.0 / (3.0 * VACUUM_PERMITTIVITY * atoms.get_volume())
        chi, epsilon = calculator.results["susceptibility"], calculator.epsilon_infinity
        atomic = self.latent(model, [atoms]).polarizability
        assert atomic is not None
        assert chi > 1.01 * scale * 3.0 * float(atomic.detach().sum())
        # ε_e = ε_∞/(1 + χ), of the first structure that the calculator sees; rounding
        assert scale * np.trace(alpha) == pytest.approx(epsilon * chi / (1.0 + chi), rel=1e-6)
        dielectric = calculator.get_property("dielectric_tensor", atoms)
        assert np.trace(dielectric) / 3.0 == pytest.approx(epsilon, rel=1e-6)

    def test_no_softness_of_pairs_is_no_response_or_an_error_is_raised(self) -> None:
        model, atoms = self._with_flow("atoms"), waters(2, seed=6)
        if model is None:
            return
        part = long_range_part(model)
        heads, found = part.heads, []
        for change in (_without_value, _without_pairs):
            part.heads = _Changed(heads, change)
            found.append(self.evaluate(model, [atoms]))
        torch.testing.assert_close(found[0].energy, found[1].energy, rtol=1e-13, atol=1e-13)  # rounding
        torch.testing.assert_close(found[0].forces, found[1].forces, rtol=0, atol=1e-12)

    def _with_flow(self, kind: str, total_charge: str = "free") -> nn.Module | None:
        """A model whose charge flows over pairs; None where the adapter raises the error that it has no edges."""
        response = {"charge": "pairs", "pair_softness": kind, "dipole": "isotropic"}
        section = {**self.section, "response": response, "total_charge": total_charge}
        try:
            return self.attached(section)
        except ConfigError as error:
            refusal = str(error)
        assert "response.charge: pairs needs the host's edges" in refusal
        return None


class _Changed(nn.Module):
    """Heads whose result is changed on its way."""

    def __init__(self, heads: nn.Module, change: Callable[[LatentVariables], LatentVariables]) -> None:
        super().__init__()
        self.heads, self.change = heads, change

    def forward(self, features: NodeFeatures) -> LatentVariables:
        return self.change(LatentVariables(*self.heads(features)))


def _without_value(latent: LatentVariables) -> LatentVariables:
    pairs = latent.pair_softness
    assert pairs is not None
    return latent._replace(pair_softness=pairs._replace(value=0.0 * pairs.value))


def _without_pairs(latent: LatentVariables) -> LatentVariables:
    return latent._replace(pair_softness=None)
