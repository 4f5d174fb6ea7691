"""Energy, forces and stress of one structure whose atoms are spread over processes.

torchrun --nproc-per-node 2 examples/processes.py
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.communication import bytes_per_step

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()

# every process makes the same salt melt; a molecular-dynamics engine has its own atoms already
torch.manual_seed(0)
edge, n_atoms = 24.0, 512
all_positions = edge * torch.rand(n_atoms, 3, dtype=torch.float64)
all_charges = torch.tensor([0.6, -0.6], dtype=torch.float64).repeat(n_atoms // 2)
own = torch.floor(all_positions[:, 0] / edge * size).long() == rank  # slices of the box along x

positions = all_positions[own].requires_grad_()
strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
deformation = torch.eye(3, dtype=torch.float64) + strain
cell = (edge * torch.eye(3, dtype=torch.float64))[None] @ deformation  # the whole cell, on every process

layer = LatentElectrostatics(process_group=dist.group.WORLD)
result = layer(
    positions @ deformation,
    cell,
    torch.ones(1, 3, dtype=torch.bool),
    torch.zeros(len(positions), dtype=torch.long),
    Multipoles(all_charges[own]),
    softness=torch.full((len(positions),), 0.01, dtype=torch.float64),
)
gradient, virial = torch.autograd.grad(result.energy.sum(), (positions, strain))
dist.all_reduce(virial)  # each process has its part; engines add them up anyway

print(
    f"process {rank} of {size}: {len(positions)} atoms, energy of all {result.energy.item():.9f} eV, largest own force "
    f"{gradient.norm(dim=1).max():.6f} eV/Å, pressure {-virial.trace() / 3 / edge**3:.9f} eV/Å³, "
    f"{layer.ranks.bytes} bytes in {layer.ranks.calls} sums, "
    f"foretold {bytes_per_step(layer, cell, order=0, polarizability=False)}"
)
dist.barrier()
dist.destroy_process_group()
