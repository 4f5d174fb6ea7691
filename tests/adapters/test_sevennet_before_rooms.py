"""Files of SevenNet models that les-plugins 0.1 wrote are read today and give the numbers that they gave then."""

from __future__ import annotations

import pytest

pytest.importorskip("sevenn", reason="sevenn is not installed: nox -s tests-sevennet")

import torch
from before_rooms import FOLDER, check

import les_plugins
from les_plugins.adapters.sevennet.calculator import LesSevenNetCalculator
from les_plugins.adapters.sevennet.train import load_checkpoint
from les_plugins.precision import default_dtype


def test_a_checkpoint_gives_the_numbers_of_before():
    check(les_plugins.load(FOLDER / "sevennet.les"), "sevennet.les")


def test_sevennets_own_checkpoint_gives_the_numbers_of_before():
    with default_dtype(torch.float64):  # SevenNet trains in float32: weights of that, numbers of float64
        model = load_checkpoint(FOLDER / "sevennet.pth").double()
    check(LesSevenNetCalculator(model), "sevennet.pth")
