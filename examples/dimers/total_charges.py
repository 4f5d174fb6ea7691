"""Charged dimers for `total_charge: given`: the charge of each pair from those of its fragments; and what models say.

    python examples/dimers/total_charges.py write IN.extxyz OUT.extxyz
    python examples/dimers/total_charges.py compare TEST.extxyz MODEL.les ...

The second prints, for each kind of pair, the charges of the fragments and the mean of what each model says of them.
In the pairs CP the file has the two charges the other way round: the energies of the fragments, and their atoms, are
those of a neutral first and of an anion second.
"""

import sys
from collections import defaultdict

import ase.io
import numpy as np

import les_plugins


def write(source: str, target: str) -> None:
    """Write the frames with `charge`, the sum of `chargeA` and `chargeB`."""
    frames = ase.io.read(source, ":")
    for atoms in frames:
        atoms.info["charge"] = int(atoms.info["chargeA"] + atoms.info["chargeB"])
    ase.io.write(target, frames)


def compare(source: str, *models: str) -> None:
    """Print the charges of the first fragment by kind of pair, and their root mean square errors."""
    frames = ase.io.read(source, ":")
    for model in models:
        calculator, found = les_plugins.load(model), defaultdict(list)
        for atoms in frames:
            charges = calculator.get_property("charges", atoms.copy())
            border = int(atoms.info["indexB"])
            own = atoms.info["chargeB" if atoms.info["label"] == "CP" else "chargeA"]
            found[atoms.info["label"]].append((own, charges[:border].sum(), charges.sum()))
        for label, values in found.items():
            true, first, total = np.mean(values, axis=0)
            sys.stdout.write(
                f"{model} {label}: fragment A {true:+.0f} e, model {first:+.3f}, whole pair {total:+.3f}\n"
            )
        errors = np.array([first - true for values in found.values() for true, first, _ in values])
        sys.stdout.write(f"{model}: RMSE of the charge of fragment A {np.sqrt((errors**2).mean()):.3f} e\n")


if __name__ == "__main__":
    {"write": write, "compare": compare}[sys.argv[1]](*sys.argv[2:])
