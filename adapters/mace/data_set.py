"""Training sets in HDF5 and LMDB, as MACE's own loaders give them: labels that are missing, and heads mixed up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mace.data import HDF5Dataset

from les_plugins.adapters.mace.data import trained_labels
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
    labels = [label.quantity for label in trained_labels({}, args)]
    names = sorted(args.heads, key=lambda name: -1000 if name == "pt_head" else 0)  # as MACE puts their data together
    for number, (name, part) in enumerate(zip(names, data.datasets, strict=True)):
        for one in [] if isinstance(part, list) else _leaves(part):
            where = str(getattr(one, "file_path", None) or args.heads[name].get("train_file"))
            if len(args.heads) > 1 and len(one) and int(one[0].head) != number:
                raise ConfigError(
                    f"heads.{name}: MACE counts the frames of {where} as those of its last head; allowed for several "
                    "heads: structure files, or LMDB"
                )
            if isinstance(one, HDF5Dataset):
                _check_hdf5(one, labels, where)
            else:
                _check_weights(one, labels, where)


def _leaves(part: Any) -> Iterator[Any]:
    if hasattr(part, "datasets"):
        for inner in part.datasets:
            yield from _leaves(inner)
    else:
        yield part


def _check_hdf5(data: Any, labels: Sequence[str], where: str) -> None:
    """MACE writes what a frame has not as the text None, with the weight that it gives to ASE's names: one."""
    for quantity in labels:
        absent, zero, count = 0, [], 0
        for batch, frames in data.file.items():
            for name, frame in frames.items():
                count += 1
                if _value(frame["properties"], quantity) is not None:
                    continue
                absent += 1
                if (weight := _value(frame["property_weights"], quantity)) is not None and float(weight) > 0.0:
                    zero.append(f"{batch}/{name}")
        if zero:
            raise DataError(
                f"{where}: {len(zero)} of {count} frames ({', '.join(zero[:3])}, …) have no {quantity}, but a weight "
                "for it: MACE would train them to zero. Labels with names of ASE (energy, forces, stress) do that in "
                "mace_prepare_data: make the file again from labels under REF_ names"
            )
        if absent == count:
            raise _none(where, count, quantity)


def _value(group: Any, name: str) -> Any:
    value = group[name][()] if name in group else None
    return None if isinstance(value, bytes) else value  # "None"


def _check_weights(data: Any, labels: Sequence[str], where: str) -> None:
    step = max(1, -(-len(data) // _SAMPLE))
    looked_at = [item for i in range(0, len(data), step) if (item := data[i]) is not None]
    for quantity in labels:
        if looked_at and not any(float(item[f"{quantity}_weight"]) > 0.0 for item in looked_at):
            raise _none(where, len(looked_at), quantity)


def _none(where: str, count: int, quantity: str) -> DataError:
    return DataError(
        f"{where}: none of {count} frames has {quantity}; set {quantity}_weight: 0 to train without, or make the file "
        "again with the right names of labels"
    )
