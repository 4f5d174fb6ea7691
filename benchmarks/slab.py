"""What a slab costs: our gap with the copies in closed form, against a vacuum so large that copies do not matter.

    python benchmarks/slab.py

Atoms of water's density in layers 12 Å thick, with charges, dipoles and quadrupoles, energy and forces, one core.
Times are process time, the best of three.
"""

from __future__ import annotations

import math
import time

import torch

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics import slab
from les_plugins.electrostatics.multipoles import traceless

THICKNESS = 12.0
DENSITY = 0.1
SLAB = torch.tensor([[True, True, False]])


def layer_of_atoms(edge: float) -> tuple[torch.Tensor, torch.Tensor, Multipoles]:
    """Positions, cell and neutral moments of a square layer."""
    generator = torch.Generator().manual_seed(0)
    count = round(DENSITY * THICKNESS * edge**2)
    positions = torch.rand(count, 3, generator=generator).double() * torch.tensor([edge, edge, THICKNESS]).double()
    charge = 0.4 * torch.randn(count, generator=generator).double()
    dipole = 0.1 * torch.randn(count, 3, generator=generator).double()
    quadrupole = 0.1 * traceless(torch.randn(count, 3, 3, generator=generator).double())
    return (
        positions,
        torch.diag(torch.tensor([edge, edge, 0.0]).double())[None],
        Multipoles(charge - charge.mean(), dipole, quadrupole),
    )


def energy_and_forces(edge: float) -> tuple[float, torch.Tensor, float]:
    """Energy, forces, and process time, s."""
    positions, cell, moments = layer_of_atoms(edge)
    layer, best = LatentElectrostatics(dl=0.9), math.inf
    for _ in range(3):
        leaf = positions.clone().requires_grad_()
        start = time.process_time()
        energy = layer(leaf, cell, SLAB, torch.zeros(len(leaf), dtype=torch.long), moments).energy.sum()
        (gradient,) = torch.autograd.grad(energy, leaf)
        best = min(best, time.process_time() - start)
    return float(energy.detach()), gradient, best


def main() -> None:
    """One line an edge and method: gap, time, errors against twice the gap with copies taken off."""
    torch.set_num_threads(1)
    gap_in_sigma, gap_in_root_area, decay = slab.GAP_IN_SIGMA, slab.GAP_IN_ROOT_AREA, slab.DECAY
    print("edge Å  atoms  method                gap Å   time s  energy error eV/atom  force error eV/Å")
    for edge in (12.0, 24.0, 48.0):
        count = round(DENSITY * THICKNESS * edge**2)
        slab.GAP_IN_SIGMA, slab.GAP_IN_ROOT_AREA = 2.0 * gap_in_sigma, 2.0 * gap_in_root_area
        reference, exact, _ = energy_and_forces(edge)
        slab.GAP_IN_ROOT_AREA = gap_in_root_area
        tolerance = math.log(1e6) * edge / (2.0 * math.pi)
        for name, gap, waves in (
            ("copies off", gap_in_sigma, decay),
            ("same gap, no copies", gap_in_sigma, 0.0),
            ("vacuum for 1e-6", tolerance, 0.0),
        ):
            slab.GAP_IN_SIGMA, slab.DECAY = gap, waves
            energy, gradient, seconds = energy_and_forces(edge)
            used = max(gap, slab.GAP_IN_ROOT_AREA * edge)
            error, force = abs(energy - reference) / count, float((gradient - exact).abs().max())
            print(
                f"{edge:6.0f} {count:6d}  {name:20s} {used:6.1f} {seconds:8.3f} {error:21.1e} {force:17.1e}", flush=True
            )
        slab.GAP_IN_SIGMA, slab.DECAY = gap_in_sigma, decay


if __name__ == "__main__":
    main()
