"""Polarization, Born charges, polarizability, χ and forces in a field of models whose charge flows over pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from torch import Tensor

from les_plugins import LatentElectrostatics, LongRangeConfig, Multipoles, PairSoftness
from les_plugins.electrostatics.flow import Transfers
from les_plugins.electrostatics.long_waves import OneShotResponse, long_waves
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import FeatureLayout, LayerLayout
from les_plugins.model.long_range import LongRange, LongRangeResult
from les_plugins.model.outputs import every_latent_output
from les_plugins.model.physical import (
    LatentStructure,
    born_results,
    field_results,
    latent_results,
    long_wave_results,
    susceptibility_of,
)
from les_plugins.units import VACUUM_PERMITTIVITY

CUTOFF = 4.5
EPSILON = 2.5
FIELD = torch.tensor([0.03, -0.02, 0.05], dtype=torch.float64)
PLACES = pytest.mark.parametrize("pbc", [True, (True, True, False), False], ids=["periodic", "slab", "open"])
SOLVES = pytest.mark.parametrize("solve", ["one_shot", "self_consistent"])


def crystal(repeat: tuple[int, int, int] = (1, 1, 1), pbc: Any = True) -> Atoms:
    """Two formula units without symmetry in a triclinic cell, some vacuum along the normal of a slab."""
    generator = np.random.default_rng(3)
    cell = [[5.2, 0.3, -0.2], [0.9, 5.6, 0.4], [-0.5, 0.6, 6.1]]
    places = np.array([[0, 0, 0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    atoms = Atoms("NaClNaCl", scaled_positions=places, cell=cell, pbc=pbc)
    atoms.positions += 0.15 * generator.normal(size=(4, 3))
    return atoms.repeat(repeat)


def layer_of(solve: str) -> LatentElectrostatics:
    return LatentElectrostatics(response=solve, response_tolerance=1e-13, net_charge_warning=None)


def model(
    atoms: Atoms,
    leaf: Tensor,
    solve: str = "one_shot",
    polarizable: bool = True,
    field: Tensor | None = None,
    scale: float = 0.03,
) -> LongRangeResult:
    """Fixed charges of elements, dipoles, polarizabilities and softness of pairs that depend on neighbours."""
    centre, neighbor, images = neighbor_list("ijS", atoms, CUTOFF)
    i, j = torch.tensor(centre), torch.tensor(neighbor)
    vector = leaf[j] - leaf[i] + torch.tensor(images @ atoms.cell.array)
    square = vector.square().sum(1)
    weight = torch.exp(-square / 6.0) * (1.0 - square / CUTOFF**2) ** 3
    pairs = PairSoftness(i, j, vector, scale * weight)
    charge = torch.where(torch.tensor(atoms.numbers) == 11, 0.6, -0.6).double()
    dipole = torch.zeros(len(atoms), 3, dtype=torch.float64).index_add(0, i, 0.3 * weight[:, None] * vector)
    around = torch.zeros(len(atoms), dtype=torch.float64).index_add(0, i, weight)
    permanent, alpha = Multipoles(charge, dipole), 0.02 + 0.01 * torch.sigmoid(around) if polarizable else None
    cell, pbc = torch.tensor(atoms.cell.array)[None], torch.tensor(atoms.pbc)[None]
    places = (leaf, cell, pbc, torch.zeros(len(atoms), dtype=torch.long))
    layer = layer_of(solve)
    found = layer(
        *places,
        permanent,
        polarizability=alpha,
        pair_softness=pairs,
        external_field=field,
        periodic_field="dipoles",
    )
    collective = layer.collective_polarizability(*places, None, alpha, pairs)
    none = Transfers(i, j, vector, torch.zeros_like(square))
    return LongRangeResult(*found[:6], permanent, None, alpha, collective, pairs, none, charge, found.flow)


def evaluated(atoms: Atoms, **options: Any) -> LatentStructure:
    leaf = torch.tensor(atoms.positions, requires_grad=True)
    cell, pbc = torch.tensor(atoms.cell.array)[None], torch.tensor(atoms.pbc)[None]
    return LatentStructure(model(atoms, leaf, **options), leaf, cell, pbc, EPSILON, 0.4)


def dipole(atoms: Atoms, **options: Any) -> np.ndarray:
    moment: np.ndarray = latent_results(evaluated(atoms, **options))["dipole"]
    return moment


@PLACES
@SOLVES
@pytest.mark.parametrize("polarizable", [True, False])
def test_born_charges_are_the_derivative_of_the_polarization(pbc: Any, solve: str, polarizable: bool) -> None:
    atoms, step, options = crystal(pbc=pbc), 1e-4, {"solve": solve, "polarizable": polarizable}
    born = born_results(evaluated(atoms, **options))
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        moved = [atoms.copy(), atoms.copy()]
        for frame, sign in zip(moved, (-1, 1), strict=True):
            frame.positions[atom, axis] += sign * step
        difference = (dipole(moved[1], **options) - dipole(moved[0], **options)) / (2 * step)
        np.testing.assert_allclose(born[atom, :, axis], difference, rtol=0, atol=1e-7)  # second order of the step
    if pbc is not False:
        assert np.abs(born.sum(0)).max() < 1e-11  # the sum rule, to rounding


@PLACES
@SOLVES
def test_the_polarizability_is_the_slope_of_the_polarization_in_the_field(pbc: Any, solve: str) -> None:
    atoms, step = crystal(pbc=pbc), 1e-2
    found = latent_results(evaluated(atoms, solve=solve))["polarizability"]
    factor = EPSILON / 1.4 if pbc is True else 1.0
    columns = []
    for axis in np.eye(3):
        ends = []
        for sign in (-1, 1):
            structure = evaluated(atoms, solve=solve, field=torch.tensor(sign * step * axis))
            ends.append(structure.carriers.total(structure.positions, structure.batch, 1)[0].detach().numpy())
        columns.append((ends[1] - ends[0]) / (2 * step))
    # linear in the field, so that differences leave rounding alone
    np.testing.assert_allclose(found, factor * np.stack(columns, 1), rtol=0, atol=1e-11)


@pytest.mark.parametrize("polarizable", [True, False])
def test_the_susceptibility_and_the_dielectric_tensor_hold_the_flow(polarizable: bool) -> None:
    structure = evaluated(crystal(), polarizable=polarizable)
    latent, volume = structure.latent, abs(np.linalg.det(structure.cell[0].numpy()))
    pairs = latent.pair_softness
    assert pairs is not None
    flow = 0.5 * (pairs.value * pairs.vector.square().sum(1)).sum() / 3.0  # every pair is two edges
    atoms = latent.polarizability.sum() if latent.polarizability is not None else 0.0
    chi = float((flow + atoms).detach()) / (VACUUM_PERMITTIVITY * volume)
    assert susceptibility_of(latent, structure.cell, structure.pbc) == pytest.approx(chi, rel=1e-12)
    own = LatentStructure(latent, structure.positions, structure.cell, structure.pbc, EPSILON)
    assert float(own.screening.detach()) == pytest.approx(EPSILON / (1.0 + chi), rel=1e-12)
    tensor = latent_results(own)["dielectric_tensor"]
    assert np.trace(tensor) / 3.0 == pytest.approx(EPSILON, rel=1e-12)
    sent = every_latent_output(latent)["latent_polarizability"]  # of compiled code
    expected = latent_results(own)["polarizability"] * (1.0 + chi) / EPSILON
    np.testing.assert_allclose(sent.sum(0).detach(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("solve", ["one_shot", "self_consistent"])
@pytest.mark.parametrize("pbc", [True, False], ids=["periodic", "open"])
def test_forces_in_a_field_are_those_of_one_energy(pbc: bool, solve: str) -> None:
    """The energy of the layer in the latent field, with −E·Σ e r of the fixed charges where it does not count them."""
    atoms = crystal(pbc=pbc)
    structure = evaluated(atoms, solve=solve)
    energy, forces, induced = field_results(structure, FIELD)
    scale = float(structure.screening.detach().sqrt())
    leaf = torch.tensor(atoms.positions, requires_grad=True)
    found = model(atoms, leaf, solve, field=scale * FIELD)
    without = model(atoms, leaf, solve)
    added = (found.energy - without.energy).sum()
    work = scale * FIELD @ (found.permanent.charge[:, None] * leaf).sum(0)
    (slope,) = torch.autograd.grad(added - (work if pbc else 0.0), leaf)
    np.testing.assert_allclose(forces, -slope.numpy(), rtol=0, atol=1e-10)
    expected = float(added.detach()) if not pbc else -0.5 * float(FIELD.numpy() @ induced)
    assert energy == pytest.approx(expected, abs=1e-11)


@SOLVES
def test_born_charges_of_a_repeated_cell_are_those_of_the_cell(solve: str) -> None:
    one = born_results(evaluated(crystal(), solve=solve))
    several = born_results(evaluated(crystal((2, 1, 1)), solve=solve))
    np.testing.assert_allclose(several, np.tile(one, (2, 1, 1)), rtol=0, atol=1e-9)  # of the solution


def test_long_waves_approach_the_born_charges_and_leave_out_what_their_own_field_moves() -> None:
    """The charges that flowed seen as charges, at k: without what their own field moves Z* would be smaller by χ."""
    section = {"multipoles": ["charge", "dipole"], "response": {"charge": "pairs", "dipole": "isotropic"}}
    part = build_long_range(FeatureLayout((LayerLayout(2, 1),), cutoff=CUTOFF), LongRangeConfig.parse(section))
    assert isinstance(part, LongRange)
    exact = born_results(evaluated(crystal(), scale=0.2))
    deviations = []
    for n in (2, 4):
        whole = evaluated(crystal((1, 1, n)), scale=0.2)
        latent = whole.latent._replace(transfers=None, element_charges=None)
        free = LatentStructure(latent, whole.positions, whole.cell, whole.pbc, EPSILON, 0.4)
        found = long_wave_results(free, part, {"long_wave_born_charges"})["long_wave_born_charges"]
        response = OneShotResponse(latent.permanent, 1.0, None, latent.polarizability)
        arguments = (whole.positions, whole.cell[0], latent.charge, latent.dipole, None, float(free.screening.detach()))
        blind = long_waves(*arguments, response).born.detach().numpy()
        wave = np.linalg.inv(whole.cell[0].numpy())[:, 2]
        differences = [wave @ (born[:4] - exact) / np.linalg.norm(wave) for born in (found, blind)]
        deviations.append([np.abs(difference).max() for difference in differences])
    (first, _), (second, without) = deviations
    assert second < first / 8.0  # the fourth order of k, 16, less what is left of the sixth
    assert second < 3e-3
    assert without > 10.0 * second
