"""How much the ranks of a process group send for one step: known beforehand, but for the number of iterations."""

from __future__ import annotations

import math

from torch import Tensor

from les_plugins.electrostatics.layer import LatentElectrostatics
from les_plugins.electrostatics.parallel.processes import FACTS
from les_plugins.electrostatics.periodic.mesh_size import mesh_of
from les_plugins.electrostatics.periodic.reciprocal import grid_shape, proper_lattice
from les_plugins.electrostatics.response.self_consistent import SelfConsistentResponse

NUMBER = 8  # bytes of a float64


def bytes_per_step(
    layer: LatentElectrostatics,
    cell: Tensor,
    order: int = 2,
    softness: bool = True,
    polarizability: bool = True,
    forces: bool = True,
    iterations: int = 0,
    warm: bool = False,
    pair_atoms: int = 0,
    ranks: int | None = None,
) -> int:
    """Bytes that each rank sends for one energy, with forces unless said otherwise; no atom count enters without pairs.

    One exchange of flags, 8 for the energy of a structure, and sums over the grid: of the direct sum 32 for each point,
    which is the structure factor of +k and −k in its real and imaginary parts, of the mesh 8. One sum, and with forces
    of a response two. A self-consistent response sums the grid once more for each iteration and for its forces, and
    two numbers of each structure for each iteration, four and one more with a fixed total charge.

    Charge over pairs sends 8 for each atom of all ranks whenever potentials or charges are shared: four times in a
    one-shot energy and once for its forces; self-consistent eight times, twice for forces, six times in each iteration
    and four times for a start from the last solution. Beside it 8 for each rank, 16, and self-consistent 8 a structure.

    Not counted: net charges, for which `neutralize` "shift" or "refuse" sends 8 to 24 a structure, and a model with
    `total_charge: given` 40, with forces 56; with a fixed total charge 16 a structure for gradients in softness or
    polarizability.

    Args:
        layer: with the settings; it need not have a process group. Its mode, training or evaluation, counts.
        cell: (B, 3, 3) Å.
        order: highest rank of the permanent moments, on which the size of the mesh depends.
        softness, polarizability: whether there are.
        pair_atoms: atoms of all ranks, where charge flows over pairs in the place of softness; 0 where it does not.
        ranks: how many there are, which counts with pairs; those of the layer's process group when None, or one.
        forces: whether the energy is differentiated.
        iterations: of the self-consistent response, as its `iterations` says after a step.
        warm: whether it started from the last solution.

    Raises:
        GeometryError: a singular cell, or one too large for the grid or the mesh.
    """
    model = layer.response_model
    softness = softness and not pair_atoms
    induced = model is not None and (softness or polarizability or pair_atoms > 0)
    size = NUMBER * (1 + 2 * len(FACTS)) + NUMBER * len(cell)
    size += _grids(layer, cell, order) * (2 if induced and forces else 1)
    if pair_atoms and induced:
        iterates = isinstance(model, SelfConsistentResponse)
        times = 8 + 2 * int(forces) + 6 * iterations + 4 * int(warm) if iterates else 4 + int(forces)
        everyone = ranks if ranks is not None else getattr(layer.ranks, "size", 1)
        size += NUMBER * (pair_atoms * times + everyone + 2 + len(cell) * int(iterates))
    if not (induced and isinstance(model, SelfConsistentResponse)):
        return size
    operations = iterations + int(warm)
    size += _grids(layer, cell, int(polarizability)) * (operations + int(forces))
    sums = 1 + int(warm) + 2 * iterations
    if softness and model.total_charge == "fixed":
        sums += 2 * (1 + int(warm) + operations) + 1
    agreement = 0 if layer.training else 1  # whether all have a last solution to start from
    return size + NUMBER * (len(cell) * sums + agreement)


def _grids(layer: LatentElectrostatics, cell: Tensor, order: int) -> int:
    """Bytes of the sum over the ranks for moments of one order, all structures."""
    settings = layer.settings
    if settings.method != "mesh":
        cells = [tuple(proper_lattice(one).flatten().tolist()) for one in cell]
        return 4 * NUMBER * sum(grid_shape((one,), settings.cutoff).slabs[-1].points[1] for one in cells)
    numbers = (settings.sigma, settings.cutoff, order, settings.mesh_tolerance)
    meshes = [mesh_of(proper_lattice(one), *numbers) for one in cell]
    return NUMBER * sum(math.prod(mesh.sizes) for mesh in meshes)
