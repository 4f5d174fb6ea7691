"""CHGNet as a teacher: the models in its package, by name, with version, hash and licence; no download."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from les_plugins.distillation.labelling import label_frames
from les_plugins.distillation.teachers import open_teacher
from les_plugins.errors import HostError


def test_a_model_of_the_package_labels_as_chgnet_itself(tmp_path):
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    teacher = open_teacher("chgnet:0.3.0")
    assert (teacher.version, teacher.licence) == ("chgnet 0.4.2", "Modified BSD")
    salt = bulk("NaCl", "rocksalt", 5.7)
    salt.rattle(0.05, seed=1)
    (found,) = label_frames(teacher, [salt], tmp_path, "salt")
    direct = CHGNetCalculator(CHGNet.load(verbose=False), use_device="cpu")
    assert found.calc.results["energy"] == pytest.approx(direct.get_property("energy", salt), abs=1e-4)
    # one model in one precision: equal to the rounding of float32; the stress may come as a matrix
    np.testing.assert_allclose(found.calc.results["forces"], direct.get_property("forces", salt), atol=1e-4)
    stress = np.asarray(direct.get_property("stress", salt))
    voigt = stress if stress.shape == (6,) else stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    np.testing.assert_allclose(found.calc.results["stress"], voigt, atol=1e-5)


def test_three_models_are_three_hashes():
    assert len({open_teacher(f"chgnet:{name}").sha256 for name in ("0.3.0", "0.2.0", "R2SCAN")}) == 3


@pytest.mark.parametrize(
    ("name", "modality", "said"),
    [
        ("0.4.0", None, r"no model '0.4.0' \(did you mean '0.3.0'\?\); allowed: 0.3.0, 0.2.0, r2scan"),
        ("0.3.0", "PBE", "--modality is 'PBE', but models of chgnet have one level of theory"),
    ],
)
def test_wrong_names_say_what_is_allowed(name, modality, said):
    with pytest.raises(HostError, match=said):
        open_teacher(f"chgnet:{name}", modality=modality)
