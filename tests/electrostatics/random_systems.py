"""Small random systems, and one call that solves them, for the tests of electrostatics and their processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins import ElectrostaticsResult, LatentElectrostatics, Multipoles
from les_plugins.electrostatics.multipoles import traceless


class System(NamedTuple):
    """One structure with everything the layer takes."""

    positions: Tensor
    cell: Tensor
    pbc: Tensor
    batch: Tensor
    charge: Tensor
    dipole: Tensor | None
    quadrupole: Tensor | None
    softness: Tensor | None
    polarizability: Tensor | None

    def select(self, atoms: Tensor) -> System:
        """The same structure with its atoms reordered or repeated."""
        per_atom = {
            name: None if getattr(self, name) is None else getattr(self, name)[atoms]
            for name in self._fields
            if name not in ("cell", "pbc")
        }
        return self._replace(**per_atom)


def random_system(
    n_atoms: int = 5,
    periodic: bool | str = True,
    order: int = 2,
    response: str | None = "anisotropic",
    size: float = 6.0,
    seed: int = 0,
) -> System:
    """Neutral random atoms, at least 0.5 Å apart, in a triclinic cell of about `size` Å; open, periodic or a "slab"."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    cell = size * (torch.eye(3, dtype=torch.float64) + 0.15 * normal(3, 3))
    positions = torch.rand(n_atoms, 3, generator=generator, dtype=torch.float64) @ cell
    charge = 0.5 * normal(n_atoms)
    polarizability = None
    if response == "isotropic":
        polarizability = 0.02 + 0.02 * normal(n_atoms).abs()
    elif response == "anisotropic":
        root = 0.1 * normal(n_atoms, 3, 3)
        polarizability = root @ root.transpose(1, 2)
    return System(
        positions=positions,
        cell=cell[None] if periodic else torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=torch.tensor([[True, False, True]]) if periodic == "slab" else torch.full((1, 3), bool(periodic)),
        batch=torch.zeros(n_atoms, dtype=torch.long),
        charge=charge - charge.mean(),
        dipole=0.3 * normal(n_atoms, 3) if order >= 1 else None,
        quadrupole=0.3 * traceless(normal(n_atoms, 3, 3)) if order == 2 else None,
        softness=None if response is None else 0.01 + 0.01 * normal(n_atoms).abs(),
        polarizability=polarizability,
    )


def solve_system(
    system: System,
    external_field: Tensor | None = None,
    periodic_field: str = "refuse",
    **settings: float | str | bool | None,
) -> ElectrostaticsResult:
    """The layer's result; `settings` go to LatentElectrostatics."""
    layer = LatentElectrostatics(**settings)  # type: ignore[arg-type]
    return layer(
        system.positions,
        system.cell,
        system.pbc,
        system.batch,
        Multipoles(system.charge, system.dipole, system.quadrupole),
        softness=system.softness,
        polarizability=system.polarizability,
        external_field=external_field,
        periodic_field=periodic_field,
    )


def forces_of(system: System, **settings: float | str | bool | None) -> tuple[ElectrostaticsResult, Tensor]:
    """The result and the forces (N, 3)."""
    positions = system.positions.detach().clone().requires_grad_()
    result = solve_system(system._replace(positions=positions), **settings)
    (gradient,) = torch.autograd.grad(result.energy.sum(), positions)
    return type(result)(*(None if value is None else value.detach() for value in result)), -gradient


def join_systems(systems: list[System]) -> System:
    """One batch of several structures, in their order; all must carry the same kinds of moments."""
    batch = torch.cat([torch.full_like(system.batch, index) for index, system in enumerate(systems)])
    joined = {
        name: None if getattr(systems[0], name) is None else torch.cat([getattr(system, name) for system in systems])
        for name in System._fields
        if name != "batch"
    }
    return System(batch=batch, **joined)
