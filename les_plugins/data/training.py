"""Training frames as the host is going to see them: every label that it trains on, looked for frame by frame.

Called by the adapters' trainers before the host's own trainer starts. An adapter says which labels its host trains on,
under which keys and with which weight in each frame; what a host would take for zero is an error here.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.constraints import FixAtoms, FixCartesian
from numpy.typing import NDArray

from les_plugins.data.frames import check_boundaries, check_elements, label_names, read_frames
from les_plugins.data.given_charge import check_total_charges
from les_plugins.data.labels import shaped
from les_plugins.data.metrics import Floats
from les_plugins.data.spin import check_spins
from les_plugins.errors import DataError, LesPluginsWarning

#: Weight of a quantity ("energy", "forces", …) of a frame in the host's loss; zero: the frame needs no such label.
FrameWeight = Callable[[Atoms, str], float]

_SHOWN = 5
#: Parts of names that other programs give to a quantity.
_ALIASES = {
    "energy": ("energy",),
    "forces": ("force", "gradient"),
    "stress": ("stress",),
    "virials": ("virial",),
    "born_effective_charges": ("born", "bec", "zstar"),
}


@dataclass(frozen=True)
class TrainedLabel:
    """A label that a host trains on.

    Attributes:
        quantity: "energy", "forces", "stress", "virials", or another that `labels.shaped` knows, such as "dipole".
        key: its name in the file.
        option: the option of the host's config that names the key, such as "forces_key".
        without: what to set to train without it, such as "forces_weight: 0"; empty when the host cannot.
        places: where the host looks for it: "calc" (results that ASE's reader took out of the file), "info", "arrays".
        left_out: whether the host leaves a frame without it out of this term of its loss; otherwise every frame of
            weight above zero must have it.
    """

    quantity: str
    key: str
    option: str
    without: str = ""
    places: tuple[str, ...] = ("calc", "info", "arrays")
    left_out: bool = False

    def read(self, atoms: Atoms) -> object | None:
        """The label of a frame as it stands there, not changed by constraints; None when absent."""
        for place in self.places:
            holder = {} if place == "calc" and atoms.calc is None else _holder(atoms, place)
            if (value := holder.get(self.key)) is not None:
                return value
        return None

    def value(self, atoms: Atoms) -> Floats:
        """The label of a frame that has it, in its own shape; a stress in Voigt order, a charge tensor (N, 3, 3)."""
        return shaped(self.quantity, self.read(atoms), len(atoms), self.key)


@dataclass
class TrainingFiles:
    """Frames of the structure files that a run reads, by set and file.

    Attributes:
        train, valid, test: frames of each file of a set.
        unread: files that the host alone can read, such as graphs that it made earlier.
    """

    train: dict[Path, Sequence[Atoms]] = field(default_factory=dict)
    valid: dict[Path, Sequence[Atoms]] = field(default_factory=dict)
    test: dict[Path, Sequence[Atoms]] = field(default_factory=dict)
    unread: list[Path] = field(default_factory=list)

    def read_sets(
        self,
        section: Mapping[str, Any],
        labels: Sequence[TrainedLabel],
        check: Callable[[Sequence[Atoms], str], object] = lambda frames, where: None,
    ) -> None:
        """Read the structure files that a section names under "train", "valid" and "test".

        Args:
            section: of the host's file.
            labels: what the host trains on.
            check: what else is wrong with frames; called with those of a file and its name.

        Raises:
            DataError: frames that cannot be used; names file and frame.
        """
        for name in filter(section.get, ("train", "valid", "test")):
            path = Path(section[name])
            files = {path: read_frames(path)}
            check(files[path], str(path))
            check_training_labels(files, labels)
            getattr(self, name).update(files)

    def all(self) -> dict[Path, Sequence[Atoms]]:
        """The files of every set; see `by_use`."""
        return by_use(pair for some in (self.train, self.valid, self.test) for pair in some.items())

    def training_set(self) -> list[Atoms]:
        """The frames of the training set, file after file."""
        return [atoms for frames in self.train.values() for atoms in frames]

    def check_boundaries(self) -> None:
        """Raise DataError for a frame that a long-range part cannot sum."""
        for path, frames in self.all().items():
            check_boundaries(frames, str(path))

    def check_charges_and_spins(self, reads: bool) -> None:
        """As `check_total_charges` of `data.given_charge` and `check_spins` of `data.spin`, of all frames."""
        check_total_charges(numbered(self.all()), reads)
        check_spins(numbered(self.all()))

    def check_elements(self, known: Collection[int], said_by: str) -> None:
        """Raise DataError for a frame with an element that the model is not going to know.

        Args:
            known: atomic numbers.
            said_by: the option that names them, for the message.
        """
        for path, frames in self.all().items():
            check_elements(frames, known, f"{path} ({said_by})")


def named_labels(
    section: Mapping[str, Any], where: str, quantities: Iterable[str], without: Mapping[str, str], left_out: str = ""
) -> dict[str, TrainedLabel]:
    """Labels under the names that a section gives with `energy_key` and its like, or under those of the quantities.

    Args:
        section: of the host's file.
        where: its name in the file.
        quantities: what the host trains on.
        without: quantity → option that trains without it.
        left_out: the quantity that the host leaves out of the loss of frames without it.
    """
    return {
        name: TrainedLabel(
            name,
            str(section.get(f"{name}_key", name)),
            f"{where}.{name}_key",
            without.get(name, ""),
            left_out=name == left_out,
        )
        for name in quantities
    }


def by_use(files: Iterable[tuple[Path, Sequence[Atoms]]]) -> dict[Path, Sequence[Atoms]]:
    """Frames by file. A file that is used again, for other frames of it or in another set, has a name that says so."""
    found: dict[Path, Sequence[Atoms]] = {}
    uses: Counter[Path] = Counter()
    for path, frames in files:
        uses[path] += 1
        found[path if uses[path] == 1 else Path(f"{path} (use {uses[path]})")] = frames
    return found


def numbered(files: Mapping[Path, Sequence[Atoms]]) -> Iterator[tuple[str, Atoms]]:
    """Every frame with its place, as messages give it: `water.xyz, frame 3`."""
    for path, frames in files.items():
        for number, atoms in enumerate(frames):
            yield f"{path}, frame {number}", atoms


def check_training_labels(
    files: Mapping[Path, Sequence[Atoms]],
    labels: Sequence[TrainedLabel],
    weight: FrameWeight = lambda atoms, quantity: 1.0,
) -> None:
    """Look for every label in every frame of the files that a host reads as one set.

    Args:
        files: frames of each file.
        labels: what the host trains on, with a weight above zero in its loss.
        weight: of a quantity of a frame, as the host multiplies it into the loss.

    Raises:
        DataError: a label that no frame has, or that some frames lack where the host does not leave them out; one that
            is not finite or of the wrong size; the stress of an open structure; a weight that is no number. The message
            names key, file and frames, similar names that the file holds, and what to do.

    Warns:
        LesPluginsWarning: some frames lack a label and the host leaves them out, or all forces of atoms that a
            constraint fixes are zero in the file.
    """
    lacking: dict[TrainedLabel, dict[Path, list[int]]] = {label: {} for label in labels}
    lost: dict[TrainedLabel, dict[Path, list[int]]] = {label: {} for label in labels}
    counted = dict.fromkeys(labels, 0)
    for path, frames in files.items():
        for number, atoms in enumerate(frames):  # once: some hosts make a frame whenever it is asked for
            where = f"{path}, frame {number}"
            for label in labels:
                if _weight(weight, atoms, label.quantity, where) == 0.0:
                    continue
                value = label.read(atoms)
                if value is None and _is_open(atoms) and label.quantity in ("stress", "virials") and label.left_out:
                    continue  # an open structure has none
                counted[label] += 1
                if value is None:
                    lacking[label].setdefault(path, []).append(number)
                    continue
                _check_value(label, value, atoms, where)
                if label.quantity == "forces" and _lost_on_fixed_atoms(value, atoms):
                    lost[label].setdefault(path, []).append(number)
    for label in labels:
        if lacking[label]:
            _say_missing(label, files, lacking[label], counted[label])
        for path, numbers in lost[label].items():
            warnings.warn(
                f"{path}: {_of(len(numbers), len(files[path]))} ({_numbers(numbers)}) in which all {label.key!r} of "
                "fixed atoms are exactly zero: the program that wrote the file seems to have taken the true ones away, "
                "and the model is trained to zero there",
                LesPluginsWarning,
                2,
            )


def read_labelled_frames(path: Path) -> list[Atoms]:
    """Frames of a file, each with energy and forces under ASE's names, for a host that asks ASE for them.

    Constraints are taken off, since ASE's `get_forces` gives zero for the atoms that they fix.

    Raises:
        DataError: as `read_frames` and `check_training_labels`.
    """
    frames = read_frames(path)
    labels = [TrainedLabel(name, name, f"{name} of ASE", places=("calc",)) for name in ("energy", "forces")]
    check_training_labels({path: frames}, labels)
    for atoms in frames:
        atoms.set_constraint()
    return frames


def fixed_atoms(atoms: Atoms) -> NDArray[np.bool_]:
    """(N,) whether ASE's `get_forces()` sets all three components of an atom's force to zero, by its constraints."""
    forces = np.ones((len(atoms), 3))
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms | FixCartesian):
            constraint.adjust_forces(atoms, forces)
    fixed: NDArray[np.bool_] = (forces == 0.0).all(axis=1)
    return fixed


def similar_names(label: TrainedLabel, present: set[str]) -> list[str]:
    """Names among those present that may hold the quantity of a label."""
    present = present - ({label.key} | (set(all_properties) - {label.quantity}))  # free_energy is no misspelt energy
    close = difflib.get_close_matches(label.key, sorted(present), 3, 0.75)
    aliases = _ALIASES.get(label.quantity, (label.quantity,))
    also = [name for name in sorted(present) if any(alias in name.lower() for alias in aliases)]
    return list(dict.fromkeys([*close, *also]))


def _holder(atoms: Atoms, place: str) -> Mapping[str, object]:
    held: Mapping[str, object] = atoms.calc.results if place == "calc" else getattr(atoms, place)
    return held


def _weight(weight: FrameWeight, atoms: Atoms, quantity: str, where: str) -> float:
    try:
        value = float(weight(atoms, quantity))
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or value < 0.0:
        raise DataError(f"{where}: the weight of its {quantity} in the loss is {value}; allowed: finite, zero or above")
    return value


def _check_value(label: TrainedLabel, value: object, atoms: Atoms, where: str) -> None:
    shaped(label.quantity, value, len(atoms), f"{where}: {label.key}")
    if label.quantity in ("stress", "virials") and _is_open(atoms):
        raise DataError(
            f"{where}: has a {label.key!r} but is open (pbc F F F), where a stress is not defined; take it out of the "
            "frame, or set its pbc"
        )


def _is_open(atoms: Atoms) -> bool:
    return not bool(atoms.pbc.any())


def _say_missing(
    label: TrainedLabel, files: Mapping[Path, Sequence[Atoms]], lacking: Mapping[Path, list[int]], counted: int
) -> None:
    count = sum(map(len, lacking.values()))
    without = [files[path][number] for path, numbers in lacking.items() for number in numbers]
    present = set().union(*map(label_names, without))
    similar = similar_names(label, present)
    guess = f"; did you mean {' or '.join(map(repr, similar[:3]))}?" if similar else "."
    held = f"These frames hold: {', '.join(sorted(present)) or 'no labels'}"
    what = f"{label.quantity} under the name {label.key!r} ({label.option})"
    if count == counted:
        spell = f" Or set {label.without} to train without {label.quantity}." if label.without else ""
        raise DataError(
            f"{', '.join(map(str, lacking))}: none of {counted} frames has {what}{guess} {held}. "
            f"Give the name with {label.option}.{spell}"
        )
    places = "; ".join(
        f"{path}: {_of(len(numbers), len(files[path]))} ({_numbers(numbers)})" for path, numbers in lacking.items()
    )
    if label.left_out:
        warnings.warn(
            f"{places} without {what}{guess} They are left out of this term of the loss", LesPluginsWarning, 3
        )
        return
    raise DataError(
        f"{places} without {what}, which would be taken for zero{guess} {held}. Label them or take them out"
    )


def _lost_on_fixed_atoms(value: object, atoms: Atoms) -> bool:
    """Some programs write zero for the forces of fixed atoms: then the file itself has lost them."""
    if not atoms.constraints or not (fixed := fixed_atoms(atoms)).any():
        return False
    forces = np.asarray(value, dtype=float).reshape(-1, 3)
    return bool(forces.any() and not forces[fixed].any())


def _of(count: int, total: int) -> str:
    return f"{count} of {total} frames"


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    return f"frame{'s' if len(numbers) > 1 else ''} {shown}{', …' if len(numbers) > _SHOWN else ''}"
