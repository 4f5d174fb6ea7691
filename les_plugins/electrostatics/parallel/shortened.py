"""float64 in fewer bytes, for what ranks send each other where fewer digits do. `periodic/columns.py` calls it."""

from __future__ import annotations

import torch
from torch import Tensor

#: Bits of a float64 before its mantissa: sign and exponent.
SIGN_AND_EXPONENT = 12


def shortened(values: Tensor, width: int) -> Tensor:
    """(n · width,) bytes of float64 (n,): the mantissa rounded to what there is room for.

    Args:
        width: 2 … 8 bytes for each.
    """
    left_out = 8 - width
    half = (1 << 8 * left_out) >> 1  # where it carries over into the exponent, that is the next number
    rounded = values.contiguous().view(torch.int64) + half
    # the lowest bytes come first on processors and accelerators that torch runs on
    return rounded.view(torch.uint8).view(-1, 8)[:, left_out:].flatten()


def lengthened(data: Tensor, width: int) -> Tensor:
    """(n,) float64 of `shortened`."""
    whole = data.new_zeros(len(data) // width, 8)
    whole[:, 8 - width :] = data.view(-1, width)
    return whole.view(torch.float64).view(-1)
