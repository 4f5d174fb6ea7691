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
        ("not stated", False),
        ("BSD; MIT", False),
        ("LGPL-3.0", False),
        (NON_COMMERCIAL, True),
        ("MIT; none stated (somebody)", True),
        ("for non-commercial use", True),
    ],
)
def test_non_commercial_and_missing_licences_restrict(licence, restricted):
    assert licences.is_restricted(licence) is restricted


def test_loading_says_the_licence_once_for_each_model(tmp_path, with_plugins, monkeypatch):
    monkeypatch.setattr(licences, "_SAID", set())
    with_plugins(toy=ToyHost())
    given = {"bought": NON_COMMERCIAL, "other": NON_COMMERCIAL, "free": "MIT", "silent": None}
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
