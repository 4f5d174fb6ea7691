"""`method: nvalchemi` against `method: mesh` at the same tolerance: time, and error of the forces.

    pip install ".[nvalchemi]"
    python benchmarks/nvalchemi.py

Water as in sizes.py, no response. Processor times on one thread, the shortest of the repeats, the two methods in turn;
errors are root mean square over the root mean square force, against a mesh of a hundredth of the tolerance. Kernels
that are not in Warp's cache are compiled beforehand; how long that takes is printed first.
"""

from __future__ import annotations

import argparse
import time

import torch
from sizes import REPEATS, evaluate, water

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.nvalchemi import SPLINE_ORDER, NvalchemiElectrostatics
from les_plugins.electrostatics.periodic.mesh_size import mesh_of

#: Highest rank of the moments, and tolerance. Splines of order 6 need 840 points an axis for quadrupoles at 1e-5, 37 Å.
CASES = ((0, 1e-5), (1, 1e-4), (2, 1e-3))
TERMS = ("q", "q, u", "q, u, Q")


def row(atoms: int, order: int, tolerance: float, repeats: int) -> str:
    positions, cell, moments, _, _ = water(atoms)
    moments = Multipoles(*(moment if rank <= order else None for rank, moment in enumerate(moments)))
    layers = [
        LatentElectrostatics(method="mesh", mesh_tolerance=tolerance),
        NvalchemiElectrostatics(mesh_tolerance=tolerance, response=None),
    ]
    fine = LatentElectrostatics(method="mesh", mesh_tolerance=tolerance / 100.0)
    exact = evaluate(fine, positions, cell, moments, None, None, False)
    times = [[float("inf")] * 2 for _ in layers]
    errors = [0.0] * 2
    for _ in range(repeats):
        for which, layer in enumerate(layers):
            for training in (False, True):
                start = time.process_time()
                forces = evaluate(layer, positions, cell, moments, None, None, training)
                times[which][training] = min(times[which][training], time.process_time() - start)
            errors[which] = float((forces - exact).norm() / exact.norm())
    cutoff = 2.0 * torch.pi / layers[0].dl
    meshes = [mesh_of(cell, 1.0, cutoff, order, tolerance, spline).sizes[0] for spline in (None, SPLINE_ORDER)]
    both = [
        f"{mesh}³ | {seconds:.3f} | {training:.3f} | {error:.1e}"
        for mesh, (seconds, training), error in zip(meshes, times, errors, strict=True)
    ]
    ratio = times[1][0] / times[0][0]
    return f"| {TERMS[order]} | {tolerance:.0e} | {atoms:,} | {both[0]} | {both[1]} | {ratio:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(REPEATS), default=[1536, 5184])
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    for order in range(3):
        row(192, order, 1e-2, 1)
    print(f"import, compiling and first calls: {time.process_time() - start:.0f} s of processor time")
    half = "mesh | energy + forces, s | training step, s | error"
    print(f"| terms | tolerance | atoms | ours: {half} | nvalchemi: {half} | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for order, tolerance in CASES:
        for atoms in options.sizes:
            print(row(atoms, order, tolerance, options.repeats), flush=True)


if __name__ == "__main__":
    main()
