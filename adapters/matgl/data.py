"""Training data for MatGL from extended XYZ: frames with labels, MatGL's dataset of them, references and scale."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from les_plugins.data.frames import check_elements, check_no_slabs
from les_plugins.data.given_charge import bare_with_charge
from les_plugins.data.training import TrainedLabel, TrainingFiles, check_training_labels, named_labels
from les_plugins.errors import ConfigError, LesPluginsWarning
from les_plugins.storage.checks import Check, anything, structure_file

#: Files, and the names of the labels in them, with MatGL's own names and defaults (MGLDatasetLoader.from_extxyz).
DATASET_KEYS: Mapping[str, Check] = {
    **dict.fromkeys(("test", "energy_key", "forces_key", "stress_key"), anything),
    **dict.fromkeys(("train", "valid"), structure_file),
}


@dataclass
class DatasetFiles(TrainingFiles):
    """The files of a dataset section; every frame has energy and forces.

    Attributes:
        labels: of energy, forces and stress, under the names that the section gives.
    """

    labels: Mapping[str, TrainedLabel] = field(default_factory=dict)

    @classmethod
    def read(cls, section: Mapping[str, Any]) -> DatasetFiles:
        """The files of the section.

        Raises:
            DataError: frames that cannot be used; names file and frame.
        """
        without = {"stress": "trainer.stress_weight: 0"}
        found = cls(labels=named_labels(section, "dataset", ("energy", "forces", "stress"), without))
        # MatGL takes a slab for a molecule
        found.read_sets(section, [found.labels["energy"], found.labels["forces"]], check_no_slabs)
        return found

    def train_on_stress(self, asked_for: bool, named: bool) -> bool:
        """Whether every frame is periodic and has a stress, so that MatGL can train on it.

        Args:
            asked_for: whether the config gives a weight to the stress.
            named: whether it gives a name to it.

        Raises:
            ConfigError: the stress is asked for, by a weight or a name of its own, and frames lack it; names them.
            DataError: a stress that is not finite or of the wrong size.

        Warns:
            LesPluginsWarning: some frames have a stress, others have none, so it is not trained on.
        """
        has = {path: list(map(self._has_stress, frames)) for path, frames in self.all().items()}
        if all(map(all, has.values())):
            check_training_labels(self.all(), [self.labels["stress"]])
            return True
        where = "; ".join(
            f"{path}: {flags.count(False)} of {len(flags)} frames, the first is {flags.index(False)}"
            for path, flags in has.items()
            if not all(flags)
        )
        text = f"not every frame is periodic and has a stress ({self.labels['stress'].key!r}; {where})"
        none = not any(map(any, has.values()))
        if asked_for or (none and named):
            option = "trainer.stress_weight asks for it" if asked_for else "dataset.stress_key names a stress"
            raise ConfigError(f"{option}, but {text}; allowed: trainer.stress_weight: 0")
        if not none:
            warnings.warn(f"the stress is not trained on, for {text}", LesPluginsWarning, 2)
        return False

    def dataset(self, files: Mapping[Path, Sequence[Atoms]], model: Any) -> MGLDataset:
        """MatGL's dataset of one set, periodic and open structures mixed, for the elements and cutoff of a model.

        Raises:
            DataError: a frame with an element that the model does not know.
        """
        elements, frames = tuple(model.element_types), [atoms for some in files.values() for atoms in some]
        for path, some in files.items():
            check_elements(some, [chemical_symbols.index(symbol) for symbol in elements], str(path))
        values: dict[str, list[Any]] = {
            "energies": [float(self.labels["energy"].value(atoms)) for atoms in frames],
            "forces": [self.labels["forces"].value(atoms).tolist() for atoms in frames],
        }
        if all(map(self._has_stress, frames)):
            stresses = [voigt_6_to_full_3x3_stress(self.labels["stress"].value(atoms)) for atoms in frames]
            values["stresses"] = [(stress * EV_PER_ANG3_TO_GPA).tolist() for stress in stresses]
        bare = [bare_with_charge(atoms) for atoms in frames]
        converter = Converter(elements, float(model.cutoff))
        with tempfile.TemporaryDirectory() as root:  # PyG makes a folder, whether a cache is kept or not
            return MGLDataset(structures=bare, converter=converter, labels=values, save_cache=False, root=root)

    def elements(self) -> tuple[str, ...]:
        """Chemical symbols in the training set, by atomic number."""
        return tuple(chemical_symbols[z] for z in sorted({int(z) for a in self.training_set() for z in a.numbers}))

    def references(self, given: Any, elements: Sequence[str], where: str) -> NDArray[np.float64] | None:
        """Energy of every element, eV: of the training set by least squares ("fit"), from a mapping, or none."""
        if given is None:
            return None
        if given == "fit":
            frames = self.training_set()
            counts = [[atoms.get_chemical_symbols().count(symbol) for symbol in elements] for atoms in frames]
            energies = self.energies()
            fitted: NDArray[np.float64] = np.linalg.lstsq(np.array(counts, dtype=float), energies, rcond=None)[0]
            return fitted
        good = isinstance(given, Mapping) and set(given) == set(elements)
        if not good or not all(isinstance(value, int | float) and np.isfinite(value) for value in given.values()):
            raise ConfigError(
                f"{where} is {given!r}; allowed: fit, null, or one energy in eV for each of {', '.join(elements)}"
            )
        return np.array([float(given[symbol]) for symbol in elements])

    def energies(self) -> list[float]:
        """Of the training set, eV."""
        return [float(self.labels["energy"].value(atoms)) for atoms in self.training_set()]

    def force_scale(self) -> float:
        """Root mean square of all force components, eV/Å: MatGL's recipe for data_std."""
        forces = [self.labels["forces"].value(atoms) for atoms in self.training_set()]
        return float(np.sqrt(np.mean(np.concatenate(forces) ** 2)))

    def _has_stress(self, atoms: Atoms) -> bool:
        return bool(atoms.pbc.all()) and self.labels["stress"].read(atoms) is not None
