"""Empty regions inside periodic cells, and slabs torn at the boundary of their cell. `cautions.py` warns of them.

Charges of a periodic structure are scaled by ε_∞ as those inside a material are (theory 8.3). What stands in a vacuum
has none around it: a molecule in a box, a sheet, a wire, a slab whose `pbc` says T T T.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii, vdw_radii
from numpy.typing import NDArray
from scipy.spatial import cKDTree

#: Å between planes of nuclei with nothing in between: layered crystals have 3.5, organic ones up to 5.
LARGEST_GAP = 7.5
#: Å, radius of a sphere that touches no atom's van der Waals surface: liquids, ices and dense crystals stay below 2.
LARGEST_SPHERE = 4.0
#: Points of the grid that spheres are looked for on.
_GRID = 15_000


class Vacuum(NamedTuple):
    """The largest empty region of a periodic structure.

    Attributes:
        length: Å, distance between planes of nuclei, or diameter of a sphere between the atoms' surfaces.
        axis: number of the lattice vector that the planes are stacked along, None for a sphere.
    """

    length: float
    axis: int | None

    def __str__(self) -> str:
        if self.axis is None:
            return f"an empty region of {self.length:.1f} Å across"
        return f"an empty layer of {self.length:.1f} Å along lattice vector {self.axis}"


def empty_layer(atoms: Atoms) -> Vacuum | None:
    """An empty layer above `LARGEST_GAP` between the nuclei of a structure that is periodic along three axes.

    Cheap: a sort of the coordinates along each lattice vector.
    """
    if not atoms.pbc.all() or not len(atoms):
        return None
    heights = 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    gaps = [_periodic_gap(coordinate) for coordinate in atoms.get_scaled_positions().T]
    axis = int(np.argmax(heights * gaps))
    length = float(heights[axis] * gaps[axis])
    return Vacuum(length, axis) if length > LARGEST_GAP else None


def empty_sphere(atoms: Atoms) -> Vacuum | None:
    """A sphere above `LARGEST_SPHERE` outside all van der Waals surfaces of a structure periodic along three axes."""
    if not atoms.pbc.all() or not len(atoms):
        return None
    cell = atoms.cell.array
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    spacing = max(1.0, (abs(np.linalg.det(cell)) / _GRID) ** (1.0 / 3.0))
    counts = np.maximum(1, np.ceil(np.linalg.norm(cell, axis=1) / spacing)).astype(int)
    axes = [(np.arange(count) + 0.5) / count for count in counts]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3) @ cell
    radii = np.where(np.isfinite(vdw_radii[atoms.numbers]), vdw_radii[atoms.numbers], covalent_radii[atoms.numbers])
    # atoms of one radius at a time, with the images that reach into the cell; larger spheres count as this large
    furthest = np.full(len(points), 4.0 * LARGEST_SPHERE)
    margin = float(4.0 * LARGEST_SPHERE + radii.max())
    for radius in np.unique(radii):
        places = _with_images(atoms.get_scaled_positions()[radii == radius], cell, heights, margin)
        distance, _ = cKDTree(places).query(points, distance_upper_bound=margin)
        furthest = np.minimum(furthest, distance - radius)
    sphere = float(furthest.max())
    return Vacuum(2.0 * sphere, None) if sphere > LARGEST_SPHERE else None


def torn_slab(atoms: Atoms) -> str | None:
    """What is wrong with a slab whose atoms were wrapped along its normal: two halves, a vacuum in between; else None.

    The empty layer inside then is larger than the one between its outermost atoms over the boundary of the cell.
    """
    open_axes = np.flatnonzero(~np.asarray(atoms.pbc))
    if len(open_axes) != 1 or len(atoms) < 2:
        return None
    axis = int(open_axes[0])
    plane = [atoms.cell.array[other] for other in range(3) if other != axis]
    normal = np.cross(*plane)
    normal /= np.linalg.norm(normal)
    heights = np.sort(atoms.positions @ normal)
    steps = np.diff(heights)
    inside = float(steps.max())
    length = abs(float(atoms.cell.array[axis] @ normal))
    outside = length - float(heights[-1] - heights[0])
    if length == 0.0 or inside <= LARGEST_GAP or inside <= outside:
        return None
    return (
        f"the slab is in two parts along its open axis {axis}, {inside:.1f} Å apart, while over the boundary of the "
        f"cell they are {max(outside, 0.0):.1f} Å apart: its atoms were wrapped along the normal; move one part by "
        f"lattice vector {axis}"
    )


def _periodic_gap(coordinate: NDArray[np.float64]) -> float:
    """Largest step between neighbouring fractional coordinates, the one over the boundary too."""
    ordered = np.sort(coordinate % 1.0)
    return float(max(np.diff(ordered, append=ordered[0] + 1.0).max(), 0.0))


def _with_images(
    scaled: NDArray[np.float64], cell: NDArray[np.float64], heights: NDArray[np.float64], margin: float
) -> NDArray[np.float64]:
    """Places (M, 3) Å of atoms and of their images within `margin` of the cell."""
    places = scaled % 1.0
    for axis in range(3):
        reach = margin / heights[axis]
        copies = [places + step * np.eye(3)[axis] for step in range(-int(np.ceil(reach)), int(np.ceil(reach)) + 1)]
        places = np.concatenate(copies)
        places = places[(places[:, axis] > -reach) & (places[:, axis] < 1.0 + reach)]
    found: NDArray[np.float64] = places @ cell
    return found
