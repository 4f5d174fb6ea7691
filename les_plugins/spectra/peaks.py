"""The first peak of a curve that has noise, such as a radial distribution."""

from __future__ import annotations

import numpy as np

from les_plugins.data.metrics import Floats

#: What a peak rises above the valleys beside it, at least: a share of the highest point, and standard errors.
_SHARE, _STANDARD_ERRORS = 0.1, 3.0


def first_peak(values: Floats, noise: Floats) -> slice:
    """Where the first peak of a curve stands above half its height.

    It is the first maximum whose prominence, its height above the higher one of the valleys that divide it from higher
    points, is at least a tenth of the highest point and three standard errors.

    Args:
        values: (M,).
        noise: (M,), standard errors.

    Returns:
        The indices, at least three; all where there is no such maximum, as of a curve that rises to its end.
    """
    from scipy.signal import find_peaks, peak_widths

    tops, found = find_peaks(values, prominence=0.0)
    high = found["prominences"] >= np.maximum(_SHARE * values.max(), _STANDARD_ERRORS * noise[tops])
    if not high.any():
        return slice(0, len(values))
    top = tops[high][:1]
    _, _, left, right = peak_widths(values, top, rel_height=0.5)
    start, stop = int(np.floor(left[0])), int(np.ceil(right[0]))
    return slice(min(start, int(top[0]) - 1), max(stop, int(top[0]) + 1) + 1)
