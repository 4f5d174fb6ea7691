"""Error of the particle mesh against the direct sum, over the tolerance asked for: below 1 the tolerance is kept.

    python benchmarks/mesh_accuracy.py

Random moments of one kind and all together: on 192 atoms of water, the same in a skewed cell, 30 and 3 random atoms in
triclinic cells. Root mean square error of the forces over the root mean square force; in brackets the largest error
over the largest force.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from electrostatics import water
from torch import Tensor

from les_plugins import Multipoles
from les_plugins.electrostatics import ElectrostaticsSettings
from les_plugins.electrostatics.periodic.mesh import mesh_electrostatics
from les_plugins.electrostatics.periodic.reciprocal import periodic_electrostatics

TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-7)
#: sigma and dl, Å
SUMS = ((1.0, 1.2), (1.0, 2.0), (1.3, 1.5), (0.7, 0.9))


def structures() -> Iterator[tuple[str, Tensor, Tensor, Multipoles]]:
    """Name, positions, cell and moments."""
    positions, cell, moments = water(192)
    skew = torch.tensor([[1.0, 0.0, 0.0], [0.7, 1.0, 0.0], [-0.5, 0.6, 1.0]], dtype=torch.float64)
    yield "water", positions, cell, moments
    yield "water, skewed", positions, skew @ cell, moments
    for n_atoms in (30, 3):
        generator = torch.Generator().manual_seed(n_atoms)
        cell = 8.0 * (torch.eye(3) + 0.15 * torch.randn(3, 3, generator=generator)).double()
        positions = torch.rand(n_atoms, 3, generator=generator, dtype=torch.float64) @ cell
        random = moments.select(torch.randperm(192, generator=generator)[:n_atoms])
        yield f"{n_atoms} atoms", positions, cell, random._replace(charge=random.charge - random.charge.mean())


def kinds(moments: Multipoles) -> Iterator[tuple[str, Multipoles]]:
    """One kind of moment at a time, and all."""
    charge, dipole, quadrupole = moments
    assert dipole is not None
    yield "q", Multipoles(charge)
    yield "u", Multipoles(0.0 * charge, dipole)
    yield "Q", Multipoles(0.0 * charge, 0.0 * dipole, quadrupole)
    yield "quQ", moments


def forces(positions: Tensor, cell: Tensor, moments: Multipoles, sigma: float, dl: float, *tolerance: float) -> Tensor:
    """By the mesh where there is a tolerance."""
    places = positions.clone().requires_grad_()
    settings = ElectrostaticsSettings(sigma=sigma, dl=dl, mesh_tolerance=tolerance[0] if tolerance else 1e-5)
    if tolerance:
        energy = mesh_electrostatics(places, cell, moments, settings).energy
    else:
        in_rows = Multipoles(*(None if moment is None else moment[None] for moment in moments))
        cells = [tuple(cell.flatten().tolist())]
        energy = periodic_electrostatics(places[None], cell[None], in_rows, settings, cells).energy.sum()
    return -torch.autograd.grad(energy, places)[0]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| structure | moments | sigma | dl | " + " | ".join(f"{t:.0e}" for t in TOLERANCES) + " |")
    print("|---|---|---:|---:|" + "---:|" * len(TOLERANCES))
    for sigma, dl in SUMS:
        for name, positions, cell, all_moments in structures():
            for kind, moments in kinds(all_moments):
                exact = forces(positions, cell, moments, sigma, dl)
                columns = []
                for tolerance in TOLERANCES:
                    error = forces(positions, cell, moments, sigma, dl, tolerance) - exact
                    mean, most = error.norm() / exact.norm(), error.abs().max() / exact.abs().max()
                    columns.append(f"{float(mean) / tolerance:.2f} ({float(most) / tolerance:.2f})")
                print(f"| {name} | {kind} | {sigma} | {dl} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
