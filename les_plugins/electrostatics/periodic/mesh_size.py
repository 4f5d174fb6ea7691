"""How fine a mesh has to be for a stated error of the forces, and when it is faster than the direct sum.

`mesh.py` asks for the first, `solver.py` for the second. Both depend on one structure alone.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from les_plugins.electrostatics.periodic.reciprocal import Cell, volume_of
from les_plugins.electrostatics.periodic.splines import Mesh
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.errors import GeometryError

#: Order of the B-splines, by the highest rank of the moments. Forces on quadrupoles and the step of a training on them
#: take four derivatives, and a spline of order p has p − 2 continuous ones.
SPLINE_ORDER = (8, 10, 10)
#: A mesh of more points than this is refused rather than left to exhaust the memory; an array of them is 2 GiB.
MOST_MESH_POINTS = 1 << 28
#: The estimated error is kept below the tolerance by this factor. It holds the measured errors below the tolerance for
#: water with any of its moments alone, the worst of which are pure dipoles and quadrupoles.
MARGIN = 3.0
#: The mesh is taken where atoms × reciprocal vectors exceed this many times (atoms × p³ + MESH_POINT_COST × points):
#: the work of the direct sum against that of spreading and transforming, as measured (docs/explanation/mesh.md).
CROSSOVER = 3.0
MESH_POINT_COST = 4.0


def mesh_of(
    vectors: Tensor, sigma: float, cutoff: float, order: int, tolerance: float, spline: int | None = None
) -> Mesh:
    """The coarsest mesh that keeps to a tolerance.

    Args:
        vectors: (3, 3) Å, rows are lattice vectors.
        sigma: Gaussian smearing width, Å.
        cutoff: k_c, Å⁻¹.
        order: highest rank of the moments.
        tolerance: root mean square error of the forces over the root mean square force.
        spline: order of the splines; None: SPLINE_ORDER.

    Raises:
        GeometryError: the cell needs more than MOST_MESH_POINTS.
    """
    return mesh_of_cell(tuple(vectors.flatten().tolist()), sigma, cutoff, order, tolerance, spline)


def mesh_of_cell(
    cell: Cell, sigma: float, cutoff: float, order: int, tolerance: float, spline: int | None = None
) -> Mesh:
    """The same of nine numbers, the lattice vectors one after the other, Å."""
    mesh = _mesh(cell, sigma, cutoff, order, tolerance, spline or SPLINE_ORDER[order])
    points = math.prod(map(float, mesh.sizes))
    if points > MOST_MESH_POINTS:
        sizes = " × ".join(f"{float(size):.4g}" for size in mesh.sizes)
        raise GeometryError(
            f"the cell {_rows(cell)} needs a mesh of {sizes} = {points:.3g} points at mesh_tolerance = "
            f"{tolerance:g}; allowed: {MOST_MESH_POINTS}. Use a larger mesh_tolerance, a reduced "
            "cell, or an open boundary for an isolated molecule"
        )
    return mesh


def takes_mesh(n_atoms: int, cell: Cell, order: int, settings: ElectrostaticsSettings) -> bool:
    """Whether a structure of one process is summed on the mesh; arguments as for `mesh_is_faster`."""
    if settings.method != "auto":
        return settings.method == "mesh"
    return mesh_is_faster(n_atoms, cell, settings.sigma, settings.cutoff, order, settings.mesh_tolerance)


def mesh_is_faster(n_atoms: int, cell: Cell, sigma: float, cutoff: float, order: int, tolerance: float) -> bool:
    """Whether the mesh is expected to take less time than the direct sum.

    Args:
        n_atoms: of the structure.
        cell: nine numbers, the lattice vectors one after the other, Å.
        sigma, cutoff, order, tolerance: as for `mesh_of`.
    """
    direct = n_atoms * volume_of(cell) * cutoff**3 / (12.0 * math.pi**2)  # half of k-space
    if direct < CROSSOVER * n_atoms * SPLINE_ORDER[order] ** 3:
        return False
    mesh = _mesh(cell, sigma, cutoff, order, tolerance, SPLINE_ORDER[order])
    points = math.prod(mesh.sizes)
    return points <= MOST_MESH_POINTS and direct > CROSSOVER * (n_atoms * mesh.spline**3 + MESH_POINT_COST * points)


@lru_cache(maxsize=256)
def mesh_spacing(sigma: float, cutoff: float, order: int, spline: int, stretch: float, tolerance: float) -> float:
    """Largest distance of mesh points along one axis, Å, that keeps to a tolerance with the margin; by bisection."""
    fine, coarse = 0.0, 2.0 * math.pi / cutoff
    for _ in range(30):
        middle = 0.5 * (fine + coarse)
        error = math.sqrt(3.0) * estimated_error(middle, sigma, cutoff, order, spline, stretch)
        if MARGIN * error > tolerance:
            coarse = middle
        else:
            fine = middle
    return fine


def estimated_error(
    spacing: float, sigma: float, cutoff: float, order: int, spline: int, stretch: float = 1.0
) -> float:
    """Expected root mean square error of the forces over the root mean square force, from one axis of the mesh.

    Splines on points h apart take a wave k for its images k' = k ± 2π/h · b as well, with amplitudes that fall as
    (k·a / k'·a)^p; a is the unit vector along the axis and b ∥ its reciprocal vector with a·b = 1, longer than 1 in a
    skewed cell. The phase of k grows by no more than |k| h from point to point in any cell. Seen by a multipole of rank
    l, an image is larger by (k'/k)^l, and by one power more in its force. This is averaged over all directions of k,
    and over |k| with the weight of a wave in the force between moments of the highest rank and of uncorrelated
    directions, k^(4l) exp(−σ²k²). Charges have k⁴ more: those of molecules cancel at long wavelengths, and what is left
    is harder to represent.

    Args:
        spacing: h, distance of the points, Å.
        sigma: Gaussian smearing width, Å.
        cutoff: k_c, Å⁻¹.
        order: highest rank of the moments.
        spline: p, order of the splines.
        stretch: |b|, length of the lattice vector times that of its reciprocal one over 2π.
    """
    n_lengths, n_cosines = 128, 64
    k = (torch.arange(n_lengths, dtype=torch.float64) + 0.5)[:, None] * (cutoff / n_lengths)
    along = k * ((torch.arange(n_cosines, dtype=torch.float64) + 0.5) * (2.0 / n_cosines) - 1.0)
    image = 2.0 * math.pi / spacing  # the one on the other side is the mirror image in this average
    amplitude = (along / (along + image)).abs() ** spline
    growth = 1.0 + (2.0 * along * image + (stretch * image) ** 2) / k.square()  # (k'/k)²
    squared = 2.0 * amplitude.square() * (growth ** (order + 1) + growth**order)
    weight = k ** (4 * max(order, 1)) * torch.exp(-((sigma * k) ** 2))
    return float(((weight * squared).mean() / weight.mean()).sqrt())


@lru_cache(maxsize=1024)
def _mesh(cell: Cell, sigma: float, cutoff: float, order: int, tolerance: float, spline: int) -> Mesh:
    sizes, rows, volume = [], _rows(cell), volume_of(cell)
    for axis, vector in enumerate(rows):
        (a, b, c), (d, e, f) = rows[axis - 2], rows[axis - 1]
        length = math.hypot(*vector)
        stretch = length * math.hypot(b * f - c * e, c * d - a * f, a * e - b * d) / volume
        rounded = 1.1 ** math.ceil(math.log(stretch) / math.log(1.1) - 1e-6)  # few values: each costs milliseconds once
        spacing = mesh_spacing(sigma, cutoff, order, spline, rounded, tolerance)
        sizes.append(max(spline, math.ceil(length / spacing)))
    if math.prod(sizes) <= MOST_MESH_POINTS:  # products of small primes are far apart among large numbers
        sizes = [_transformable(size) for size in sizes]
    first, second, third = sizes
    return Mesh((first, second, third), spline)


def _transformable(size: int) -> int:
    """The next size that is a product of 2, 3, 5 and 7, as fast transforms like it."""
    while True:
        rest = size
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1


def _rows(cell: Cell) -> list[list[float]]:
    return [list(cell[row : row + 3]) for row in (0, 3, 6)]
