"""`total_charge: given` in MACE: its own field in batches, the names that its calculator is told, compiled code."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mace")
import ase.io
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from mace_models import amplify, tiny_mace, waters

import les_plugins
from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.adapters.mace.contract import SETTINGS
from les_plugins.adapters.mace.data import read_data
from les_plugins.adapters.mace.torchscript import compile_model
from les_plugins.adapters.mace.train import parse_arguments
from les_plugins.errors import ConfigError, DataError, HostError
from les_plugins.testing.training import train_in


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


def test_a_charged_structure_is_no_net_charge_to_warn_of_and_a_triplet_is_refused(model: torch.nn.Module) -> None:
    calculator, ion = LesMACECalculator(model), waters(1, pbc=False)
    ion.info["charge"] = -1
    calculator.get_property("energy", ion)  # warnings are errors
    ion.info["spin"] = 2  # the one unpaired electron that an odd number of them has
    ion.rattle(0.01)
    calculator.get_property("energy", ion)
    ion.info["spin"] = 4
    with pytest.raises(DataError, match=r"info\['spin'\] = 4, a spin, which this model does not read"):
        calculator.get_property("energy", ion)


def test_compiling_raises_an_error_that_says_so(model: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="total_charge: given"):
        compile_model(model, tmp_path / "model.pt", (8.0, 8.0, 8.0), "cpu", {})


@pytest.mark.parametrize("key", ["charge", "total_charge", "REF_charge"])
def test_training_files_have_the_charge_under_either_name_or_the_one_that_mace_is_told(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = [waters(2, seed=seed) for seed in range(2)]
    frames[0].info[key] = -1
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=0.0 * atoms.positions)
    ase.io.write("train.extxyz", frames)
    named = {"total_charge_key": key} if key == "REF_charge" else {}
    settings = {**SETTINGS, "train_file": "train.extxyz", "valid_file": "train.extxyz", **named}
    args = parse_arguments(settings, (), Path("config.yaml"))
    found = read_data(args, Path("config.yaml"), reads_charge=True).training_set()
    assert [atoms.info[args.total_charge_key] for atoms in found] == [-1.0, 0.0]
    assert [atoms.info["charge"] for atoms in found] == [-1.0, 0.0]


def test_a_checkpoint_keeps_the_name_that_its_training_data_had_the_charge_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = [waters(2, seed=seed) for seed in range(4)]
    for number, atoms in enumerate(frames):
        atoms.info["Q"] = number % 3 - 1
        atoms.calc = SinglePointCalculator(atoms, energy=0.1 * number, forces=0.0 * atoms.positions)
    files = {"train_file": "train.extxyz", "valid_file": "valid.extxyz", "total_charge_key": "Q"}
    folder = train_in(tmp_path, "mace", frames, {**SETTINGS, **files, "long_range": {"total_charge": "given"}})
    calculator = les_plugins.load(folder)
    assert calculator.total_charge_key == "Q"
    energies = {}
    for charge in (0, -1):
        bringing = [waters(1, pbc=False) for _ in range(3)]
        for atoms, name in zip(bringing, ("Q", "charge", "total_charge"), strict=True):
            atoms.info[name] = charge
        found = [calculator.get_property("energy", atoms) for atoms in bringing]
        assert found == pytest.approx([found[0]] * 3, abs=1e-12)
        assert calculator.get_property("charges", bringing[0]).sum() == pytest.approx(charge, abs=1e-9)
        energies[charge] = found[0]
    assert abs(energies[0] - energies[-1]) > 1e-6
    bringing[0].info["charge"] = 1
    with pytest.raises(DataError, match=r"info\['charge'\] = 1 and info\['Q'\] = -1 are two total charges"):
        calculator.get_property("energy", bringing[0])


def test_a_total_charge_is_set_on_a_calculator_that_reads_it_alone(model: torch.nn.Module) -> None:
    calculator = LesMACECalculator(model)
    with pytest.raises(ConfigError, match="total_charge is 'plus'; allowed: a finite number of e"):
        calculator.total_charge = "plus"
    with pytest.raises(HostError, match="this model does not read total charges"):
        LesMACECalculator(tiny_mace()).total_charge = 1.0
