"""Mean polarization against a static field, and the dielectric constant that it says (theory 11.7)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from les_plugins.data.metrics import Floats
from les_plugins.data.trajectory import Trajectory
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning
from les_plugins.spectra.belonging import check_fields
from les_plugins.spectra.estimate import check_blocks, check_series, mean_and_error
from les_plugins.spectra.samples import Samples
from les_plugins.spectra.steady import grows
from les_plugins.units import VACUUM_PERMITTIVITY

#: cos of the largest angle between two fields of one curve.
_PARALLEL = 1.0 - 1e-9


@dataclass(frozen=True)
class FieldPoint:
    """Trajectories in one static field.

    Attributes:
        field: V/Å, along the common axis.
        polarization: e/Å², ⟨μ − α·E⟩ along that axis over the volume: what atoms that moved polarize.
        error: half a 68 % interval over blocks, which must be longer than the dipole remembers; None with one block.
        blocks: how many.
        samples: the trajectories.
        booked: meV/atom, largest difference between the work of the field and the change of μ·E; None without a field.
    """

    field: float
    polarization: float
    error: float | None
    blocks: int
    samples: Samples
    booked: float | None


@dataclass(frozen=True)
class Saturation:
    """P(E) = P_s L(3 ε0 χ E/P_s), L(y) = coth y − 1/y: a linear response that saturates.

    Attributes:
        susceptibility: χ, and susceptibility_error: one standard deviation, of the fit.
        limit: e/Å², P_s, and limit_error.
    """

    susceptibility: float
    susceptibility_error: float
    limit: float
    limit_error: float

    def at(self, field: Floats) -> Floats:
        """P (M,) e/Å² at fields (M,) V/Å."""
        return _langevin(field, self.susceptibility, self.limit)


def field_axis(trajectories: Sequence[Trajectory]) -> Floats:
    """(3,) the unit vector of the static fields of several trajectories.

    Raises:
        ConfigError: no field, one that changes with time, fields of different directions.
    """
    vectors = [_static_field(each) for each in trajectories]
    if not any(vector.any() for vector in vectors):
        raise ConfigError("no trajectory ran in a field: give those of md --field X Y Z")
    axis = next(vector / np.linalg.norm(vector) for vector in vectors if vector.any())
    for each, vector in zip(trajectories, vectors, strict=True):
        if np.abs(vector @ axis) < _PARALLEL * np.linalg.norm(vector):
            raise ConfigError(f"{each.path}: its field {vector.tolist()} V/Å is not along {axis.round(6).tolist()}")
    found: Floats = axis
    return found


def polarization_in_fields(paths: Sequence[object], skip: float = 0.0, blocks: int = 5) -> list[FieldPoint]:
    """Mean polarization of trajectories gathered by their field, in rising order.

    Args:
        paths: trajectories of `les-plugins md`, of one system and model in static fields of one axis, or none.
        skip: ps left out at the start of each.
        blocks: of each trajectory.

    Raises:
        ConfigError: as `field_axis`.
        DataError: trajectories that do not belong together, are not periodic, or whose dipole is made with phases.

    Warns:
        LesPluginsWarning: a polarization that grows from block to block, beyond its scatter.
    """
    opened = [Trajectory.open(path) for path in paths]  # type: ignore[arg-type]
    if not opened:
        raise ConfigError("no trajectory was given")
    check_fields(opened)
    axis, count = field_axis(opened), check_blocks(blocks, 5)
    groups: dict[float, list[Trajectory]] = {}
    for each in opened:
        if each.polarization_source != "transfers":
            raise DataError(
                f"{each.path}: its dipole is made with phases, and the mean of such a one has no meaning; allowed: "
                "models with total_charge: conserved and without on-site induced charges"
            )
        groups.setdefault(round(float(_static_field(each) @ axis), 12), []).append(each)
    return [_point(field, groups[field], axis, skip, count) for field in sorted(groups)]


def saturation(points: Sequence[FieldPoint], origin: float = 0.0) -> Saturation | None:
    """A fit of the saturating response to points in fields; None with fewer than two of them or without errors.

    Args:
        points: of `polarization_in_fields`.
        origin: e/Å², taken off every polarization.

    Source: F. Booth, J. Chem. Phys. 19, 391 (1951), for the form.
    """
    from scipy.optimize import curve_fit

    within = [point for point in points if point.field != 0.0]
    fields: Floats = np.array([point.field for point in within])
    errors = [point.error for point in within if point.error]
    if len(np.unique(np.abs(fields))) < 2 or len(errors) < len(within):
        return None
    values: Floats = np.array([point.polarization - origin for point in within])
    slope = float(np.max(values / (VACUUM_PERMITTIVITY * fields)))
    start = (max(1.5 * slope, 1e-3), 1.5 * float(np.abs(values).max()) + 1e-9)
    try:
        best, spread = curve_fit(
            _langevin, fields, values, start, errors, absolute_sigma=True, bounds=((0.0, 1e-12), (np.inf, np.inf))
        )
    except RuntimeError:
        return None
    width = np.sqrt(np.diag(spread))
    return Saturation(float(best[0]), float(width[0]), float(best[1]), float(width[1]))


def _point(field: float, trajectories: list[Trajectory], axis: Floats, skip: float, blocks: int) -> FieldPoint:
    samples = Samples.open([each.path for each in trajectories], skip)
    parts, weights, booked = list[float](), list[int](), list[float]()
    for each, volume in zip(samples.trajectories, samples.volumes(), strict=True):
        moved = _moved_dipole(each, field * axis)
        check_series([moved], "dipole")
        if grows(moved[samples.first :]):
            warnings.warn(
                f"{each.path}: its polarization goes on growing, so that its mean is that of the length of the run: "
                "mobile ions, whose conductivity has a meaning and whose ε has none",
                LesPluginsWarning,
                stacklevel=3,
            )
        if field:
            booked.append(_unbooked(each, moved, field * axis))
        along = moved[samples.first :] @ axis / volume
        size = len(along) // blocks
        if size < 1:
            raise DataError(f"{each.path}: {len(along)} frames for {blocks} blocks: give fewer --blocks")
        parts += [float(part.mean()) for part in np.array_split(along, blocks)]
        weights += [size] * blocks
    value, error = mean_and_error(np.array(parts), weights)
    spread = None if error is None else float(error)
    return FieldPoint(field, float(value), spread, len(parts), samples, max(booked, default=None))


def _moved_dipole(trajectory: Trajectory, field: Floats) -> Floats:
    """(T, 3) e·Å: the dipole without what the field induces in atoms that rest."""
    dipole = trajectory["dipole"]
    if not field.any() or "polarizability" not in trajectory.names:
        return dipole
    moved: Floats = dipole - trajectory["polarizability"] @ field
    return moved


def _unbooked(trajectory: Trajectory, moved: Floats, field: Floats) -> float:
    """meV/atom: largest difference of field_work and E·Δμ + ½ E·Δα·E."""
    gained = (moved - moved[0]) @ field
    if "polarizability" in trajectory.names:
        alpha = trajectory["polarizability"]
        gained = gained + 0.5 * ((alpha - alpha[0]) @ field) @ field
    work = trajectory["field_work"]
    return float(np.abs(work - work[0] - gained).max()) * 1000.0 / len(trajectory.numbers)


def _static_field(trajectory: Trajectory) -> Floats:
    """(3,) V/Å."""
    field = trajectory.static_field
    if field is None:
        raise ConfigError(f"{trajectory.path}: ran in a field that changes with time; this needs static ones")
    return field


def _langevin(field: Floats, susceptibility: float, limit: float) -> Floats:
    y = 3.0 * VACUUM_PERMITTIVITY * susceptibility * np.asarray(field, dtype=float) / limit
    small = np.abs(y) < 1e-4
    safe = np.where(small, 1.0, y)
    found: Floats = limit * np.where(small, y / 3.0, 1.0 / np.tanh(safe) - 1.0 / safe)
    return found
