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
from les_plugins.data.frames import check_elements, check_no_slabs, label, read_frames
from les_plugins.data.training import TrainedLabel, check_training_labels
from les_plugins.errors import ConfigError, LesPluginsWarning

#: Files, and the names of the labels in them, with MatGL's own names and defaults (MGLDatasetLoader.from_extxyz).
DATASET_KEYS = ("train", "valid", "test", "energy_key", "forces_key", "stress_key")


def read_split(section: Mapping[str, Any], name: str) -> list[Atoms]:
    """The frames of one file of the dataset section, each with energy and forces.

    Raises:
        DataError: frames that cannot be used; names file and frame.
    """
    path = Path(section[name])
    frames = read_frames(path)
    check_no_slabs(frames, str(path))  # MatGL takes a slab for a molecule
    labels = [TrainedLabel(kind, _key(section, kind), f"dataset.{kind}_key") for kind in ("energy", "forces")]
    check_training_labels({path: frames}, labels)
    return frames


def trains_on_stress(frames: Mapping[str, Sequence[Atoms]], section: Mapping[str, Any], asked_for: bool) -> bool:
    """Whether every frame is periodic and has a stress, so that MatGL can train on it.

    Args:
        frames: of each file of the dataset section.
        section: that section.
        asked_for: whether the config gives a weight to the stress.

    Raises:
        ConfigError: the stress is asked for, by a weight or a name of its own, and frames lack it; names them.
        DataError: a stress that is not finite or of the wrong size.

    Warns:
        LesPluginsWarning: some frames have a stress, others have none, so it is not trained on.
    """
    label_of = TrainedLabel("stress", _key(section, "stress"), "dataset.stress_key", "trainer.stress_weight: 0")
    has = {
        name: [label_of.read(atoms) is not None and atoms.pbc.all() for atoms in some] for name, some in frames.items()
    }
    if all(map(all, has.values())):
        check_training_labels({Path(section[name]): some for name, some in frames.items()}, [label_of])
        return True
    where = "; ".join(
        f"{section[name]}: {flags.count(False)} of {len(flags)} frames, the first is {flags.index(False)}"
        for name, flags in has.items()
        if not all(flags)
    )
    text = f"not every frame is periodic and has a stress ({label_of.key!r}; {where})"
    none = not any(map(any, has.values()))
    if asked_for or (none and "stress_key" in section):
        option = "dataset.stress_key names a stress" if none and not asked_for else "trainer.stress_weight asks for it"
        raise ConfigError(f"{option}, but {text}; allowed: trainer.stress_weight: 0")
    if not none:
        warnings.warn(f"the stress is not trained on, for {text}", LesPluginsWarning, 2)
    return False


def dataset_of(frames: Sequence[Atoms], model: Any, section: Mapping[str, Any], where: str) -> MGLDataset:
    """MatGL's dataset, periodic and open structures mixed, for the elements and cutoff of a model.

    Raises:
        DataError: a frame with an element that the model does not know.
    """
    elements = tuple(model.element_types)
    check_elements(frames, [chemical_symbols.index(symbol) for symbol in elements], where)
    labels: dict[str, list[Any]] = {
        "energies": [_energy(atoms, section) for atoms in frames],
        "forces": [_forces(atoms, section).tolist() for atoms in frames],
    }
    if _has_stress(frames, section):
        labels["stresses"] = [(_stress(atoms, section) * EV_PER_ANG3_TO_GPA).tolist() for atoms in frames]
    bare = [Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc) for atoms in frames]
    converter = Converter(elements, float(model.cutoff))
    with tempfile.TemporaryDirectory() as root:  # PyG makes a folder, whether a cache is kept or not
        return MGLDataset(structures=bare, converter=converter, labels=labels, save_cache=False, root=root)


def _has_stress(frames: Sequence[Atoms], section: Mapping[str, Any]) -> bool:
    key = _key(section, "stress")
    return all(atoms.pbc.all() and label(atoms, key) is not None for atoms in frames)


def elements_of(frames: Sequence[Atoms]) -> tuple[str, ...]:
    """Chemical symbols in some frames, by atomic number."""
    return tuple(chemical_symbols[z] for z in sorted({int(z) for atoms in frames for z in atoms.numbers}))


def references(
    given: Any, frames: Sequence[Atoms], elements: Sequence[str], section: Mapping[str, Any], where: str
) -> NDArray[np.float64] | None:
    """Energy of every element, eV: fitted to the energies by least squares ("fit"), given, or none.

    Args:
        given: "fit", a mapping from symbols to energies, or None.
        frames: training set.
        elements: of the model, in its order.
        section: names of the labels.
        where: file and section, for the message.
    """
    if given is None:
        return None
    if given == "fit":
        counts = np.array([[atoms.get_chemical_symbols().count(symbol) for symbol in elements] for atoms in frames])
        fitted, *_ = np.linalg.lstsq(counts.astype(float), np.array([_energy(a, section) for a in frames]), rcond=None)
        return np.asarray(fitted, dtype=float)
    good = isinstance(given, Mapping) and set(given) == set(elements)
    if not good or not all(isinstance(energy, int | float) and np.isfinite(energy) for energy in given.values()):
        raise ConfigError(
            f"{where}.element_refs is {given!r}; allowed: fit, null, or one energy in eV for each of "
            f"{', '.join(elements)}"
        )
    try:
        return np.array([float(given[symbol]) for symbol in elements])
    except (TypeError, ValueError):
        raise ConfigError(f"{where}.element_refs is {given!r}; allowed: one energy in eV for each element") from None


def force_scale(frames: Sequence[Atoms], section: Mapping[str, Any]) -> float:
    """Root mean square of all force components, eV/Å: MatGL's recipe for data_std."""
    forces = np.concatenate([_forces(atoms, section) for atoms in frames])
    return float(np.sqrt(np.mean(forces**2)))


def _key(section: Mapping[str, Any], kind: str) -> str:
    return str(section.get(f"{kind}_key", kind))


def _energy(atoms: Atoms, section: Mapping[str, Any]) -> float:
    return float(np.asarray(label(atoms, _key(section, "energy"))).squeeze())


def _forces(atoms: Atoms, section: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.asarray(label(atoms, _key(section, "forces")), dtype=float)


def _stress(atoms: Atoms, section: Mapping[str, Any]) -> NDArray[np.float64]:
    """(3, 3) eV/Å³."""
    stress = np.asarray(label(atoms, _key(section, "stress")), dtype=float)
    full = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress.reshape(3, 3)
    return np.asarray(full, dtype=float)
