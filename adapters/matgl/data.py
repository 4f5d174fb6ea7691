"""Training data for MatGL from extended XYZ: frames with labels, MatGL's dataset of them, references and scale."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress
from matgl.graph.data import MGLDataset
from matgl.utils.constants import EV_PER_ANG3_TO_GPA
from numpy.typing import NDArray

from les_plugins.adapters.matgl.graphs import Converter
from les_plugins.data.frames import check_elements, check_no_slabs, read_frames
from les_plugins.data.given_charge import bare_with_charge
from les_plugins.data.training import TrainedLabel, TrainingFiles, check_training_labels
from les_plugins.errors import ConfigError, LesPluginsWarning

#: Files, and the names of the labels in them, with MatGL's own names and defaults (MGLDatasetLoader.from_extxyz).
DATASET_KEYS = ("train", "valid", "test", "energy_key", "forces_key", "stress_key")

Labels = Mapping[str, TrainedLabel]


def labels_of(section: Mapping[str, Any]) -> dict[str, TrainedLabel]:
    """Energy, forces and stress under the names that the dataset section gives."""
    without = {"stress": "trainer.stress_weight: 0"}
    return {
        kind: TrainedLabel(kind, str(section.get(f"{kind}_key", kind)), f"dataset.{kind}_key", without.get(kind, ""))
        for kind in ("energy", "forces", "stress")
    }


def read_files(section: Mapping[str, Any]) -> TrainingFiles:
    """The frames of the dataset section, each with energy and forces.

    Raises:
        DataError: frames that cannot be used; names file and frame.
    """
    found, labels = TrainingFiles(), labels_of(section)
    for name in ("train", "valid", "test"):
        if not section.get(name):
            continue
        path = Path(section[name])
        files = {path: read_frames(path)}
        check_no_slabs(files[path], str(path))  # MatGL takes a slab for a molecule
        check_training_labels(files, [labels["energy"], labels["forces"]])
        getattr(found, name).update(files)
    return found


def trains_on_stress(files: Mapping[Path, Sequence[Atoms]], section: Mapping[str, Any], asked_for: bool) -> bool:
    """Whether every frame is periodic and has a stress, so that MatGL can train on it.

    Args:
        files: frames of each file of the dataset section.
        section: that section.
        asked_for: whether the config gives a weight to the stress.

    Raises:
        ConfigError: the stress is asked for, by a weight or a name of its own, and frames lack it; names them.
        DataError: a stress that is not finite or of the wrong size.

    Warns:
        LesPluginsWarning: some frames have a stress, others have none, so it is not trained on.
    """
    stress = labels_of(section)["stress"]
    has = {path: [_has_stress(atoms, stress) for atoms in frames] for path, frames in files.items()}
    if all(map(all, has.values())):
        check_training_labels(files, [stress])
        return True
    where = "; ".join(
        f"{path}: {flags.count(False)} of {len(flags)} frames, the first is {flags.index(False)}"
        for path, flags in has.items()
        if not all(flags)
    )
    text = f"not every frame is periodic and has a stress ({stress.key!r}; {where})"
    none = not any(map(any, has.values()))
    if asked_for or (none and "stress_key" in section):
        option = "trainer.stress_weight asks for it" if asked_for else "dataset.stress_key names a stress"
        raise ConfigError(f"{option}, but {text}; allowed: trainer.stress_weight: 0")
    if not none:
        warnings.warn(f"the stress is not trained on, for {text}", LesPluginsWarning, 2)
    return False


def dataset_of(files: Mapping[Path, Sequence[Atoms]], model: Any, labels: Labels) -> MGLDataset:
    """MatGL's dataset of a file, periodic and open structures mixed, for the elements and cutoff of a model.

    Raises:
        DataError: a frame with an element that the model does not know.
    """
    ((path, frames),) = files.items()
    elements = tuple(model.element_types)
    check_elements(frames, [chemical_symbols.index(symbol) for symbol in elements], str(path))
    values: dict[str, list[Any]] = {
        "energies": [float(labels["energy"].value(atoms)) for atoms in frames],
        "forces": [labels["forces"].value(atoms).tolist() for atoms in frames],
    }
    if all(_has_stress(atoms, labels["stress"]) for atoms in frames):
        stresses = [voigt_6_to_full_3x3_stress(labels["stress"].value(atoms)) for atoms in frames]
        values["stresses"] = [(stress * EV_PER_ANG3_TO_GPA).tolist() for stress in stresses]
    bare = [bare_with_charge(atoms) for atoms in frames]
    converter = Converter(elements, float(model.cutoff))
    with tempfile.TemporaryDirectory() as root:  # PyG makes a folder, whether a cache is kept or not
        return MGLDataset(structures=bare, converter=converter, labels=values, save_cache=False, root=root)


def elements_of(frames: Sequence[Atoms]) -> tuple[str, ...]:
    """Chemical symbols in some frames, by atomic number."""
    return tuple(chemical_symbols[z] for z in sorted({int(z) for atoms in frames for z in atoms.numbers}))


def references(
    given: Any, frames: Sequence[Atoms], elements: Sequence[str], energy: TrainedLabel, where: str
) -> NDArray[np.float64] | None:
    """Energy of every element, eV: fitted to the energies by least squares ("fit"), given, or none.

    Args:
        given: "fit", a mapping from symbols to energies, or None.
        frames: training set.
        elements: of the model, in its order.
        energy: the label.
        where: file and option, for the message.
    """
    if given is None:
        return None
    if given == "fit":
        counts = [[atoms.get_chemical_symbols().count(symbol) for symbol in elements] for atoms in frames]
        energies = [float(energy.value(atoms)) for atoms in frames]
        fitted: NDArray[np.float64] = np.linalg.lstsq(np.array(counts, dtype=float), np.array(energies), rcond=None)[0]
        return fitted
    good = isinstance(given, Mapping) and set(given) == set(elements)
    if not good or not all(isinstance(value, int | float) and np.isfinite(value) for value in given.values()):
        raise ConfigError(
            f"{where} is {given!r}; allowed: fit, null, or one energy in eV for each of {', '.join(elements)}"
        )
    return np.array([float(given[symbol]) for symbol in elements])


def force_scale(frames: Sequence[Atoms], forces: TrainedLabel) -> float:
    """Root mean square of all force components, eV/Å: MatGL's recipe for data_std."""
    return float(np.sqrt(np.mean(np.concatenate([forces.value(atoms) for atoms in frames]) ** 2)))


def _has_stress(atoms: Atoms, stress: TrainedLabel) -> bool:
    return bool(atoms.pbc.all()) and stress.read(atoms) is not None
