"""Integrals of series between frames, and what of the atoms' motion is too fast for the frames."""

from __future__ import annotations

import numpy as np

from les_plugins.data.metrics import Floats

#: Frames by which a series is continued at its ends; the spline forgets a frame by 0.535 with each other one.
_MIRRORED = 30
#: Frames below which a spline of the seventh degree has no meaning.
FEWEST = 8


def integrated(series: Floats, interval: float) -> Floats:
    """∫ x dt (T, ...), zero at the start, of at least 8 frames (T, ...) that are `interval` fs apart.

    Between frames x is a spline of the seventh degree: amplitudes are right to 1.1 % up to 0.7 and to 7 % up to 0.8 of
    Nyquist's wavenumber, and too small above (Simpson's rule makes them larger without end there).
    """
    from scipy.interpolate import make_interp_spline

    # mirrored at its ends, which a spline of so high a degree would otherwise make swing
    beyond = min(_MIRRORED, len(series) - 1)
    flat = series.reshape(len(series), -1)
    longer = np.pad(flat, ((beyond, beyond), (0, 0)), mode="reflect", reflect_type="odd")
    frames = np.arange(len(longer), dtype=float)
    integral: Floats = interval * make_interp_spline(frames, longer, k=7, axis=0).antiderivative()(frames)
    found: Floats = integral[beyond : beyond + len(series)] - integral[beyond]
    return found.reshape(series.shape)


def unresolved_share(displacements: Floats, velocities: Floats, interval: float) -> float:
    """Share of an atom's kinetic energy that is in motion too fast for the frames, of the atom where it is largest.

    Bands of such motion are aliased: they stand at a wrong wavenumber, mirrored at Nyquist's, and nothing in the
    spectrum tells them from others. Displacements do: velocities of motion that the frames resolve add up to them. What
    is left, squared, over the squared velocity is the share.

    Args:
        displacements: (T − 1, N, 3) Å, from frame to frame, without those that a cell which changes makes.
        velocities: (T, N, 3) Å/fs.
        interval: fs between frames.

    Returns:
        0 where all is resolved; about 1/3 of a hydrogen atom whose bond stretches too fast; 0 of fewer than 8 frames.

    Source: theory 11.1.
    """
    if len(velocities) < FEWEST:
        return 0.0
    left = ((displacements - np.diff(integrated(velocities, interval), axis=0)) ** 2).sum(2).mean(0) / interval**2
    whole = (velocities**2).sum(2).mean(0)
    return float(np.max(left / np.where(whole > 0, whole, np.inf)))
