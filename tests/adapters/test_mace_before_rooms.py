"""Files of MACE models that les-plugins 0.1 wrote are read today and give the numbers that they gave then."""

from __future__ import annotations

import pytest

pytest.importorskip("mace", reason="mace is not installed: nox -s tests-mace")

import torch
from before_rooms import FOLDER, check

import les_plugins
from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.adapters.mace.model import LongRangeMACE


def test_a_checkpoint_gives_the_numbers_of_before():
    check(les_plugins.load(FOLDER / "mace.les"), "mace.les")


@pytest.mark.filterwarnings("ignore:les_plugins:DeprecationWarning")  # a pickle names classes by their old modules
def test_a_whole_model_gives_the_numbers_of_before():
    """`foundation_model` of a training reads such a file, and les_plugins.save makes a checkpoint of it."""
    model = torch.load(FOLDER / "mace.model", map_location="cpu", weights_only=False)
    assert isinstance(model, LongRangeMACE)
    check(LesMACECalculator(model), "mace.model")
