"""Radial distribution function, diffusion coefficient and energy drift of trajectories, with error bars from blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra.estimate import (
    check_blocks,
    check_series,
    check_temperature,
    mean_and_error,
    parabolic_peak,
    student,
)
from les_plugins.spectra.finite_size import diffusion_correction
from les_plugins.spectra.peaks import first_peak
from les_plugins.spectra.steady import takes_off, without_drift
from les_plugins.spectra.time_average import time_averaged_slope

#: Å, and bins: more of either is no radial distribution any more.
_LARGEST_CUTOFF, _MOST_BINS = 100.0, 100_000


@dataclass(frozen=True)
class RadialDistribution:
    """g(r) of a pair of elements.

    Attributes:
        distance: (M,) Å, middles of the bins.
        value: (M,) and error: (M,), 68 % interval over blocks by Student's t, None with one block.
        peak: Å, place of the first peak (`peaks.first_peak`), and peak_error.
        height: of the first peak, and height_error.
        frames: number of frames.
        blocks: number of blocks.
    """

    distance: Floats
    value: Floats
    error: Floats | None
    peak: float
    peak_error: float | None
    height: float
    height_error: float | None
    frames: int
    blocks: int


@dataclass(frozen=True)
class Diffusion:
    """Self-diffusion of one element.

    Attributes:
        coefficient: Å²/ps, as simulated in its periodic cell, and error, a 68 % interval by Student's t; None with one
            block.
        correction: Å²/ps to add for an infinite cell, or None when the viscosity is not known.
        time: (M,) ps and displacement: (M,) Å², mean squared, with displacement_error (M,).
        time_averaged: Å²/ps, from all pairs of frames of whole trajectories, and its error by a block jackknife
            (`time_average`); None with one block.
    """

    coefficient: float
    error: float | None
    correction: float | None
    time: Floats
    displacement: Floats
    displacement_error: Floats | None
    time_averaged: float
    time_averaged_error: float | None


def radial_distribution(
    frames: Iterable[Atoms], pair: tuple[int, int], cutoff: float, width: float = 0.05, blocks: int = 5
) -> RadialDistribution:
    """g(r) between two elements of periodic structures.

    Args:
        frames: structures, read once.
        pair: atomic numbers.
        cutoff: Å; it may exceed half the cell: images of other atoms are counted, an atom's own are not, and g is per
            other atom of the cell, so that an ideal gas has 1 at all distances.
        width: Å of a bin.
        blocks: consecutive parts of the frames that the error comes from; fewer where there are fewer frames.

    Raises:
        ConfigError: a cutoff, a width or a number of blocks that is not possible.
        DataError: no such element or pair of atoms, a structure that is not periodic, no frames, no pair within the
            cutoff.
    """
    if not 0 < width < cutoff <= _LARGEST_CUTOFF or cutoff > _MOST_BINS * width:
        raise ConfigError(
            f"width {width} Å and cutoff {cutoff} Å; allowed: 0 < width < cutoff, a cutoff of at most "
            f"{_LARGEST_CUTOFF:g} Å, and at most {_MOST_BINS} bins"
        )
    check_blocks(blocks, 1)
    edges = np.arange(0.0, cutoff + 0.5 * width, width)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    rows, total = [], np.zeros(len(shells))
    for atoms in frames:
        if not atoms.pbc.all():
            raise DataError(f"pbc is {atoms.pbc.tolist()}; a radial distribution needs three periodic directions")
        first, second = (np.flatnonzero(atoms.numbers == number) for number in pair)
        if not len(first) or not len(second):
            missing = pair[0] if not len(first) else pair[1]
            raise DataError(f"the structures have no {chemical_symbols[missing]}")
        others = len(second) - (pair[0] == pair[1])
        if not others:
            raise DataError(
                f"the structures have one {chemical_symbols[pair[0]]}: it has no pair, its own images do not count"
            )
        chosen = np.union1d(first, second)
        centre, other, distance = neighbor_list("ijd", atoms[chosen], float(edges[-1]))
        numbers = atoms.numbers[chosen]
        wanted = (numbers[centre] == pair[0]) & (numbers[other] == pair[1]) & (centre != other)
        counts = np.histogram(distance[wanted], edges)[0]
        total += counts
        rows.append(counts / (len(first) * others / atoms.get_volume() * shells))
    if not rows:
        raise DataError("there are no frames")
    split = np.array_split(np.array(rows), min(blocks, len(rows)))
    parts, weights = np.array([part.mean(0) for part in split]), [len(part) for part in split]
    middles = 0.5 * (edges[1:] + edges[:-1])
    value, error = mean_and_error(parts, weights)
    if not value.any():
        raise DataError(f"no pair lies within the cutoff of {cutoff:g} Å in any of {len(rows)} frames")
    around = first_peak(value, value / np.sqrt(np.maximum(total, 1.0)))
    near, peaks = middles[around], parts[:, around]
    places, heights = np.array([parabolic_peak(near, peak) for peak in peaks]), peaks.max(1)
    # of the curve of all frames; its error is that of the mean over blocks
    peak_error, height_error = (mean_and_error(values, weights)[1] for values in (places, heights))
    return RadialDistribution(
        middles,
        value,
        error,
        parabolic_peak(near, value[around]),
        None if peak_error is None else float(peak_error),
        float(value[around].max()),
        None if height_error is None else float(height_error),
        len(rows),
        len(parts),
    )


def diffusion(
    positions: Sequence[Floats],
    masses: Floats,
    chosen: NDArray[np.bool_],
    interval: float,
    longest: float,
    shortest: float,
    blocks: int = 5,
    box: float | Floats | None = None,
    temperature: float | None = None,
    viscosity: float | None = None,
    drift: bool | None = None,
) -> Diffusion:
    """Self-diffusion coefficient, from the slope of the mean squared displacement, D = slope/6.

    Args:
        positions: (T, N, 3) Å of each trajectory, unwrapped.
        masses: (N,) u; the centre of mass is taken off, but along axes that an atom is held on.
        chosen: (N,) bool, the atoms that are followed.
        interval: fs between frames.
        longest: ps, the longest time of the straight line.
        shortest: ps, the shortest one.
        blocks: blocks of each trajectory; the error is the scatter of their slopes.
        box: Å, edge of a cube, or (3, 3) cell of any shape, for the finite-size correction.
        temperature: K, for the correction.
        viscosity: mPa·s, for the correction.
        drift: take the mean velocity of the atoms that are followed off, as of ions in a static field. None: where it
            is beyond its scatter, with a warning.

    Returns:
        D in its periodic cell, and the Yeh–Hummer correction (2.837297 kT/(6π η L) in a cube) where everything for it
        is given: D in a small cubic cell is too small, by some 20 % for 64 water molecules.

    Warns:
        LesPluginsWarning: the atoms that are followed drift, and `drift` is None.

    Raises:
        ConfigError: times, blocks, a temperature or a viscosity that are not possible.
        DataError: blocks shorter than twice the longest time, positions that are not finite, no atom.

    Source: A. Einstein, Ann. Phys. 17, 549 (1905); I.-C. Yeh and G. Hummer, J. Phys. Chem. B 108, 15873 (2004).
    """
    check_blocks(blocks, 1)
    possible = 0 < shortest < longest < float("inf")
    first, last = (round(1000.0 * time / interval) if possible else 0 for time in (shortest, longest))
    if not 0 < first < last:
        raise ConfigError(f"times from {shortest} to {longest} ps; allowed: above 0, rising, frames apart")
    if not chosen.any():
        raise DataError("no atom is chosen to be followed")
    check_series(positions, "positions")
    walks = list[Floats]()
    for values in positions:
        size = len(values) // blocks
        if size < 2 * last:
            raise DataError(
                f"a block of {size * interval / 1000:.3g} ps is shorter than twice the longest time of {longest:g} ps: "
                "simulate longer, or give fewer --blocks or a shorter --longest"
            )
        centre = np.einsum("n,tna->ta", masses / masses.sum(), values)
        # atoms that are held (FixAtoms, FixCartesian) are what the others move against, and the centre may wander
        centre[:, (np.ptp(values, axis=0) == 0).any(0)] = 0.0
        walks.append(values[:, chosen] - centre[:, None])
    if takes_off([np.diff(walk.mean(1), axis=0) for walk in walks], drift, "the velocity of the atoms followed"):
        walks = [without_drift(walk, first + last) for walk in walks]
    curves, weights = list[Floats](), list[int]()
    for walk in walks:
        size = len(walk) // blocks
        curves += [squared_displacement(walk[b * size : (b + 1) * size], last) for b in range(blocks)]
        weights += [size] * blocks
    all_curves: Floats = np.array(curves)
    time: Floats = np.arange(last + 1, dtype=np.float64) * (interval / 1000.0)
    slopes: Floats = np.polyfit(time[first:], all_curves[:, first:].T, 1)[0]
    coefficient, error = mean_and_error(slopes / 6.0, weights)
    correction = None
    if viscosity is not None and box is not None and temperature is not None:
        cell = np.asarray(box, dtype=float) * (np.eye(3) if np.ndim(box) == 0 else 1.0)
        correction = diffusion_correction(cell, check_temperature(temperature), viscosity)
    mean, spread = mean_and_error(all_curves, weights)
    starts = 2 * blocks if blocks > 1 else 1
    averaged = time_averaged_slope(walks, interval / 1000.0, float(time[first]), float(time[last]), starts)
    return Diffusion(
        float(coefficient),
        None if error is None else float(error),
        correction,
        time,
        mean,
        spread,
        averaged.slope / 6.0,
        None if averaged.error is None else averaged.error / 6.0,
    )


def squared_displacement(positions: Floats, lags: int) -> Floats:
    """⟨|r(t) − r(0)|²⟩ Å² for t = 0 … lags frames, over atoms and all pairs of frames.

    Args:
        positions: (T, N, 3) Å.
        lags: largest lag, below T.

    Source: the sum of squares less twice the correlation function, V. Calandrini et al., Collection SFN 12, 201 (2011).
    """
    from les_plugins.spectra.optical import autocorrelation

    length, n_atoms = positions.shape[:2]
    flat = (positions - positions.mean(0)).reshape(length, -1)
    squares = (flat**2).sum(1)
    total = np.concatenate([[0.0], np.cumsum(squares)])
    lag = np.arange(lags + 1)
    both = total[length - lag] + total[length] - total[lag]
    found: Floats = (both / (length - lag) - 2.0 * autocorrelation(flat, lags)) / n_atoms
    found[0] = 0.0
    return found


def energy_drift(energies: Sequence[Floats], interval: float, n_atoms: int, blocks: int = 10) -> dict[str, float]:
    """Drift of a conserved energy by a straight line.

    Args:
        energies: (T,) eV of each trajectory.
        interval: fs between frames.
        n_atoms: number of atoms.
        blocks: blocks of each trajectory; the error of the slope comes from their means about the line.

    Returns:
        drift and error (68 % interval by Student's t), meV/atom/ps; fluctuation, meV/atom, root mean square about the
        lines.

    Raises:
        DataError: NaN (Langevin conserves no energy), or fewer than three blocks with two frames.
    """
    check_blocks(blocks, 3)
    drifts, variances, left = list[float](), list[float](), list[Floats]()
    for values in energies:
        if not np.isfinite(values).all():
            raise DataError("this ensemble has no conserved energy (Langevin): measure the drift in nve or with bussi")
        size = len(values) // blocks
        if blocks < 3 or size < 2:
            raise DataError(f"{len(values)} frames in {blocks} blocks; a drift needs three blocks of two frames")
        time = interval * np.arange(len(values)) / 1000.0
        left.append(values - np.polyval(np.polyfit(time, values, 1), time))
        means = values[: size * blocks].reshape(blocks, size).mean(1)
        middles = time[: size * blocks].reshape(blocks, size).mean(1)
        line = np.polyfit(middles, means, 1)
        scatter = means - np.polyval(line, middles)
        spread = ((middles - middles.mean()) ** 2).sum()
        drifts.append(float(line[0]))
        variances.append(float((scatter**2).sum() / (blocks - 2) / spread))
    scale = 1000.0 / n_atoms
    drift, error = mean_and_error(np.array(drifts), [len(values) for values in energies])
    if error is None:  # independent trajectories say it themselves
        error = student(blocks - 2) * np.sqrt(np.array(variances[0]))
    return {
        "drift": float(scale * drift),
        "error": float(scale * error),
        "fluctuation": float(scale * np.sqrt(np.mean(np.concatenate(left) ** 2))),
    }
