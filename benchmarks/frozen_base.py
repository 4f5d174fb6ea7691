"""Time of a training step of SevenNet with a long-range part: all of it, the base frozen, and features kept.

    python benchmarks/frozen_base.py [FRAMES.xyz]

The loss has energy and forces, as SevenNet's. "features kept" is the long-range part alone on features that are not
computed again, which gives an energy and no forces: those need the derivative of every feature by every position.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import ase.io
import sevenn._keys as keys
import torch
from ase.build import bulk
from sevenn.nn.sequential import AtomGraphSequential
from torch import Tensor
from torch_geometric.data import Batch

import les_plugins
from les_plugins.adapters.sevennet.graphs import graph_of
from les_plugins.adapters.sevennet.model import PART, last_layer
from les_plugins.adapters.sevennet.train import load_checkpoint
from les_plugins.model.frozen import TrainOnly, freeze

REPEATS = 3


def main() -> None:
    """Print one line a way of training."""
    torch.set_num_threads(1)
    given = (
        ase.io.read(sys.argv[1], "0") if len(sys.argv) > 1 else bulk("NaCl", "rocksalt", 5.64, cubic=True) * (2, 2, 2)
    )
    assert not isinstance(given, list)
    given.rattle(0.05, seed=1)
    print(f"7net-0, {given.get_chemical_formula()}, {len(given)} atoms, one thread, s a step:")
    whole = seconds(lambda: step("all", given))
    for name, run in (
        ("everything", None),
        ("train_only: last_layer", lambda: step("last_layer", given)),
        ("train_only: long_range", lambda: step("long_range", given)),
        ("features kept, energy alone", lambda: heads_alone(given)),
    ):
        took = whole if run is None else seconds(run)
        print(f"  {name:28s} {took:6.2f}  {took / whole:5.2f}")


def seconds(prepare: Callable[[], Callable[[], None]]) -> float:
    """Processor time of the fastest of some steps."""
    run = prepare()
    run()
    times = []
    for _ in range(REPEATS):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return min(times)


def step(train_only: TrainOnly, atoms: ase.Atoms) -> Callable[[], None]:
    """A step on energy and forces."""
    model = tuned(train_only)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    batch = Batch.from_data_list([graph_of(atoms, float(model.cutoff), torch.float32)])

    def run() -> None:
        optimizer.zero_grad()
        output = model(batch.clone())
        loss(output[keys.PRED_TOTAL_ENERGY], output[keys.PRED_FORCE], len(atoms)).backward()
        optimizer.step()

    return run


def heads_alone(atoms: ase.Atoms) -> Callable[[], None]:
    """A step of the long-range part on the energy, with what the base makes of the frame kept."""
    model = tuned("long_range")
    part = dict(model.named_children())[PART]
    kept: list[tuple[tuple[object, ...], dict[str, object]]] = []
    hook = part.long_range.register_forward_pre_hook(
        lambda _, args, named: kept.append((args, named)), with_kwargs=True
    )
    model(Batch.from_data_list([graph_of(atoms, float(model.cutoff), torch.float32)]))
    hook.remove()
    args, named = detached(kept[0][0]), detached(kept[0][1])
    optimizer = torch.optim.Adam(part.parameters(), lr=1e-4)

    def run() -> None:
        optimizer.zero_grad()
        (part.long_range(*args, **named).energy / len(atoms)).square().sum().backward()
        optimizer.step()

    return run


def tuned(train_only: TrainOnly) -> AtomGraphSequential:
    """7net-0 with charges, dipoles and quadrupoles."""
    model = les_plugins.attach(load_checkpoint("7net-0"), {}).train()
    assert isinstance(model, AtomGraphSequential)
    model.set_is_batch_data(True)
    freeze(model, train_only, last_layer(model))
    return model


def detached(value: object) -> object:
    """The same without a graph."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: detached(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(detached, value))
    return type(value)(map(detached, value)) if isinstance(value, list | tuple) else value


def loss(energy: Tensor, forces: Tensor, atoms: int) -> Tensor:
    """Of labels that are zero: only the time is asked for."""
    return (energy / atoms).square().sum() + forces.square().mean()


if __name__ == "__main__":
    main()
