"""Nothing of a model is made up or lost: its elements and neighbours, its energies, its facts. Part of the contract."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers
from torch import nn

from les_plugins import api
from les_plugins.errors import LesPluginsError, LesPluginsWarning
from les_plugins.hosting import registry
from les_plugins.hosting.calculator import LONG_RANGE_PROPERTIES
from les_plugins.model.features import FeatureLayout
from les_plugins.storage.checkpoint import read_config
from les_plugins.testing.host import ContractHost
from les_plugins.testing.structures import labelled_waters, waters

#: Elements of `make_other_model`.
OTHER_ELEMENTS = {1, 6, 8}


class Fidelity(ContractHost):
    """What an adapter reads from the model, and what it hands on."""

    def test_elements_cutoff_and_neighbours_are_those_of_the_model(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = self.make_other_model()
        if other is None:
            pytest.skip("the adapter makes no second model (make_other_model)")
        first, second = (self._layout(model, monkeypatch) for model in (self.make_model(), other))
        if second.cutoff is not None:
            assert second.cutoff != first.cutoff, "the layout's cutoff is not that of the model"
            assert second.mean_neighbors != first.mean_neighbors, "mean_neighbors is not that of the model"
        if second.elements is not None:
            self._check_elements({atomic_numbers[symbol] for symbol in second.elements})
        model = api.attach(other, dict(self.section))
        calculator = self.calculator(model)
        self._check_elements(set(calculator.known_elements))
        atoms = Atoms("COHH", [[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [-0.6, 0.9, 0.0], [-0.6, -0.9, 0.0]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LesPluginsWarning)  # random weights are charged
            energy = calculator.get_property("energy", atoms)
            again = api.load(api.save(model, tmp_path / "other.les", self.host)).get_property("energy", atoms)
        assert np.isfinite(energy)
        assert again == pytest.approx(energy, abs=1e-10)  # the same operations, maybe by another number of threads

    def test_the_calculator_offers_the_models_own_long_range_energy(self) -> None:
        calculator = self.calculator(self.model)
        missing = set(LONG_RANGE_PROPERTIES) - set(calculator.implemented_properties)
        assert not missing, f"implemented_properties lacks {sorted(missing)}"
        for pbc in (True, False):
            atoms = waters(pbc=pbc)
            evaluation, latent = self.evaluate_with_latent(self.model, [atoms])
            parts = [calculator.get_property(f"{name}_range_energy", atoms) for name in ("long", "short")]
            assert parts[0] == pytest.approx(latent.energy.item(), abs=1e-9)  # neighbours summed in another order
            assert sum(parts) == pytest.approx(evaluation.energy.item(), abs=1e-9)

    def test_an_unknown_key_of_the_section_is_an_error_that_names_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(LesPluginsError) as error:
            self.train(tmp_path, labelled_waters(6), {**self.section, "sigme": 1.0})
        assert "sigme" in str(error.value), f"does not name the key sigme: {error.value}"

    def test_facts_of_a_training_reach_the_checkpoint_and_its_calculator(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LesPluginsWarning)  # one epoch on made-up labels
            folder = self.train(tmp_path, labelled_waters(6), dict(self.section))
        config = read_config(folder)
        assert config["metadata"].get("data_licence") == "none", "train does not hand on its metadata"
        calculator = api.load(folder)
        assert calculator.metadata == config, "the calculator does not keep the metadata that it was made with"
        assert calculator.reference_susceptibility == config["susceptibility"]

    def _check_elements(self, known: set[int]) -> None:
        assert known > OTHER_ELEMENTS if self.knows_every_element else known == OTHER_ELEMENTS

    def _layout(self, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> FeatureLayout:
        """What the adapter says of a model's features when it attaches a long-range part."""
        name, caught = str(dict(self.section).get("heads", "auto")), list[FeatureLayout]()
        found: Any = registry.heads()
        ours = found[name]

        def remember(layout: FeatureLayout, config: Any) -> Any:
            caught.append(layout)
            return ours.factory(layout, config)

        with monkeypatch.context() as within:
            within.setitem(found, name, registry.Offered(remember, ours.part))
            api.attach(model, dict(self.section))
        return caught[-1]
