"""A third party's solver from training to loading, with a host of a third party: needs `adapter_template` installed."""

from __future__ import annotations

import importlib.metadata
import math
import subprocess
import sys
from pathlib import Path

import ase.io
import les_debye
import pytest
import torch
import yaml
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from les_tiny_schnet.contract import TinySchNetContract

import les_plugins
from les_plugins import LatentElectrostatics, Multipoles, api
from les_plugins.errors import CheckpointError, ConfigError, GeometryError
from les_plugins.hosting import registry
from les_plugins.storage.checkpoint import read_config
from les_plugins.testing import SolverContract
from les_plugins.testing.structures import waters

LOAD = """
import sys, ase.io, les_plugins
print(les_plugins.load(sys.argv[1]).get_potential_energy(ase.io.read("frame.json")))
"""
SECTION = {"multipoles": ["charge"], "run": {"method": "debye-3"}}


def system():
    generator = torch.Generator().manual_seed(1)
    positions = 3.0 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    charge = torch.randn(6, generator=generator, dtype=torch.float64)
    batch = torch.tensor([0, 0, 0, 0, 1, 1])
    return positions, torch.zeros(2, 3, 3), torch.zeros(2, 3, dtype=torch.bool), batch, Multipoles(charge, None, None)


def test_without_screening_it_is_the_energy_of_latent_electrostatics():
    ours = LatentElectrostatics(sigma=1.3)(*system())
    unscreened = les_debye.DebyeElectrostatics(1.3, math.inf)(*system())
    for name in ("energy", "atomic_energy", "potential", "field"):
        torch.testing.assert_close(getattr(unscreened, name), getattr(ours, name), rtol=1e-10, atol=1e-12)


def test_two_distant_charges_are_screened_by_the_exponential():
    positions = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]], dtype=torch.float64)
    moments = Multipoles(torch.tensor([1.0, -1.0], dtype=torch.float64), None, None)
    geometry = positions, torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    energies = [les_debye.DebyeElectrostatics(1.0, length)(*geometry, moments).energy for length in (3.0, math.inf)]
    assert energies[0].item() == pytest.approx(math.exp(-3.0) * energies[1].item(), rel=1e-12)


class TestDebye(SolverContract):
    method = "debye-3"
    boundaries = ("open",)
    order = 0
    takes_response = takes_field = False


def test_what_it_cannot_do_is_an_error():
    with pytest.raises(ConfigError, match=r"takes multipoles: \[charge\] and no response"):
        les_plugins.attach(TinySchNetContract().make_model(), {"method": "debye-3"})
    positions, cell, pbc, batch, moments = system()
    with pytest.raises(GeometryError, match="takes open structures"):
        les_debye.DebyeElectrostatics(1.0, 3.0)(positions, cell, ~pbc, batch, moments)


def test_a_misspelt_name_is_an_error_that_suggests_it():
    with pytest.raises(ConfigError, match=r"method is 'debye3' \(did you mean 'debye-3'\?\)"):
        les_plugins.attach(TinySchNetContract().make_model(), {"multipoles": ["charge"], "method": "debye3"})


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A checkpoint of a training whose file says `method: debye-3`."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("train.extxyz", labelled_molecules(4))
    settings = {"model": {}, "data": "train.extxyz", "epochs": 1, "learning_rate": 0.01, "checkpoint": "debye.les"}
    Path("config.yaml").write_text(yaml.safe_dump({**settings, "long_range": SECTION}), encoding="utf-8")
    return registry.host("tiny_schnet").train(Path("config.yaml"), (), {"data_licence": "none"})


def labelled_molecules(count):
    """Pairs of water molecules with open boundaries, labelled by a Lennard-Jones potential."""
    frames = []
    for number in range(count):
        atoms = waters(2, seed=number, pbc=False)
        atoms.calc = LennardJones(sigma=1.0, epsilon=0.05, rc=3.0)
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


def test_a_model_is_trained_saved_and_loaded_with_it(trained):
    version = importlib.metadata.version("les-debye")
    assert read_config(trained)["parts"]["solver"] == {"name": "debye-3", "provider": "les-debye", "version": version}
    model, _ = api.load_model(trained)
    assert isinstance(model.long_range.electrostatics, les_debye.DebyeElectrostatics)
    atoms = waters(2, seed=9, pbc=False)
    found = les_plugins.load(trained).get_property("energy", atoms)
    atoms.write("frame.json")
    run = subprocess.run([sys.executable, "-c", LOAD, trained], capture_output=True, text=True, check=True)
    assert float(run.stdout) == pytest.approx(found, abs=1e-10)


def test_where_it_is_not_installed_the_checkpoint_is_not_loaded(trained, monkeypatch):
    others = [entry for entry in importlib.metadata.entry_points(group=registry.GROUP) if entry.name != "debye"]
    with monkeypatch.context() as without:
        without.setattr(importlib.metadata, "entry_points", lambda group: others)
        registry.forget()
        words = r"solver 'debye-3' \(run.method\) is of les-debye 0.1.0, which is not installed: pip install"
        with pytest.raises(CheckpointError, match=words):
            les_plugins.load(trained)
        with pytest.raises(ConfigError, match="'debye-3'; allowed with what is installed: auto, direct, mesh"):
            les_plugins.attach(TinySchNetContract().make_model(), SECTION)
    registry.forget()
    assert les_plugins.load(trained).has_long_range


def test_it_has_less_than_sixty_lines():
    assert len(Path(les_debye.__file__).read_text("utf-8").splitlines()) < 60
