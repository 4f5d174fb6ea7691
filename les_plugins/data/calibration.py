"""Whether the spread of a committee tells its errors: both, side by side, in bins of spread. For `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from les_plugins.data.metrics import Floats

#: Most bins of equal count.
BINS = 10
#: Values below which a bin says nothing.
_FEWEST_IN_BIN = 5


@dataclass(frozen=True)
class Calibration:
    """Errors of a committee's mean and the spread of its members, value by value, in one unit.

    One value is the root mean square over the components of an atom's force or Born charges, of a frame's stress,
    dipole or polarizability, or the energy an atom of a frame.

    Attributes:
        name: key of `evaluation.QUANTITIES`.
        error: (M,) root mean square error of the mean.
        spread: (M,) root mean square of the members' standard deviations.
    """

    name: str
    error: Floats
    spread: Floats

    @classmethod
    def of(cls, name: str, reference: Floats, predicted: Floats, spread: Floats) -> Calibration:
        """From components: (M, components) each."""
        error = np.sqrt(((predicted - reference) ** 2).mean(1))
        return cls(name, error, np.sqrt((spread**2).mean(1)))

    @classmethod
    def joined(cls, parts: Sequence[Calibration]) -> Calibration:
        """One after the other."""
        return cls(parts[0].name, np.concatenate([p.error for p in parts]), np.concatenate([p.spread for p in parts]))

    @property
    def rms_error(self) -> float:
        """Root mean square error."""
        return float(np.sqrt((self.error**2).mean()))

    @property
    def rms_spread(self) -> float:
        """Root mean square spread."""
        return float(np.sqrt((self.spread**2).mean()))

    @property
    def factor(self) -> float | None:
        """What the spread has to be multiplied with to be as large as the error on the whole; None without a spread."""
        return self.rms_error / self.rms_spread if self.rms_spread > 0 else None

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's ρ between spread and error: 1 where they have one order; None for fewer than three values."""
        from scipy.stats import spearmanr

        if len(self.error) < 3 or np.ptp(self.error) == 0 or np.ptp(self.spread) == 0:
            return None
        return float(spearmanr(self.spread, self.error).statistic)

    def bins(self) -> tuple[Floats, Floats]:
        """(B,) root mean square spread and (B,) root mean square error of bins of equal count, by growing spread."""
        count = int(np.clip(len(self.error) // _FEWEST_IN_BIN, 1, BINS))
        parts = np.array_split(np.argsort(self.spread, kind="stable"), count)
        spreads, errors = (
            np.array([np.sqrt((values[part] ** 2).mean()) for part in parts]) for values in (self.spread, self.error)
        )
        return spreads, errors

    def to_dict(self) -> dict[str, Any]:
        """Every number as JSON types, in the unit of the values."""
        spreads, errors = self.bins()
        return {
            "count": len(self.error),
            "rms_error": self.rms_error,
            "rms_spread": self.rms_spread,
            "factor": self.factor,
            "rank_correlation": self.rank_correlation,
            "bins": {"rms_spread": spreads.tolist(), "rms_error": errors.tolist()},
        }
