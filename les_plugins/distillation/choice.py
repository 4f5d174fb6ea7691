"""Choosing structures that differ: by a student's features or a fingerprint of pair distances, and by a committee."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from les_plugins.data.evaluation import predict
from les_plugins.data.metrics import Floats
from les_plugins.distillation.teachers import Teacher
from les_plugins.errors import ConfigError, HostError, LesPluginsWarning

#: Å: reach of the fingerprint, distance between its points, width of their Gaussians.
REACH, STEP, WIDTH = 6.0, 0.25, 0.2


def fingerprints(frames: Sequence[Atoms]) -> Floats:
    """(frames, features) what structures are compared by: how many neighbours of each element, how far, with spread.

    Of every pair of elements the Gaussian-smeared numbers of neighbours at distances up to `REACH`, their mean and
    their standard deviation over the atoms, each feature scaled by its spread over the frames. Invariant under
    rotation, translation, permutation and the choice of cell.
    """
    elements = sorted({int(z) for atoms in frames for z in atoms.numbers})
    return _scaled(np.array([_fingerprint(atoms, elements) for atoms in frames]))


def student_features(frames: Sequence[Atoms], student: Any) -> Floats:
    """(frames, features) what a student's network makes of structures, in the place of fingerprints.

    The scalar features of all its layers, their mean and their standard deviation over the atoms of each element.

    Args:
        frames: structures.
        student: ASE calculator of a model with a long-range part, whose host is in this environment.

    Raises:
        HostError: the calculator has no such part.
    """
    part = check_features(student)
    elements = sorted({int(z) for atoms in frames for z in atoms.numbers})
    seen: list[Any] = []
    handle = part.heads.register_forward_pre_hook(lambda heads, given: seen.append(given[0].layers))
    try:
        raw = []
        for number, atoms in enumerate(frames):
            seen.clear()
            predict(student, atoms, ["energy"], f"candidate {number}")
            of_atoms = np.concatenate([layer.scalars.detach().double().cpu().numpy() for layer in seen[-1]], axis=1)
            raw.append(_of_elements(of_atoms, atoms.numbers, elements))
    finally:
        handle.remove()
    return _scaled(np.array(raw))


def check_features(student: Any) -> Any:
    """The long-range part that features are read off; HostError where a calculator has none."""
    part = getattr(student, "_part", None)
    if part is None:
        raise HostError("--features: the model has no long-range part in this process, whose features could be read")
    return part


def check_members(committee: Sequence[Teacher]) -> None:
    """Raise ConfigError where two models of a committee are one and the same, which do not disagree."""
    seen: dict[str, str] = {}
    for model in committee:
        key = model.sha256 or model.name
        if key in seen:
            raise ConfigError(f"--committee: {model.name} and {seen[key]} are the same model, which has no spread")
        seen[key] = model.name


def _of_elements(of_atoms: Floats, numbers: Any, elements: Sequence[int]) -> Floats:
    """Mean and standard deviation over the atoms of each element, (elements × 2 × channels,); zero for absent ones."""
    found = [of_atoms[numbers == z] for z in elements]
    none = np.zeros(2 * of_atoms.shape[1])
    return np.concatenate([np.concatenate([some.mean(0), some.std(0)]) if len(some) else none for some in found])


def _scaled(raw: Floats) -> Floats:
    """Features about their means over the frames, in units of their spread."""
    spread = raw.std(axis=0)
    # What hardly differs between the frames is rounding, not structure.
    scaled: Floats = (raw - raw.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return scaled


def _fingerprint(atoms: Atoms, elements: Sequence[int]) -> Floats:
    points = np.arange(0.5, REACH, STEP)
    first, second, distance = neighbor_list("ijd", atoms, REACH)
    smeared = np.exp(-0.5 * ((distance[:, None] - points) / WIDTH) ** 2) / distance[:, None] ** 2
    found = []
    for a, b in combinations_with_replacement(elements, 2):
        of = (atoms.numbers[first] == a) & (atoms.numbers[second] == b)
        counts = np.zeros((len(atoms), len(points)))
        np.add.at(counts, first[of], smeared[of])
        counts = counts[atoms.numbers == a]
        found += [counts.mean(axis=0), counts.std(axis=0)] if len(counts) else [np.zeros((2, len(points))).ravel()]
    return np.concatenate([np.ravel(part) for part in found])


def farthest_points(features: Floats, count: int, first: int = 0) -> list[int]:
    """Indices of `count` rows, each the farthest from those before it; ties go to the smaller index.

    Args:
        features: (frames, features).
        count: how many; all rows where there are no more.
        first: the row to begin with.
    """
    chosen = [first]
    nearest = np.linalg.norm(features - features[first], axis=1)
    while len(chosen) < min(count, len(features)):
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(features - features[chosen[-1]], axis=1))
    return chosen


def disagreements(frames: Sequence[Atoms], committee: Sequence[Any]) -> Floats:
    """(frames,) eV/Å, standard deviation of the force over the models, the largest of all atoms.

    Args:
        frames: structures.
        committee: two ASE calculators or more.
    """
    found = []
    for atoms in frames:
        forces = np.array([calculator.get_property("forces", atoms.copy()) for calculator in committee])
        found.append(float(np.sqrt(forces.var(axis=0, ddof=1).sum(axis=-1)).max()))
    return np.array(found)


def chosen(frames: Sequence[Atoms], count: int, committee: Sequence[Any] = (), student: Any = None) -> list[int]:
    """Indices of the structures to label, in the order of choice.

    Without a committee the farthest points; with one, the farthest points among the half of the structures that it
    disagrees on most, or among as many as are asked for where that is more.

    Args:
        frames: the candidates.
        count: how many to choose.
        committee: ASE calculators.
        student: whose features tell structures apart; fingerprints without.

    Warns:
        LesPluginsWarning: a committee that agrees on everything, which is then passed over.
    """
    among = np.arange(len(frames))
    spread = disagreements(frames, committee) if len(committee) > 1 else np.zeros(0)
    if len(committee) > 1 and not spread.any():
        warnings.warn(
            "--committee: its models give the same forces on all candidates, and choose none of them: are they one "
            "model under several names?",
            LesPluginsWarning,
            2,
        )
    elif len(committee) > 1:
        most = np.argsort(-spread, kind="stable")
        among = np.sort(most[: max(count, len(frames) // 2)])
    if not len(among):
        return []
    those = [frames[int(i)] for i in among]
    features = fingerprints(those) if student is None else student_features(those, student)
    # Begin at the structure nearest to the mean: the choice then does not depend on the order of the candidates.
    start = int(np.argmin(np.linalg.norm(features, axis=1)))
    return [int(among[i]) for i in farthest_points(features, count, start)]
