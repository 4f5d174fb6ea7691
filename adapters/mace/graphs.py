"""MACE's own batches of structures. Calculator, compiler and contract call it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from ase import Atoms
from mace import data, tools
from mace.tools import torch_geometric
from torch import Tensor

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
    return torch_geometric.Batch.from_data_list(_graphs(frames, elements, cutoff, dtype, heads, head, keys))


class OneGraph:
    """A batch of one structure, as far as MACE's calculator uses it.

    MACE's `Batch` looks through all of its keys for every key, which takes longer than the graph of a hundred atoms.

    Args:
        tensors: by name.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    @classmethod
    def of(cls, atoms: Atoms, device: Any, *settings: Any) -> OneGraph:
        """A structure, with the other arguments of `batch_of`."""
        (graph,) = _graphs([atoms], *settings)
        found = {name: value for name, value in vars(graph).items() if isinstance(value, Tensor)}
        found = {name: value if value.dim() else value[None] for name, value in found.items()}
        count = len(found["positions"])
        found["batch"], found["ptr"] = torch.zeros(count, dtype=torch.long), torch.tensor([0, count])
        return cls({name: value.to(device) for name, value in found.items()})

    @property
    def keys(self) -> list[str]:
        """Names."""
        return list(self._tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._tensors[name] = value

    def clone(self) -> OneGraph:
        """With copies of all tensors."""
        return OneGraph({name: value.clone() for name, value in self._tensors.items()})

    def to_dict(self) -> dict[str, Tensor]:
        """The model's input."""
        return dict(self._tensors)


def _graphs(
    frames: Iterable[Atoms],
    elements: Iterable[int],
    cutoff: float,
    dtype: torch.dtype,
    heads: Sequence[str],
    head: str,
    keys: data.KeySpecification | None,
) -> list[Any]:
    """One graph for each structure."""
    table = tools.AtomicNumberTable([int(number) for number in elements])
    keys = data.KeySpecification() if keys is None else keys
    with default_dtype(dtype):  # MACE rounds to it
        return [
            data.AtomicData.from_config(
                data.config_from_atoms(atoms, key_specification=keys, head_name=head),
                z_table=table,
                cutoff=float(cutoff),
                heads=list(heads),
            )
            for atoms in frames
        ]
