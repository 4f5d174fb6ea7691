"""Training data of NequIP, read through its own datasets and label transforms; called by train.py before it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.data import atomic_numbers
from hydra.utils import instantiate
from nequip.data import AtomicDataDict, _key_registry
from nequip.data.dataset import ase_dataset
from nequip.utils.global_dtype import _GLOBAL_DTYPE
from torch.utils.data import Subset

from les_plugins.data.frames import label_names, structure_of
from les_plugins.data.given_charge import NAMES, bare_with_charge
from les_plugins.data.training import TrainedLabel, by_use, check_training_labels
from les_plugins.errors import ConfigError, DataError, raising
from les_plugins.hosting.substitution import substituted
from les_plugins.precision import default_dtype

#: Fields of NequIP, and what the core calls them.
_QUANTITIES = {"total_energy": "energy", "forces": "forces", "stress": "stress", "virial": "virials"}
#: What NequIP calls some of ASE's names when the config maps them to nothing else.
_OWN_NAMES = {"energy": "total_energy", "forces": "forces", "energies": "atomic_energy"}
#: Fields that every frame has; the rest are labels, or what stands beside them.
_GEOMETRY = {
    AtomicDataDict.POSITIONS_KEY,
    AtomicDataDict.CELL_KEY,
    AtomicDataDict.PBC_KEY,
    AtomicDataDict.ATOMIC_NUMBERS_KEY,
    AtomicDataDict.ATOM_TYPE_KEY,
    AtomicDataDict.BATCH_KEY,
    AtomicDataDict.NUM_NODES_KEY,
}

#: Fields that NequIP compares with labels, and whether frames in which one is NaN are left out.
Compared = Mapping[str, bool]


@dataclass
class HostFrames(Sequence[Atoms]):
    """Frames of one of NequIP's datasets, made when they are asked for; labels in `info`, by NequIP's names.

    A frame that belongs to another set than this one has no atoms.

    Attributes:
        dataset: what NequIP built, before it was split.
        path: of its file, or where it stands in the config.
        used: numbers of the frames that are in this set.
        may_be_nan: fields in which NaN stands for a label that is absent.
        type_names: of the model, for data that hold no atomic numbers.
        names: what each frame of the file holds, where it is known.
    """

    dataset: Any
    path: Path
    used: set[int]
    may_be_nan: set[str] = field(default_factory=set)
    type_names: Sequence[str] = ()
    names: list[list[str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index not in self.used:
            return Atoms()
        with raising(DataError, f"{self.path}, frame {index}: NequIP cannot read it"), default_dtype(_GLOBAL_DTYPE):
            data = {name: value.detach().numpy() for name, value in self.dataset[index].items()}
        if absent := sorted(self.may_be_nan - data.keys()):
            raise DataError(
                f"{self.path}, frame {index}: has no {absent[0]!r}; ignore_nan leaves NaN out of the loss, not what is "
                "absent: nequip.data.transforms.AddNaNStressTransform in data.transforms puts NaN there"
            )
        atoms = self._structure(data)
        atoms.info.update(dict.fromkeys(self.names[index] if self.names else ()))
        for name in data.keys() - _GEOMETRY:
            value = np.squeeze(data[name])
            if not (name in self.may_be_nan and np.isnan(value).all()):
                atoms.info[name] = value
        return atoms

    def _structure(self, data: Mapping[str, Any]) -> Atoms:
        numbers = data.get(AtomicDataDict.ATOMIC_NUMBERS_KEY)
        if numbers is None:
            symbols = [self.type_names[int(kind)] for kind in data[AtomicDataDict.ATOM_TYPE_KEY].flatten()]
            numbers = [atomic_numbers.get(symbol, 0) for symbol in symbols]
        cell, pbc = data.get(AtomicDataDict.CELL_KEY), data.get(AtomicDataDict.PBC_KEY, False)
        return structure_of(numbers, data[AtomicDataDict.POSITIONS_KEY], cell, pbc)


def read_datasets(
    data: Mapping[str, Any], compared: Mapping[str, Compared], type_names: Sequence[str], source: str
) -> dict[str, list[HostFrames]]:
    """The sets of a data section, built as NequIP builds them, but without neighbour lists.

    Args:
        data: the section, references resolved.
        compared: of the "train" and the "val" sets.
        type_names: of the model.
        source: the config file, for messages.

    Raises:
        ConfigError: a section that NequIP cannot use.
        DataError: data that NequIP cannot read, or would read in two ways.
    """
    with raising(ConfigError, f"{source}: data: NequIP cannot use this section"):
        module = instantiate(_without_neighbors(dict(data)), _recursive_=False)
        configs = {kind: getattr(module, f"{kind}_dataset_config") for kind in compared}
        module.prepare_data()
    for kind, some in configs.items():
        if not some or (kind == "train" and len(some) != 1):
            needed = "exactly one" if kind == "train" else "at least one"
            raise ConfigError(f"{source}: data holds {len(some)} {kind} sets; NequIP needs {needed}")
    return {
        kind: [
            _build(config, compared[kind], Path(f"data.{kind}_dataset[{number}]"), type_names)
            for number, config in enumerate(some)
        ]
        for kind, some in configs.items()
    }


def check_frames(sets: Mapping[str, Sequence[HostFrames]], compared: Mapping[str, Compared]) -> None:
    """Look for every label that NequIP compares with, in every frame of the sets.

    Raises:
        DataError: see `check_training_labels`.
    """
    for kind, some in sets.items():
        labels = [
            TrainedLabel(
                _QUANTITIES.get(name, name), name, f"data.key_mapping: {{NAME: {name}}}", "", ("info",), ignores_nan
            )
            for name, ignores_nan in compared[kind].items()
            if name in _QUANTITIES or not ignores_nan
        ]
        files = by_use((each.path, each) for each in some)
        check_training_labels(files, labels, lambda atoms, quantity: float(len(atoms) > 0))


def check_charge_field(frames: HostFrames) -> None:
    """Raise DataError for a frame without NequIP's field of a total charge, which a model is to read."""
    for number in sorted(frames.used):
        if frames[number].info.get(AtomicDataDict.TOTAL_CHARGE_KEY) is None:
            raise DataError(
                f"{frames.path}, frame {number}: has no {AtomicDataDict.TOTAL_CHARGE_KEY!r}, which NequIP reads for "
                "total_charge: given: give every frame one, 0 too, and name it in the data section, "
                "data.include_keys: [charge] or data.key_mapping: {total_charge: charge}"
            )


def charge_key(data: Any) -> str | None:
    """The name that a data section maps to NequIP's field of a total charge, where it is one of nobody else's."""
    if isinstance(data, list):
        return next(filter(None, map(charge_key, data)), None)
    if not isinstance(data, Mapping):
        return None
    mapping = data.get("key_mapping")
    for name, target in mapping.items() if isinstance(mapping, Mapping) else ():
        if target == AtomicDataDict.TOTAL_CHARGE_KEY and name not in NAMES:
            return str(name)
    return charge_key(list(data.values()))


def check_batches(frames: HostFrames) -> None:
    """Raise DataError for what NequIP cannot put into one batch: fields of some frames only, or unknown to it."""
    holding: dict[str, list[int]] = {}
    used = sorted(frames.used)
    for number in used:
        for name, value in frames[number].info.items():
            if value is not None:
                holding.setdefault(name, []).append(number)
    known = _key_registry._GRAPH_FIELDS | _key_registry._NODE_FIELDS | _key_registry._EDGE_FIELDS
    for name, numbers in holding.items():
        problem = ""
        if name not in known and "edge_index" not in name:
            problem = f"{name!r} is no field of NequIP, which cannot put it into a batch"
        elif len(numbers) < len(used) and name not in frames.may_be_nan:
            shown = ", ".join(map(str, numbers[:5])) + ", …" * (len(numbers) > 5)
            problem = (
                f"{len(numbers)} of {len(used)} frames have {name!r} (frames {shown}), and NequIP puts only frames "
                "with the same fields into one batch"
            )
        if problem:
            raise DataError(f"{frames.path}: {problem}; name it in data.exclude_keys")


def spread(sets: Sequence[HostFrames], count: int) -> list[Atoms]:
    """At most `count` bare frames with atomic numbers from all over a training set, of several elements first."""
    some = [(frames, number) for frames in sets for number in sorted(frames.used)]
    step = max(1, math.ceil(len(some) / (8 * count)))
    found = [frames[number] for frames, number in some[::step]]
    bare = [bare_with_charge(atoms) for atoms in found if (atoms.numbers > 0).all()]
    chosen = [atoms for atoms in bare if len(set(atoms.numbers)) > 1] or bare
    return chosen[:: max(1, math.ceil(len(chosen) / count))]


def _build(config: Mapping[str, Any], compared: Compared, place: Path, type_names: Sequence[str]) -> HostFrames:
    names: list[list[str]] = []
    file = _file_of(config) or place
    with (
        raising(DataError, f"{file}: NequIP cannot read it"),
        default_dtype(_GLOBAL_DTYPE),
        substituted(ase_dataset, "from_ase", _noting_names(names, compared, file)),
    ):
        dataset = instantiate(config)
    indices = list(range(len(dataset)))
    while isinstance(dataset, Subset):
        indices = [int(dataset.indices[index]) for index in indices]
        dataset = dataset.dataset
    if not indices:
        raise DataError(f"{file}: holds no frame")
    path = getattr(dataset, "file_path", None) or getattr(dataset, "file_name", None) or place
    may_be_nan = {name for name, ignores_nan in compared.items() if ignores_nan}
    all_names = names if len(names) == len(dataset) else []
    return HostFrames(dataset, Path(path), set(indices), may_be_nan, type_names, all_names)


def _noting_names(names: list[list[str]], compared: Compared, place: Path) -> Callable[..., Any]:
    """NequIP's `from_ase`, which notes what each frame holds; two labels for one field are errors."""
    original = ase_dataset.from_ase

    def from_ase(atoms: Atoms, **options: Any) -> Any:
        where = f"{place}, frame {len(names)}"
        names.append(sorted(label_names(atoms)))
        for wanted in compared:
            _refuse_two_sources(atoms, wanted, options, where)
        with raising(DataError, f"{where}: NequIP cannot read it"):
            return original(atoms=atoms, **options)

    return from_ase


def _refuse_two_sources(atoms: Atoms, wanted: str, options: Mapping[str, Any], where: str) -> None:
    mapping = {**_OWN_NAMES, **(options.get("key_mapping") or {})}
    included = {*all_properties, *(options.get("include_keys") or ()), *(options.get("key_mapping") or {})}
    included -= set(options.get("exclude_keys") or ())
    holders = (atoms.arrays, atoms.info, atoms.calc.results if atoms.calc is not None else {})
    # the later holder wins, and in it the later key
    given = [
        (key, held[key]) for held in holders for key in held if key in included and mapping.get(key, key) == wanted
    ]
    for key, value in given[:-1]:
        last, taken = given[-1]
        if key != last and not np.array_equal(np.ravel(value), np.ravel(taken)):
            raise DataError(
                f"{where}: both {key!r} and {last!r} are read as {wanted}, and differ; NequIP would take {last!r}. "
                "Name the one that is not meant in data.exclude_keys"
            )


def _without_neighbors(value: Any) -> Any:
    """A config without the transforms that make neighbour lists: labels do not need them, and they take long."""
    if isinstance(value, Mapping):
        return {key: _without_neighbors(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_neighbors(item) for item in value if "NeighborList" not in str(_target(item))]
    return value


def _target(item: Any) -> Any:
    return item.get("_target_") if isinstance(item, Mapping) else None


def _file_of(config: Any) -> Path | None:
    """The file that a dataset's config names, at whatever depth."""
    if not isinstance(config, Mapping):
        return None
    given = config.get("file_path") or config.get("file_name")
    if isinstance(given, str):
        return Path(given)
    return next((path for item in config.values() if (path := _file_of(item)) is not None), None)
