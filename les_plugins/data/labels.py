"""Labels of structure files: the names they go by, their shapes and units, and a check of a file before it is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from ase import Atoms

from les_plugins.data.frames import check_elements_of, label, label_names
from les_plugins.data.metrics import Floats
from les_plugins.errors import DataError

BORN = "born_effective_charges"
#: Largest value that a label may have, in its unit: no energy of any structure comes near, and squares stay finite.
LARGEST_LABEL = 1e15


@dataclass(frozen=True)
class LabelKeys:
    """Names under which a file may hold its labels; the first that a frame has is used.

    `REF_` names come first: a file that has both was written by a program that keeps results of its own under ASE's.
    """

    energy: tuple[str, ...] = ("REF_energy", "energy")
    forces: tuple[str, ...] = ("REF_forces", "forces")
    stress: tuple[str, ...] = ("REF_stress", "stress")
    dipole: tuple[str, ...] = ("REF_dipole", "dipole")
    polarizability: tuple[str, ...] = ("REF_polarizability", "polarizability")
    born_effective_charges: tuple[str, ...] = (f"REF_{BORN}", BORN)

    def __iter__(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        return ((item.name, getattr(self, item.name)) for item in fields(self))

    def asked_for(self, name: str) -> bool:
        """Whether the names of a label are not the defaults."""
        return bool(getattr(self, name) != getattr(LabelKeys, name))

    @classmethod
    def of(cls, **given: str | None) -> LabelKeys:
        """The defaults, with the names that are given (not None) in their place."""
        return cls(**{name: (key,) for name, key in given.items() if key is not None})


@dataclass(frozen=True)
class Survey:
    """What a file holds, from one pass over it before anything is computed.

    Attributes:
        frames: number of frames.
        atoms: number of atoms of all frames.
        labels: number of frames that have each kind of label; kinds that no frame has are left out.
        keys: names under which each kind was found.
    """

    frames: int
    atoms: int
    labels: dict[str, int]
    keys: dict[str, list[str]]


def survey(
    frames: Iterable[Atoms], source: str, keys: LabelKeys, known_elements: Sequence[int] | None = None
) -> Survey:
    """Check every frame and label.

    Args:
        frames: the structures.
        source: the file, for messages.
        keys: names of the labels.
        known_elements: atomic numbers that the model knows, or None when it does not say.

    Raises:
        DataError: a label with NaN or of the wrong size, an unknown element, a name that was asked for and no frame
            has, or no frame with any label.
    """
    count = atoms_seen = 0
    labels: dict[str, int] = {}
    used: dict[str, list[str]] = {}
    present: set[str] = set()
    for number, atoms in enumerate(frames):
        where = f"{source}, frame {number}"
        if known_elements is not None:
            check_elements_of(atoms, known_elements, where)
        for name, (key, _) in labels_of(atoms, keys, where).items():
            labels[name] = labels.get(name, 0) + 1
            if key not in used.setdefault(name, []):
                used[name].append(key)
        present |= label_names(atoms)
        count, atoms_seen = count + 1, atoms_seen + len(atoms)
    found = f"found: {', '.join(sorted(present)) or 'no labels'}"
    for name, allowed in keys:
        if name not in labels and keys.asked_for(name):
            raise DataError(f"{source}: no frame has {allowed[0]!r} for the {name}; {found}")
    if not labels:
        names = ", ".join(repr(key) for key in (*keys.energy, *keys.forces))
        raise DataError(
            f"{source}: unlabelled: no frame has an energy or forces (looked for {names}); {found}. "
            "Give the names with --energy-key and --forces-key"
        )
    return Survey(count, atoms_seen, labels, used)


def labels_of(atoms: Atoms, keys: LabelKeys, where: str) -> dict[str, tuple[str, Floats]]:
    """The labels of a frame, each with the name it was found under."""
    found = {}
    for name, allowed in keys:
        for key in allowed:
            if (value := label(atoms, key)) is not None:
                found[name] = key, shaped(name, value, len(atoms), f"{where}: {key}")
                break
    return found


def shaped(name: str, value: Any, n_atoms: int, what: str) -> Floats:
    """A value as finite float64 in its own shape; a full stress becomes Voigt, flat tensors become 3 × 3.

    A label whose name is not known here, such as a field of a host's own, keeps the shape that it has.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "energy": (),
        "free_energy": (),
        "long_range_energy": (),
        "short_range_energy": (),
        "forces": (n_atoms, 3),
        "charges": (n_atoms,),
        "latent_charges": (n_atoms,),
        "stress": (6,),
        "virials": (6,),
        "dipole": (3,),
        "polarizability": (3, 3),
        "dielectric_tensor": (3, 3),
        BORN: (n_atoms, 3, 3),
    }
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{what}: expected numbers, got {str(value)[:40]!r}") from None
    if name in ("stress", "virials") and array.size == 9:
        array = voigt(array.reshape(3, 3))
    shape = shapes.get(name, array.shape)
    if array.size != int(np.prod(shape)):
        raise DataError(f"{what} has shape {array.shape}; expected {shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{what} holds NaN or infinity")
    if array.size and np.abs(array).max() > LARGEST_LABEL:
        raise DataError(f"{what} holds {array.flat[np.abs(array).argmax()]:g}; allowed: up to {LARGEST_LABEL:g}")
    return array.reshape(shape)


def voigt(tensor: Floats) -> Floats:
    """(xx, yy, zz, yz, xz, xy) of a symmetric tensor, its two halves averaged."""
    symmetric = (tensor + tensor.T) / 2
    components: Floats = symmetric[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return components


def symmetric(tensors: Floats) -> Floats:
    """(…, 3, 3): the symmetric parts."""
    found: Floats = 0.5 * (tensors + np.swapaxes(tensors, -1, -2))
    return found
