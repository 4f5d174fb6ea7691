"""Laws of symmetry: rotation, inversion, translation, permutation, and the choice of the periodic image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from les_plugins.testing.host import ContractHost
from les_plugins.testing.structures import waters

#: Rounding of a few thousand float64 operations on moments of order one.
MOMENTS = 1e-11
#: The same for derivatives, of order 10 eV/Å.
FORCES = 1e-10


def turn(improper: bool) -> NDArray[np.float64]:
    """(3, 3) a rotation about a skew axis, times the inversion if improper."""
    axis, angle = np.array([1.0, 2.0, -1.5]) / math.sqrt(7.25), 1.1
    cross = np.cross(np.eye(3), axis)
    rotation = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return -rotation if improper else rotation


class Symmetry(ContractHost):
    """The energy is a scalar, forces and dipoles are vectors, quadrupoles and polarizabilities tensors."""

    @pytest.mark.parametrize("pbc", [True, False], ids=["periodic", "open"])
    @pytest.mark.parametrize("improper", [False, True], ids=["rotation", "rotation-inversion"])
    def test_energy_is_invariant_and_moments_and_forces_follow(self, pbc: bool, improper: bool) -> None:
        atoms, rotation = waters(pbc=pbc), turn(improper)
        turned = atoms.copy()
        if pbc:
            turned.set_cell(atoms.cell.array @ rotation.T)
        turned.positions = atoms.positions @ rotation.T
        before, was = self.evaluate_with_latent(self.model, [atoms])
        after, now = self.evaluate_with_latent(self.model, [turned])
        matrix = torch.tensor(rotation, dtype=before.forces.dtype)
        torch.testing.assert_close(after.energy, before.energy, rtol=1e-11, atol=MOMENTS)
        torch.testing.assert_close(after.forces, before.forces @ matrix.T, rtol=0, atol=FORCES)
        torch.testing.assert_close(now.charge, was.charge, rtol=0, atol=MOMENTS)
        if was.dipole is not None:
            torch.testing.assert_close(now.dipole, was.dipole @ matrix.T, rtol=0, atol=MOMENTS)
        for tensor, expected in (
            (now.permanent.quadrupole, was.permanent.quadrupole),
            (now.polarizability, was.polarizability),
        ):
            if tensor is not None and expected is not None:
                follows = matrix @ expected @ matrix.T if expected.dim() == 3 else expected
                torch.testing.assert_close(tensor, follows, rtol=0, atol=MOMENTS)

    def test_permuted_atoms_have_permuted_results(self) -> None:
        atoms = waters()
        order = np.random.default_rng(1).permutation(len(atoms))
        before, was = self.evaluate_with_latent(self.model, [atoms])
        after, now = self.evaluate_with_latent(self.model, [atoms[order]])
        index = torch.tensor(order)
        torch.testing.assert_close(after.forces, before.forces[index], rtol=0, atol=FORCES)
        torch.testing.assert_close(after.atomic_energy, before.atomic_energy[index], rtol=0, atol=FORCES)
        torch.testing.assert_close(now.charge, was.charge[index], rtol=0, atol=MOMENTS)

    def test_translation_and_the_choice_of_the_image_change_nothing(self) -> None:
        atoms = waters()
        moved = atoms.copy()
        moved.positions += np.array([1.3, -0.4, 2.2])
        moved.positions[4] += atoms.cell.array[0] - 2 * atoms.cell.array[2]  # another image of the same atom
        before, after = self.evaluate(self.model, [atoms]), self.evaluate(self.model, [moved])
        torch.testing.assert_close(after.energy, before.energy, rtol=1e-11, atol=MOMENTS)
        torch.testing.assert_close(after.forces, before.forces, rtol=0, atol=FORCES)

    def test_forces_sum_to_zero(self) -> None:
        for atoms in (waters(), waters(pbc=False)):
            forces = self.evaluate(self.model, [atoms]).forces
            assert forces.sum(0).abs().max().item() < FORCES  # translation invariance, to rounding
