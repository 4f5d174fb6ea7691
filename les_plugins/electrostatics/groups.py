"""Structures that are summed together: facts about a batch on the host, groups of like size, atoms in padded rows.

`solver.py` calls it. The facts cost one exchange with the device; nothing else here waits for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from les_plugins.electrostatics.local import to_structures
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.periodic.splines import Mesh

Value = TypeVar("Value")


class Limits(NamedTuple):
    """What is summed together in spite of rows that have to be filled up.

    Attributes:
        waste: how many times the work of each structure by itself a group may be …
        negligible: … or how much, in products of atoms and grid points: what a group of its own costs in time.
        numbers: that an array of a group may hold, of a group of more than one structure.
    """

    waste: float
    negligible: float
    numbers: float


#: A CPU pays for arithmetic: arrays of 32 MiB.
CPU = Limits(1.5, 4e5, 1 << 22)
#: An accelerator pays for launches, some hundreds a group, in which it does 10¹⁰ to 10¹¹ operations: of 128 MiB.
DEVICE = Limits(4.0, 2e8, 1 << 24)


def limits_of(device: torch.device) -> Limits:
    """Those of the device that tensors are on."""
    return CPU if device.type == "cpu" else DEVICE


class Facts(NamedTuple):
    """Values of a batch that shapes and branches depend on.

    Attributes:
        counts: atoms of each structure.
        axes: number of periodic axes of each structure.
        cells: nine numbers of each, Å.
        pbc: three flags of each.
        in_order: whether the atoms of each structure follow those of the one before.
        slabs: what is known of each slab once it has been summed, for further sums at the same places.
        made: what a call has made of its tensors, for its other sums.
    """

    counts: list[int]
    axes: list[int]
    cells: list[tuple[float, ...]]
    pbc: list[tuple[bool, bool, bool]]
    in_order: bool
    slabs: dict[int, list[float]]
    made: Made


class Made:
    """What was last made of tensors, with its graph: found again for these very tensors, not for others like them."""

    def __init__(self) -> None:
        self._found: deque[tuple[tuple[Tensor, ...], Hashable, Any]] = deque(maxlen=8)

    def of(self, tensors: tuple[Tensor, ...], name: Hashable, make: Callable[[], Value]) -> Value:
        """What `make` returns, or returned before for the same tensors and name."""
        name = name, torch.is_grad_enabled()
        for known, its_name, value in self._found:
            if its_name == name and all(one is other for one, other in zip(known, tensors, strict=True)):
                found: Value = value
                return found
        made = make()
        self._found.append((tensors, name, made))
        return made


def facts_of(cell: Tensor, pbc: Tensor, batch: Tensor) -> Facts:
    """Read the facts of a batch; arguments as for `solve_structures`."""
    n_structures = len(cell)
    if n_structures == 1:  # what there is to know of the atoms is their number
        counts, in_order = [len(batch)], True
        rows = torch.cat([cell.detach().flatten(1), pbc], 1).tolist()
    else:
        count = to_structures(torch.ones_like(batch, dtype=torch.float64), batch, n_structures)[:, None]
        in_steps = (batch[1:] >= batch[:-1]).all().expand(n_structures, 1)
        rows = torch.cat([cell.detach().flatten(1), pbc, count, in_steps], 1).tolist()
        counts, in_order = [int(row[12]) for row in rows], all(row[13] != 0.0 for row in rows)
    flags = [(row[9] != 0.0, row[10] != 0.0, row[11] != 0.0) for row in rows]
    return Facts(counts, [sum(f) for f in flags], [tuple(row[:9]) for row in rows], flags, in_order, {}, Made())


def groups_of_like_size(sizes: Sequence[tuple[int, tuple[int, int, int]]], limits: Limits) -> list[list[int]]:
    """Places of structures that are to be summed together, at little more work than each by itself.

    Args:
        sizes: number of atoms of each, and extent of its grid.
        limits: of the device that they are on.
    """
    groups: list[_Group] = []
    for place in sorted(range(len(sizes)), key=lambda place: -_work(*sizes[place])):
        own = _Group([place], _work(*sizes[place]), *sizes[place])
        for number, group in enumerate(groups):
            both = group.with_(own)
            if both.padded <= max(limits.waste * both.alone, limits.negligible) and both.numbers <= limits.numbers:
                groups[number] = both
                break
        else:
            groups.append(own)
    return [sorted(group.members) for group in groups]


def groups_on_mesh(counts: Sequence[int], meshes: Sequence[Mesh], device: torch.device) -> list[list[int]]:
    """Places of structures, of so many atoms each, that are to be summed together on meshes of theirs.

    On a CPU those of one group have meshes of the same sizes; on an accelerator splines of one order.
    """
    limits = limits_of(device)
    alike: dict[object, list[int]] = {}
    for place, mesh in enumerate(meshes):
        alike.setdefault(mesh if device.type == "cpu" else mesh.spline, []).append(place)
    found = []
    for places in alike.values():
        # an atom has as many points as its spline
        sizes = [(counts[place], (meshes[place].spline - 1,) * 3) for place in places]
        for group in groups_of_like_size(sizes, limits):
            members = [places[member] for member in group]
            found += cut(members, [math.prod(meshes[place].sizes) for place in members], limits)
    return found


def cut(places: list[int], numbers: Sequence[float], limits: Limits) -> list[list[int]]:
    """Parts of a group, with at most so many numbers in all of each that is more than one structure.

    Args:
        places: of its structures.
        numbers: of each, such as points on its mesh.
        limits: of the device that they are on.
    """
    parts: list[list[int]] = []
    total = math.inf
    for place, own in zip(places, numbers, strict=True):
        if total + own > limits.numbers:
            parts.append([])
            total = 0.0
        parts[-1].append(place)
        total += own
    return parts


class _Group(NamedTuple):
    """Structures, their work one by one, and the most atoms and the largest extent among them."""

    members: list[int]
    alone: float
    n_atoms: int
    extent: tuple[int, int, int]

    def with_(self, other: _Group) -> _Group:
        (a, b, c), (d, e, f) = self.extent, other.extent
        extent = max(a, d), max(b, e), max(c, f)
        members, alone = [*self.members, *other.members], self.alone + other.alone
        return _Group(members, alone, max(self.n_atoms, other.n_atoms), extent)

    @property
    def padded(self) -> float:
        return len(self.members) * _work(self.n_atoms, self.extent)

    @property
    def numbers(self) -> float:
        """Of the largest arrays: derivatives at the atoms up to rank three, and four components of a grid's points."""
        points = math.prod(n + 1.0 for n in self.extent) * 2.0
        return len(self.members) * max(20.0 * self.n_atoms, 4.0 * points)


def _work(n_atoms: int, extent: tuple[int, int, int]) -> float:
    """Products of atoms and grid points."""
    return n_atoms * math.prod(n + 1.0 for n in extent)


class Some(NamedTuple):
    """Some structures of a batch: atoms of each, positions (n, 3), cells (G, 3, 3) and moments of the n atoms."""

    counts: list[int]
    positions: Tensor
    cell: Tensor
    multipoles: Multipoles


def take(structures: Sequence[int], facts: Facts, positions: Tensor, cell: Tensor, multipoles: Multipoles) -> Some:
    """Some structures of a batch, in ascending order, whose atoms follow each other."""
    counts = [facts.counts[i] for i in structures]
    if len(structures) == len(facts.counts):
        return Some(counts, positions, cell, multipoles)
    if structures[-1] - structures[0] + 1 == len(structures):
        start = sum(facts.counts[: structures[0]])
        part = slice(start, start + sum(counts))
        moments = Multipoles(*(None if m is None else m[part] for m in multipoles))  # type: ignore[arg-type]
        return Some(counts, positions[part], cell[structures[0] : structures[-1] + 1], moments)
    atoms, places = atoms_of(structures, facts, cell.device), places_of(structures, len(cell), cell.device)
    assert atoms is not None
    assert places is not None
    return Some(counts, positions[atoms], cell[places], multipoles.select(atoms))


def atoms_of(structures: Sequence[int], facts: Facts, device: torch.device) -> Tensor | None:
    """(n,) indices of the atoms of some structures; None for all."""
    if len(structures) == len(facts.counts):
        return None
    return torch.tensor(_atoms_of(structures, facts), dtype=torch.int64).to(device)


def places_of(structures: Sequence[int], n_structures: int, device: torch.device) -> Tensor | None:
    """(G,) indices of some structures; None for all."""
    return None if len(structures) == n_structures else torch.tensor(structures, dtype=torch.int64).to(device)


def _atoms_of(structures: Sequence[int], facts: Facts) -> list[int]:
    starts = [0, *accumulate(facts.counts)]
    return [atom for i in structures for atom in range(starts[i], starts[i + 1])]


class Rows(NamedTuple):
    """Atoms of G structures, which follow each other, in G rows of one width.

    Attributes:
        n_rows: G.
        width: the largest number of atoms.
        place: (n,) of every atom in the flattened rows; None where all rows are full.
    """

    n_rows: int
    width: int
    place: Tensor | None

    @classmethod
    def of(cls, counts: Sequence[int], device: torch.device, rows: Sequence[int] | None = None) -> Rows:
        """Rows for structures of so many atoms; `rows` of each, None for all in order."""
        width, rows = max(counts), range(len(counts)) if rows is None else rows
        if all(count == width for count in counts) and list(rows) == list(range(len(counts))):
            return cls(len(counts), width, None)
        place = [atom for row, n in zip(rows, counts, strict=True) for atom in range(row * width, row * width + n)]
        return cls(len(counts), width, torch.tensor(place, dtype=torch.int64).to(device))

    def pad(self, values: Tensor) -> Tensor:
        """(G, width, …) of (n, …), zero where there is no atom."""
        shape = (self.n_rows, self.width, *values.shape[1:])
        if self.place is None:
            return values.view(shape) if values.is_contiguous() else values.reshape(shape)
        whole = values.new_zeros(self.n_rows * self.width, *values.shape[1:])
        return whole.index_copy(0, self.place, values).view(shape)

    def pad_moments(self, multipoles: Multipoles) -> Multipoles:
        """The moments in rows."""
        return Multipoles(*(None if m is None else self.pad(m) for m in multipoles))  # type: ignore[arg-type]

    def mask(self, like: Tensor) -> Tensor | None:
        """(G, width) whether there is an atom; None where there is one everywhere."""
        return None if self.place is None else self.pad(like.new_ones(len(self.place))) > 0.0

    def atoms(self, values: Tensor) -> Tensor:
        """(n, …) of (G, width, …)."""
        flat = values.flatten(0, 1)
        return flat if self.place is None else flat.index_select(0, self.place)


class Piece(NamedTuple):
    """Result of some structures: their places, (G,) energies; and of their atoms, structure by structure."""

    structures: list[int]
    energy: Tensor
    atomic_energy: Tensor
    potential: Tensor
    gradient: Tensor


def joined(pieces: Sequence[Piece], facts: Facts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Energies of all structures (B,), zero of those in no piece; energy, potential, gradient of all atoms."""
    n_structures = len(facts.counts)
    if len(pieces) == 1 and len(pieces[0].structures) == n_structures:
        return pieces[0][1:]
    structures = [i for piece in pieces for i in piece.structures]
    energies = torch.cat([piece.energy for piece in pieces])
    device = energies.device
    places = torch.tensor(structures, dtype=torch.int64).to(device)
    energy = energies.new_zeros(n_structures).index_copy(0, places, energies)
    atoms = _atoms_of(structures, facts)
    back = [0] * len(atoms)
    for place, atom in enumerate(atoms):
        back[atom] = place
    back_again = torch.tensor(back, dtype=torch.int64).to(device)
    atomic = _cat([piece.atomic_energy for piece in pieces]).index_select(0, back_again)
    potential = _cat([piece.potential for piece in pieces]).index_select(0, back_again)
    return energy, atomic, potential, torch.cat([piece.gradient for piece in pieces]).index_select(0, back_again)


def _cat(parts: list[Tensor]) -> Tensor:
    """(N,): the gradient of `cat` has no graph for a part of shape (0,), and a rank without atoms has to take part."""
    return torch.cat([part[:, None] for part in parts])[:, 0]


def placed(structures: Sequence[int], values: Tensor, among: Tensor) -> Tensor:
    """(B, …): `among` with the values (G, …) at the places of some structures."""
    places = places_of(structures, len(among), among.device)
    return values if places is None else among.index_copy(0, places, values)
