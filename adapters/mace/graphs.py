"""MACE's own batches of structures. Calculator, compiler and contract call it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from ase import Atoms
from mace import data, tools
from mace.tools import torch_geometric

from les_plugins.precision import default_dtype


def batch_of(
    frames: Iterable[Atoms],
    elements: Iterable[int],
    cutoff: float,
    dtype: torch.dtype,
    heads: Sequence[str] = ("Default",),
    head: str = "Default",
    keys: data.KeySpecification | None = None,
) -> Any:
    """Some structures as one batch.

    Args:
        frames: periodic and open structures.
        elements: atomic numbers that the model knows, in its order.
        cutoff: Å.
        dtype: of the model.
        heads: names of the model's heads.
        head: the one to use.
        keys: what is read of `info` and `arrays`; nothing when None.
    """
    table = tools.AtomicNumberTable([int(number) for number in elements])
    keys = data.KeySpecification() if keys is None else keys
    with default_dtype(dtype):  # MACE rounds to it
        graphs = [
            data.AtomicData.from_config(
                data.config_from_atoms(atoms, key_specification=keys, head_name=head),
                z_table=table,
                cutoff=float(cutoff),
                heads=list(heads),
            )
            for atoms in frames
        ]
    return torch_geometric.Batch.from_data_list(graphs)
