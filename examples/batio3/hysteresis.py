"""Polarization of BaTiO3 in a field that swings slowly: the loop, its remanent polarization, coercive field and work.

    les-plugins zoo structures --copy batio3-333
    les-plugins md batio3-nequip batio3-333.xyz -o loop.h5 --ensemble nvt --thermostat bussi --temperature 300 \
        --timestep 2 --steps 9000 --every 2 --no-current \
        --field 0 0 0.2 --pulse-center 2500 --pulse-width 1e9 --pulse-wavenumber 3.3356
    python examples/batio3/hysteresis.py loop.h5 hysteresis.png

The field is E0 cos(2π c ν (t − 2.5 ps)): zero at the start, with a period of 10 ps. The first half period, which leads
to it from no field, is left out. P has no origin in a crystal: zero is midway between the ends of the loop.
"""

import argparse
import sys

import matplotlib as mpl
import numpy as np

from les_plugins.data.trajectory import Trajectory

mpl.use("Agg")
import matplotlib.pyplot as plt

#: μC/cm² of an e/Å²; frames that a point of the loop is the mean of.
MICROCOULOMB, SMOOTH = 1602.176634, 25


def main() -> None:
    """Print the loop's numbers and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trajectory")
    parser.add_argument("picture")
    given = parser.parse_args()
    run = Trajectory.open(given.trajectory)
    if "field" not in run.names or run.polarization_source != "transfers":
        sys.exit(f"{given.trajectory}: has no field, or no polarization of conserved charges: see the commands above")
    field, volume = run["field"][:, 2], np.linalg.det(run["cell"][0])
    polarization = MICROCOULOMB * run["dipole"][:, 2] / volume
    turned = np.flatnonzero(np.diff(np.sign(field[1:]))) + 1  # the field passes zero
    if len(turned) < 2:
        sys.exit(f"{given.trajectory}: the field along z passes zero {len(turned)} times; a loop needs two")
    first, last = turned[0], turned[0] + 2 * (turned[1] - turned[0])
    whole = slice(first, min(last + 1, len(field)))

    print(f"{run.frames} frames, {run['temperature'].mean():.0f} K")
    work = np.diff(run["field_work"][[whole.start, whole.stop - 1]])[0]
    area = np.trapezoid(field[whole], run["dipole"][whole, 2])
    print(f"work of the field's forces over one period {work:.3f} eV, ∮ E dP·V {area:.3f} eV")
    smooth = np.convolve(polarization, np.full(SMOOTH, 1.0 / SMOOTH), mode="same")
    kept = slice(first, len(field) - SMOOTH)
    middle = 0.5 * (np.quantile(smooth[kept], 0.98) + np.quantile(smooth[kept], 0.02))
    loop = smooth - middle
    for crossing in turned:
        if first <= crossing < len(loop) - SMOOTH:
            print(f"at no field, {1e-3 * run['time'][crossing]:.1f} ps: P = {loop[crossing]:+.1f} μC/cm²")
    for crossing in np.flatnonzero(np.diff(np.sign(loop[kept]))) + first:
        print(f"P passes zero at {field[crossing]:+.3f} V/Å, {1e-3 * run['time'][crossing]:.1f} ps")

    figure, axes = plt.subplots(figsize=(4.2, 3.4), dpi=200, layout="constrained")
    axes.plot(field[: first + 1], loop[: first + 1], color="0.7", linewidth=0.8, label="from no field")
    axes.plot(field[kept], loop[kept], color="#0072b2", linewidth=1.0, label="the loop")
    axes.set(xlabel="field along z (V/Å)", ylabel="polarization (μC/cm²)")
    axes.axhline(0.0, color="0.8", linewidth=0.5, zorder=0)
    axes.axvline(0.0, color="0.8", linewidth=0.5, zorder=0)
    axes.legend(frameon=False)
    figure.savefig(given.picture)


if __name__ == "__main__":
    main()
