"""Spectra of several models side by side: their mean, the error of sampling, and what the models differ by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from les_plugins.errors import DataError
from les_plugins.spectra.belonging import check_models
from les_plugins.spectra.estimate import Spectrum
from les_plugins.spectra.samples import Samples


def by_model(paths: Sequence[str | Path], skip: float = 0.0) -> list[Samples]:
    """Trajectories gathered by the model that made them, in the order in which the models come first.

    Args:
        paths: trajectories of `les-plugins md`.
        skip: ps that are left out at the start of each.

    Raises:
        DataError: trajectories of one model only, or of systems or states that are not the same.
    """
    groups: dict[str, list[str | Path]] = {}
    for path in paths:
        facts = Samples.open([path], skip).trajectories[0].facts
        groups.setdefault(f"{facts.get('model_weights_sha256')} {facts.get('head')}", []).append(path)
    if len(groups) < 2:
        raise DataError(f"--by-model: all {len(paths)} trajectories are of one model; give those of two or more")
    found = [Samples.open(group, skip) for group in groups.values()]
    check_models([samples.trajectories[0] for samples in found])
    return found


def over_models(parts: Sequence[Spectrum]) -> Spectrum:
    """One spectrum of several models' own: all count alike.

    Returns:
        The mean. Its `error` is that of sampling, from the errors of the parts, which are independent; None where one
        of them has none. Its `model_error` is the standard deviation between the models (n − 1), in which the scatter
        of their sampling is included.

    Raises:
        DataError: the parts are not on one axis.
    """
    first = parts[0]
    for part in parts[1:]:
        if not np.array_equal(part.wavenumber, first.wavenumber):
            raise DataError("spectra of several models are not on one axis of wavenumbers")
    values = np.array([part.value for part in parts])
    errors = [part.error for part in parts if part.error is not None]
    error = np.sqrt((np.array(errors) ** 2).sum(0)) / len(parts) if len(errors) == len(parts) else None
    blocks = sum(part.blocks for part in parts)
    trajectories = sum(part.notes.get("trajectories", 0) for part in parts)
    notes = {**first.notes, "blocks": blocks, "trajectories": trajectories, "models": len(parts)}
    return replace(
        first, value=values.mean(0), error=error, blocks=blocks, notes=notes, model_error=values.std(0, ddof=1)
    )
