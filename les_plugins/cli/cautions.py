"""Warnings of the commands that read trajectories: fields, motion too fast for the frames."""

from __future__ import annotations

import warnings
from typing import Any

from les_plugins.errors import LesPluginsWarning

#: Share of an atom's motion that frames do not show, from which on there is a warning. Of water frames 4 fs apart leave
#: up to 0.07, its stretches being at 0.9 of Nyquist's wavenumber, and frames 5 fs apart 0.85.
_TOO_FAST = 0.15


def warn_of_fields(samples: Any, static: str | None = None) -> None:
    """A warning for trajectories in a field that changes with time, and one for those in a static field.

    Args:
        samples: the trajectories.
        static: what a static field does to the result; None where the command is meant for it.
    """
    for each in samples.trajectories:
        if each.static_field is None:
            _warn(
                f"{each.path}: ran in a field that changes with time; spectra, structure and transport are of "
                "fluctuations in equilibrium"
            )
    if static is not None and samples.field.any():
        vector = " ".join(f"{component:g}" for component in samples.field)
        _warn(f"{samples.trajectories[0].path}: ran in a static field of {vector} V/Å: {static}")


def warn_of_aliases(samples: Any) -> None:
    """A warning where atoms move faster than the frames show, so that bands stand at wrong wavenumbers."""
    share = samples.unresolved_share()
    if share > _TOO_FAST:
        _warn(
            f"{samples.trajectories[0].path}: velocities of an atom do not add up to its displacements between frames "
            f"{samples.interval:g} fs apart, by {min(share, 1.0):.0%} of its motion, which is faster than they show: "
            "its bands are mirrored to wrong wavenumbers; record frames more often (md --every)"
        )


def _warn(message: str) -> None:
    warnings.warn(message, LesPluginsWarning, stacklevel=3)
