"""The zoo's recipes: the commands that cards print, and the pretraining data that one of them prepares."""

import importlib.util
import itertools
import json
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from les_plugins import zoo

RECIPES = Path(__file__).parents[1] / "model_zoo" / "recipes"


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", zoo.names())
def test_every_stage_of_a_card_is_in_the_repository_and_reads_what_the_stage_before_wrote(name):
    metrics = json.loads((zoo.root() / name / zoo.METRICS).read_text(encoding="utf-8"))
    stages = metrics["training"]["command"].split(" && ")
    recipes = [Path(stage.split("--config ")[1].split()[0]) for stage in stages]
    assert recipes[-1].name == Path(metrics["training"]["recipe"]).name
    for recipe in recipes:
        assert (RECIPES / recipe.name).is_file(), recipe
    for before, recipe in itertools.pairwise(recipes):
        text = (RECIPES / recipe.name).read_text(encoding="utf-8")
        folder = f"{before.stem}.les"
        written = (f"runs/{before.stem}/best.ckpt", f"runs/{before.stem}/{folder}", f"start_from: {folder}")
        assert any(name in text for name in written)


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_of_mace_is_called_as_the_checkpoint_that_it_writes(recipe):
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert settings.get("name", recipe.stem) == recipe.stem


def test_cards_name_pretraining_data_and_all_licences():
    add, facts = script("add"), json.loads((RECIPES / "data.json").read_text(encoding="utf-8"))["water"]
    stage = add.command("water-x-pretraining", "nequip", RECIPES / "water-nequip-pretraining.yaml", facts, [])
    assert facts["pretraining"]["train"] in stage
    assert facts["train"] not in stage
    card = (zoo.root() / "water-nequip" / zoo.CARD).read_text(encoding="utf-8")
    assert facts["pretraining"]["licence"] in card
    assert facts["pretraining"]["functional"] in card


def test_cesium_becomes_nitrogen_and_the_mean_energy_that_of_mapbi3(tmp_path, monkeypatch):
    module, frames = script("cesium_as_nitrogen"), []
    for shift in (-0.5, 0.5):
        atoms = Atoms("CsPbI3", positions=np.arange(15.0).reshape(5, 3), cell=[9, 9, 9], pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=5 * (-278858.0 + shift), forces=np.full((5, 3), shift))
        frames.append(atoms)
    ase.io.write(tmp_path / "in.extxyz", frames)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "in.extxyz"), str(tmp_path / "runs" / "out.extxyz")])
    module.main()
    out = ase.io.read(tmp_path / "runs" / "out.extxyz", ":")
    assert [str(atoms.symbols) for atoms in out] == ["NPbI3", "NPbI3"]
    energies = [atoms.get_potential_energy() / 5 for atoms in out]
    assert energies == pytest.approx([module.MEAN_ENERGY - 0.5, module.MEAN_ENERGY + 0.5], abs=1e-6)
    assert np.allclose(out[0].get_forces(), -0.5)
