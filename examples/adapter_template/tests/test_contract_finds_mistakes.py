"""Adapters with one mistake each: the contract must fail where it belongs. Mistakes are those that adapters do make."""

from collections.abc import Callable

import pytest
import torch
from les_tiny_schnet import adapter
from les_tiny_schnet.adapter import LongRangeSchNet
from les_tiny_schnet.contract import TinySchNetContract

CORRECT = LongRangeSchNet.forward


def forgets_atomic_energies(self, batch):
    output = CORRECT(self, batch)
    return {**output, "atomic_energy": self.base(batch)["atomic_energy"]}


def counts_twice(self, batch):
    output = CORRECT(self, batch)
    return {**output, "energy": output["energy"] + output["latent"].energy.to(output["energy"].dtype)}


def does_not_strain_the_cell(self, batch):
    return with_latent_of(self, batch, {**batch, "cell": batch["cell"].detach()})


def detaches_positions(self, batch):
    return with_latent_of(self, batch, {**batch, "positions": batch["positions"].detach()})


def transposes_the_cell(self, batch):
    return with_latent_of(self, batch, {**batch, "cell": batch["cell"].transpose(1, 2)})


def takes_everything_for_periodic(self, batch):
    box = torch.eye(3, dtype=batch["cell"].dtype) * 20.0
    cell = torch.where(batch["pbc"].all(1)[:, None, None], batch["cell"], box)
    return with_latent_of(self, batch, {**batch, "cell": cell, "pbc": torch.ones_like(batch["pbc"])})


def detaches_features(self, batch):
    output = self.base(batch)
    features = {**output, "node_features": output["node_features"].detach()}
    return add(self, output, batch, features)


def mixes_up_atoms(self, batch):
    output = self.base(batch)
    return add(self, output, batch, {**output, "node_features": output["node_features"].flip(0)})


def with_latent_of(model, batch, other):
    """The host's energy of one batch and the long-range energy of another geometry, same edges."""
    output = model.base(batch)
    return add(model, output, other, output, edges=batch)


def add(model, output, batch, features, edges=None):
    node_features = adapter.node_features(model.base, edges or batch, features)
    latent = model.long_range(node_features, *(batch[name] for name in ("positions", "cell", "pbc", "batch")))
    sums = {name: output[name] + getattr(latent, name).to(output[name].dtype) for name in ("energy", "atomic_energy")}
    return {**output, **sums, "latent": latent}


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (forgets_atomic_energies, lambda c: c.test_atomic_energies_sum_to_the_total()),
        (counts_twice, lambda c: c.test_total_energy_is_the_hosts_plus_the_long_range_energy()),
        (does_not_strain_the_cell, lambda c: c.test_stress_is_the_strain_derivative_of_the_energy()),
        (detaches_positions, lambda c: c.test_forces_are_minus_the_central_difference_of_the_energy(False)),
        (
            transposes_the_cell,
            lambda c: c.test_the_same_moments_give_the_energy_of_latent_electrostatics_called_directly(),
        ),
        (
            takes_everything_for_periodic,
            lambda c: c.test_the_same_moments_give_the_energy_of_latent_electrostatics_called_directly(),
        ),
        (detaches_features, lambda c: c.test_forces_are_minus_the_central_difference_of_the_energy(True)),
        (mixes_up_atoms, lambda c: c.test_a_mixed_batch_equals_its_structures_one_by_one()),
    ],
)
def test_the_contract_fails_for_an_adapter_that(
    monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., object], law: Callable[..., None]
) -> None:
    monkeypatch.setattr(LongRangeSchNet, "forward", mistake)
    contract = type("Mistaken", (TinySchNetContract,), {})()
    with pytest.raises(AssertionError):
        law(contract)


def test_a_skip_without_a_reason_fails() -> None:
    for skips in ({"test_no_such_law": "this host has no such thing"}, {"test_forces_sum_to_zero": "no"}):
        contract = type("Skipping", (TinySchNetContract,), {"skips": skips})()
        with pytest.raises(pytest.fail.Exception):
            contract.test_what_is_skipped_exists_and_has_a_reason()
