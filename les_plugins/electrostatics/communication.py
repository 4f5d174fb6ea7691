"""How much the ranks of a process group send for one step: known beforehand, but for the number of iterations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.layer import LatentElectrostatics
from les_plugins.electrostatics.parallel.processes import FACTS
from les_plugins.electrostatics.periodic.columns import Columns
from les_plugins.electrostatics.periodic.mesh_size import mesh_of
from les_plugins.electrostatics.periodic.reciprocal import grid_shape, proper_lattice
from les_plugins.electrostatics.periodic.slabs import SlabMesh, bytes_of_transform, shared_out
from les_plugins.electrostatics.periodic.structure_factor import exponents
from les_plugins.electrostatics.response.self_consistent import SelfConsistentResponse
from les_plugins.errors import ConfigError

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
    atoms: Sequence[tuple[Tensor, Tensor]] | None = None,
    rank: int = 0,
    moments: bool = False,
) -> int:
    """Bytes that a rank sends for one energy, with forces unless said otherwise; no atoms enter without pairs and mesh.

    One exchange of flags, 8 for the energy of a structure, and sums over the grid: of the direct sum 32 for each point,
    which is the structure factor of +k and −k in its real and imaginary parts. One sum, and with forces of a response
    two. A self-consistent response sums the grid once more for each iteration and for its forces, and two numbers of
    each structure for each iteration, four and one more with a fixed total charge.

    On the mesh each sum is an exchange of the waves within the cutoff, twice, and of the atoms whose splines reach the
    slabs of other ranks: places and moments there, potential and derivatives back (`SlabTraffic`).

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
        atoms: positions (n, 3) Å and structure (n,) of the atoms of each rank; for the mesh, elsewhere not looked at.
        rank: whose bytes they are; likewise.
        moments: whether moments or the cell are differentiated too; likewise.
        forces: whether the energy is differentiated.
        iterations: of the self-consistent response, as its `iterations` says after a step.
        warm: whether it started from the last solution.

    Raises:
        GeometryError: a singular cell, or one too large for the grid or the mesh.
        ConfigError: the mesh without `atoms`.
    """
    model = layer.response_model
    softness = softness and not pair_atoms
    induced = model is not None and (softness or polarizability or pair_atoms > 0)
    charge = softness or pair_atoms > 0
    size = NUMBER * (1 + 2 * len(FACTS)) + NUMBER * len(cell)
    permanent = _sums(layer, cell, order, atoms, rank)
    size += permanent.sum(forces)
    if induced and forces:
        size += permanent.sum_of_slopes(int(charge) + 3 * int(polarizability), moments)
    if pair_atoms and induced:
        iterates = isinstance(model, SelfConsistentResponse)
        times = 8 + 2 * int(forces) + 6 * iterations + 4 * int(warm) if iterates else 4 + int(forces)
        everyone = ranks if ranks is not None else getattr(layer.ranks, "size", 1)
        size += NUMBER * (pair_atoms * times + everyone + 2 + len(cell) * int(iterates))
    if not (induced and isinstance(model, SelfConsistentResponse)):
        return size
    operations = iterations + int(warm)
    mutual = _sums(layer, cell, int(polarizability), atoms, rank)
    size += operations * mutual.sum()
    size += mutual.sum(slopes=True) if forces else 0
    sums = 1 + int(warm) + 2 * iterations
    if softness and model.total_charge == "fixed":
        sums += 2 * (1 + int(warm) + operations) + 1
    agreement = 0 if layer.training else 1  # whether all have a last solution to start from
    return size + NUMBER * (len(cell) * sums + agreement)


class GridTraffic(NamedTuple):
    """What a sum over the grid of the direct sum sends.

    Attributes:
        bytes: of the structure factors.
    """

    bytes: int

    def sum(self, slopes: bool = False) -> int:
        """Of one energy."""
        return self.bytes

    def sum_of_slopes(self, _width: int, _moments: bool) -> int:
        """Of the derivative of what depends on potential and field."""
        return self.bytes


class SlabTraffic(NamedTuple):
    """What a rank sends for a sum on slabs of the mesh, all structures.

    Attributes:
        order: highest rank of the moments.
        numbers: of atoms that are to come, for the other ranks.
        waves: bytes of the transform and of its inverse.
        rows: atoms sent to each slab of the others; taken: those of the others that this slab takes.
    """

    order: int
    numbers: int
    waves: int
    rows: int
    taken: int

    def sum(self, slopes: bool = False) -> int:
        """Of one energy, and of its slopes in the places of atoms."""
        there, back = 3 + len(exponents(self.order)), len(exponents(max(self.order, 1)))
        back += 3 if slopes and self.order else 0  # of charges the field says it
        return self.waves + NUMBER * (self.numbers + self.rows * there + self.taken * back)

    def sum_of_slopes(self, width: int, moments: bool) -> int:
        """Of the derivative of what depends on so many of potential and field, in positions and in moments if asked."""
        back = 3 + (len(exponents(self.order)) if moments else 0)
        return self.waves + NUMBER * (self.rows * width + self.taken * back)


def slab_traffic(
    layer: LatentElectrostatics, cell: Tensor, order: int, atoms: Sequence[tuple[Tensor, Tensor]], rank: int
) -> SlabTraffic:
    """Of one rank; arguments as for `bytes_per_step`."""
    settings, n_ranks = layer.settings, len(atoms)
    numbers = waves = rows = taken = 0
    for place, one in enumerate(cell if n_ranks > 1 else ()):
        mesh = mesh_of(proper_lattice(one), settings.sigma, settings.cutoff, order, settings.mesh_tolerance)
        inverse = torch.linalg.inv(one)
        slab = SlabMesh.of(mesh, rank, n_ranks)
        columns = Columns.shared_out(inverse, mesh, settings.cutoff, n_ranks)
        planes = [end - start for start, end in pairwise(shared_out(mesh.sizes[0], n_ranks))]
        numbers += n_ranks - 1
        waves += sum(sum(each) - each[rank] for each in bytes_of_transform(columns, planes, rank))
        for owner, (positions, batch) in enumerate(atoms):
            fractional = positions.detach()[batch == place].double() @ inverse
            takers = slab.takers(fractional - torch.floor(fractional), n_ranks).sum(1).tolist()
            rows += sum(takers) - takers[rank] if owner == rank else 0
            taken += takers[rank] if owner != rank else 0
    return SlabTraffic(order, numbers, waves, rows, taken)


def _sums(
    layer: LatentElectrostatics, cell: Tensor, order: int, atoms: Sequence[tuple[Tensor, Tensor]] | None, rank: int
) -> GridTraffic | SlabTraffic:
    if layer.settings.method == "mesh":
        if atoms is None:
            raise ConfigError("bytes_per_step of method 'mesh' without atoms; allowed: those of each rank")
        return slab_traffic(layer, cell.detach(), order, atoms, rank)
    cells = [tuple(proper_lattice(one).flatten().tolist()) for one in cell]
    points = sum(grid_shape((one,), layer.settings.cutoff).slabs[-1].points[1] for one in cells)
    return GridTraffic(4 * NUMBER * points)
