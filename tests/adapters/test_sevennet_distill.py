"""SevenNet as a teacher: the models in its wheel, by name, with version, hash and licence; no download."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule

from les_plugins.adapters.sevennet.pretrained import IN_WHEEL
from les_plugins.distillation.labelling import label_frames
from les_plugins.distillation.teachers import open_teacher
from les_plugins.errors import DataError, HostError


@pytest.fixture
def water():
    return molecule("H2O", cell=[6.0, 6.5, 7.0], pbc=True)


def test_a_model_of_the_wheel_labels_as_sevennet_itself(water, tmp_path):
    from sevenn.calculator import SevenNetCalculator

    teacher = open_teacher("sevennet:7net-0")
    assert teacher.provenance()["teacher"] == "sevennet:7net-0"
    assert (teacher.version, teacher.licence) == ("sevenn 0.13.0", "MIT")
    assert {1, 8, 53, 82} <= set(teacher.elements)
    (found,) = label_frames(teacher, [water], tmp_path, "water")
    direct = SevenNetCalculator("7net-0", device="cpu")
    for name in ("energy", "forces", "stress"):
        # one model in one precision: equal to the rounding of float32
        np.testing.assert_allclose(found.calc.results[name], direct.get_property(name, water), rtol=1e-4, atol=1e-5)


def test_two_dates_are_two_models():
    first, second = (open_teacher(f"sevennet:7net-0_{date}") for date in ("11jul2024", "22may2024"))
    assert first.sha256 == open_teacher("sevennet:7net-0").sha256 != second.sha256


def test_an_element_that_the_model_does_not_know_is_named(water, tmp_path):
    water.symbols[0] = "Po"
    with pytest.raises(DataError, match="frame 0: the model does not know Po"):
        label_frames(open_teacher("sevennet:7net-0"), [water], tmp_path, "water")


@pytest.mark.parametrize(
    ("name", "modality", "said"),
    [
        ("7net-o", None, r"no model '7net-o' \(did you mean '7net-0'\?\); allowed: 7net-0, .*nothing is downloaded"),
        ("7net-omat", None, "no model '7net-omat'"),
        ("7net-mf-0", None, "has several levels of theory and no --modality is given; allowed: .*R2SCAN"),
        ("7net-mf-0", "HSE", "--modality is 'HSE'; allowed: "),
        ("7net-0", "PBE", "--modality is 'PBE', but 7net-0 has one level of theory"),
    ],
)
def test_wrong_names_and_levels_of_theory_say_what_is_allowed(name, modality, said):
    with pytest.raises(HostError, match=said):
        open_teacher(f"sevennet:{name}", modality=modality)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_WHEEL)
def test_every_model_of_the_wheel_opens(name):
    modality = "R2SCAN" if name == "7net-mf-0" else None
    assert "forces" in open_teacher(f"sevennet:{name}", modality=modality).calculator.implemented_properties
