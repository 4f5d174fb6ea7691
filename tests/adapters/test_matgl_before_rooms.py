"""Files of MatGL models that les-plugins 0.1 wrote are read today and give the numbers that they gave then."""

from __future__ import annotations

import pytest

pytest.importorskip("matgl", reason="matgl is not installed: nox -s tests-matgl")

import matgl
from before_rooms import FOLDER, check

import les_plugins
from les_plugins.adapters.matgl.calculator import LesMatGLCalculator


def test_a_checkpoint_gives_the_numbers_of_before():
    check(les_plugins.load(FOLDER / "matgl.les"), "matgl.les")


def test_matgls_own_folder_gives_the_numbers_of_before():
    check(LesMatGLCalculator(matgl.load_model(FOLDER / "matgl").double()), "matgl")
