"""Adapters with one mistake each: the contract must fail where it belongs. Mistakes are those that adapters do make."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from les_tiny_schnet import adapter
from les_tiny_schnet.adapter import LongRangeSchNet
from les_tiny_schnet.contract import TinySchNetContract
from les_tiny_schnet.plugin import TinySchNetHost

from les_plugins import LongRangeConfig
from les_plugins.hosting.build import parse_section
from les_plugins.testing import AdapterContract

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


@pytest.mark.parametrize("key", ["mean_neighbors", "cutoff"])
def test_the_contract_fails_for_a_layout_with_a_number_of_one_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
) -> None:
    correct, numbers = adapter.feature_layout, {"mean_neighbors": 4.0, "cutoff": 3.5}
    monkeypatch.setattr(adapter, "feature_layout", lambda model: correct(model)._replace(**{key: numbers[key]}))
    with pytest.raises(AssertionError, match=key):
        TinySchNetContract().test_elements_cutoff_and_neighbours_are_those_of_the_model(tmp_path, monkeypatch)


class WithElementsOfItsOwn(adapter.Calculator):
    def __init__(self, model, metadata=None, device="cpu"):
        super().__init__(model, metadata, device)
        self.known_elements = [1, 8]


class WithoutLongRangeEnergy(adapter.Calculator):
    def __init__(self, model, metadata=None, device="cpu"):
        super().__init__(model, metadata, device)
        self.implemented_properties = [name for name in self.implemented_properties if name != "long_range_energy"]


class WithAnotherUnit(adapter.Calculator):
    energy_unit = 27.2


class WithoutMetadata(adapter.Calculator):
    def __init__(self, model, metadata=None, device="cpu"):
        super().__init__(model, None, device)


@pytest.mark.parametrize(
    ("calculator", "law"),
    [
        (WithElementsOfItsOwn, lambda c, *use: c.test_elements_cutoff_and_neighbours_are_those_of_the_model(*use)),
        (WithoutLongRangeEnergy, lambda c, *_: c.test_the_calculator_offers_the_models_own_long_range_energy()),
        (WithAnotherUnit, lambda c, *_: c.test_the_calculator_offers_the_models_own_long_range_energy()),
        (WithoutMetadata, lambda c, *use: c.test_facts_of_a_training_reach_the_checkpoint_and_its_calculator(*use)),
    ],
)
def test_the_contract_fails_for_a_calculator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, calculator: type, law: Callable[..., None]
) -> None:
    monkeypatch.setattr(adapter, "Calculator", calculator)
    with pytest.raises(AssertionError):
        law(TinySchNetContract(), tmp_path, monkeypatch)


class DropsMetadata(adapter.Training):
    def __init__(self, config_file, arguments, metadata):
        super().__init__(config_file, arguments, {})


class IgnoresUnknownKeys(adapter.Training):
    def split(self):
        section = self.settings.get("long_range", {})
        self.settings["long_range"] = {
            key: value for key, value in section.items() if key in LongRangeConfig.model_fields
        }
        super().split()


class ReadsNoOtherNames(adapter.Training):
    keys = None

    def split(self):
        self.long_range = parse_section(self.settings.pop("long_range", {}), "file")


@pytest.mark.parametrize(
    ("training", "law"),
    [
        (DropsMetadata, lambda c, *use: c.test_facts_of_a_training_reach_the_checkpoint_and_its_calculator(*use)),
        (IgnoresUnknownKeys, lambda c, *use: c.test_an_unknown_key_of_the_section_is_an_error_that_names_it(*use)),
        (ReadsNoOtherNames, lambda c, *use: c.test_a_misspelt_section_raises_an_error("long_rang", *use)),
    ],
)
@pytest.mark.filterwarnings("ignore::les_plugins.errors.LesPluginsWarning")
def test_the_contract_fails_for_a_trainer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, training: type, law: Callable[..., None]
) -> None:
    monkeypatch.setattr(adapter, "train", training.train)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law(TinySchNetContract(), tmp_path, monkeypatch)


def test_laws_of_training_are_skipped_for_a_host_without_a_trainer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    contract = type("Untrained", (TinySchNetContract,), {"train": AdapterContract.train})()
    with pytest.raises(pytest.fail.Exception, match="has no train, which the adapter of tiny_schnet implements"):
        contract.test_the_hosts_own_trainer_trains_the_long_range_part(tmp_path, monkeypatch)
    parts = {method: place for method, place in TinySchNetHost.parts.items() if method != "train"}
    monkeypatch.setattr(TinySchNetHost, "parts", parts)
    with pytest.raises(pytest.skip.Exception, match="the adapter of tiny_schnet has no trainer"):
        contract.test_the_hosts_own_trainer_trains_the_long_range_part(tmp_path, monkeypatch)


def test_a_skip_without_a_reason_fails() -> None:
    for skips in ({"test_no_such_law": "this host has no such thing"}, {"test_forces_sum_to_zero": "no"}):
        contract = type("Skipping", (TinySchNetContract,), {"skips": skips})()
        with pytest.raises(pytest.fail.Exception):
            contract.test_what_is_skipped_exists_and_has_a_reason()
