"""A member in a process of its own gives what it gives in this one; its errors, warnings and death come through."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from toy_calculator import Toy, molecule

from les_plugins.committee import Committee, RemoteCalculator, remote
from les_plugins.errors import CheckpointError, GeometryError, HostError, LesPluginsWarning
from les_plugins.hosting.results import everything


@pytest.fixture(scope="module")
def calculator() -> Iterator[RemoteCalculator]:
    with pytest.MonkeyPatch.context() as patch:
        _toys(patch)
        found = RemoteCalculator(sys.executable, "0.3")
        yield found
        found.close()


def _toys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(remote, "WORKER", "toy_worker")
    patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def test_results_are_those_of_this_process(calculator: RemoteCalculator) -> None:
    atoms, here = molecule(3, periodic=True), Toy(spring=0.3)
    properties = ["energy", "forces", "born_effective_charges"]
    for each in (calculator, here):
        each.calculate(atoms, properties, ["positions"])
    expected = everything(here.results)
    assert everything(calculator.results).keys() == expected.keys()
    assert "born_effective_charges" in expected  # which iteration over the results leaves out
    for name, value in expected.items():
        np.testing.assert_array_equal(calculator.results[name], value, err_msg=name)
    assert calculator.known_elements == [1, 8]
    velocities = np.arange(9.0).reshape(3, 3)
    np.testing.assert_array_equal(calculator.current(velocities), here.results["charges"] @ velocities)


def test_a_committee_of_here_and_there(calculator: RemoteCalculator) -> None:
    here = Toy(spring=0.5)
    here.has_long_range = True
    committee, atoms = Committee([here, calculator]), molecule(4)
    committee.calculate(atoms, ["forces", "born_effective_charges"])
    np.testing.assert_allclose(committee.results["forces"], -0.4 * atoms.positions, rtol=1e-14)
    charges = committee.results["born_effective_charges"][:, 0, 0]
    np.testing.assert_allclose(charges, committee.results["charges"], rtol=1e-14)


def test_errors_are_of_their_kind(calculator: RemoteCalculator) -> None:
    slab = molecule(1, periodic=True)
    slab.pbc = [True, True, False]
    with pytest.raises(GeometryError, match="no slabs"):
        calculator.calculate(slab)
    calculator.calculate(molecule(1))  # and it goes on


def test_warnings_are_given_here(calculator: RemoteCalculator) -> None:
    with pytest.warns(LesPluginsWarning, match="a pair"):
        calculator.calculate(molecule(1, formula="OH"))


def test_a_model_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    _toys(monkeypatch)
    with pytest.raises(CheckpointError, match="nothing is not a checkpoint"):
        RemoteCalculator(sys.executable, "nothing")


def test_no_program_of_that_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LES_PLUGINS_PYTHON_NEQUIP", str(tmp_path))
    with pytest.raises(HostError, match="LES_PLUGINS_PYTHON_NEQUIP"):
        remote.python_of("nequip")
    monkeypatch.setenv("LES_PLUGINS_PYTHON_NEQUIP", sys.executable)
    assert remote.python_of("nequip") == sys.executable
    monkeypatch.delenv("LES_PLUGINS_PYTHON_NEQUIP")
    assert remote.python_of("nequip") is None
    with pytest.raises(HostError, match="cannot be started"):
        RemoteCalculator(os.fspath(tmp_path / "python"), "0.3")


def test_the_end_of_the_process_is_an_error(calculator: RemoteCalculator) -> None:
    """The last test: the process is gone."""
    with pytest.raises(HostError, match=r"computing 0\.3 ended"):
        calculator.calculate(Atoms("O"))
