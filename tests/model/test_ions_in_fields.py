"""Ions of models with `total_charge: given`: Z* add up to Q, a field pushes with them, and J is the change of P."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from few_atoms import CUTOFF
from toy_calculator import Toy, molecule

from les_plugins import LongRangeConfig
from les_plugins.dynamics import Field, Settings, Trajectory, run
from les_plugins.electrostatics.lattice import open_directions
from les_plugins.engines.evaluation import evaluate_structure
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.long_range import LongRange
from les_plugins.model.physical import LatentStructure, born_results, field_results, latent_results

CHARGE, EPSILON = -1.0, 1.78
PLACES = torch.tensor(np.random.default_rng(5).uniform(-1.5, 1.5, (5, 3)))
VELOCITIES = torch.tensor(np.random.default_rng(6).normal(size=(5, 3)))
SPECIES = torch.tensor([0, 1, 0, 1, 1])
FIELD = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


def ion_model(**response: Any) -> LongRange:
    torch.manual_seed(0)
    section = {"multipoles": ["charge", "dipole"], "total_charge": "given", "epsilon_infinity": EPSILON}
    layout = FeatureLayout((LayerLayout(4, 2),), cutoff=CUTOFF, elements=("H", "O"))
    config = LongRangeConfig.parse({**section, "response": response, "heads": "equivariant"})
    return build_long_range(layout, config).double().eval()


def physical(part: LongRange, pbc: torch.Tensor, edge: float, places: torch.Tensor) -> LatentStructure:
    """Smooth functions of the distances in a cluster of five atoms, and what the model makes of them."""
    leaf = places.clone().requires_grad_()
    vector = leaf[None] - leaf[:, None]
    near = torch.exp(-vector.square().sum(2) / 3.0) * (1.0 + SPECIES) * (1.0 - torch.eye(5))
    columns = [SPECIES.double(), near.sum(1), near.square().sum(1), (near**3).sum(1)]
    arrows = [(weight[:, :, None] * vector).sum(1) for weight in (near, near.square())]
    features = NodeFeatures([LayerFeatures(torch.stack(columns, 1), torch.stack(arrows, 1))], None, SPECIES)
    cell, batch = edge * torch.eye(3, dtype=torch.float64)[None], torch.zeros(5, dtype=torch.long)
    given = torch.tensor([CHARGE], dtype=torch.float64)
    found = part(features, leaf, cell, pbc, batch, total_charge=given)
    latent = given / EPSILON**0.5 if bool(pbc.all()) else given
    return LatentStructure(found, leaf, cell, pbc, EPSILON, 0.0, latent)


def dipole_rate(part: LongRange, pbc: torch.Tensor, edge: float) -> np.ndarray:
    """d/dt of the dipole along the velocities, by the five-point formula."""
    step = 1e-3  # error step⁴ times a fifth derivative of order one
    values = [
        latent_results(physical(part, pbc, edge, PLACES + n * step * VELOCITIES))["dipole"] for n in (-2, -1, 1, 2)
    ]
    return (values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / (12.0 * step)


@pytest.mark.parametrize("flags", [(False, False, False), (True, True, False)], ids=["open", "slab"])
def test_the_current_of_an_ion_is_the_change_of_its_dipole(flags: tuple[bool, ...]) -> None:
    part, pbc = ion_model(charge="onsite", dipole="isotropic"), torch.tensor([flags])
    structure = physical(part, pbc, 12.0, PLACES)
    along = open_directions(structure.cell, pbc)[0].numpy()
    born = born_results(structure)
    current = np.einsum("nab,nb->a", born, VELOCITIES.numpy())
    np.testing.assert_allclose(along @ current, along @ dipole_rate(part, pbc, 12.0), atol=1e-9)
    np.testing.assert_allclose(along @ born.sum(0), CHARGE * along, atol=1e-11)


def test_the_current_and_the_born_charges_of_a_periodic_ion_approach_those_of_its_dipole_as_the_cell_grows() -> None:
    part, pbc = ion_model(dipole="isotropic"), torch.ones(1, 3, dtype=torch.bool)
    off, rule = [], []
    for edge in (12.0, 24.0, 48.0):  # phases are those of the smallest wave vector: errors go with its square
        born = born_results(physical(part, pbc, edge, PLACES))
        current = np.einsum("nab,nb->a", born, VELOCITIES.numpy())
        off.append(np.abs(current - dipole_rate(part, pbc, edge)).max())
        rule.append(np.abs(born.sum(0) - CHARGE * np.eye(3)).max())
    for errors in (off, rule):
        assert 3.0 < errors[0] / errors[1] < 5.0
        assert 3.5 < errors[1] / errors[2] < 4.5
        assert errors[2] < 0.02  # e, a fiftieth of the charge, and a quarter of it in twice the edge


def test_a_field_pushes_a_periodic_ion_with_its_born_charges_and_its_induced_dipoles() -> None:
    part, pbc = ion_model(dipole="isotropic"), torch.ones(1, 3, dtype=torch.bool)
    structure = physical(part, pbc, 12.0, PLACES)
    born = born_results(structure)
    energy, forces, induced = field_results(structure, FIELD)
    alpha = latent_results(structure)["polarizability"]
    np.testing.assert_allclose(induced, alpha @ FIELD.numpy(), rtol=1e-12)
    assert energy == pytest.approx(-0.5 * float(FIELD.numpy() @ alpha @ FIELD.numpy()), rel=1e-12)

    def of_dipoles(places: torch.Tensor) -> float:
        return field_results(physical(part, pbc, 12.0, places), FIELD)[0]

    pushed = np.einsum("a,nab->nb", FIELD.numpy(), born)
    for atom, axis in ((0, 0), (2, 1), (4, 2)):
        shift = torch.zeros_like(PLACES)
        shift[atom, axis] = 1e-3
        slope = (of_dipoles(PLACES + shift) - of_dipoles(PLACES - shift)) / 2e-3
        assert forces[atom, axis] == pytest.approx(pushed[atom, axis] - slope, abs=1e-7)  # step² times a derivative


class Ion(Toy):
    """Charges that add up to what is given, in a field, with Born charges that are 0.05 e too large each."""

    takes_external_field = takes_total_charge = True
    external_field: Any = None

    def calculate(self, atoms: Atoms | None = None, *arguments: Any, **named: Any) -> None:
        super().calculate(atoms, *arguments, **named)
        assert atoms is not None
        pushed = self.results["charges"] + 0.05
        self.results["born_effective_charges"] = pushed[:, None, None] * np.eye(3)
        if self.external_field is not None:
            self.results["field_forces"] = pushed[:, None] * self.external_field
            self.results["zero_field_energy"] = self.results["energy"]
            self.results["forces"] = self.results["forces"] + self.results["field_forces"]


def test_the_sum_rule_leaves_an_ion_its_total_charge_in_currents_fields_and_engines(tmp_path: Path) -> None:
    start = molecule(1, periodic=True, formula="OHHH")
    charges = np.array([-0.8, 0.4, 0.4, 0.4])
    found = evaluate_structure(Ion(), start, "an engine", born=True)
    np.testing.assert_allclose(found.born, charges[:, None, None] * np.eye(3), atol=1e-14)
    assert found.sum_rule_violation == pytest.approx(0.05)
    chosen = Settings.of(temperature=300.0, timestep=0.2, steps=100, every=1, field=Field((0.3, 0.0, -0.2)))
    run(Ion(), start, tmp_path / "md.h5", chosen, save_every=0.0)
    trajectory = Trajectory.open(tmp_path / "md.h5")
    current = np.einsum("n,tna->ta", charges, trajectory["velocities"])
    np.testing.assert_allclose(trajectory["current"], current, atol=1e-14)
    power = (trajectory["field"] * current).sum(1)
    work = np.concatenate([[0.0], np.cumsum(0.5 * 0.2 * (power[1:] + power[:-1]))])
    np.testing.assert_allclose(trajectory["field_work"], work, atol=1e-9)
    assert np.ptp(trajectory["conserved_energy"]) < 0.01 * np.ptp(work)  # those forces move the atoms
