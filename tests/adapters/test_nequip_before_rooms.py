"""Files of NequIP models that les-plugins 0.1 wrote are read today and give the numbers that they gave then."""

from __future__ import annotations

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import json

import numpy as np
from before_rooms import FOLDER, check
from nequip.integrations.ase import NequIPCalculator
from nequip.model.saved_models.load_utils import load_saved_model
from nequip_models import batch_of, part, waters

import les_plugins
from les_plugins.adapters.nequip import LongRangeModel
from les_plugins.adapters.nequip.calculator import LesNequIPCalculator
from les_plugins.adapters.nequip.train import load_checkpoint

PACKAGE = FOLDER / "nequip.nequip.zip"


def test_a_checkpoint_gives_the_numbers_of_before():
    check(les_plugins.load(FOLDER / "nequip.les"), "nequip.les")


def test_nequips_own_checkpoint_gives_the_numbers_of_before():
    check(LesNequIPCalculator(load_checkpoint(FOLDER / "nequip.ckpt")), "nequip.ckpt")


def test_a_package_gives_the_numbers_of_before():
    check(LesNequIPCalculator(load_saved_model(str(PACKAGE))), "nequip.nequip.zip")


def test_nequips_own_calculator_reads_checkpoint_and_package():
    expected = json.loads((FOLDER / "nequip.json").read_text())["files"]["nequip.nequip.zip"]
    for file in (FOLDER / "nequip.ckpt", PACKAGE):
        calculator = NequIPCalculator._from_saved_model(str(file), chemical_species_to_atom_type_map=True)
        np.testing.assert_allclose(calculator.get_forces(waters(2)), expected["forces"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "section",
    [
        {"_target_": "nequip.model.ModelFromCheckpoint", "checkpoint_path": str(FOLDER / "nequip.ckpt")},
        {"_target_": "nequip.model.ModelFromPackage", "package_path": str(PACKAGE)},
    ],
)
def test_a_training_may_begin_with_a_file_of_before(section):
    settings = json.loads((FOLDER / "nequip.les" / "config.json").read_text())["long_range"]
    model = LongRangeModel(section, settings)
    assert part(model).config.sigma == settings["sigma"]
    expected = json.loads((FOLDER / "nequip.json").read_text())["files"]["nequip.nequip.zip"]
    forces = model.eval()(batch_of([waters(2)]))["forces"]
    np.testing.assert_allclose(forces, expected["forces"], rtol=1e-10, atol=1e-10)


def test_a_checkpoint_of_before_can_be_saved_again(tmp_path):
    folder = les_plugins.save(load_checkpoint(FOLDER / "nequip.ckpt"), tmp_path / "again.les", "nequip")
    check(les_plugins.load(folder), "nequip.ckpt")
