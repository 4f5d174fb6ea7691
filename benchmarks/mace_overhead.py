"""What the long-range part costs on top of MACE: energy + forces of the same water box with and without it, in one run.

OMP_NUM_THREADS=1 python benchmarks/mace_overhead.py [--replicas 1 2] [--dtype float32] [--channels 32]
"""

import argparse
import json
import statistics
import time

import mace  # noqa: F401 (before e3nn)
import numpy as np
import torch
from ase import Atoms
from e3nn import o3
from mace import data, modules, tools
from mace.tools import torch_geometric
from water import water_box

import les_plugins

LONG_RANGE = {"multipoles": ["charge", "dipole", "quadrupole"], "response": {"charge": True, "dipole": "isotropic"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2], help="boxes of 64 molecules along each axis")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--correlation", type=int, default=2)
    parser.add_argument("--cutoff", type=float, default=4.5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, options.dtype))
    base = mace_model(options)
    both = les_plugins.attach(base, LONG_RANGE)
    rows = []
    for replicas in options.replicas:
        batch = make_batch(water_box(replicas), options.cutoff)
        times: dict[str, list[float]] = {"mace": [], "mace + long range": []}
        for _ in range(options.repeats + 1):  # interleaved, so that noise hits both; the first round warms up
            for name, model in (("mace", base), ("mace + long range", both)):
                start = time.perf_counter()
                model(batch.clone().to_dict())
                times[name].append(time.perf_counter() - start)
        plain, full = (statistics.median(values[1:]) for values in times.values())
        best_plain, best_full = (min(values[1:]) for values in times.values())
        rows.append(
            {
                "atoms": 192 * replicas**3,
                "mace_s": plain,
                "with_long_range_s": full,
                "overhead_percent_median": 100 * (full / plain - 1),
                "overhead_percent_best": 100 * (best_full / best_plain - 1),
            }
        )
    if options.json:
        print(json.dumps({"options": vars(options), "rows": rows}, indent=1))
        return
    print(f"{options.channels} channels, L = 1, 2 layers, correlation {options.correlation}, r = {options.cutoff} Å, "
          f"{options.dtype}, one thread, {options.repeats} repeats")  # fmt: skip
    for row in rows:
        print(f"{row['atoms']:6d} atoms: MACE {row['mace_s']:.3f} s, with the long-range part "
              f"{row['with_long_range_s']:.3f} s: +{row['overhead_percent_median']:.1f} % (medians), "
              f"+{row['overhead_percent_best']:.1f} % (best of each)")  # fmt: skip


def mace_model(options: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(0)
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=options.cutoff, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, correlation=options.correlation,
        interaction_cls=interaction, interaction_cls_first=interaction, num_interactions=2,
        hidden_irreps=o3.Irreps(f"{options.channels}x0e + {options.channels}x1o"), MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu, num_elements=2, atomic_numbers=[1, 8], atomic_energies=np.zeros(2),
        avg_num_neighbors=38.0, atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    )  # fmt: skip


def make_batch(atoms: Atoms, cutoff: float):
    table = tools.AtomicNumberTable([1, 8])
    graph = data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=cutoff)
    return next(iter(torch_geometric.dataloader.DataLoader([graph], batch_size=1)))


if __name__ == "__main__":
    main()
