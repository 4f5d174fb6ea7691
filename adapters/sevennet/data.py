"""Training data of SevenNet as its loaders will read them: every form of `load_*_path`. Called by train.py."""

from __future__ import annotations

import glob
import inspect
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sevenn._keys as keys
from ase import Atoms
from braceexpand import braceexpand
from sevenn.train import dataload
from sevenn.train.graph_dataset import SevenNetGraphDataset

from les_plugins.adapters.sevennet.graphs import PBC, TOTAL_CHARGE
from les_plugins.data.frames import check_frame, existing_file, read_frames, structure_of
from les_plugins.data.training import TrainedLabel, TrainingFiles, check_training_labels, numbered
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning, raising
from les_plugins.hosting.section_name import SECTION
from les_plugins.storage.training import check_section

#: Options of data_format_args that say where labels are.
_NAMES = {"energy": "energy_key", "forces": "force_key", "stress": "stress_key"}
#: Where SevenNet looks for a label with a name of its own; ASE's own names it asks of ASE's calculator.
_PLACES = {"energy": "info", "forces": "arrays", "stress": "info"}
_OF_THE_DATASET = set(inspect.signature(SevenNetGraphDataset.__init__).parameters) - {"self", "process_kwargs"}
#: Options that SevenNet does not hand to ASE's reader.
_NOT_OF_ASE = {*_NAMES.values(), *_OF_THE_DATASET, "pbc", "tag", "transfer_info", "allow_unlabeled"}

Files = Mapping[Path, Sequence[Atoms]]


def literal_paths(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The data section of a file, with names that SevenNet takes as they stand: it reads brackets as patterns.

    SevenNet keeps the graphs of a run in its working folder, and reads them again in the next run whatever has become
    of the files since. It is told to make them anew.
    """
    changed = dict(data)
    options = check_section(data.get(keys.DATA_FORMAT_ARGS) or {}, f"{source}: data.{keys.DATA_FORMAT_ARGS}")
    for key in filter(_is_path_key, data):
        given = data[key]
        changed[key] = [_as_pattern(item) for item in given] if isinstance(given, list) else _as_pattern(given)
    graphs = any(".pt" in str(data[key]) for key in filter(_is_path_key, data))
    if not graphs and "force_reload" not in options and data.get(keys.DATASET_TYPE, "graph") == "graph":
        changed[keys.DATA_FORMAT_ARGS] = {**options, "force_reload": True}
    return changed


def forget_graphs(data: Mapping[str, Any], working: Path) -> None:
    """Remove the graphs that SevenNet made in an earlier run and would read in place of the files of this one.

    `literal_paths` cannot tell SevenNet to make them anew where one of the sets is a file of graphs.

    Args:
        data: SevenNet's reading of the section.
        working: the folder of the run.
    """
    given = {key: [Path(name) for name in _names(data[key] or ())] for key in filter(_is_path_key, data)}
    named = {path.resolve() for paths in given.values() for path in paths}
    for key, paths in given.items():
        made = working / "sevenn_data" / f"{key.removeprefix('load_').removesuffix('_path')}.pt"
        as_it_is = len(paths) == 1 and paths[0].suffix == ".pt"
        if paths and not as_it_is and made.resolve() not in named and "force_reload" not in data[keys.DATA_FORMAT_ARGS]:
            made.unlink(missing_ok=True)


def read_data(
    parsed: Mapping[str, Mapping[str, Any]], asks_for_stress: bool, long_range: bool, source: str
) -> TrainingFiles:
    """Frames of every file, after a look at each: labels, numbers, elements; all sets beside the training set as one.

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
    data, found = parsed["data"], TrainingFiles()
    if not data.get(keys.LOAD_TRAINSET):
        raise ConfigError(f"data.{keys.LOAD_TRAINSET} is missing: give the structures to train on")
    options = dict(data[keys.DATA_FORMAT_ARGS])
    trained = ["energy", "forces", *(["stress"] if parsed["train"].get(keys.IS_TRAIN_STRESS) else [])]
    for key in filter(_is_path_key, data):
        own, graphs = _read(data[key] or (), options, f"{source}: data.{key}", found.unread, long_range)
        for some, names in ((own, options), (graphs, None)):
            labels = [_label(quantity, names) for quantity in trained]
            if not asks_for_stress and not options.get("stress_key"):
                labels = [label for label in labels if label.quantity != "stress" or _any_has(label, some)]
            check_training_labels(some, labels)
            files = found.train if key == keys.LOAD_TRAINSET else found.valid
            files.update({path: [*files.get(path, ()), *frames] for path, frames in some.items()})
        if not options.get("energy_key"):
            _check_one_kind_of_energy(own)
        if name := options.get("stress_key"):
            _check_voigt(own, name)
    if isinstance(types := parsed["model"][keys.TYPE_MAP], Mapping):
        found.check_elements(types, "chemical_species")
    if found.unread:
        names = ", ".join(map(str, found.unread))
        warnings.warn(f"{names}: SevenNet alone can read it; its labels are not looked at", LesPluginsWarning, 2)
    return found


def energy_of(atoms: Atoms, options: Mapping[str, Any]) -> float | None:
    """The energy, eV, that SevenNet trains a frame on; None where it has none.

    Args:
        atoms: a frame as `read_data` gives it.
        options: data_format_args.
    """
    if name := options.get("energy_key"):
        value = atoms.info.get(name)
    else:
        results = atoms.calc.results if atoms.calc else atoms.info
        value = results.get("free_energy", results.get("energy"))
    return None if value is None else float(value)


def _read(
    entries: Sequence[Any], options: Mapping[str, Any], where: str, unread: list[Path], long_range: bool
) -> tuple[Files, Files]:
    """Frames of structure files, and those of graphs and lists, by file."""
    own: defaultdict[Path, list[Atoms]] = defaultdict(list)  # a file may be named twice, for other frames of it
    graphs: defaultdict[Path, list[Atoms]] = defaultdict(list)
    for entry in entries:
        if isinstance(entry, Mapping):
            for path, named in _file_list(entry, options, where):
                if named is None:
                    graphs[path] += _graphs(path, long_range)
                else:
                    own[path] += _structures(path, named)
            continue
        path = Path(entry)
        if path.suffix == ".pt":
            graphs[path] += _graphs(path, long_range)
        elif path.suffix == ".sevenn_data":
            if long_range:
                raise _no_cell(path)
            unread.append(path)
        elif "structure_list" in str(path.absolute()):  # SevenNet looks for it in the whole path
            graphs[path] += _listed(path)
        else:
            own[path] += _structures(path, options)
    return own, graphs


def _file_list(
    entry: Mapping[str, Any], options: Mapping[str, Any], where: str
) -> Iterator[tuple[Path, dict[str, Any] | None]]:
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


def _names(entries: Sequence[Any]) -> Iterator[str]:
    """Every file that the entries of a set name."""
    for entry in entries:
        yield from (item["file"] for item in entry["file_list"]) if isinstance(entry, Mapping) else (str(entry),)


def _structures(path: Path, options: Mapping[str, Any]) -> list[Atoms]:
    """Frames as `sevenn.train.dataload.ase_reader` asks ASE for them."""
    frames = read_frames(path, **{key: value for key, value in options.items() if key not in _NOT_OF_ASE})
    if "pbc" in options:
        for place, atoms in numbered({path: frames}):
            atoms.pbc = options["pbc"]
            check_frame(atoms, place)
    return frames


def _listed(path: Path) -> list[Atoms]:
    """Frames of a structure_list, through SevenNet's own reader of VASP's outputs."""
    with raising(DataError, f"{path}: SevenNet cannot read this structure_list"):
        read = [atoms for some in dataload.structure_list_reader(str(path)).values() for atoms in some]
    return [
        _labelled(atoms, energy=atoms.info["y_energy"], forces=atoms.arrays["y_force"], stress=atoms.info["y_stress"])
        for atoms in read
    ]


def _graphs(path: Path, long_range: bool) -> list[Atoms]:
    """The structures of graphs that SevenNet made earlier."""
    existing_file(path)
    with raising(DataError, f"{path}: SevenNet cannot read these graphs"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the cutoff: SevenNet says it again
        graphs = SevenNetGraphDataset._read_graph_dataset(str(path), cutoff=0.0)
    if long_range and not all(keys.CELL in graph and PBC in graph for graph in graphs):
        raise _no_cell(path)
    return [
        _labelled(
            structure_of(graph[keys.ATOMIC_NUMBERS], graph[keys.POS], graph.get(keys.CELL), graph.get(PBC, False)),
            energy=graph[keys.ENERGY],
            forces=graph[keys.FORCE],
            stress=graph[keys.STRESS],
            charge=graph.get(TOTAL_CHARGE, 0.0),
        )
        for graph in (graph.to_dict() for graph in graphs)
    ]


def _labelled(atoms: Atoms, charge: Any = 0.0, **labels: Any) -> Atoms:
    """The bare structure with the labels that SevenNet made of it; NaN is how it says that there is none."""
    bare = structure_of(atoms.numbers, atoms.positions, atoms.cell, atoms.pbc)
    bare.info["charge"] = float(charge)
    for quantity, value in labels.items():
        array = np.squeeze(np.asarray(value, dtype=float))
        if not np.isnan(array).all():
            getattr(bare, _PLACES[quantity])[quantity] = array.reshape(-1, 3) if quantity == "forces" else array
    return bare


def _label(quantity: str, options: Mapping[str, Any] | None) -> TrainedLabel:
    """A label of structure files read with these options, or (None) of graphs."""
    option, without = _NAMES[quantity], "train.is_train_stress: false" if quantity == "stress" else ""
    name = (options or {}).get(option)
    places = ("calc",) if options is not None and not name else (_PLACES[quantity],)
    left_out = options is None or quantity == "stress" or bool(options.get("allow_unlabeled"))
    key, option = str(name or quantity), f"data.{keys.DATA_FORMAT_ARGS}.{option}"
    return TrainedLabel(quantity, key, option, without, places, left_out)


def _any_has(label: TrainedLabel, files: Files) -> bool:
    return any(label.read(atoms) is not None for _, atoms in numbered(files))


def _check_one_kind_of_energy(files: Files) -> None:
    """SevenNet takes the free energy where a frame has one: a set of both kinds has two zeros of energy."""
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


def _check_voigt(files: Files, name: str) -> None:
    """Under a name of its own SevenNet reads a stress as six numbers, of nine it would take the wrong ones."""
    for place, atoms in numbered(files):
        if (value := atoms.info.get(name)) is not None and np.shape(value) != (6,):
            raise DataError(
                f"{place}: {name} has shape {np.shape(value)}; SevenNet takes six numbers, in Voigt order (xx yy zz "
                "yz xz xy), under a name other than ASE's stress"
            )


def _no_cell(path: Path) -> DataError:
    return DataError(
        f"{path}: its graphs hold no cell, which {SECTION} needs: give the structure files that they were made of"
    )


def _is_path_key(key: Any) -> bool:
    return isinstance(key, str) and key.startswith("load_") and key.endswith("_path")


def _as_pattern(name: Any) -> Any:
    """The pattern that matches a file of this name alone, where there is one."""
    return glob.escape(name) if isinstance(name, str) and Path(name).is_file() else name
