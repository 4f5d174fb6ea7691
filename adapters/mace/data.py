"""What MACE's reader takes from the files of a run: heads, keys, weights, isolated atoms. Checked before it starts.

Labels under ASE's own names (`energy`, `forces`, `stress`) are taken out of a frame by ASE's reader. MACE asks ASE for
them again, and gets zeros on fixed atoms, takes zeros where one is missing, and misses the energies of isolated atoms.
Here such a label is put back into the frame under another name, and MACE is told that name.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
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

from les_plugins.adapters.mace.atomic_energies import ISOLATED, check_zero_of_energy, literal, replays
from les_plugins.config import LongRangeConfig
from les_plugins.data import frames
from les_plugins.data.training import TrainedLabel, check_training_labels
from les_plugins.errors import ConfigError, DataError
from les_plugins.hosting.substitution import substituted
from les_plugins.storage.training import did_you_mean

#: Labels that MACE and ScaleShiftMACE can be trained on, and where MACE looks for them.
_PLACES = {"energy": "info", "forces": "arrays", "stress": "info", "virials": "info"}
#: Terms of MACE's loss functions; terms that leave out frames without the label (the others take it for zero).
_TERMS = {
    "weighted": ("energy", "forces"),
    "ef": ("energy", "forces"),
    "forces_only": ("forces",),
    "l1l2energyforces": ("energy", "forces"),
    "virials": ("energy", "forces", "virials"),
    "stress": ("energy", "forces", "stress"),
    "huber": ("energy", "forces", "stress"),
    "universal": ("energy", "forces", "stress"),
}
_UNWEIGHTED = {("huber", "energy"), ("huber", "forces"), ("huber", "stress"), ("l1l2energyforces", "forces")}
#: What MACE reads of a head beside the names of labels; it passes over everything else in silence.
_HEAD_KEYS = (
    "train_file",
    "valid_file",
    "test_file",
    "test_dir",
    "E0s",
    "statistics_file",
    "valid_fraction",
    "config_type_weights",
    "compute_avg_num_neighbors",
    "atomic_numbers",
    "mean",
    "std",
    "avg_num_neighbors",
    "keep_isolated_atoms",
    "info_keys",
    "arrays_keys",
)
_NAME_KEYS = tuple(
    f"{name}_key"
    for name in (*_PLACES, "dipole", "polarizability", "head", "charges", "total_charge", "total_spin", "elec_temp")
)
Files = dict[Path, list[Atoms]]


@dataclass
class Found:
    """Frames of every structure file that the run reads; binary data sets are MACE's own to read.

    Attributes:
        train, valid, test: frames by file.
        binary: HDF5 and LMDB files and folders of the training set.
        keys: the names of labels that the user gave, where MACE is given others.
    """

    train: Files = field(default_factory=dict)
    valid: Files = field(default_factory=dict)
    test: Files = field(default_factory=dict)
    binary: list[Path] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)


def read_data(args: Any, long_range: LongRangeConfig | None, source: Path) -> Found:
    """Read and check every structure file of a run, as MACE will read it; give MACE names of labels that it can read.

    Args:
        args: MACE's argument namespace; names of labels and heads in it are changed.
        long_range: the run's section.
        source: the config file, for messages.

    Raises:
        ConfigError: heads, or an option of theirs, that MACE cannot use or would pass over.
        DataError: frames that cannot be used.
    """
    found = Found()
    heads = _heads(args, source)
    for name, head in heads.items():
        where = f"{source}: heads.{name}: " if args.heads else f"{source}: "
        files = {kind: _files(head, args, kind) for kind in ("train", "valid", "test")}
        if not files["train"]:
            raise ConfigError(f"{where}train_file is missing: give it in the config file or as --train_file FILE")
        own: dict[str, Files] = {"train": {}, "valid": {}, "test": {}}
        for kind, paths in files.items():
            for path in paths:
                if not _readable(path, where):
                    found.binary += [path] if kind == "train" else []
                    continue
                everywhere: Files = getattr(found, kind)
                if path not in everywhere:
                    everywhere[path] = frames.read_frames(path)
                own[kind][path] = everywhere[path]
                if long_range is not None:
                    frames.check_boundaries(own[kind][path], str(path))
        _check_head(args, head, own, where)
    _check_elements(args, found)
    found.keys = _give_names_mace_can_read(args, heads)
    return found


@contextmanager
def reading(found: Found) -> Iterator[None]:
    """While open, MACE reads frames that hold labels of ASE's names under names of their own; files of `found` once."""
    known = {**found.test, **found.valid, **found.train}

    def read(path: Any, index: Any = ":", **named: Any) -> Any:
        got = known.get(Path(path))
        return with_readable_labels(ase.io.read(path, index=index, **named) if got is None else got)

    with substituted(mace_data, "ase", _Reader(read)):
        yield


def with_readable_labels(some: Any) -> Any:
    """The frames, each with what its calculator holds put under `readable_name`s, whatever its constraints."""
    for atoms in some if isinstance(some, list) else [some]:
        for quantity, place in _PLACES.items():
            if quantity in all_properties and (value := frames.label(atoms, quantity)) is not None:
                getattr(atoms, place)[readable_name(quantity)] = value
        if (value := frames.label(atoms, "free_energy")) is not None:
            atoms.info[readable_name("free_energy")] = value
    return some


def readable_name(key: str) -> str:
    """The name under which MACE can read a label: another than ASE's own."""
    return f"ASE_{key}" if key in all_properties else key


class _Reader:
    """The package `ase` as mace.data sees it, with another `ase.io.read`."""

    def __init__(self, read: Callable[..., Any]) -> None:
        self.io = SimpleNamespace(read=read)

    def __getattr__(self, name: str) -> Any:
        return getattr(ase, name)


def _heads(args: Any, source: Path) -> dict[str, dict[str, Any]]:
    """The sections of the heads, one without a name where there are none; every key of theirs known."""
    if not args.heads:
        return {"Default": {}}
    try:
        heads = ast.literal_eval(args.heads) if isinstance(args.heads, str) else args.heads
    except (ValueError, SyntaxError):
        heads = None
    if not isinstance(heads, dict) or not all(isinstance(head, dict) for head in heads.values()) or not heads:
        raise ConfigError(f"{source}: heads is {args.heads!r}; expected a section with keys and values for every head")
    for name, head in heads.items():
        allowed = (*_HEAD_KEYS, *_NAME_KEYS)
        for key in head:
            if key not in allowed:
                guess = did_you_mean(key, [*allowed, "long_range"])
                if "'long_range'" in guess:
                    guess = " (long_range stands beside heads, not in a head: all heads share it)"
                raise ConfigError(f"{source}: heads.{name}: unknown key {key!r}{guess}; allowed: {', '.join(allowed)}")
        _check_kinds(name, head, source)
        for key in ("config_type_weights", "E0s"):  # MACE reads text only, of weights it passes over what is none
            if isinstance(head.get(key), dict):
                head[key] = repr(dict(head[key]))
    args.heads = repr(heads)
    return heads


def _check_kinds(name: Any, head: Mapping[str, Any], source: Path) -> None:
    """Values of a head that MACE stumbles over without saying where."""
    if not isinstance(name, str):
        raise ConfigError(f"{source}: heads: the name of a head is {name!r}; expected text: write it in quotes")
    for key in ("info_keys", "arrays_keys"):
        if not isinstance(head.get(key, {}), dict):
            raise ConfigError(
                f"{source}: heads.{name}.{key} is {head[key]!r}; expected a section such as {{energy: REF_energy}}"
            )
    for key in ("train_file", "valid_file", "test_file"):
        files = head.get(key) or ""
        if not isinstance(files, str) and not (isinstance(files, list) and all(isinstance(one, str) for one in files)):
            raise ConfigError(
                f"{source}: heads.{name}.{key} is {files!r}; expected the name of a file, or a list of them"
            )


def _files(head: Mapping[str, Any], args: Any, kind: str) -> list[Path]:
    given = head.get(f"{kind}_file", getattr(args, f"{kind}_file")) or []
    if isinstance(given, str) and given.startswith("["):  # a list in MACE's config file arrives as its text
        given = ast.literal_eval(given)
    return [Path(item) for item in ([given] if isinstance(given, str) else given)]


def _readable(path: Path, where: str) -> bool:
    """Whether MACE reads it with ASE, rather than as HDF5 or LMDB."""
    if not path.exists():
        raise DataError(f"{where}{path}: no such file")
    try:
        return bool(check_path_ase_read(str(path)))
    except RuntimeError as error:
        raise DataError(f"{where}{path}: {error}") from None


def key_of(quantity: str, head: Mapping[str, Any], args: Any) -> str:
    """Name of a label in the files of a head: MACE's order of precedence."""
    key = head.get(f"{quantity}_key", getattr(args, f"{quantity}_key"))
    return str(head.get(f"{_PLACES[quantity]}_keys", {}).get(quantity, key))


def trained_labels(head: Mapping[str, Any], args: Any) -> list[TrainedLabel]:
    """What the run's loss, or that of its second stage, has a term of weight above zero for."""
    loss = _loss(args)
    if loss not in _TERMS:
        raise ConfigError(f"loss is {loss!r}; allowed with MACE and ScaleShiftMACE: {', '.join(_TERMS)}")
    found = []
    for quantity in _TERMS[loss]:
        weights = [1.0 if loss == "ef" else getattr(args, f"{quantity}_weight")]
        weights += [getattr(args, f"swa_{quantity}_weight")] if args.swa else []
        if not any(weights):
            continue
        key, option = key_of(quantity, head, args), f"{quantity}_weight: 0"
        places = ("calc", "info", "arrays") if key in all_properties else (_PLACES[quantity],)
        left_out = (loss, quantity) not in _UNWEIGHTED
        found.append(TrainedLabel(quantity, key, f"{quantity}_key", option, places, left_out))
    return found


def _check_head(args: Any, head: Mapping[str, Any], own: Mapping[str, Files], where: str) -> None:
    """Labels of all frames of a head, and the zero of energy of its elements."""
    labels = trained_labels(head, args)
    by_type = _config_type_weights(head.get("config_type_weights", args.config_type_weights), where)
    isolated = [
        (path, number, atoms)
        for path, some in own["train"].items()
        for number, atoms in enumerate(some)
        if len(atoms) == 1 and atoms.info.get("config_type") == ISOLATED
    ]
    left_out = set() if head.get("keep_isolated_atoms", args.keep_isolated_atoms) else {id(a) for *_, a in isolated}

    def weight(atoms: Atoms, quantity: str) -> Any:
        if id(atoms) in left_out:
            return 0.0
        if (_loss(args), quantity) in _UNWEIGHTED:  # MACE's loss does not look at them
            return 1.0
        of_type = by_type.get(atoms.info.get("config_type", "Default"), 1.0)
        return atoms.info.get("config_weight", 1.0) * of_type * atoms.info.get(f"config_{quantity}_weight", 1.0)

    if own["train"] and sum(map(len, own["train"].values())) == len(left_out):
        raise DataError(f"{where}{', '.join(map(str, own['train']))}: nothing but isolated atoms, which give E0s only")
    check_training_labels(own["train"], labels, weight)
    for kind in ("valid", "test"):
        if own[kind]:
            check_training_labels(own[kind], labels, weight)
    if own["train"]:
        trained = {
            (path, number): atoms
            for path, some in own["train"].items()
            for number, atoms in enumerate(some)
            if id(atoms) not in left_out
        }
        needed = {int(z) for atoms in trained.values() for z in atoms.numbers}
        needed |= {int(z) for some in own["valid"].values() for atoms in some for z in atoms.numbers}
        given = head.get("atomic_numbers", args.atomic_numbers)
        needed = set(literal(given, list, f"{where}atomic_numbers")) if given else needed
        energy = TrainedLabel("energy", key_of("energy", head, args), "energy_key")
        check_zero_of_energy(args, head, energy, isolated, trained, needed, where)
    count = sum(map(len, own["train"].values())) - len(left_out)
    if own["train"] and count < args.batch_size and not args.lbfgs and not args.heads:
        raise ConfigError(
            f"{where}batch_size is {args.batch_size}, with {count} training frames: MACE leaves out batches that are "
            "not full, and there would be none; allowed: as many as there are frames, or fewer"
        )


def _check_elements(args: Any, found: Found) -> None:
    if args.foundation_model is not None:
        return
    if args.atomic_numbers:
        allowed = literal(args.atomic_numbers, list, "atomic_numbers")
        for path, some in {**found.train, **found.valid, **found.test}.items():
            frames.check_elements(some, allowed, f"{path} (atomic_numbers)")
        return
    known = {int(z) for some in found.train.values() for atoms in some for z in atoms.numbers}
    for path, some in {**found.valid, **found.test}.items() if known else ():
        frames.check_elements(some, known, f"{path} (elements of the training files)")


def _give_names_mace_can_read(args: Any, heads: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Put `readable_name`s into options and heads; what the user gave for the options."""
    changed = {}
    for quantity, place in _PLACES.items():
        option = f"{quantity}_key"
        if (key := getattr(args, option)) != readable_name(key):
            changed[option] = key
            setattr(args, option, readable_name(key))
        for head in heads.values():
            for holder, name in ((head, option), (head.get(f"{place}_keys", {}), quantity)):
                if name in holder:
                    holder[name] = readable_name(holder[name])
    if args.heads:
        args.heads = repr(heads)
    return changed


def _config_type_weights(given: Any, where: str) -> dict[str, float]:
    """MACE passes over a text that it cannot read, and then weights nothing."""
    return dict(literal(given, dict, f"{where}config_type_weights"))


def _loss(args: Any) -> str:
    return "universal" if replays(args) else str(args.loss)
