"""CHGNet's graphs, with boundaries, total charge and float64. Calculator, training and contract call it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.cell import Cell
from chgnet.graph import CrystalGraph, CrystalGraphConverter
from pymatgen.core import Lattice, Structure

from les_plugins.data.given_charge import charge_for_graph


class BoundedGraph(CrystalGraph):
    """A graph of CHGNet that keeps the boundaries and the total charge of its structure, on every device.

    Attributes:
        pbc: along which axes the structure is periodic.
        total_charge: e.
    """

    pbc: tuple[bool, ...] = (True, True, True)
    total_charge: float = 0.0

    def to(self, device: Any = "cpu") -> BoundedGraph:
        """As CHGNet's."""
        return bounded(super().to(device), self.pbc, self.total_charge)


def bounded(graph: CrystalGraph, pbc: tuple[bool, ...], total_charge: float = 0.0) -> BoundedGraph:
    """A graph of CHGNet with boundaries; it shares the tensors."""
    found = BoundedGraph(**graph.to_dict())
    found.pbc, found.total_charge = pbc, total_charge
    return found


def graph_of(atoms: Atoms, model: Any) -> BoundedGraph:
    """The graph that a model evaluates: CHGNet's own converter, coordinates in the precision of the model.

    Atoms without neighbours are left as they are: CHGNet's energy of a lone atom is that of its element.
    """
    pbc = tuple(bool(flag) for flag in atoms.pbc)
    # pymatgen looks for no images along open axes, but needs a vector there for its fractional coordinates
    cell = Cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)).complete()
    structure = Structure(Lattice(cell.array, pbc), atoms.numbers, atoms.positions, coords_are_cartesian=True)
    convert = CrystalGraphConverter(**model.graph_converter.as_dict(), on_isolated_atoms="ignore")
    graph = bounded(convert(structure), pbc, charge_for_graph(atoms))
    dtype = next(model.parameters()).dtype
    graph.neighbor_image = graph.neighbor_image.to(dtype)
    graph.atom_frac_coord = torch.tensor(structure.frac_coords, dtype=dtype, requires_grad=True)
    graph.lattice = torch.tensor(structure.lattice.matrix, dtype=dtype, requires_grad=True)
    return graph
