"""Force constants of a model against those of displaced-atom calculations, for each crystal of the file.

    python examples/mapbi3/force_constants.py MODEL.les phonon_forces_pbesol.extxyz OUT.png

Every frame has one atom moved; `displaced_atom` and `displacement` in its header say which, and how far. Opposite moves
of one atom give a column of force constants by central difference, on both sides alike: forces of the start cancel.
"""

import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import les_plugins
from les_plugins.data.frames import read_frames
from les_plugins.data.metrics import errors

#: eV/Å²: the axes are linear within it, logarithmic beyond.
LINEAR = 0.1
TICKS = (-10, -1, -0.1, 0.1, 1, 10)


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

    draw(shown, Path(model).name, out)


def draw(shown: dict[str, tuple[np.ndarray, np.ndarray]], model: str, out: str) -> None:
    """A panel for each crystal, for one would hide the others; linear within 0.1 eV/Å², logarithmic beyond."""
    rows = -(-len(shown) // 4)
    figure, axes = plt.subplots(
        rows,
        min(4, len(shown)),
        figsize=(9.0, 2.5 * rows),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    ends = [min(r.min() for r, _ in shown.values()), max(r.max() for r, _ in shown.values())]
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, (crystal, (reference, predicted)) in zip(axes.flat, shown.items(), strict=False):
        axis.plot(reference, predicted, ".", ms=2, alpha=0.4, color="#0072b2", mew=0)
        axis.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
        name = crystal.removeprefix("mapbi3_").replace("_", " × ")
        axis.set_title(f"{name}: {len(reference):,} elements", fontsize=7)
        axis.set_xscale("symlog", linthresh=LINEAR)
        axis.set_yscale("symlog", linthresh=LINEAR)
        axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axis.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axis.tick_params(direction="in", top=True, right=True, labelsize=7, labelbottom=True)
    figure.supxlabel("force constant, DFT (eV/Å²)", fontsize=9)
    figure.supylabel("force constant, predicted (eV/Å²)", fontsize=9)
    figure.suptitle(f"{model} against PBEsol, MAPbI$_3$", fontsize=9)
    figure.savefig(out, dpi=200)


if __name__ == "__main__":
    main()
