"""Energy + forces of 192 water atoms by the same MACE with a long-range part: as it is, and as TorchScript, in one run.

OMP_NUM_THREADS=1 python benchmarks/mace_torchscript.py [--dtype float32] [--channels 32] [--static-cell 13 15]
"""

import argparse
import time
import warnings

import torch
from mace_overhead import LONG_RANGE, mace_model, make_batch
from water import water_box

import les_plugins
from les_plugins.adapters.mace.torchscript import script

WARM_UP = 3  # TorchScript looks at the first calls and optimizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--correlation", type=int, default=2)
    parser.add_argument("--cutoff", type=float, default=4.5)
    parser.add_argument("--static-cell", type=float, nargs="+", default=[13.0, 15.0], help="Å, one model for each")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, options.dtype))
    base = mace_model(options).requires_grad_(False)
    both = les_plugins.attach(base, LONG_RANGE).requires_grad_(False)
    runs = {"MACE": base, "MACE + long range": both}
    for length in options.static_cell:
        sized = les_plugins.attach(base, {**LONG_RANGE, "static_cell": [length] * 3}).requires_grad_(False)
        sized.load_state_dict(both.state_dict())
        runs[f"TorchScript, static_cell {length:g} Å"] = script(sized)
    batch = make_batch(water_box(), options.cutoff)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(WARM_UP + options.repeats):  # interleaved, so that noise hits all
        for name, model in runs.items():
            start = time.process_time()
            model(batch.clone().to_dict())
            times[name].append(time.process_time() - start)
    print(f"192 atoms, {options.channels} channels, L = 1, 2 layers, correlation {options.correlation}, "
          f"r = {options.cutoff} Å, {options.dtype}, one thread, best of {options.repeats}")  # fmt: skip
    for name, values in times.items():
        print(f"{name:32s} {1000 * min(values[WARM_UP:]):7.0f} ms CPU, first call {1000 * values[0]:7.0f} ms")


if __name__ == "__main__":
    main()
