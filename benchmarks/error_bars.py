"""How often error bars of diffusion and conductivity hold the truth, on synthetic series whose answer is known.

    python benchmarks/error_bars.py
    python benchmarks/error_bars.py --trials 1000

Atoms walk at random; currents are white noise, or forget within 0.2 times the longest time (Ornstein–Uhlenbeck), as of
a conductor. Lengths are in units of the longest time of the straight line (diffusion), of the correlation time that
the integral goes to (conductivity). 68 % are meant; of 300 trials that is known to 2.7 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.signal import lfilter

from les_plugins.data.metrics import Floats
from les_plugins.spectra import diffusion, green_kubo
from les_plugins.units import BOLTZMANN, SIEMENS_PER_METRE

#: Frames of the longest time, K, and Å³; of no consequence.
LONGEST, KELVIN, VOLUME = 20, 300.0, 1000.0
#: Estimate and error by name; an error of None is none.
Found = dict[str, tuple[float, float | None]]


def walks(length: int, atoms: int, count: int, seed: int) -> Found:
    """D of `count` walks, in units of the true one."""
    random = np.random.default_rng(seed)
    series = [np.cumsum(random.standard_normal((length, atoms, 3)), axis=0) for _ in range(count)]
    chosen = np.ones(atoms, dtype=bool)
    longest, blocks = LONGEST / 1000.0, min(length // (2 * LONGEST), 5)
    found = diffusion(series, np.ones(atoms), chosen, 1.0, longest, 0.25 * longest, blocks, drift=False)
    truth = 0.5 * 1000.0 * (1.0 - 1.0 / atoms)  # Å²/ps; the centre of mass is taken off
    return {
        "D, mean over blocks": _over(found.coefficient, found.error, truth),
        "D, all pairs": _over(found.time_averaged, found.time_averaged_error, truth),
    }


def currents(length: int, time: float, count: int, seed: int) -> Found:
    """σ of `count` currents that forget within `time` frames, in units of the true one."""
    random, memory = np.random.default_rng(seed), float(np.exp(-1.0 / time)) if time else 0.0
    series = []
    for _ in range(count):
        kicks = np.sqrt(1.0 - memory**2) * random.standard_normal((length, 3))
        kicks[0] = random.standard_normal(3)
        series.append(lfilter([1.0], [1.0, -memory], kicks, axis=0))
    truth = SIEMENS_PER_METRE * (0.5 + memory / (1.0 - memory)) / (VOLUME * BOLTZMANN * KELVIN)
    found = green_kubo(series, 1.0, KELVIN, VOLUME, float(LONGEST), drift=False)
    return {
        "σ, Green–Kubo": _over(found["conductivity"], found["error"], truth),
        "σ, displacement": _over(found["displacement_conductivity"], found["displacement_error"], truth),
    }


def _over(value: float, error: float | None, truth: float) -> tuple[float, float | None]:
    return value / truth, None if error is None else error / truth


def measure(sample: str, one: Callable[[int], Found], trials: int) -> None:
    """A line for each estimate: mean, scatter, mean error, and how often the error bar holds 1."""
    rows = [one(seed) for seed in range(trials)]
    for name in rows[0]:
        values: Floats = np.array([row[name][0] for row in rows])
        errors: Floats = np.array([np.nan if row[name][1] is None else row[name][1] for row in rows], dtype=float)
        bars = "none" if np.isnan(errors).any() else f"{errors.mean():.3f}"
        held = "" if np.isnan(errors).any() else f"{np.mean(np.abs(values - 1.0) < errors):.0%}"
        print(f"| {sample} | {name} | {values.mean():.3f} | {values.std():.3f} | {bars} | {held} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    trials = parser.parse_args().trials
    print("| sample | estimate | mean over truth | scatter | mean error bar | holds the truth |")
    print("|---|---|---:|---:|---:|---:|")
    for length, count in ((4, 1), (8, 1), (20, 1), (50, 1), (4, 3), (8, 3)):
        several = f"{count} × {length}" if count > 1 else f"{length}"
        frames = length * LONGEST
        measure(f"8 walkers, {several}", lambda s, f=frames, c=count: walks(f, 8, c, s), trials)
        for name, time in (("white current", 0.0), ("current with a memory", 0.2 * LONGEST)):
            measure(f"{name}, {several}", lambda s, f=frames, t=time, c=count: currents(f, t, c, s), trials)


if __name__ == "__main__":
    main()
