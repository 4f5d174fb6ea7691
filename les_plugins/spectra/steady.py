"""Drift of what has no mean in equilibrium: currents and ions in a static field. Conductivity and diffusion use it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from les_plugins.data.metrics import Floats
from les_plugins.errors import DataError, LesPluginsWarning

#: Blocks that the error of a mean comes from, and standard errors beyond which it is no scatter: one axis of twenty
#: thousand without drift, by Student's t with 19 degrees of freedom.
_BLOCKS, _STANDARD_ERRORS = 20, 5.0
#: Share of the mean square below which a mean does no harm: a sine that begins and ends anywhere has one too.
_HARMLESS = 1e-4


def drifts(rates: Floats) -> bool:
    """Whether the mean of a current or a velocity is not zero, beyond its scatter, along any axis.

    Args:
        rates: (T, 3), of one trajectory.

    Returns:
        True where the mean along an axis is more than five standard errors, from 20 blocks, and its square more than
        1e-4 of the mean square. False for fewer than 40 frames.
    """
    blocks = _block_means(rates)
    if blocks is None:
        return False
    harmless = np.sqrt(_HARMLESS * np.square(rates).mean())
    return bool((np.abs(blocks.mean(0)) > np.maximum(_beyond_scatter(blocks), harmless)).any())


def grows(path: Floats) -> bool:
    """Whether a path (T, 3), such as a dipole, goes on in one direction: by the steps between means of 20 blocks."""
    blocks = _block_means(path)
    if blocks is None:
        return False
    steps = np.diff(blocks, axis=0)
    return bool((np.abs(steps.mean(0)) > _beyond_scatter(steps)).any())


def _block_means(series: Floats) -> Floats | None:
    """(20, 3) means, None of fewer than 40 frames."""
    size = len(series) // _BLOCKS
    return None if size < 2 else series[: size * _BLOCKS].reshape(_BLOCKS, size, -1).mean(1)


def _beyond_scatter(blocks: Floats) -> Floats:
    found: Floats = _STANDARD_ERRORS * blocks.std(0, ddof=1) / np.sqrt(len(blocks))
    return found


def takes_off(rates: Sequence[Floats], drift: bool | None, name: str) -> bool:
    """Whether an estimate is to take a drift off: as it was told, or where there is one.

    Args:
        rates: (T, 3) of each trajectory.
        drift: True or False; None to look.
        name: what drifts, for the warning.

    Warns:
        LesPluginsWarning: nobody told, and one of them drifts.
    """
    if drift is not None:
        return drift
    found = any(drifts(values) for values in rates)
    if found:
        warnings.warn(
            f"{name} has a mean beyond its scatter, which in equilibrium is zero: it was taken off, and what is left "
            "is of the fluctuations about it",
            LesPluginsWarning,
            stacklevel=3,
        )
    return found


def without_drift(paths: Floats, span: int) -> Floats:
    """Paths without the drift of their centre, for slopes of mean squared displacements.

    A line from its first to its last place is taken off the centre. That takes the share `span`/T of the slope of the
    centre's own walk with it, which is put back; walks about the centre stay as they are.

    Args:
        paths: (T, N, 3) of N walkers that drift alike.
        span: frames, shortest and longest time of the straight line together.

    Raises:
        DataError: a path of no more than `span` frames.

    Source: theory 11.6.
    """
    length = len(paths)
    if length <= span:
        raise DataError(f"{length} frames; to take a drift off, times of {span} frames together need more")
    centre = paths.mean(1, keepdims=True)
    line = centre[:1] + (centre[-1:] - centre[:1]) * np.linspace(0.0, 1.0, length)[:, None, None]
    found: Floats = paths - centre + (centre - line) / np.sqrt(1.0 - span / length)
    return found
