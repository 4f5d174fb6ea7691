"""Error of a self-consistent step on the particle mesh against the direct sum, over the mesh_tolerance asked for.

    OMP_NUM_THREADS=1 python benchmarks/response_on_mesh.py

Charges, dipoles, quadrupoles and both responses, "x 10" with ten times the natural softness and polarizability; norm
of the error over the norm of the quantity. "training": gradient of a loss of forces and virial in positions, strain,
moments, softness and polarizability, the largest of them.
"""

from __future__ import annotations

import argparse

import torch
from mesh_accuracy import structures
from torch import Tensor

from les_plugins import LatentElectrostatics, Multipoles

TOLERANCES = (1e-3, 1e-5, 1e-7)


def step(positions: Tensor, cell: Tensor, moments: Multipoles, strength: float, **settings) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, len(positions), generator=generator, dtype=torch.float64)
    inputs = (positions, *moments, *(0.01 * strength * torch.nn.functional.softplus(drawn)))
    places, charge, dipole, quadrupole, softness, polarizability = (x.clone().requires_grad_() for x in inputs)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deform = torch.eye(3, dtype=torch.float64) + strain
    layer = LatentElectrostatics(response="self_consistent", response_tolerance=1e-12, **settings).train()
    result = layer(
        places @ deform,
        (cell @ deform)[None],
        torch.ones(1, 3, dtype=torch.bool),
        torch.zeros(len(places), dtype=torch.long),
        Multipoles(charge, dipole, quadrupole),
        softness,
        polarizability,
    )
    gradient, virial = torch.autograd.grad(result.energy.sum(), (places, strain), create_graph=True)
    loss = gradient.square().sum() + virial.square().sum()
    leaves = {
        "positions": places, "strain": strain, "charge": charge, "dipole": dipole, "quadrupole": quadrupole,
        "softness": softness, "polarizability": polarizability,
    }  # fmt: skip
    slopes = torch.autograd.grad(loss, list(leaves.values()))
    found = {
        "energy": result.energy,
        "forces": gradient,
        "virial": virial,
        "induced charges": result.charge - charge,
        "induced dipoles": result.dipole - dipole,
        **{f"training, {name}": slope for name, slope in zip(leaves, slopes, strict=True)},
    }
    return {name: value.detach() for name, value in found.items()}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    columns = ("energy", "forces", "virial", "induced charges", "induced dipoles", "training")
    print(f"| structure | strength | mesh_tolerance | {' | '.join(columns)} |")
    print("|---|---|---:|" + "---:|" * len(columns))
    for name, positions, cell, moments in structures():
        if len(positions) == 3:
            continue  # see docs/explanation/mesh.md on a few weak moments
        for strength in (1.0, 10.0):
            exact = step(positions, cell, moments, strength, method="direct")
            for tolerance in TOLERANCES:
                found = step(positions, cell, moments, strength, method="mesh", mesh_tolerance=tolerance)
                error = {key: float((found[key] - exact[key]).norm() / exact[key].norm()) / tolerance for key in exact}
                worst = [max(error[key] for key in error if key.startswith(column)) for column in columns]
                cells = " | ".join(f"{value:.2g}" for value in worst)
                print(f"| {name} | × {strength:g} | {tolerance:.0e} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
