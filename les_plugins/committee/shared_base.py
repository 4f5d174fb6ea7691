"""Which members of a committee have one base, and differ in their long-range parts alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file

from les_plugins.committee.description import Member
from les_plugins.errors import CheckpointError
from les_plugins.storage import checkpoint

#: A tensor that every long-range part has; what stands before it in its name stands before all of the part's.
_MARK = ".gauge"


def shared_bases(members: Sequence[Member]) -> list[list[Member]]:
    """Groups of two members or more whose tensors outside the long-range part are equal, bit for bit.

    Such members come from a training with `run: {train_only: long_range}`. Their spread is that of their long-range
    parts: an error of the base, which they share, does not show in it.

    Raises:
        CheckpointError: weights that cannot be read.
    """
    groups: dict[str, list[Member]] = {}
    for member in members:
        if (digest := _digest_of_base(member.folder)) is not None:
            groups.setdefault(f"{member.host} {digest}", []).append(member)
    return [group for group in groups.values() if len(group) > 1]


def _digest_of_base(folder: Path) -> str | None:
    """SHA-256 of the tensors outside the long-range part; None where there is no such part, or nothing else."""
    try:
        tensors = load_file(folder / checkpoint.WEIGHTS, device="cpu")
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder / checkpoint.WEIGHTS} cannot be read: {error}") from None
    prefixes = tuple(name.removesuffix("gauge") for name in tensors if name.endswith(_MARK))
    base = sorted(name for name in tensors if not name.startswith(prefixes))
    if not prefixes or not base:
        return None
    digest = hashlib.sha256()
    for name in base:
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
