"""Laws of sums: the host comes back exactly, energies add up, batches and supercells change nothing."""

from __future__ import annotations

import pytest
import torch
from numpy.testing import assert_allclose

from les_plugins import api
from les_plugins.data.batch import BatchResult, evaluate_batch, evaluate_one_by_one
from les_plugins.testing.host import ContractHost, long_range_part
from les_plugins.testing.structures import waters


class Exactness(ContractHost):
    """The long-range part is added, and nothing else is changed."""

    def test_long_range_part_is_visible_in_these_tests(self) -> None:
        """Else every other law would hold for want of something to break it."""
        latent = self.latent(self.model, [waters()])
        assert latent.energy.abs().item() > 1e-2
        permanent = latent.permanent
        for moment in (permanent.charge, permanent.dipole, permanent.quadrupole):
            assert moment is None or moment.abs().max().item() > 1e-2

    @pytest.mark.parametrize("pbc", [True, False], ids=["periodic", "open"])
    def test_zeroed_heads_give_the_hosts_energy_and_forces_back(self, pbc: bool) -> None:
        model = self.attached()
        long_range_part(model).zero()
        atoms = waters(pbc=pbc)
        ours, hosts = self.evaluate(model, [atoms]), self.evaluate(self.make_model(), [atoms])
        for name in ("energy", "atomic_energy", "forces") + (("stress",) if pbc else ()):
            # the same operations and zeros added: at most the last digit
            torch.testing.assert_close(getattr(ours, name), getattr(hosts, name), rtol=1e-14, atol=1e-14)

    def test_zero_init_starts_at_the_hosts_predictions(self) -> None:
        model = api.attach(self.make_model(), {**self.section, "zero_init": True})
        atoms = waters()
        ours, hosts = self.evaluate(model, [atoms]), self.evaluate(self.make_model(), [atoms])
        for name in ("energy", "atomic_energy", "forces", "stress"):
            torch.testing.assert_close(getattr(ours, name), getattr(hosts, name), rtol=1e-14, atol=1e-14)  # as above

    def test_total_energy_is_the_hosts_plus_the_long_range_energy(self) -> None:
        frames = [waters(), waters(2, pbc=False)]
        ours, latent = self.evaluate_with_latent(self.model, frames)
        hosts = self.evaluate(self.make_model(), frames)
        # one addition of numbers of order 100 eV
        torch.testing.assert_close(ours.energy.double(), hosts.energy.double() + latent.energy, rtol=1e-13, atol=1e-13)

    def test_atomic_energies_sum_to_the_total(self) -> None:
        """MD engines read the atomic ones."""
        for atoms in (waters(), waters(pbc=False)):
            found = self.evaluate(self.model, [atoms])
            total = found.energy.item()
            assert len(found.atomic_energy) == len(atoms)
            assert abs(found.atomic_energy.sum().item() - total) < 1e-12 * max(abs(total), 1.0)  # rounding of a sum

    def test_a_mixed_batch_equals_its_structures_one_by_one(self) -> None:
        frames = [waters(seed=1), waters(2, seed=2, pbc=False), waters(3, seed=3)]
        together, latent = self.evaluate_with_latent(self.model, frames)
        single = [self.evaluate_with_latent(self.model, [atoms]) for atoms in frames]
        for name in ("energy", "forces", "atomic_energy"):
            expected = torch.cat([getattr(one, name) for one, _ in single])
            # sums in another order, over a few hundred terms
            torch.testing.assert_close(getattr(together, name), expected, rtol=1e-11, atol=1e-10)
        for name in ("energy", "charge"):
            expected = torch.cat([getattr(one, name) for _, one in single])
            torch.testing.assert_close(getattr(latent, name), expected, rtol=1e-11, atol=1e-10)  # as above

    def test_a_batch_of_the_calculator_equals_its_structures_one_by_one(self) -> None:
        """Periodic, open, mixed: engines that run several structures at once rely on it."""
        calculator = self.calculator(self.model)
        mixed = [waters(seed=1), waters(2, seed=2, pbc=False), waters(3, seed=3)]
        for frames in (mixed, mixed[:1], mixed[1:2]):
            together, single = evaluate_batch(calculator, frames), evaluate_one_by_one(calculator, frames)
            for name in BatchResult._fields:
                # sums in another order, as above; NaN for NaN: an open structure has no stress
                assert_allclose(getattr(together, name), getattr(single, name), rtol=1e-11, atol=1e-10)

    def test_a_doubled_supercell_has_twice_the_energy(self) -> None:
        atoms = waters()
        once = self.energy(atoms)
        for repeat in ((2, 1, 1), (1, 1, 2)):
            # rounding of sums over twice the atoms and twice the wave vectors
            assert abs(self.energy(atoms * repeat) - 2 * once) < 1e-10 * max(abs(once), 1.0)

    def test_float32_agrees_with_float64_to_single_precision(self) -> None:
        single = self.attached(dtype=torch.float32)
        double = self.in_float64(single)
        low, high = self.evaluate(single, [waters()]), self.evaluate(double, [waters()])
        # 1e-7 relative, amplified by the sums in the host; the electrostatics runs in float64 in both
        scale = max(high.forces.abs().max().item(), 1.0)
        torch.testing.assert_close(low.forces.double(), high.forces, rtol=0, atol=1e-4 * scale)
