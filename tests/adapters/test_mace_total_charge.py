"""`total_charge: given` in MACE: its own field in batches, the names that its calculator is told, compiled code."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mace")
import torch
from mace_models import amplify, tiny_mace, waters

import les_plugins
from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.adapters.mace.torchscript import compile_model
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return amplify(les_plugins.attach(tiny_mace(), {"total_charge": "given"}))


def test_the_calculator_reads_the_charge_under_the_name_that_mace_is_told(model: torch.nn.Module) -> None:
    ion = waters(1, pbc=False)
    ion.info["charge"] = 1
    expected = LesMACECalculator(model).get_property("energy", ion)
    other = waters(1, pbc=False)
    other.info["net"] = 1.0
    calculator = LesMACECalculator(model, info_keys={"total_charge": "net"})
    assert calculator.get_property("energy", other) == pytest.approx(expected, abs=1e-12)
    assert other.info == {"net": 1.0}
    other.info["net"] = "plus"
    with pytest.raises(DataError, match=r"info\['net'\] is 'plus'"):
        calculator.get_property("energy", other)


def test_a_charged_structure_is_no_net_charge_to_warn_of_and_a_spin_is(model: torch.nn.Module) -> None:
    calculator, ion = LesMACECalculator(model), waters(1, pbc=False)
    ion.info["charge"] = -1
    calculator.get_property("energy", ion)  # warnings are errors
    ion.info["spin"] = 2
    ion.rattle(0.01)
    with pytest.warns(LesPluginsWarning, match="a spin, which this model does not read"):
        calculator.get_property("energy", ion)


def test_compiling_raises_an_error_that_says_so(model: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="total_charge: given"):
        compile_model(model, tmp_path / "model.pt", (8.0, 8.0, 8.0), "cpu", {})
