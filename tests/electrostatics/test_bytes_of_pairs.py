"""What charge over pairs sends, counted in a process group of one rank, which sends as each of many does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from les_plugins import LatentElectrostatics, Multipoles, PairSoftness
from les_plugins.electrostatics.communication import bytes_per_step

N_ATOMS = 12


@pytest.fixture(scope="module")
def group() -> Iterator[dist.ProcessGroup]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def step(layer: LatentElectrostatics, forces: bool, dipoles: bool, moved: float) -> int:
    """Bytes of one energy of two structures, each atom a neighbour of all others."""
    generator = torch.Generator().manual_seed(0)
    places = 6.0 * torch.rand(N_ATOMS, 3, generator=generator, dtype=torch.float64) + moved
    places.requires_grad_(forces)
    cell, batch = 6.0 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3), torch.arange(N_ATOMS) % 2
    together = (batch[:, None] == batch[None]) & ~torch.eye(N_ATOMS, dtype=torch.bool)
    centre, neighbor = torch.nonzero(together, as_tuple=True)
    vector = places[neighbor] - places[centre]
    pairs = PairSoftness(centre, neighbor, vector, 0.01 * torch.exp(-vector.square().sum(1) / 4.0))
    alpha = torch.full((N_ATOMS,), 0.1, dtype=torch.float64) if dipoles else None
    moments = Multipoles(torch.sin(torch.arange(N_ATOMS).double()))
    before = layer.ranks.bytes
    pbc = torch.ones(2, 3, dtype=torch.bool)
    energy = layer(places, cell, pbc, batch, moments, polarizability=alpha, pair_softness=pairs).energy.sum()
    if forces:
        torch.autograd.grad(energy, places)
    return layer.ranks.bytes - before


@pytest.mark.parametrize("dipoles", [True, False])
@pytest.mark.parametrize("forces", [True, False])
@pytest.mark.parametrize("response", ["one_shot", "self_consistent"])
def test_bytes_of_charge_over_pairs_are_as_stated(
    group: dist.ProcessGroup, response: str, forces: bool, dipoles: bool
) -> None:
    layer = LatentElectrostatics(
        dl=2.5, response=response, response_tolerance=1e-3, net_charge_warning=None, process_group=group
    )
    for warm in (False, True):  # in evaluation mode the self-consistent one starts from its last solution
        sent = step(layer, forces, dipoles, 1e-3 * warm)
        iterations = getattr(layer.response_model, "iterations", 0)
        cell = 6.0 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
        settings = {"forces": forces, "iterations": iterations, "warm": warm and response == "self_consistent"}
        assert sent == bytes_per_step(layer, cell, 0, polarizability=dipoles, pair_atoms=N_ATOMS, **settings)
