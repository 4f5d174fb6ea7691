"""Training sets in HDF5 and LMDB, as MACE's own loaders give them: labels that are missing, and heads mixed up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mace.data import HDF5Dataset

from les_plugins.adapters.mace.heads import Head
from les_plugins.errors import ConfigError, DataError

#: Frames of a set that are looked at where each has to be made into a graph first.
_SAMPLE = 200


def check_data_set(data: Any, args: Any) -> None:
    """Look for the labels that the run trains on in every part that MACE did not read from structure files.

    Args:
        data: the training set of MACE's loader, one part for each head.
        args: MACE's options, as its run has completed them.

    Raises:
        DataError: no frame has a label, or a frame lacks one that MACE takes for zero at full weight.
        ConfigError: MACE counts the frames of one head as those of another.
    """
    labels = [label.quantity for label in Head(args).trained_labels()]
    names = sorted(args.heads, key=lambda name: -1000 if name == "pt_head" else 0)  # as MACE puts their data together
    for number, (name, part) in enumerate(zip(names, data.datasets, strict=True)):
        for one in [] if isinstance(part, list) else _leaves(part):
            where = str(getattr(one, "file_path", None) or args.heads[name].get("train_file"))
            if len(args.heads) > 1 and len(one) and int(one[0].head) != number:
                raise ConfigError(
                    f"heads.{name}: MACE counts the frames of {where} as those of its last head; allowed for several "
                    "heads: structure files, or LMDB"
                )
            for quantity in labels:
                labelled = _labelled_in_hdf5 if isinstance(one, HDF5Dataset) else _labelled_in_sample
                if not any(flags := labelled(one, quantity, where)):
                    raise DataError(
                        f"{where}: none of {len(flags)} frames has {quantity}; set {quantity}_weight: 0 to train "
                        "without, or make the file again with the right names of labels"
                    )


def _leaves(part: Any) -> Iterator[Any]:
    if hasattr(part, "datasets"):
        for inner in part.datasets:
            yield from _leaves(inner)
    else:
        yield part


def _labelled_in_hdf5(data: Any, quantity: str, where: str) -> Sequence[bool]:
    """MACE writes what a frame has not as the text None, with the weight that it gives to ASE's names: one."""
    flags, zero = [], []
    for batch, frames in data.file.items():
        for name, frame in frames.items():
            flags.append(_value(frame["properties"], quantity) is not None)
            weight = _value(frame["property_weights"], quantity)
            if not flags[-1] and weight is not None and float(weight) > 0.0:
                zero.append(f"{batch}/{name}")
    if zero:
        raise DataError(
            f"{where}: {len(zero)} of {len(flags)} frames ({', '.join(zero[:3])}, …) have no {quantity}, but a weight "
            "for it: MACE would train them to zero. Labels with names of ASE (energy, forces, stress) do that in "
            "mace_prepare_data: make the file again from labels under REF_ names"
        )
    return flags


def _value(group: Any, name: str) -> Any:
    value = group[name][()] if name in group else None
    return None if isinstance(value, bytes) else value  # "None"


def _labelled_in_sample(data: Any, quantity: str, where: str) -> Sequence[bool]:
    step = max(1, -(-len(data) // _SAMPLE))
    looked_at = (data[number] for number in range(0, len(data), step))
    return [float(item[f"{quantity}_weight"]) > 0.0 for item in looked_at if item is not None]
