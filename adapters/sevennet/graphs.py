"""Graphs as SevenNet makes them, with cell and boundary conditions beside, which a long-range sum needs.

SevenNet's graphs hold edge vectors and the volume; its own `with_shift` adds a cell with invented vectors along open
directions. Calculator and contract call `graph_of`; a training uses `atoms_to_graph` in place of SevenNet's (seam.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sevenn._keys as keys
import torch
from ase import Atoms
from sevenn.atom_graph_data import AtomGraphData
from sevenn.train import dataload
from torch import Tensor

from les_plugins.data.given_charge import charge_for_graph
from les_plugins.data.near_origin import near_origin

#: (1, 3) integers, 1 where a structure is periodic.
PBC = "pbc"
#: (1,) e, the total charge.
TOTAL_CHARGE = "total_charge"
_host_atoms_to_graph = dataload.atoms_to_graph


def graph_of(atoms: Atoms, cutoff: float, dtype: torch.dtype) -> AtomGraphData:
    """The graph of one structure without labels.

    Args:
        atoms: periodic or open.
        cutoff: Å.
        dtype: of the model: edge vectors and volume; positions and cell are float64 always.
    """
    # far from the origin the neighbour search of an open structure spans all that lies between, and warns of it
    graph = dataload.unlabeled_atoms_to_graph(atoms if atoms.pbc.any() else near_origin(atoms), cutoff)
    data = {key: _tensor(value, dtype) for key, value in _with_cell(graph, atoms).items() if key != keys.INFO}
    for key, exact in ((keys.POS, atoms.positions), (keys.CELL, atoms.cell.array[None])):
        data[key] = torch.tensor(exact, dtype=torch.float64)
    return AtomGraphData(**data)


def atoms_to_graph(atoms: Atoms, *arguments: Any, **named: Any) -> dict[str, Any]:
    """SevenNet's function of that name, cell (1, 3, 3) Å and pbc (1, 3) added.

    Positions of periodic structures are wrapped: the trainer keeps them in float32, and only the long-range part reads
    them.
    """
    graph = _with_cell(_host_atoms_to_graph(atoms, *arguments, **named), atoms)
    if atoms.pbc.all():
        graph[keys.POS] = atoms.get_positions(wrap=True)
    return graph


def follow_positions(data: Any) -> Tensor:
    """Make the positions of a graph a leaf that its edge vectors depend on, their values unchanged to the last digit.

    SevenNet's edge vectors are leaves themselves. Derivatives by positions beyond forces (Born charges, Hessian) need
    the whole dependence.

    Returns:
        (N, 3) Å, the leaf.
    """
    positions: Tensor = data[keys.POS].detach().clone().requires_grad_(True)
    source, target = data[keys.EDGE_IDX]
    vector = (positions[target] - positions[source]).to(data[keys.EDGE_VEC].dtype)
    data[keys.EDGE_VEC] = data[keys.EDGE_VEC].detach() + (vector - vector.detach())
    data[keys.POS] = positions
    return positions


def stress_of(output: Any) -> Tensor:
    """(B, 3, 3) eV/Å³ of ASE's sign; SevenNet's has the opposite one, and the order xx, yy, zz, xy, yz, zx."""
    return -output[keys.PRED_STRESS][:, [0, 3, 5, 3, 1, 4, 5, 4, 2]].view(-1, 3, 3)


def _with_cell(graph: dict[str, Any], atoms: Atoms) -> dict[str, Any]:
    graph[keys.CELL] = atoms.cell.array[None].copy()
    graph[PBC] = np.asarray(atoms.pbc, dtype=np.int64)[None]
    graph[TOTAL_CHARGE] = np.array([charge_for_graph(atoms)])
    return graph


def _tensor(value: Any, dtype: torch.dtype) -> Tensor:
    tensor = torch.as_tensor(np.asarray(value))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor.long()
