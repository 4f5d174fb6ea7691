"""Training data of NequIP, read through its own datasets and label transforms; called by train.py before it trains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

from les_plugins.data.frames import check_boundaries, label_names
from les_plugins.data.training import TrainedLabel, check_training_labels
from les_plugins.errors import ConfigError, DataError, in_one_line, innermost
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


class HostAtoms(Atoms):
    """A frame of a dataset; `used` says whether it belongs to the set that is looked at, not to another part of it."""

    used = True


@dataclass
class HostFrames(Sequence[HostAtoms]):
    """Frames of one of NequIP's datasets as `Atoms`, made when they are asked for; labels in `info`, by NequIP's names.

    Attributes:
        dataset: what NequIP built, before it was split.
        path: of its file, or where it stands in the config.
        used: numbers of the frames that are in this set; the others belong to another one.
        may_be_nan: fields in which NaN stands for a label that is absent.
        type_names: of the model, for data that hold no atomic numbers.
        names: what each frame of the file holds, where it is known.
    """

    dataset: Any
    path: Path
    used: set[int]
    may_be_nan: frozenset[str] = frozenset()
    type_names: Sequence[str] = ()
    names: list[list[str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            with default_dtype(_GLOBAL_DTYPE):
                data = self.dataset[index]
        except Exception as error:  # transforms raise whatever the data make them
            raise DataError(
                f"{self.path}, frame {index}: NequIP cannot read it: {in_one_line(innermost(error))}"
            ) from None
        return self._atoms(data, index)

    def _atoms(self, data: Mapping[str, Any], index: int) -> HostAtoms:
        pbc = data[AtomicDataDict.PBC_KEY].view(3).numpy() if AtomicDataDict.PBC_KEY in data else False
        cell = data[AtomicDataDict.CELL_KEY].view(3, 3).numpy() if np.any(pbc) else None
        positions = data[AtomicDataDict.POSITIONS_KEY].detach().double().numpy()
        if AtomicDataDict.ATOMIC_NUMBERS_KEY in data:
            numbers = data[AtomicDataDict.ATOMIC_NUMBERS_KEY].flatten().tolist()
        else:
            symbols = [self.type_names[int(kind)] for kind in data[AtomicDataDict.ATOM_TYPE_KEY].flatten()]
            numbers = [atomic_numbers.get(symbol, 0) for symbol in symbols]
        if absent := sorted(self.may_be_nan - data.keys()):
            raise DataError(
                f"{self.path}, frame {index}: has no {absent[0]!r}; ignore_nan leaves NaN out of the loss, not what is "
                "absent: nequip.data.transforms.AddNaNStressTransform in data.transforms puts NaN there"
            )
        atoms = HostAtoms(numbers, positions, cell=cell, pbc=pbc)
        atoms.used = index in self.used
        for name in data.keys() - _GEOMETRY:
            value = np.squeeze(data[name].detach().numpy())
            if not (name in self.may_be_nan and np.isnan(value).all()):
                atoms.info[name] = value
        for name in self.names[index] if self.names else ():
            atoms.info.setdefault(name, None)
        return atoms


@dataclass(frozen=True)
class Metric:
    """What NequIP compares with a label.

    Attributes:
        field: of NequIP's data.
        ignores_nan: whether frames with NaN are left out.
    """

    field: str
    ignores_nan: bool


def read_datasets(
    data: Mapping[str, Any], kinds: Mapping[str, Sequence[Metric]], type_names: Sequence[str], source: str
) -> dict[str, list[HostFrames]]:
    """The sets of a data section, built as NequIP builds them, but without neighbour lists.

    Args:
        data: the section, references resolved.
        kinds: "train", "val", and what is compared with their labels.
        type_names: of the model.
        source: the config file, for messages.

    Raises:
        ConfigError: a section that NequIP cannot use.
        DataError: data that NequIP cannot read, or would read in two ways.
    """
    try:
        module = instantiate(_without_neighbors(dict(data)), _recursive_=False)
        configs = {kind: getattr(module, f"{kind}_dataset_config") for kind in kinds}
        module.prepare_data()
    except Exception as error:  # hydra, NequIP and other people's modules raise whatever they do
        raise ConfigError(f"{source}: data: NequIP cannot use this section: {in_one_line(innermost(error))}") from None
    for kind, some in configs.items():
        if not some or (kind == "train" and len(some) != 1):
            needed = "exactly one" if kind == "train" else "at least one"
            raise ConfigError(f"{source}: data holds {len(some)} {kind} sets; NequIP needs {needed}")
    found: dict[str, list[HostFrames]] = {kind: [] for kind in kinds}
    for kind, some in configs.items():
        for number, config in enumerate(some):
            place = Path(f"data.{kind}_dataset[{number}]")
            found[kind].append(_build(config, kinds[kind], place, type_names))
    return found


def check_frames(
    found: Mapping[str, Sequence[HostFrames]], kinds: Mapping[str, Sequence[Metric]], long_range: bool
) -> None:
    """Look for every label that NequIP compares with, in every frame of the sets.

    Raises:
        DataError: see `check_training_labels`; or a boundary that a long-range part does not know.
    """
    for kind, sets in found.items():
        files: dict[Path, HostFrames] = {}
        for frames in sets:
            files[frames.path if frames.path not in files else Path(f"{frames.path} (again)")] = frames
        labels = []
        for metric in kinds[kind]:
            if (quantity := _QUANTITIES.get(metric.field)) is None:
                _check_other_field(files, metric)
            else:
                option = f"data.key_mapping: {{NAME: {metric.field}}}"
                labels.append(TrainedLabel(quantity, metric.field, option, "", ("info",), metric.ignores_nan))
        check_training_labels(files, labels, _is_used)
        if long_range:
            for path, frames in files.items():
                check_boundaries(frames, str(path))


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
    """Frames with atomic numbers, bare, from all over a training set, those of more than one element first.

    Args:
        sets: the training sets.
        count: how many at most.
    """
    some = [(frames, number) for frames in sets for number in sorted(frames.used)]
    step = max(1, math.ceil(len(some) / (8 * count)))
    found = [frames[number] for frames, number in some[::step]]
    bare = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc) for a in found if (a.numbers > 0).all()]
    several = [atoms for atoms in bare if len(set(atoms.numbers)) > 1]
    chosen = several or bare
    return chosen[:: max(1, math.ceil(len(chosen) / count))]


def _build(config: Mapping[str, Any], metrics: Sequence[Metric], place: Path, type_names: Sequence[str]) -> HostFrames:
    names: list[list[str]] = []
    fields = {metric.field for metric in metrics}
    file = _file_of(config) or place
    try:
        with default_dtype(_GLOBAL_DTYPE), _noting_names(names, fields, file):
            dataset = instantiate(config)
    except DataError:
        raise
    except Exception as error:  # as above
        where = f"{file}, frame {len(names) - 1}" if names else str(file)
        raise DataError(f"{where}: NequIP cannot read it: {in_one_line(innermost(error))}") from None
    indices = list(range(len(dataset)))
    while isinstance(dataset, Subset):
        indices = [int(dataset.indices[index]) for index in indices]
        dataset = dataset.dataset
    if not indices:
        raise DataError(f"{file}: holds no frame")
    path = getattr(dataset, "file_path", None) or getattr(dataset, "file_name", None) or place
    may_be_nan = frozenset(metric.field for metric in metrics if metric.ignores_nan)
    all_names = names if len(names) == len(dataset) else []
    return HostFrames(dataset, Path(path), set(indices), may_be_nan, type_names, all_names)


@contextmanager
def _noting_names(names: list[list[str]], fields: set[str], place: Path) -> Iterator[None]:
    """While open, what each frame that NequIP reads with ASE holds is noted; two labels for one field are errors."""
    original = ase_dataset.from_ase

    def from_ase(atoms: Atoms, **options: Any) -> Any:
        names.append(sorted(label_names(atoms)))
        for wanted in fields:
            _refuse_two_sources(atoms, wanted, options, f"{place}, frame {len(names) - 1}")
        return original(atoms=atoms, **options)

    ase_dataset.from_ase = from_ase
    try:
        yield
    finally:
        ase_dataset.from_ase = original


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


def _is_used(atoms: Atoms, quantity: str) -> float:
    return 1.0 if getattr(atoms, "used", True) else 0.0


def _check_other_field(files: Mapping[Path, HostFrames], metric: Metric) -> None:
    """A label of NequIP that the core has no name for."""
    for path, frames in files.items():
        for number, atoms in enumerate(frames):
            value = atoms.info.get(metric.field)
            if not atoms.used or (value is None and metric.ignores_nan):
                continue
            if value is None:
                raise DataError(f"{path}, frame {number}: has no {metric.field!r}, which the config trains on")
            if not metric.ignores_nan and not np.isfinite(np.asarray(value, dtype=float)).all():
                raise DataError(f"{path}, frame {number}: {metric.field} holds NaN or infinity")


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
