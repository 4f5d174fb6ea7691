"""Force constants of a model against those of displaced-atom calculations, for each crystal of the file.

    python examples/mapbi3/force_constants.py MODEL.les phonon_forces_pbesol.extxyz OUT.png

Every frame has one atom moved; `displaced_atom` and `displacement` in its header say which, and how far. Opposite moves
of one atom give a column of force constants by central difference, on both sides alike: forces of the start cancel.
"""

import sys
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import les_plugins
from les_plugins.data.frames import read_frames
from les_plugins.data.metrics import errors


def main() -> None:
    """Read, predict, print, plot."""
    model, file, out = sys.argv[1:]
    calculator = les_plugins.load(model)
    columns = defaultdict(dict)
    for atoms in read_frames(file):
        move = np.asarray(atoms.info["displacement"])
        axis = int(np.abs(move).argmax())
        key = (int(atoms.info["displaced_atom"]), axis)
        forces = np.stack([atoms.get_forces(), calculator.get_property("forces", atoms)])
        columns[atoms.info["config_type"]].setdefault(key, []).append((float(move[axis]), forces))

    shown = {}
    for crystal, found in sorted(columns.items()):
        pairs = []
        for (atom, axis), moves in found.items():
            if len(moves) != 2 or not moves[0][0] * moves[1][0] < 0:
                continue
            (first, forces), (second, others) = moves
            pairs.append((atom, axis, -(forces - others) / (first - second)))
        if not pairs:
            print(f"{crystal}: no opposite moves of one atom")
            continue
        reference, predicted = np.concatenate([column.reshape(2, -1) for *_, column in pairs], axis=1)
        on_site = np.array([column[:, atom, axis] for atom, axis, column in pairs])
        every, own = errors(reference, predicted), errors(*on_site.T)
        print(
            f"{crystal}: {len(pairs)} columns; all RMSE {every.rmse:.3f} eV/Å², R² {every.r2:.3f}, slope "
            f"{every.slope:.3f}; an atom on itself RMSE {own.rmse:.2f} eV/Å², R² {own.r2:.3f}, slope {own.slope:.3f}"
        )
        shown[crystal] = (reference, predicted)

    figure, axis = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
    for crystal, (reference, predicted) in shown.items():
        axis.plot(reference, predicted, ".", ms=3, label=crystal)
    ends = [min(r.min() for r, _ in shown.values()), max(r.max() for r, _ in shown.values())]
    axis.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
    axis.set(xlabel="force constant, DFT (eV/Å²)", ylabel="force constant, predicted (eV/Å²)")
    axis.set_xscale("symlog", linthresh=0.1)
    axis.set_yscale("symlog", linthresh=0.1)
    axis.legend(frameon=False, fontsize=7)
    axis.tick_params(direction="in", top=True, right=True)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
