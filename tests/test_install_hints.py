"""What is missing is said with a command that works: les-plugins is installed from a clone, not by its name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

from les_plugins.crystals import phonons
from les_plugins.electrostatics import nvalchemi
from les_plugins.engines import lammps
from les_plugins.errors import LesPluginsError, how_to_install
from les_plugins.plots import plotting


def test_extras_are_named_in_one_command():
    assert how_to_install("nequip", "plot") == 'pip install ".[nequip,plot]" from a clone of les-plugins'


@pytest.mark.parametrize(
    ("extra", "use"),
    [
        ("plot", plotting.check_available),
        ("phonons", phonons.check_available),
        ("nvalchemi", nvalchemi._package.__wrapped__),
        ("lammps", lammps.new_lammps),
    ],
)
def test_a_missing_package_is_an_error_with_the_command(
    monkeypatch: pytest.MonkeyPatch, extra: str, use: Callable[[], object]
):
    for module in (plotting, phonons):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LesPluginsError) as caught:
        use()
    assert how_to_install(extra) in str(caught.value)
