"""Energy and forces with the direct sum's matrix products in float32, against float64: time and error.

    OMP_NUM_THREADS=1 python benchmarks/single_precision.py

Both in turn in one run, one thread, processor time, the shortest of the repeats.
"""

from __future__ import annotations

import argparse

import torch
from direct_floor import Step, best_in_turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 1536, 5184])
    parser.add_argument("--terms", nargs="+", default=["q", "quQ"], choices=["q", "quQ"])
    parser.add_argument("--dl", type=float, default=1.2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| atoms | terms | double, ms | single, ms | ratio | energy error, eV/atom | force RMS error, eV/Å | largest |"
        " force RMS, eV/Å |"
    )
    print("|---:|---|" + "---:|" * 7)
    for n_atoms in arguments.sizes:
        for terms in arguments.terms:
            step = Step(n_atoms, terms, arguments.dl, response=False)

            def evaluate(precision: str, step: Step = step) -> tuple[torch.Tensor, torch.Tensor]:
                step.layer.change_settings(precision=precision)
                positions = step.positions.clone().requires_grad_()
                energy = step.energy(positions, step.moments, [])
                return energy.detach(), -torch.autograd.grad(energy, positions)[0]

            (exact, forces), (energy, rounded) = evaluate("double"), evaluate("single")
            seconds = best_in_turn(
                {name: lambda name=name: evaluate(name) for name in ("double", "single")}, arguments.repeats
            )
            error = rounded - forces
            print(
                f"| {n_atoms:,} | {', '.join(terms)} | {1e3 * seconds['double']:.1f} | {1e3 * seconds['single']:.1f} | "
                f"{seconds['double'] / seconds['single']:.2f} | {float((energy - exact).abs()) / n_atoms:.1e} | "
                f"{float(error.square().mean().sqrt()):.1e} | {float(error.abs().max()):.1e} | "
                f"{float(forces.square().mean().sqrt()):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
