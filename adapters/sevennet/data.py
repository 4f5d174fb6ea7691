"""Training data of SevenNet as its loaders will read them: every form of `load_*_path`. Called by train.py."""

from __future__ import annotations

import glob
import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import sevenn._keys as keys
from ase import Atoms
from braceexpand import braceexpand
from sevenn.train import dataload
from sevenn.train.graph_dataset import SevenNetGraphDataset

from les_plugins.adapters.sevennet.graphs import PBC
from les_plugins.data.frames import check_boundaries, check_elements, check_frame, existing_file
from les_plugins.data.training import TrainedLabel, check_training_labels
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning
from les_plugins.hosting.section_name import SECTION

#: Options of data_format_args that say where labels are.
_NAMES = {"energy": "energy_key", "forces": "force_key", "stress": "stress_key"}
#: Where SevenNet looks for a label with a name of its own; ASE's own names it asks of ASE's calculator.
_PLACES = {"energy": "info", "forces": "arrays", "stress": "info"}
_OF_THE_DATASET = set(inspect.signature(SevenNetGraphDataset.__init__).parameters) - {"self", "process_kwargs"}


@dataclass
class DataFiles:
    """Frames of every file that a run reads.

    Attributes:
        train, validation: frames by file, of the training set and of all other sets.
        unread: files of graphs that could not be looked at.
    """

    train: dict[Path, list[Atoms]] = field(default_factory=dict)
    validation: dict[Path, list[Atoms]] = field(default_factory=dict)
    unread: list[Path] = field(default_factory=list)

    def frames(self) -> list[Atoms]:
        """The whole training set."""
        return [atoms for some in self.train.values() for atoms in some]


def literal_paths(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The data section with names that SevenNet takes as they stand: it reads brackets as patterns, and old graphs.

    SevenNet keeps the graphs of a run in its working folder, and reads them again in the next run whatever has become
    of the files since. It is told to make them anew.

    Args:
        data: the section of the user's file.
        source: that file, for messages.

    Raises:
        ConfigError: data_format_args is no section.
    """
    changed = dict(data)
    options = data.get(keys.DATA_FORMAT_ARGS) or {}
    if not isinstance(options, Mapping):
        raise ConfigError(f"{source}: data.{keys.DATA_FORMAT_ARGS} is {options!r}; expected a section")
    given: list[Any] = []
    for key in filter(_is_path_key, data):
        listed = [data[key]] if isinstance(data[key], str) else data[key]
        if isinstance(listed, list):
            given += listed
            patterns = [_as_pattern(item) if isinstance(item, str) else item for item in listed]
            changed[key] = patterns[0] if isinstance(data[key], str) else patterns
    graphs = any(".pt" in str(item) for item in given)
    if not graphs and "force_reload" not in options and data.get(keys.DATASET_TYPE, "graph") == "graph":
        changed[keys.DATA_FORMAT_ARGS] = {**options, "force_reload": True}
    return changed


def read_data(
    parsed: Mapping[str, Mapping[str, Any]], asks_for_stress: bool, long_range: bool, source: str
) -> DataFiles:
    """Frames of every file, after a look at each: labels, numbers, boundaries, elements.

    Args:
        parsed: SevenNet's reading of the sections model, train and data.
        asks_for_stress: whether the file itself says is_train_stress, which is SevenNet's default.
        long_range: whether the model has a long-range part.
        source: the config file, for messages.

    Raises:
        ConfigError: no training set, or a form of it that SevenNet would read otherwise than it says.
        DataError: frames that cannot be used; names file, frames and key.

    Warns:
        LesPluginsWarning: data that could not be looked at, or labels that SevenNet leaves out of the loss.
    """
    data, found = parsed["data"], DataFiles()
    if not data.get(keys.LOAD_TRAINSET):
        raise ConfigError(f"data.{keys.LOAD_TRAINSET} is missing: give the structures to train on")
    options = dict(data[keys.DATA_FORMAT_ARGS])
    trained = ["energy", "forces", *(["stress"] if parsed["train"].get(keys.IS_TRAIN_STRESS) else [])]
    for key in filter(_is_path_key, data):
        if not data[key]:
            continue
        everywhere = found.train if key == keys.LOAD_TRAINSET else found.validation
        own, graphs = _read(data[key], options, f"{source}: data.{key}", found.unread, long_range)
        for some, names, left_out in ((own, options, bool(options.get("allow_unlabeled"))), (graphs, {}, True)):
            labels = [_label(quantity, names, left_out, graphs=some is graphs) for quantity in trained]
            if not asks_for_stress and not options.get("stress_key"):
                labels = [label for label in labels if label.quantity != "stress" or _any_has(label, some.values())]
            check_training_labels(some, labels)
            everywhere.update(some)
        _check_one_kind_of_energy(own, options)
        _check_voigt(own, options)
    for path, frames in {**found.train, **found.validation}.items():
        if long_range:
            check_boundaries(frames, str(path))
        if isinstance(types := parsed["model"][keys.TYPE_MAP], Mapping):
            check_elements(frames, types, f"{path} (chemical_species)")
    if found.unread:
        names = ", ".join(map(str, found.unread))
        warnings.warn(f"{names}: SevenNet alone can read it; its labels are not looked at", LesPluginsWarning, 2)
    return found


def _read(
    entries: Sequence[Any], options: Mapping[str, Any], where: str, unread: list[Path], long_range: bool
) -> tuple[dict[Path, list[Atoms]], dict[Path, list[Atoms]]]:
    """Frames of structure files, and those of graphs and lists, by file."""
    own: dict[Path, list[Atoms]] = {}
    graphs: dict[Path, list[Atoms]] = {}
    for entry in entries:
        if isinstance(entry, Mapping):
            for path, named in _file_list(entry, options, where):
                (graphs if named is None else own)[path] = (
                    _graphs(path, long_range) if named is None else _structures(path, named)
                )
            continue
        path = Path(entry)
        if path.suffix == ".pt":
            graphs[path] = _graphs(path, long_range)
        elif path.suffix == ".sevenn_data":
            if long_range:
                raise _no_cell(path)
            unread.append(path)
        elif "structure_list" in str(path.absolute()):  # SevenNet looks for it in the whole path
            graphs[path] = _listed(path)
        else:
            own[path] = _structures(path, options)
    return own, graphs


def _file_list(
    entry: Mapping[str, Any], options: Mapping[str, Any], where: str
) -> Iterable[tuple[Path, dict[str, Any] | None]]:
    """Files of an entry that is a section, each with the options of ASE's reader; None for files of graphs."""
    for key in sorted(set(options) - _OF_THE_DATASET):
        raise ConfigError(
            f"{where}: SevenNet does not combine {keys.DATA_FORMAT_ARGS}.{key} with a file_list: write {key} into the "
            "items of the list, or the file without a list"
        )
    for item in entry.get("file_list") or ():
        named = {key: value for key, value in dict(item).items() if key not in ("file", "data_format")}
        if "file" not in item:
            raise ConfigError(f"{where}: an item of file_list has no file: {dict(item)}")
        for name in _NAMES.values():
            if named.get(name) is not None:
                raise ConfigError(
                    f"{where}: file_list has {name}: {named[name]}, which SevenNet 0.13 reads and then replaces by "
                    f"ASE's own label; give the file without a list, and {name} under {keys.DATA_FORMAT_ARGS}"
                )
        for file in braceexpand(str(item["file"])):
            yield Path(file), None if item.get("data_format", "ase") == "graph" else named


def _structures(path: Path, options: Mapping[str, Any]) -> list[Atoms]:
    """Frames as `sevenn.train.dataload.ase_reader` asks ASE for them."""
    skipped = {*_NAMES.values(), *_OF_THE_DATASET, "pbc", "tag", "transfer_info", "allow_unlabeled"}
    named = {key: value for key, value in options.items() if key not in skipped}
    try:
        read = ase.io.read(str(existing_file(path)), **{"index": ":", **named})
    except DataError:
        raise
    except Exception as error:  # ASE's readers raise whatever their format makes them
        raise DataError(f"{path}: ASE cannot read it: {type(error).__name__}: {error}") from None
    frames = read if isinstance(read, list) else [read]
    for number, atoms in enumerate(frames):
        if "pbc" in options:
            atoms.pbc = options["pbc"]
        check_frame(atoms, f"{path}, frame {number}")
    if not frames:
        raise DataError(f"{path}: holds no frame")
    return frames


def _listed(path: Path) -> list[Atoms]:
    """Frames of a structure_list, through SevenNet's own reader of VASP's outputs."""
    try:
        read = [atoms for some in dataload.structure_list_reader(str(path)).values() for atoms in some]
    except Exception as error:  # as above
        raise DataError(f"{path}: SevenNet cannot read this structure_list: {type(error).__name__}: {error}") from None
    values = ((atoms.info["y_energy"], atoms.arrays["y_force"], atoms.info["y_stress"]) for atoms in read)
    return [_labelled(atoms, *labels) for atoms, labels in zip(read, values, strict=True)]


def _graphs(path: Path, long_range: bool) -> list[Atoms]:
    """The structures of graphs that SevenNet made earlier."""
    existing_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the cutoff: SevenNet says it again
            graphs = SevenNetGraphDataset._read_graph_dataset(str(path), cutoff=0.0)
    except Exception as error:  # as above
        raise DataError(f"{path}: SevenNet cannot read these graphs: {type(error).__name__}: {error}") from None
    frames = []
    for graph in graphs:
        if long_range and (keys.CELL not in graph or PBC not in graph):
            raise _no_cell(path)
        periodic = PBC in graph and bool(graph[PBC].any())
        atoms = Atoms(
            graph[keys.ATOMIC_NUMBERS].flatten().tolist(),
            graph[keys.POS].double().numpy(),
            cell=graph[keys.CELL].view(3, 3).double().numpy() if periodic else None,
            pbc=graph[PBC].flatten().bool().tolist() if periodic else False,
        )
        labels = (graph[key].double().numpy() for key in (keys.ENERGY, keys.FORCE, keys.STRESS))
        frames.append(_labelled(atoms, *labels))
    return frames


def _labelled(atoms: Atoms, energy: Any, forces: Any, stress: Any) -> Atoms:
    """The structure with the labels that SevenNet made of it; NaN is how it says that there is none."""
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for quantity, value in (("energy", energy), ("forces", forces), ("stress", stress)):
        array = np.squeeze(np.asarray(value, dtype=float))
        if not np.isnan(array).all():
            getattr(bare, _PLACES[quantity])[quantity] = array.reshape(-1, 3) if quantity == "forces" else array
    return bare


def _label(quantity: str, options: Mapping[str, Any], left_out: bool, graphs: bool) -> TrainedLabel:
    name, option = options.get(_NAMES[quantity]), f"data.{keys.DATA_FORMAT_ARGS}.{_NAMES[quantity]}"
    places = (_PLACES[quantity],) if graphs or name else ("calc",)
    without = "train.is_train_stress: false" if quantity == "stress" else ""
    return TrainedLabel(quantity, str(name or quantity), option, without, places, left_out or quantity == "stress")


def _any_has(label: TrainedLabel, files: Iterable[Sequence[Atoms]]) -> bool:
    return any(label.read(atoms) is not None for some in files for atoms in some)


def _check_one_kind_of_energy(files: Mapping[Path, Sequence[Atoms]], options: Mapping[str, Any]) -> None:
    """SevenNet takes the free energy where a frame has one: a set of both kinds has two zeros of energy."""
    if options.get("energy_key"):
        return
    for path, frames in files.items():
        both = [
            number
            for number, atoms in enumerate(frames)
            if (free := (atoms.calc.results if atoms.calc else {}).get("free_energy")) is not None
            and not np.isclose(free, atoms.calc.results.get("energy", free), rtol=0.0, atol=1e-6)
        ]
        if both and len(both) < len(frames):
            raise DataError(
                f"{path}: {len(both)} of {len(frames)} frames (the first is {both[0]}) have a free_energy, which "
                "SevenNet takes in place of the energy, the others have none: take it out or give it to all"
            )


def _check_voigt(files: Mapping[Path, Sequence[Atoms]], options: Mapping[str, Any]) -> None:
    """Under a name of its own SevenNet reads a stress as six numbers, of nine it would take the wrong ones."""
    if not (name := options.get("stress_key")):
        return
    for path, frames in files.items():
        for number, atoms in enumerate(frames):
            value = atoms.info.get(name)
            if value is not None and np.shape(value) != (6,):
                raise DataError(
                    f"{path}, frame {number}: {name} has shape {np.shape(value)}; SevenNet takes six numbers, in "
                    "Voigt order (xx yy zz yz xz xy), under a name other than ASE's stress"
                )


def _no_cell(path: Path) -> DataError:
    return DataError(
        f"{path}: its graphs hold no cell, which {SECTION} needs: give the structure files that they were made of"
    )


def _is_path_key(key: Any) -> bool:
    return isinstance(key, str) and key.startswith("load_") and key.endswith("_path")


def _as_pattern(name: str) -> str:
    """The pattern that matches a file of this name alone, where there is one."""
    return glob.escape(name) if Path(name).is_file() else name
