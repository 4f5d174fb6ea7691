"""The direct sum against its own matrix products, and a force-training step against energy and forces.

    OMP_NUM_THREADS=1 python benchmarks/direct_floor.py
    OMP_NUM_THREADS=1 python benchmarks/direct_floor.py --sizes 1536 --terms quQ --repeats 7 --json floor.json

Energy and forces need one transform from the atoms to the reciprocal grid, with the ranks of the moments, and one back,
with one rank more. Its arithmetic is matrix products: batched ones of the waves along the grid's second and third axis,
and one along the first that does most of the work. The floor is the processor time of these products alone, on operands
of the same shapes that lie ready, taken in turn with the layer in the same run. The rate of a large square product is
printed beside it. Times are the shortest of the repeats, on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from electrostatics import SIGMA, water, with_terms
from torch import Tensor

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.periodic.reciprocal import grid_shape
from les_plugins.electrostatics.periodic.structure_factor import ReciprocalGrid, Slab, _chunks

SQUARE = 1024


class Step:
    """Energy, forces and the gradient of a loss on the forces, of one box of water."""

    def __init__(self, n_atoms: int, terms: str, dl: float, response: bool) -> None:
        self.positions, cell, moments = water(n_atoms)
        self.moments = [moment for moment in with_terms(moments, terms) if moment is not None]
        self.cell = cell
        self.response = [torch.full((n_atoms,), 0.02, dtype=torch.float64) for _ in range(2)] if response else []
        self.layer = LatentElectrostatics(sigma=SIGMA, dl=dl, method="direct")
        self.pbc, self.batch = torch.ones(1, 3, dtype=torch.bool), torch.zeros(n_atoms, dtype=torch.long)

    def energy(self, positions: Tensor, moments: list[Tensor], response: list[Tensor]) -> Tensor:
        result = self.layer(positions, self.cell[None], self.pbc, self.batch, Multipoles(*moments), *response)
        return result.energy.sum()

    def forces(self) -> None:
        positions = self.positions.clone().requires_grad_()
        torch.autograd.grad(self.energy(positions, self.moments, self.response), positions)

    def train(self) -> None:
        """As a trainer does: every input has a graph, and the loss on the forces reaches all of them."""
        inputs = [value.clone().requires_grad_() for value in (self.positions, *self.moments, *self.response)]
        moments, response = inputs[1 : 1 + len(self.moments)], inputs[1 + len(self.moments) :]
        self.layer.train()
        energy = self.energy(inputs[0], moments, response)
        (gradient,) = torch.autograd.grad(energy, inputs[0], create_graph=True)
        self.layer.eval()
        (energy + gradient.square().sum()).backward()


def products(grid: ReciprocalGrid, n_atoms: int, order: int) -> tuple[Callable[[], None], float]:
    """The matrix products of energy and forces, as one call, and their floating-point operations."""
    calls: list[Callable[[], object]] = []
    operations = 0.0
    made: dict[tuple, list[Tensor]] = {}

    def operands(*shapes: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
        if (shapes, dtype) not in made:
            made[shapes, dtype] = [torch.randn(shape, dtype=dtype) for shape in shapes]
        return made[shapes, dtype]

    def add(product: Callable[..., object], *shapes: tuple[int, ...], dtype: torch.dtype) -> None:
        nonlocal operations
        (*batch, rows, inner), (*_, columns) = shapes
        operations += (2.0 if dtype == torch.float64 else 8.0) * (batch[0] if batch else 1) * rows * inner * columns
        a, b = operands(*shapes, dtype=dtype)
        out = operands((*batch, rows, columns), dtype=dtype)[0]
        calls.append(lambda: product(a, b, out=out))

    fractional = torch.zeros(1, n_atoms, 3, dtype=torch.float64)
    real, wave = torch.float64, torch.complex128
    n_third = 2 * grid.extent[2] + 1
    for ranks in (order, order + 1):
        forth = ranks == order
        for _, atoms in _chunks(fractional, grid, ranks)[0]:
            n = len(range(n_atoms)[atoms])
            for slab in grid.slabs:
                height, width = extents(slab)
                points, rows = 2 * height * width, (ranks + 1) * n
                if forth:
                    add(torch.bmm, (n, height, ranks + 1), (n, ranks + 1, (ranks + 1) ** 2), dtype=wave)
                    add(torch.bmm, (n, (ranks + 1) * height, ranks + 1), (n, ranks + 1, width), dtype=wave)
                    add(torch.mm, (2 * slab.rows, rows), (rows, points), dtype=real)
                else:
                    add(torch.mm, (rows, 2 * slab.rows), (2 * slab.rows, points), dtype=real)
                    add(torch.bmm, (rows, ranks + 1, height), (rows, height, width), dtype=wave)
            if not forth:
                add(torch.bmm, (n, (ranks + 1) ** 2, n_third), (n, n_third, ranks + 1), dtype=wave)

    def run() -> None:
        for call in calls:
            call()

    return run, operations


def extents(slab: Slab) -> tuple[int, int]:
    return slab.second[1] - slab.second[0], slab.third[1] - slab.third[0]


def best_in_turn(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Shortest processor time of each, s, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: min(values[1:]) for name, values in times.items()}


def measure(n_atoms: int, terms: str, dl: float, repeats: int) -> dict[str, float | int | str]:
    bare, full = Step(n_atoms, terms, dl, False), Step(n_atoms, terms, dl, True)
    order = len(bare.moments) - 1
    shape = grid_shape((tuple(bare.cell.flatten().tolist()),), 2.0 * torch.pi / dl)
    grid = ReciprocalGrid(shape.extent, shape.slabs)
    run, operations = products(grid, n_atoms, order)
    square = torch.randn(SQUARE, SQUARE, dtype=torch.float64)
    out = torch.empty_like(square)
    seconds = best_in_turn(
        {
            "floor": run,
            "forces": bare.forces,
            "train": bare.train,
            "forces_with_response": full.forces,
            "train_with_response": full.train,
            "square": lambda: torch.mm(square, square, out=out),
        },
        repeats,
    )
    return {"atoms": n_atoms, "terms": terms, "dl": dl, "operations": operations} | seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1536, 5184])
    parser.add_argument("--terms", nargs="+", default=["q", "quQ"], choices=["q", "quQ"])
    parser.add_argument("--dl", type=float, default=1.2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| atoms | terms | 10⁹ operations | floor, ms | its rate | square product's | energy + forces, ms |"
        " over floor | training step, ms | over forces | with response: forces, ms | training, ms | over forces |"
    )
    print("|---:|---|" + "---:|" * 11)
    lines = []
    for n_atoms in arguments.sizes:
        for terms in arguments.terms:
            line = measure(n_atoms, terms, arguments.dl, arguments.repeats)
            lines.append(line)
            ms = {name: 1e3 * line[name] for name in line if isinstance(line[name], float)}
            print(
                f"| {n_atoms:,} | {', '.join(terms)} | {line['operations'] / 1e9:.2f} | {ms['floor']:.1f} | "
                f"{line['operations'] / line['floor'] / 1e9:.1f} | {2 * SQUARE**3 / line['square'] / 1e9:.1f} | "
                f"{ms['forces']:.1f} | {line['forces'] / line['floor']:.2f} | {ms['train']:.1f} | "
                f"{line['train'] / line['forces']:.2f} | {ms['forces_with_response']:.1f} | "
                f"{ms['train_with_response']:.1f} | {line['train_with_response'] / line['forces_with_response']:.2f} |",
                flush=True,
            )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(lines, file, indent=1)


if __name__ == "__main__":
    main()
