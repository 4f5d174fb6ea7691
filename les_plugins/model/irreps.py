"""Features of equivariant hosts: columns in e3nn's notation, such as 16x0e+16x1o, as scalars, vectors and tensors.

Adapters call it. It needs no e3nn, whose versions differ among hosts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from les_plugins.errors import HostError
from les_plugins.model.features import LayerFeatures, LayerLayout

#: Irreps that the heads read; others are passed over.
SCALAR, VECTOR, TENSOR = "0e", "1o", "2e"
_IRREP = re.compile(r"(\d+)x(\d+)([eo])")


def layer_layout(irreps: str, vector: str = VECTOR) -> LayerLayout:
    """Channels of one layer.

    Args:
        irreps: of its features, as e3nn's `str(irreps)` gives them.
        vector: what the host calls a vector; 1e in a model that does not know parity.
    """
    found = dict.fromkeys((SCALAR, vector, TENSOR), 0)
    for channels, name, _ in _blocks(irreps):
        if name in found:
            found[name] += channels
    return LayerLayout(*found.values())


def layer_features(values: Tensor, irreps: str, vector: str = VECTOR, components_first: bool = False) -> LayerFeatures:
    """Features of one layer, channels of one irrep together, wherever they stand.

    Args:
        values: (N, columns), in e3nn's order: for each block its channels, for each channel its components.
        irreps: as for `layer_layout`.
        vector: as for `layer_layout`.
        components_first: for each block its components, for each component its channels (cuEquivariance's ir_mul; the
            other order is its mul_ir).
    """
    parts: dict[str, list[Tensor]] = {SCALAR: [], vector: [], TENSOR: []}
    start = 0
    for channels, name, components in _blocks(irreps):
        if name in parts:
            block = values[:, start : start + channels * components]
            shape = (components, channels) if components_first else (channels, components)
            block = block.reshape(values.shape[0], *shape)
            parts[name].append(block.transpose(1, 2) if components_first else block)
        start += channels * components
    scalars, vectors, tensors = (torch.cat(found, 1) if found else None for found in parts.values())
    assert scalars is not None, f"every layer that heads read has scalars; this one is {irreps}"
    return LayerFeatures(scalars[:, :, 0], vectors, tensors)


def concatenated_features(values: Tensor, irreps: Sequence[str], components_first: bool = False) -> list[LayerFeatures]:
    """Features of several layers that stand beside each other in (N, columns), first layer to last.

    Args:
        values: (N, columns).
        irreps: of each layer.
        components_first: as for `layer_features`.

    Raises:
        HostError: another number of columns than the irreps have.
    """
    columns = [sum(channels * components for channels, _, components in _blocks(layer)) for layer in irreps]
    if sum(columns) != values.shape[1]:
        raise HostError(f"the host's features have {values.shape[1]} columns, its irreps say {sum(columns)}")
    parts = zip(values.split(columns, 1), irreps, strict=True)
    return [layer_features(part, layer, components_first=components_first) for part, layer in parts]


def _blocks(irreps: str) -> list[tuple[int, str, int]]:
    """Channels, name and components of each block, in order."""
    found = [(int(channels), int(degree), parity) for channels, degree, parity in _IRREP.findall(irreps)]
    return [(channels, f"{degree}{parity}", 2 * degree + 1) for channels, degree, parity in found]
