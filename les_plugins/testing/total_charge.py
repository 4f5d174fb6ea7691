"""Laws of `total_charge: given` in a host: the charge of a structure arrives, from files and from `atoms.info`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import nn

from les_plugins import api
from les_plugins.errors import ConfigError, DataError
from les_plugins.hosting.calculator import LongRangeCalculator
from les_plugins.testing.host import ContractHost
from les_plugins.testing.structures import labelled_waters, waters


class TotalCharges(ContractHost):
    """A host hands the total charges of its structures over, or raises an error that says that it does not."""

    def test_charges_add_up_to_the_total_charge_of_each_structure_of_a_batch_or_an_error_is_raised(self) -> None:
        model = self._reading_charges()
        if model is None:
            return
        frames = [charged(waters(2, seed=1), 1.0), charged(waters(1, seed=2, pbc=False), -2.0), waters(3, seed=3)]
        evaluation, latent = self.evaluate_with_latent(model, frames)
        counts = torch.tensor([len(atoms) for atoms in frames])
        batch = torch.repeat_interleave(torch.arange(len(frames)), counts)
        sums = torch.zeros(3, dtype=torch.float64).index_add(0, batch, latent.permanent.charge.detach().double())
        # of the section epsilon_infinity is 1, and no training has seen a susceptibility; rounding of a sum
        torch.testing.assert_close(sums, torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-6)
        for number, atoms in enumerate(frames):
            alone = self.evaluate(model, [atoms])
            # rounding of sums in another order
            torch.testing.assert_close(alone.energy[0], evaluation.energy[number], rtol=1e-9, atol=1e-9)
        neutral = self.evaluate(model, [waters(2, seed=1)]).energy[0]
        assert abs(float((evaluation.energy[0] - neutral).detach())) > 1e-3

    def test_the_calculator_reads_the_total_charge_and_sees_when_it_changes_or_an_error_is_raised(self) -> None:
        model = self._reading_charges()
        if model is None or not isinstance(calculator := self.calculator(model), LongRangeCalculator):
            return
        atoms = waters(1, pbc=False)
        energies = {}
        for charge in (0.0, 1.0, -1.0):
            energies[charge] = calculator.get_property("energy", charged(atoms, charge))
            assert calculator.get_property("charges", charged(atoms, charge)).sum() == pytest.approx(charge, abs=1e-9)
            born = calculator.get_property("born_effective_charges", charged(atoms, charge)).sum(0)
            np.testing.assert_allclose(born, charge * np.eye(3), atol=1e-8)
        assert len({round(energy, 6) for energy in energies.values()}) == 3
        together = calculator.evaluate_batch([charged(atoms, charge) for charge in energies]).energy
        np.testing.assert_allclose(together, list(energies.values()), rtol=1e-9, atol=1e-9)
        given, same = np.array(0.0), atoms.copy()
        for charge in energies:  # of the same atoms, in the same array
            given[()], same.info["charge"] = charge, given
            assert calculator.get_property("energy", same) == pytest.approx(energies[charge], abs=1e-9)
        calculator.total_charge = 1.0  # of structures that bring none
        assert calculator.get_property("energy", atoms.copy()) == pytest.approx(energies[1.0], abs=1e-9)
        assert calculator.get_property("energy", charged(atoms, -1.0)) == pytest.approx(energies[-1.0], abs=1e-9)
        calculator.total_charge = None
        other = atoms.copy()
        other.info["total_charge"] = -1
        assert calculator.get_property("energy", other) == pytest.approx(energies[-1.0], abs=1e-9)
        other.info["charge"] = 1
        with pytest.raises(DataError, match="two total charges"):
            calculator.get_property("energy", other)

    def test_forces_and_dipole_of_an_ion_in_a_field_are_slopes_of_its_energy_or_an_error_is_raised(self) -> None:
        model = self._reading_charges()
        if model is None or not getattr(calculator := self.calculator(model), "takes_external_field", False):
            return
        atoms, field, step = charged(waters(2, pbc=False), 1.0), np.array([0.1, -0.2, 0.15]), 1e-3

        def energy(frame: Atoms, applied: np.ndarray) -> float:
            calculator.external_field = applied
            return float(calculator.get_property("energy", frame))

        calculator.external_field = field
        forces, dipole = (calculator.get_property(name, atoms).copy() for name in ("forces", "dipole"))
        np.testing.assert_allclose(forces.sum(0), field, atol=1e-6)
        for axis, unit in enumerate(np.eye(3)):
            slope = (energy(atoms, field + step * unit) - energy(atoms, field - step * unit)) / (2 * step)
            assert slope == pytest.approx(-dipole[axis], abs=1e-8 / step)  # quadratic: rounding alone
            moved = [atoms.copy(), atoms.copy()]
            for frame, sign in zip(moved, (-1, 1), strict=True):
                frame.positions[1, axis] += sign * step
            difference = (energy(moved[1], field) - energy(moved[0], field)) / (2 * step)
            # step² times the third derivative of the energy
            assert difference == pytest.approx(-forces[1, axis], abs=1e-4 * np.abs(forces).max())

    def test_a_training_on_charged_frames_ends_in_a_model_that_reads_charges_or_an_error_is_raised(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if self._reading_charges() is None:
            return
        monkeypatch.chdir(tmp_path)
        frames = []
        for number, atoms in enumerate(labelled_waters(6)):
            frames.append(charged(atoms, float(number % 3 - 1)))
            frames[-1].calc = atoms.calc
        folder = self.train(tmp_path, frames, {**self.section, "total_charge": "given"})
        calculator = api.load(folder)
        # a charged structure in the training set says which sign charges have: saving leaves it alone
        sign = calculator.metadata["metadata"]["gauge"]
        assert (sign["decided"], sign["turned"], sign["reason"]) == (True, False, "of the total charges")
        for charge in (0.0, -2.0):
            charges = calculator.get_property("charges", charged(waters(2, pbc=False), charge))
            assert charges.sum() == pytest.approx(charge, abs=1e-5)  # rounding of float32 in some hosts

    def _reading_charges(self) -> nn.Module | None:
        """A model that reads total charges; None where the adapter raises the error that it hands none over."""
        section = {**self.section, "total_charge": "given"}
        try:
            return self.attached(section)
        except ConfigError as error:
            refusal = str(error)
        assert "needs the total charge of every structure" in refusal
        return None


def charged(atoms: Atoms, charge: float) -> Atoms:
    """The structure with a total charge under both of its names, one of which a host's reader looks for."""
    found: Atoms = atoms.copy()
    found.info.update(charge=charge, total_charge=charge)
    return found
