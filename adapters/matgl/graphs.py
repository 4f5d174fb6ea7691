"""From ASE structures to MatGL's graphs, in the precision of the model. Calculator, training and contract call it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import matgl
import torch
from ase import Atoms
from matgl.ext.ase import Atoms2Graph

from les_plugins.data.given_charge import charge_for_graph

#: Attribute of ours on a graph: (B, 3, 3) Å, its lattice, which MatGL keeps on edges alone.
LATTICE = "les_lattice"
#: Another: (B,) e, the total charges.
TOTAL_CHARGE = "les_total_charge"
_ONE_THREAD = threading.RLock()


@contextlib.contextmanager
def host_dtype(dtype: torch.dtype) -> Iterator[None]:
    """MatGL's own float type inside the block: its converters round positions and lattice to it.

    It is one of the whole process, and MatGL's models keep the features of their last evaluation: one thread at a time.
    """
    with _ONE_THREAD:
        before = matgl.float_th
        matgl.float_th = dtype
        try:
            yield
        finally:
            matgl.float_th = before


class Converter(Atoms2Graph):  # type: ignore[misc]
    """MatGL's converter; its graphs have a total charge, and their lattice where no atoms are within the cutoff too."""

    def get_graph(self, atoms: Atoms) -> tuple[Any, torch.Tensor, Any]:
        """Graph, lattice (1, 3, 3) Å and state, as of MatGL."""
        graph, lattice, state = super().get_graph(atoms)
        graph[LATTICE] = lattice.view(1, 3, 3)
        graph[TOTAL_CHARGE] = torch.tensor([charge_for_graph(atoms)], dtype=lattice.dtype)
        return graph, lattice, state
