"""Licences of data: which restrict the use of a model, and that loading such a model says so, once."""

from __future__ import annotations

import warnings

import pytest
from torch import nn
from toy_host import ToyHost

import les_plugins
from les_plugins.errors import LesPluginsWarning
from les_plugins.storage import licences

NON_COMMERCIAL = "CC BY-NC 4.0"


@pytest.mark.parametrize(
    ("licence", "restricted"),
    [
        ("MIT", False),
        ("Academic Free License v3.0", False),
        ("Apache-2.0, Foo Inc", False),
        ("BSD; MIT", False),
        ("LGPL-3.0", False),
        (NON_COMMERCIAL, True),
        ("MIT; none stated (somebody)", True),
        ("for non-commercial use", True),
        ("not stated", True),
        ("MIT; not stated (toy:big)", True),
        ("CC_BY_NC_SA", True),
        ("cc-by-nc-4.0", True),
        ("CC BY-ND 4.0", True),
        ("Academic Software License (ASL), academic use only", True),
        ("research use only", True),
    ],
)
def test_non_commercial_and_missing_licences_restrict(licence, restricted):
    assert licences.is_restricted(licence) is restricted


def test_a_training_hands_on_the_licence_of_what_it_began_with():
    assert licences.with_start("CC0", "big", "MIT") == "CC0; MIT (big)"
    assert licences.with_start("not stated", "own.model", None) == "not stated; not stated (own.model)"
    water = "CC BY-NC 4.0 (les_fit); none stated (LES-BEC); pretraining: LGPL-3.0"
    once = licences.with_start("MIT", "water", water)
    assert once == "MIT; CC BY-NC 4.0 (les_fit); none stated (LES-BEC); pretraining: LGPL-3.0 (water)"
    # a second stage on the same data: nothing is named twice, and nothing is lost
    assert licences.with_start("MIT", "once", once) == once
    assert licences.with_start("not stated", "stage", "not stated") == "not stated"


def test_the_licence_of_a_start_is_that_of_its_checkpoint(tmp_path, with_plugins):
    with_plugins(toy=ToyHost())
    facts = {"data_licence": "MIT", "training": {"host_checkpoint": "best.ckpt"}}
    folder = les_plugins.save(nn.Linear(3, 1), tmp_path / "a.les", "toy", facts)
    silent = les_plugins.save(nn.Linear(3, 1), tmp_path / "b.les", "toy")
    assert licences.licence_of_checkpoint(folder) == "MIT"
    assert licences.licence_of_checkpoint(folder, "best.ckpt") == "MIT"
    assert licences.licence_of_checkpoint(folder, "last.ckpt") is None
    assert licences.licence_of_checkpoint(silent) == "not stated"
    assert licences.licence_of_checkpoint(tmp_path) is None
    assert licences.is_restricted(licences.licence_of_checkpoint("water-mace"))


def test_loading_says_the_licence_once_for_each_model(tmp_path, with_plugins, monkeypatch):
    monkeypatch.setattr(licences, "_SAID", set())
    with_plugins(toy=ToyHost())
    given = {"bought": NON_COMMERCIAL, "other": NON_COMMERCIAL, "free": "MIT", "silent": None}
    given |= {"own": "not stated", "tuned": "not stated; MIT (big)"}  # what users know of their own data
    given["elsewhere/other"] = NON_COMMERCIAL  # another model of the same name
    (tmp_path / "elsewhere").mkdir()
    for name, licence in given.items():
        facts = {} if licence is None else {"data_licence": licence}
        les_plugins.save(nn.Linear(3, 1), tmp_path / f"{name}.les", "toy", facts)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            for name in given:
                les_plugins.load(tmp_path / f"{name}.les")
    texts = [str(one.message) for one in caught if one.category is LesPluginsWarning]
    assert texts == [
        f"{name}.les was trained on data under a licence that may restrict its use: {NON_COMMERCIAL}"
        for name in ("bought", "other", "other")
    ]
