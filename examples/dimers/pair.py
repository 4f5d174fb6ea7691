"""One kind of pair along its distance: DFT, what a model says in two parts, and the net charges of the two molecules.

    python examples/dimers/pair.py PP TRAIN.extxyz TEST.extxyz MODEL.les

Energies in meV less those at the largest distance. `E r3` is the DFT energy less those of the two molecules alone times
the distance cubed, eV·Å³: constant where nothing but two dipoles in fixed directions act.
"""

import sys

import les_plugins
from les_plugins.data.frames import read_frames


def main() -> None:
    """Read, predict, print."""
    label, *files, model = sys.argv[1:]
    calculator, rows = les_plugins.load(model), []
    for atoms in (atoms for file in files for atoms in read_frames(file) if atoms.info["label"] == label):
        reference, distance, border = atoms.get_potential_energy(), float(atoms.info["distance"]), atoms.info["indexB"]
        alone = float(atoms.info["energyA"] + atoms.info["energyB"])
        copy = atoms.copy()
        energy = calculator.get_potential_energy(copy)
        long_range, charges = calculator.results["long_range_energy"], calculator.results["latent_charges"]
        first, second = charges[: int(border)].sum(), charges[int(border) :].sum()
        rows.append((distance, reference, energy, long_range, first, second, (reference - alone) * distance**3))
    rows.sort()
    last = rows[-1]
    sys.stdout.write("   r, Å      DFT    model  short r.   long r.   q A, e   q B, e   E r3\n")
    for distance, reference, energy, long_range, first, second, cubed in rows:
        parts = (energy - long_range, long_range)
        from_last = [
            1e3 * (value - end)
            for value, end in zip(
                (reference, energy, *parts), (last[1], last[2], last[2] - last[3], last[3]), strict=True
            )
        ]
        numbers = "".join(f"{value:9.1f}" for value in from_last)
        sys.stdout.write(f"{distance:7.2f}{numbers} {first:8.3f} {second:8.3f} {cubed:7.2f}\n")
    sys.stdout.write(f"model less DFT at {last[0]:.2f} Å: {1e3 * (last[2] - last[1]):.1f} meV\n")


if __name__ == "__main__":
    main()
