"""Polarizabilities by contribution: what a calculator hands out and molecular dynamics records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from response_models import SECTION, TinyHost, crystal
from toy_calculator import Toy, molecule

from les_plugins.dynamics import Settings, Trajectory, run
from les_plugins.errors import ConfigError, HostError
from les_plugins.model.physical import LatentStructure, latent_results
from les_plugins.model.polarizability_parts import KINDS, NAMES, polarizability_results, result_name
from les_plugins.spectra import Samples

EPSILON = 2.0


def evaluated(response: dict[str, Any], periodic: bool = True) -> tuple[LatentStructure, Any]:
    host = TinyHost({**SECTION, "response": response})
    geometry, species = crystal(periodic=periodic)
    _, latent = host(geometry, species)
    part = host.long_range
    latent = part.with_collective_polarizability(latent, *geometry)
    return LatentStructure(latent, *geometry[:3], EPSILON, 0.3), part


@pytest.mark.parametrize("periodic", [True, False])
def test_the_model_s_own_polarizability_is_one_of_the_kinds(periodic: bool) -> None:
    for response, kind in (
        ({"dipole": "anisotropic"}, "atoms"),
        ({"dipole": "anisotropic", "charge": "pairs"}, "atoms+flow"),
        ({"dipole": "anisotropic", "solve": "self_consistent", "tolerance": 1e-12}, "self-consistent"),
        ({"dipole": "isotropic", "charge": "pairs", "solve": "self_consistent"}, "self-consistent+flow"),
    ):
        structure, part = evaluated(response, periodic)
        name = result_name(kind)
        found = polarizability_results(structure, part, [name])[name]
        # the tolerance of the response
        np.testing.assert_allclose(found, latent_results(structure)["polarizability"], rtol=1e-6, atol=1e-9)


def test_contributions_are_scaled_by_the_screening_and_differ() -> None:
    structure, part = evaluated({"dipole": "anisotropic", "charge": "pairs"})
    found = polarizability_results(structure, part, NAMES)
    latent = structure.latent.polarizability
    assert latent is not None
    scale = EPSILON / 1.3
    np.testing.assert_allclose(found["polarizability_atoms"], scale * latent.detach().sum(0).numpy(), rtol=1e-6)
    assert structure.latent.pair_softness is not None
    flow = structure.latent.pair_softness.polarizability(8).sum(0).detach().numpy()
    gained = found["polarizability_atoms_flow"] - found["polarizability_atoms"]
    np.testing.assert_allclose(gained, scale * flow, rtol=1e-6, atol=1e-12)
    values = [found[name] for name in NAMES]
    assert all(np.abs(one - other).max() > 1e-9 for one in values for other in values if one is not other)


def test_what_a_model_does_not_have_is_refused() -> None:
    structure, part = evaluated({"dipole": "anisotropic"})
    with pytest.raises(ConfigError, match=r"'did\+flow': no charge of this model flows"):
        polarizability_results(structure, part, ["polarizability_did_flow"])
    structure, part = evaluated({"charge": "pairs"})
    with pytest.raises(ConfigError, match="'did': the model has no induced dipoles"):
        polarizability_results(structure, part, ["polarizability_did"])
    with pytest.raises(HostError, match="not les-plugins' own"):
        polarizability_results(structure, torch.nn.Linear(1, 1), ["polarizability_did"])
    with pytest.raises(ConfigError, match="polarizability is 'dod'; allowed: atoms, did, self-consistent"):
        result_name("dod")
    assert len(KINDS) == len(NAMES) == 6


class TakesApart(Toy):
    """The toy, with a polarizability by contribution when it is asked for."""

    implemented_properties = [*Toy.implemented_properties, "polarizability_did"]  # noqa: RUF012 (as ASE has it)
    always: tuple[str, ...] = ()

    def calculate(self, atoms: Atoms | None = None, *arguments: Any, **named: Any) -> None:
        super().calculate(atoms, *arguments, **named)
        if "polarizability_did" in self.always:
            assert atoms is not None
            self.results["polarizability_did"] = np.diag(atoms.positions[0])


def test_dynamics_record_the_kinds_that_are_asked_for(tmp_path: Path) -> None:
    settings = {"temperature": 300.0, "timestep": 0.5, "steps": 8, "every": 4}
    start, output = molecule(1), tmp_path / "md.h5"
    run(TakesApart(), start, output, Settings.of(**settings, polarizability=("did",)), save_every=0.0)
    found = Trajectory.open(output)
    expected = [np.diag(place) for place in found["positions"][:, 0]]
    np.testing.assert_array_equal(found["polarizability_did"], expected)
    assert "polarizability_atoms" not in found.names
    np.testing.assert_array_equal(Samples.open([output]).polarizabilities("did")[0], expected)
    with pytest.raises(HostError, match="this calculator does not give polarizability_atoms"):
        run(TakesApart(), start, tmp_path / "x.h5", Settings.of(**settings, polarizability=("atoms",)))
    with pytest.raises(ConfigError, match="polarizability is 'all'; allowed: atoms, did"):
        Settings.of(**settings, polarizability=("all",))


def test_a_run_of_before_can_go_on() -> None:
    settings = Settings.of(temperature=300.0)
    before = settings.model_dump(mode="json")
    del before["polarizability"]
    assert settings.differences(before) == []
    assert Settings.of(temperature=300.0, polarizability=("did",)).differences(before)
