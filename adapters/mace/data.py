"""Structure files of a MACE run, read once: labels, elements and zero of energy of every head are checked, and MACE
gets the frames as they were checked. Called by train.py before MACE starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ase
import ase.io
from ase import Atoms
from ase.calculators.calculator import all_properties
from mace.data import utils as mace_data
from mace.tools.scripts_utils import check_path_ase_read

from les_plugins.adapters.mace.atomic_energies import ISOLATED, check_zero_of_energy
from les_plugins.adapters.mace.heads import (
    PLACES,
    Head,
    give_readable_names,
    literal,
    read_heads,
    readable_name,
    replayed,
)
from les_plugins.data import frames
from les_plugins.data.given_charge import NAMES, total_charge_of
from les_plugins.data.training import TrainingFiles, check_training_labels, numbered
from les_plugins.errors import ConfigError, DataError, raising
from les_plugins.hosting.substitution import substituted


@dataclass
class Found(TrainingFiles):
    """Frames of every structure file that the run reads; `unread` are the HDF5 and LMDB data of the training set.

    Attributes:
        keys: the names of labels that the user gave, where MACE is given others.
        charge_keys: of every head whose total charges have a name of their own, that name.
    """

    keys: dict[str, str] = field(default_factory=dict)
    charge_keys: dict[str, str] = field(default_factory=dict)


def read_data(args: Any, source: Path, reads_charge: bool = False) -> Found:
    """Read and check every structure file of a run, as MACE will read it; give MACE names of labels that it can read.

    Args:
        args: MACE's argument namespace; names of labels and heads in it are changed.
        source: the config file, for messages.
        reads_charge: whether the model reads total charges: each frame is given its own under MACE's name for it.

    Raises:
        ConfigError: heads, or an option of theirs, that MACE cannot use or would pass over.
        DataError: frames that cannot be used.
    """
    found = Found()
    heads = read_heads(args, source)
    for head in (*heads, *replayed(args, source)):
        own = _read_head(head, found)
        if reads_charge:
            _name_total_charges(head, own)
            if (key := head.key("total_charge")) not in NAMES:
                found.charge_keys[head.name] = key
        _check_head(head, own)
    _check_elements(args, found)
    found.keys = give_readable_names(args, heads)
    return found


@contextmanager
def reading(found: Found) -> Iterator[None]:
    """While open, MACE reads frames that hold labels of ASE's names under names of their own; files of `found` once."""
    known = found.all()

    def read(path: Any, index: Any = ":", **named: Any) -> Any:
        got = known.get(Path(path))
        return _with_readable_labels(ase.io.read(path, index=index, **named) if got is None else got)

    reader = SimpleNamespace(**{**vars(ase), "io": SimpleNamespace(read=read)})

    with substituted(mace_data, "ase", reader):
        yield


def _with_readable_labels(some: Any) -> Any:
    """The frames, each with what its calculator holds put under `readable_name`s, whatever its constraints."""
    places = {**{name: place for name, place in PLACES.items() if name in all_properties}, "free_energy": "info"}
    for atoms in some if isinstance(some, list) else [some]:
        for quantity, place in places.items():
            if (value := frames.label(atoms, quantity)) is not None:
                getattr(atoms, place)[readable_name(quantity)] = value
    return some


def _read_head(head: Head, found: Found) -> TrainingFiles:
    """The structure files of a head; those that are new are put into `found`."""
    own = TrainingFiles()
    if not head.files("train"):
        raise ConfigError(f"{head.where}train_file is missing: give it in the config file or as --train_file FILE")
    for kind in ("train", "valid", "test"):
        of_run, of_head = getattr(found, kind), getattr(own, kind)
        for path in head.files(kind):
            if not path.exists():
                raise DataError(f"{head.where}{kind}_file: {path}: no such file")
            with raising(DataError, f"{head.where}{kind}_file: {path}"):
                is_structures = check_path_ase_read(str(path))
            if is_structures:
                of_head[path] = of_run[path] = of_run.get(path) or frames.read_frames(path)
            elif kind == "train":
                found.unread.append(path)
    return own


def _name_total_charges(head: Head, own: TrainingFiles) -> None:
    """Every frame's total charge under the name that MACE reads, and under ours, whichever it had."""
    key = head.key("total_charge")
    for files in (own.train, own.valid, own.test):
        for place, atoms in numbered(files):
            atoms.info.update(dict.fromkeys((key, *NAMES), total_charge_of(atoms, place, key)))


def _check_head(head: Head, own: TrainingFiles) -> None:
    """Labels of all frames of a head, and the zero of energy of its elements."""
    labels = head.trained_labels()
    by_type = literal(head.option("config_type_weights"), dict, f"{head.where}config_type_weights")
    everything = dict(numbered(own.train))
    isolated = {
        place: atoms
        for place, atoms in everything.items()
        if len(atoms) == 1 and atoms.info.get("config_type") == ISOLATED
    }
    left_out = {} if head.option("keep_isolated_atoms") else isolated
    not_trained = set(map(id, left_out.values()))
    trained = {place: atoms for place, atoms in everything.items() if place not in left_out}

    def weight(atoms: Atoms, quantity: str) -> Any:
        if id(atoms) in not_trained:
            return 0.0
        if head.is_unweighted(quantity):
            return 1.0
        of_type = by_type.get(atoms.info.get("config_type", "Default"), 1.0)
        return atoms.info.get("config_weight", 1.0) * of_type * atoms.info.get(f"config_{quantity}_weight", 1.0)

    if everything and not trained:
        raise DataError(
            f"{head.where}{', '.join(map(str, own.train))}: nothing but isolated atoms, which give E0s only"
        )
    for files in filter(None, (own.train, own.valid, own.test)):
        check_training_labels(files, labels, weight)
    if not everything:
        return
    needed = {int(z) for atoms in (*trained.values(), *dict(numbered(own.valid)).values()) for z in atoms.numbers}
    if given := head.option("atomic_numbers"):
        needed = set(literal(given, list, f"{head.where}atomic_numbers"))
    check_zero_of_energy(head, isolated, trained, needed)
    args = head.args
    if len(trained) < args.batch_size and not args.lbfgs and not args.heads:
        raise ConfigError(
            f"{head.where}batch_size is {args.batch_size}, with {len(trained)} training frames: MACE leaves out "
            "batches that are not full, and there would be none; allowed: as many as there are frames, or fewer"
        )


def _check_elements(args: Any, found: Found) -> None:
    if args.foundation_model is not None:
        return
    if args.atomic_numbers:
        found.check_elements(literal(args.atomic_numbers, list, "atomic_numbers"), "atomic_numbers")
    elif known := {int(z) for atoms in found.training_set() for z in atoms.numbers}:
        found.check_elements(known, "elements of the training files")
