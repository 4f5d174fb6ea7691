"""Structure files: reading frames with their labels, and saying in words what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import all_properties
from numpy.typing import NDArray

from les_plugins.data.close_atoms import check_distances
from les_plugins.errors import DataError, raising
from les_plugins.io.extended_xyz import check_extended_xyz

#: Smallest height of a periodic cell, Å: below it atoms overlap with their own images.
SMALLEST_HEIGHT = 1.0
#: Largest coordinate or lattice vector, Å: beyond it nothing is left of an atom's place in single precision.
LARGEST_LENGTH = 1e6
#: Columns of extended XYZ files in which other programs write velocities, Å/fs.
_VELOCITIES = ("vel", "velo", "velocities")


def read_frames(path: str | Path, index: str = ":", **options: Any) -> list[Atoms]:
    """All frames of a structure file that ASE reads.

    Args:
        path: extended XYZ or any other format of ASE.
        index: slice in ASE's notation.
        options: others of `ase.io.read`.

    Raises:
        DataError: the file is missing, unreadable or empty, or a frame cannot be used (see `check_frame`).
    """
    file = existing_file(path)
    check_extended_xyz(file)
    with raising(DataError, f"{file}: ASE cannot read it"):
        found = ase.io.read(file, index=index, **options)
    frames = found if isinstance(found, list) else [found]
    if not frames:
        raise DataError(f"{file}: holds no frame")
    for number, atoms in enumerate(frames):
        check_frame(_with_columns_of_gpumd(atoms, f"{file}, frame {number}"), f"{file}, frame {number}")
    return frames


def iterate_frames(path: str | Path) -> Iterator[Atoms]:
    """The frames of a structure file one after the other, so that a long file needs little memory.

    Args:
        path: extended XYZ or any other format of ASE.

    Raises:
        DataError: as `read_frames`, when the iteration comes to what is wrong.
    """
    file = existing_file(path)
    check_extended_xyz(file)
    frames = ase.io.iread(str(file), index=":")
    number = 0
    while True:
        with raising(DataError, f"{file}{f', frame {number}' if number else ''}: ASE cannot read it"):
            atoms = next(frames, None)
        if atoms is None:
            break
        check_frame(_with_columns_of_gpumd(atoms, f"{file}, frame {number}"), f"{file}, frame {number}")
        yield atoms
        number += 1
    if not number:
        raise DataError(f"{file}: holds no frame")


def boundary_of(atoms: Atoms) -> str:
    """What the long-range part takes a structure for: periodic, a slab, a wire or open, and why open."""
    periodic = int(atoms.pbc.sum())
    if periodic == 3:
        return "periodic"
    if periodic:
        axes = " and ".join(name for name, flag in zip("abc", atoms.pbc, strict=True) if flag)
        return f"{'slab' if periodic == 2 else 'wire'} (periodic along {axes})"
    return "open (pbc is F F F)" if atoms.cell.rank else "open (no lattice in the file)"


class Boundaries:
    """Counts which boundaries the frames of a file have; as text, what a command says of them.

    Args:
        frames: structures that are counted at once; `watch` counts others as they pass.
    """

    def __init__(self, frames: Iterable[Atoms] = ()) -> None:
        self.counts = Counter(map(boundary_of, frames))

    def watch(self, frames: Iterable[Atoms]) -> Iterator[Atoms]:
        """The frames, counted on the way."""
        for atoms in frames:
            self.counts[boundary_of(atoms)] += 1
            yield atoms

    def __str__(self) -> str:
        total = sum(self.counts.values())
        kinds = [kind if len(self.counts) == 1 else f"{n} {kind}" for kind, n in self.counts.most_common()]
        return f"{total} frame{'s' * (total != 1)}: {', '.join(kinds)}"


def describe_boundaries(frames: Iterable[Atoms]) -> str:
    """Which boundaries structures have, as "3 frames: 2 periodic, 1 open (no lattice in the file)"."""
    return str(Boundaries(frames))


def _with_columns_of_gpumd(atoms: Atoms, where: str) -> Atoms:
    """Masses and velocities under ASE's names; ASE leaves those of GPUMD and QUIP as arrays that nothing reads.

    Columns: mass (u); vel, velo or velocities (Å/fs, as these programs write them).
    """
    for column in {"mass", *_VELOCITIES} & set(atoms.arrays):
        value = atoms.arrays[column]
        shape = (len(atoms),) if column == "mass" else (len(atoms), 3)
        if value.shape != shape or value.dtype.kind not in "if" or not np.isfinite(value).all():
            raise DataError(f"{where}: the column {column} is not {shape[1:] or 'one'} finite number(s) an atom")
    mass = atoms.arrays.pop("mass", None)
    if mass is not None and not atoms.has("masses"):
        if (mass <= 0).any():
            raise DataError(f"{where}: the column mass holds {mass.min():g} u; allowed: above 0")
        atoms.set_masses(mass)
    velocities = [atoms.arrays.pop(column, None) for column in _VELOCITIES]
    found = next((value for value in velocities if value is not None), None)
    if found is not None and not atoms.has("momenta"):
        atoms.set_momenta(atoms.get_masses()[:, None] * found / units.fs, apply_constraint=False)
    return atoms


def check_frame(atoms: Atoms, where: str) -> None:
    """Raise DataError for no atoms, NaN, a cell that is singular or too small, two atoms in one place, no mass."""
    if len(atoms) == 0:
        raise DataError(f"{where}: has no atoms")
    for name, values in (("positions", atoms.positions), ("cell", atoms.cell.array)):
        if not np.isfinite(values).all():
            raise DataError(f"{where}: {name} holds NaN or infinity")
        if np.abs(values).max() > LARGEST_LENGTH:
            largest = values.flat[np.abs(values).argmax()]
            raise DataError(f"{where}: {name} holds {largest:g} Å; allowed: up to {LARGEST_LENGTH:g} Å")
    _check_motion(atoms, where)
    if atoms.pbc.any():
        _check_cell(atoms, where)
    check_distances(atoms, where)


def _check_motion(atoms: Atoms, where: str) -> None:
    """Masses and momenta that a file gives: of every atom, finite, masses above 0."""
    if atoms.has("masses"):
        masses = atoms.get_masses()
        bad = ~(np.isfinite(masses) & (masses > 0))
        if bad.any():
            atom = int(bad.argmax())
            raise DataError(f"{where}: the mass of atom {atom} is {masses[atom]:g} u; allowed: above 0")
    if atoms.has("momenta"):
        momenta = atoms.arrays["momenta"]
        if momenta.shape != (len(atoms), 3):
            raise DataError(f"{where}: momenta have {momenta.size // len(atoms)} number(s) an atom; expected three")
        if not (np.abs(momenta) < LARGEST_LENGTH).all():
            raise DataError(
                f"{where}: momenta holds NaN or more than {LARGEST_LENGTH:g} u Å in ASE's unit of time (10.18 fs)"
            )


def _check_cell(atoms: Atoms, where: str) -> None:
    periodic = atoms.pbc
    lengths = atoms.cell.lengths()
    if periodic.all() and atoms.cell.volume <= 1e-6 * max(float(np.prod(lengths)), 1e-30):
        raise DataError(f"{where}: pbc is {_flags(periodic)} but the cell {atoms.cell.array.tolist()} is singular")
    for axis in range(3):
        if not periodic[axis]:
            continue
        if lengths[axis] == 0:
            raise DataError(f"{where}: pbc is {_flags(periodic)} but lattice vector {axis} is zero")
        if periodic.all():
            a, b = (atoms.cell[i] for i in range(3) if i != axis)
            height = atoms.cell.volume / float(np.linalg.norm(np.cross(a, b)))
            if height < SMALLEST_HEIGHT:
                raise _too_small(where, height, axis)
    if periodic.sum() == 2:
        _check_plane(atoms, where)


def _check_plane(atoms: Atoms, where: str) -> None:
    """The two periodic vectors of a slab: neither parallel nor closer than atoms can be."""
    axes = [axis for axis in range(3) if atoms.pbc[axis]]
    area = float(np.linalg.norm(np.cross(*atoms.cell.array[axes])))
    lengths = atoms.cell.lengths()
    if area <= 1e-6 * lengths[axes].prod():
        raise DataError(
            f"{where}: pbc is {_flags(atoms.pbc)} but lattice vectors {axes[0]} and {axes[1]} are parallel: "
            f"{atoms.cell.array[axes].tolist()}"
        )
    for axis, other in (axes, axes[::-1]):
        if area / lengths[other] < SMALLEST_HEIGHT:
            raise _too_small(where, area / lengths[other], axis)


def _too_small(where: str, height: float, axis: int) -> DataError:
    return DataError(
        f"{where}: the cell is {height:.3g} Å high along lattice vector {axis}; allowed: at least {SMALLEST_HEIGHT} Å"
    )


def label(atoms: Atoms, key: str) -> NDArray[np.float64] | float | None:
    """A label of a frame, wherever ASE or the file put it: calculator results, info or arrays; None when absent."""
    if atoms.calc is not None and atoms.calc.results.get(key) is not None:
        return atoms.calc.results[key]  # type: ignore[no-any-return]
    if key in atoms.info:
        return atoms.info[key]  # type: ignore[no-any-return]
    return atoms.arrays.get(key)


def check_boundaries(frames: Iterable[Atoms], where: str) -> None:
    """Raise DataError for the first frame that is periodic along one axis only, which has no long-range sum."""
    for number, atoms in enumerate(frames):
        if atoms.pbc.sum() == 1:
            raise DataError(
                f"{where}, frame {number}: pbc is {_flags(atoms.pbc)}; allowed with a long-range part: three T "
                "(periodic), two T (slab) or F F F (open). Wires are not built"
            )


def check_no_slabs(frames: Iterable[Atoms], where: str) -> None:
    """Raise DataError for the first frame that is periodic along some axes only, for a host that knows none."""
    for number, atoms in enumerate(frames):
        if atoms.pbc.any() and not atoms.pbc.all():
            raise DataError(
                f"{where}, frame {number}: pbc is {_flags(atoms.pbc)}; allowed with this host: T T T or F F F. Slabs "
                "and wires it would take for molecules"
            )


def check_elements(frames: Iterable[Atoms], known: Iterable[int], where: str) -> None:
    """Raise DataError for the first frame with an element that the model does not know."""
    allowed = set(known)
    for number, atoms in enumerate(frames):
        check_elements_of(atoms, allowed, f"{where}, frame {number}")


def check_elements_of(atoms: Atoms, known: Iterable[int], where: str) -> None:
    """Raise DataError for a structure with an element that the model does not know."""
    allowed = set(known)
    if strange := sorted(set(atoms.numbers.tolist()) - allowed):
        from ase.data import chemical_symbols

        names = ", ".join(chemical_symbols[z] for z in strange)
        have = ", ".join(chemical_symbols[z] for z in sorted(allowed))
        raise DataError(f"{where}: the model does not know {names}; it knows: {have}")


def structure_of(numbers: Any, positions: Any, cell: Any, pbc: Any) -> Atoms:
    """A structure without labels of a host's arrays or tensors (on the CPU, not part of a graph).

    Args:
        numbers: N atomic numbers, of any shape.
        positions: (N, 3) Å.
        cell: lattice vectors as rows, of any shape; not used where nothing is periodic, since hosts make one up there.
        pbc: one flag or three.
    """
    periodic = np.asarray(pbc, dtype=bool).reshape(-1)
    lattice = np.asarray(cell, dtype=float).reshape(3, 3) if periodic.any() else None
    return Atoms(np.asarray(numbers).reshape(-1), np.asarray(positions, dtype=float), cell=lattice, pbc=periodic)


def without_labels(atoms: Atoms) -> Atoms:
    """A copy of the structure without reference values under ASE's names, which a host may take for its input."""
    bare: Atoms = atoms.copy()
    for key in set(all_properties) & set(bare.info):
        del bare.info[key]
    for key in set(all_properties) & set(bare.arrays):
        del bare.arrays[key]
    return bare


def label_names(atoms: Atoms) -> set[str]:
    """Names of everything a frame carries beside its geometry."""
    found = set(atoms.info) | (set(atoms.arrays) - {"numbers", "positions"})
    return found | (set(atoms.calc.results) if atoms.calc is not None else set())


def existing_file(path: str | Path) -> Path:
    """The path, or a DataError where there is no file."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: is not a file" if file.exists() else f"{file}: no such file")
    return file


def _flags(periodic: NDArray[np.bool_]) -> str:
    return " ".join("T" if flag else "F" for flag in periodic)
