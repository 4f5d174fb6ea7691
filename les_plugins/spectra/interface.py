"""Profiles of a slab along its normal: density, orientation, dipoles, and the potential of its latent moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import _amu

from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra.estimate import check_blocks, mean_and_error, student
from les_plugins.spectra.molecules import Molecules
from les_plugins.spectra.planar import Moments, potential_of_layers
from les_plugins.units import VACUUM_PERMITTIVITY

#: g/cm³ in u/Å³.
_DENSITY = _amu * 1e3 * 1e24
#: Å beyond the outermost atom of all frames, on both sides.
_MARGIN = 3.0
_MOST_BINS = 100_000
#: Molecules, in all frames, below which a bin says nothing of how they stand.
_FEWEST = 3


@dataclass(frozen=True)
class Profile:
    """A quantity along the normal.

    Attributes:
        value: (M,) in `unit`; NaN where there is nothing to average.
        error: (M,) half the 68 % interval over blocks by Student's t; None with one block.
        unit: of both.
    """

    value: Floats
    error: Floats | None
    unit: str


@dataclass(frozen=True)
class Interface:
    """A slab along its normal, averaged over frames.

    Attributes:
        height: (M,) Å, middles of the bins, from the slab's centre of mass.
        profiles: by name: mass density, density of each element, cosine and its second Legendre polynomial, dipole
            density; with moments charge density, potential, potential of molecules.
        thickness: Å, between the two surfaces that the mass would have at the density of the middle.
        density: g/cm³, of the middle half.
        values: scalars with their errors: potential_step, surface_potential and so on, V.
        frames, blocks: their numbers.
        molecules: how many a frame has.
    """

    height: Floats
    profiles: dict[str, Profile]
    thickness: float
    density: float
    values: dict[str, tuple[float, float | None]]
    frames: int
    blocks: int
    molecules: int


def interface(
    frames: Iterable[Atoms],
    moments: Callable[[Atoms], Moments] | None = None,
    width: float = 0.25,
    blocks: int = 5,
) -> Interface:
    """Profiles of slabs along their normal.

    Args:
        frames: slabs, two periodic axes, of the same atoms; read once. The normal is that of the two periodic vectors,
            on the side of the third axis; heights count from the centre of mass.
        moments: what a model says of a frame; without it there are densities only.
        width: Å of a bin.
        blocks: consecutive parts of the frames that errors come from; fewer where there are fewer frames.

    Returns:
        The profiles. A molecule is what bonds of the first frame hold together, and stands where its centre of mass is.
        Its dipole is Σ (q − q̄) r + Σ u, with q̄ the mean charge of its atoms; cos θ is that with the normal, and one
        without a dipole has none. dipole density is that of these per volume. The potential is exact for the sheets of
        point moments of each frame (`planar.potential_of_layers`), zero below the slab; potential of molecules is that
        of each molecule's charge and dipole alone, in one place. surface_potential is the mean potential of the
        middle half less the mean of both vacuums; potential_step that above less that below, M/(ε0 A).

    Raises:
        ConfigError: a width or a number of blocks that is not possible.
        DataError: no frames, no slabs, another number of atoms, a slab with a net charge.
    """
    if not 0 < width < 100.0:
        raise ConfigError(f"width is {width:g} Å; allowed: above 0 and below 100")
    check_blocks(blocks, 1)
    slabs = [_Frame.of(atoms, moments, number) for number, atoms in enumerate(frames)]
    if not slabs:
        raise DataError("there are no frames")
    molecules = Molecules.of(slabs[0].atoms)
    for number, slab in enumerate(slabs):
        if not np.array_equal(slab.atoms.numbers, slabs[0].atoms.numbers):
            raise DataError(f"frame {number}: has other atoms than the first one")
    reach = max(float(np.abs(slab.height).max()) for slab in slabs) + _MARGIN
    half = int(np.ceil(reach / width))
    if 2 * half > _MOST_BINS:
        raise ConfigError(f"width is {width:g} Å; allowed: at most {_MOST_BINS} bins over {2 * reach:.0f} Å")
    edges: Floats = width * np.arange(-half, half + 1, dtype=float)
    return _Averages(slabs, molecules, edges, min(blocks, len(slabs))).found()


@dataclass(frozen=True)
class _Frame:
    """A frame, its heights (N,) Å, normal (3,), area Å², and moments."""

    atoms: Atoms
    height: Floats
    normal: Floats
    area: float
    moments: Moments | None

    @classmethod
    def of(cls, atoms: Atoms, moments: Callable[[Atoms], Moments] | None, number: int) -> _Frame:
        if int(np.sum(atoms.pbc)) != 2:
            raise DataError(f"frame {number}: pbc is {atoms.pbc.tolist()}; a slab has two periodic directions")
        axis = int(np.argmin(atoms.pbc))
        first, second = (atoms.cell.array[(axis + step) % 3] for step in (1, 2))
        cross: Floats = np.cross(first, second)
        area = float(np.linalg.norm(cross))
        if not area > 0:
            raise DataError(f"frame {number}: the periodic vectors of the slab span no area")
        height = atoms.positions @ (cross / area)
        found = None if moments is None else moments(atoms)
        if found is not None and abs(float(found.charge.sum())) > 1e-3:
            raise DataError(
                f"frame {number}: the slab carries {found.charge.sum():.3g} e; its potential has no value in the vacuum"
            )
        return cls(atoms, height - np.average(height, weights=atoms.get_masses()), cross / area, area, found)


class _Averages:
    """Sums over the atoms and molecules of each frame, bin by bin, and what they are on average."""

    def __init__(self, slabs: list[_Frame], molecules: Molecules, edges: Floats, blocks: int) -> None:
        self.slabs, self.molecules, self.edges = slabs, molecules, edges
        self.middles: Floats = 0.5 * (edges[1:] + edges[:-1])
        self.width = float(edges[1] - edges[0])
        self.parts = np.array_split(np.arange(len(slabs)), blocks)

    def found(self) -> Interface:
        profiles = self._densities()
        thickness, density = self._extent(profiles["mass density"].value)
        values: dict[str, tuple[float, float | None]] = {}
        if self.slabs[0].moments is not None:
            profiles |= self._orientation()
            potential = self._potentials()
            profiles |= {name: self._mean(rows, "V") for name, rows in potential.items()}
            profiles["charge density"] = self._charge_density()
            values = self._steps(potential, thickness)
        return Interface(
            self.middles,
            profiles,
            thickness,
            density,
            values,
            len(self.slabs),
            len(self.parts),
            self.molecules.count,
        )

    def _mean(self, rows: Floats, unit: str) -> Profile:
        value, error = mean_and_error(np.array([rows[part].mean(0) for part in self.parts]), self._weights())
        return Profile(value, error, unit)

    def _weights(self) -> list[int]:
        return [len(part) for part in self.parts]

    def _histogram(self, slab: _Frame, heights: Floats, weights: Floats) -> Floats:
        found: Floats = np.histogram(heights, self.edges, weights=weights)[0] / (slab.area * self.width)
        return found

    def _densities(self) -> dict[str, Profile]:
        numbers = self.slabs[0].atoms.numbers
        mass = [self._histogram(slab, slab.height, slab.atoms.get_masses() * _DENSITY) for slab in self.slabs]
        found = {"mass density": self._mean(np.array(mass), "g/cm³")}
        for number in np.unique(numbers):
            chosen = (numbers == number).astype(float)
            rows = np.array([self._histogram(slab, slab.height, chosen) for slab in self.slabs])
            found[f"density of {chemical_symbols[number]}"] = self._mean(rows, "1/Å³")
        return found

    def _extent(self, density: Floats) -> tuple[float, float]:
        """Thickness, Å, and density of the middle, g/cm³, consistent with each other."""
        total = float(density.sum() * self.width)
        occupied = np.abs(self.middles[density > 0.5 * density.max()])
        thickness = 2.0 * float(occupied.max()) if len(occupied) else self.width
        middle = 0.0
        for _ in range(20):  # the middle half of the thickness, and the thickness at the density of the middle
            inside = np.abs(self.middles) <= max(0.25 * thickness, 0.5 * self.width)
            middle = float(density[inside].mean())
            if middle <= 0:
                return thickness, middle
            thickness = total / middle
        return thickness, middle

    def _dipoles(self, slab: _Frame) -> tuple[Floats, Floats, Floats]:
        """Heights (n,) Å, dipoles (n, 3) e·Å and net charges (n,) e of the molecules of a frame."""
        assert slab.moments is not None
        places, charges, dipoles = self.molecules.moments(slab.atoms, slab.moments)
        centre = np.average(slab.atoms.positions @ slab.normal, weights=slab.atoms.get_masses())
        return places @ slab.normal - centre, dipoles, charges

    def _orientation(self) -> dict[str, Profile]:
        counts, cosines, seconds, dipoles = [], [], [], []
        for slab in self.slabs:
            heights, moments, _ = self._dipoles(slab)
            size = np.linalg.norm(moments, axis=1)
            along = moments @ slab.normal
            has = size > 1e-6
            cosine = along[has] / size[has]
            of_bin = [np.histogram(heights[has], self.edges, weights=w)[0] for w in (cosine, 1.5 * cosine**2 - 0.5)]
            counts.append(np.histogram(heights[has], self.edges)[0])
            cosines.append(of_bin[0])
            seconds.append(of_bin[1])
            dipoles.append(self._histogram(slab, heights, along))
        return {
            "cosine": self._ratio(np.array(cosines), np.array(counts)),
            "second Legendre polynomial": self._ratio(np.array(seconds), np.array(counts)),
            "dipole density": self._mean(np.array(dipoles), "e/Å²"),
        }

    def _ratio(self, sums: Floats, counts: Floats) -> Profile:
        """Mean over molecules, with the error of a ratio of two means over blocks."""
        total, number = sums.sum(0), counts.sum(0)
        enough = number >= _FEWEST
        value = np.where(enough, total / np.maximum(number, 1), np.nan)
        blocks = len(self.parts)
        if blocks < 2:
            return Profile(value, None, "1")
        off = np.array([(sums[part] - value * counts[part]).sum(0) for part in self.parts])
        scatter = np.sqrt((off**2).sum(0) * blocks / (blocks - 1)) / np.maximum(number, 1)
        return Profile(value, np.where(enough, student(blocks - 1) * scatter, np.nan), "1")

    def _charge_density(self) -> Profile:
        rows = [self._histogram(s, s.height, s.moments.charge) for s in self.slabs if s.moments is not None]
        return self._mean(np.array(rows), "e/Å³")

    def _potentials(self) -> dict[str, Floats]:
        """(frames, M) V each, averages over the bins of what each frame has."""
        found: dict[str, list[Floats]] = {"potential": [], "potential of molecules": []}
        for slab in self.slabs:
            assert slab.moments is not None
            whole = potential_of_layers(self.middles, slab.height, *slab.moments.along(slab.normal), slab.area)
            if slab.moments.quadrupole is not None:  # a layer of δ functions, so an average over bins
                normal = np.einsum("nab,a,b->n", slab.moments.quadrupole, slab.normal, slab.normal)
                whole = whole - 0.5 / VACUUM_PERMITTIVITY * self._histogram(slab, slab.height, normal)
            heights, dipoles, charges = self._dipoles(slab)
            found["potential"].append(whole)
            found["potential of molecules"].append(
                potential_of_layers(self.middles, heights, charges, dipoles @ slab.normal, slab.area)
            )
        return {name: np.array(rows) for name, rows in found.items()}

    def _steps(self, potential: dict[str, Floats], thickness: float) -> dict[str, tuple[float, float | None]]:
        """Scalars of the potentials, V, with errors."""
        inside = np.abs(self.middles) <= max(0.25 * thickness, 0.5 * self.width)
        rows = potential["potential"]
        step = rows[:, -1] - rows[:, 0]
        series = {
            "potential_step": step,
            "surface_potential": rows[:, inside].mean(1) - 0.5 * step,
            "surface_potential_of_molecules": potential["potential of molecules"][:, inside].mean(1) - 0.5 * step,
        }
        found = {}
        for name, values in series.items():
            mean, error = mean_and_error(np.array([values[part].mean() for part in self.parts]), self._weights())
            found[name] = (float(mean), None if error is None else float(error))
        return found
