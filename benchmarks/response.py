"""What the self-consistent response costs beside the one-shot one: iterations, time, error of the forces.

    python benchmarks/response.py
    python benchmarks/response.py --atoms 1536 --strengths 1 --repeats 3

Water, float64, one thread, charges, dipoles and quadrupoles, dl = 1.2 Å. Softness and polarizability are of the heads'
natural size (0.01 times softplus of a normal number) times a strength. "Warm" starts from the solution of a geometry
whose atoms are 0.005 Å away, as some half femtosecond of molecular dynamics leaves them. Times are processor times,
the shortest of the repeats, all kinds in turn within each repeat.
"""

from __future__ import annotations

import argparse
import platform
import time

import torch
from electrostatics import water
from torch import Tensor

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.response.self_consistent import SelfConsistentResponse

STEP = 0.005  # Å


class Box:
    """A box of water, and what one evaluation of each kind does with it."""

    def __init__(self, n_atoms: int, strength: float) -> None:
        self.positions, cell, self.moments = water(n_atoms)
        self.cell = cell[None]
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(2, n_atoms, generator=generator, dtype=torch.float64)
        self.softness, self.polarizability = 0.01 * strength * torch.nn.functional.softplus(noise)
        self.shift = STEP * torch.randn(n_atoms, 3, generator=generator, dtype=torch.float64)

    def energy(self, layer: LatentElectrostatics, positions: Tensor, charge: Tensor | None = None) -> Tensor:
        moments = self.moments if charge is None else Multipoles(charge, *self.moments[1:])
        result = layer(
            positions,
            self.cell,
            torch.ones(1, 3, dtype=torch.bool),
            torch.zeros(len(positions), dtype=torch.long),
            moments,
            softness=None if layer.response_model is None else self.softness,
            polarizability=None if layer.response_model is None else self.polarizability,
        )
        return result.energy.sum()

    def forces(self, layer: LatentElectrostatics, positions: Tensor) -> Tensor:
        places = positions.clone().requires_grad_()
        return -torch.autograd.grad(self.energy(layer, places), places)[0]

    def training_step(self, layer: LatentElectrostatics, positions: Tensor) -> Tensor:
        """Slope of a loss of the forces in the charges."""
        places, charge = positions.clone().requires_grad_(), self.moments.charge.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.energy(layer, places, charge), places, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), charge)[0]

    def collective(self, layer: LatentElectrostatics, positions: Tensor) -> Tensor | None:
        """Three solutions, without derivatives."""
        batch = torch.zeros(len(positions), dtype=torch.long)
        with torch.no_grad():
            return layer.collective_polarizability(
                positions, self.cell, torch.ones(1, 3, dtype=torch.bool), batch, self.softness, self.polarizability
            )


def measure(n_atoms: int, strength: float, tolerance: float, repeats: int) -> None:
    box = Box(n_atoms, strength)
    consistent = {"response": "self_consistent", "response_tolerance": tolerance}
    layers = {
        "no response": LatentElectrostatics(response=None),
        "one shot": LatentElectrostatics(response="one_shot"),
        "cold": LatentElectrostatics(**consistent),
        "fixed total charge, cold": LatentElectrostatics(**consistent, total_charge="fixed"),
        "warm": LatentElectrostatics(**consistent).eval(),
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for name, layer in layers.items():
            for kind, work in (("forces", box.forces), ("training", box.training_step)):
                if name == "warm":
                    if kind == "training":
                        continue
                    layer.response_model.reset()
                    box.forces(layer, box.positions)
                start = time.process_time()
                work(layer, box.positions + box.shift)
                seconds.setdefault((name, kind), []).append(time.process_time() - start)
            if name in ("cold", "warm"):
                if name == "warm":
                    box.collective(layer, box.positions)
                start = time.process_time()
                box.collective(layer, box.positions + box.shift)
                seconds.setdefault((name, "polarizability"), []).append(time.process_time() - start)
    exact = box.forces(
        LatentElectrostatics(response="self_consistent", response_tolerance=1e-13), box.positions + box.shift
    )
    print(f"\n{n_atoms} atoms, strength {strength:g}, tolerance {tolerance:g}")
    print("                           iterations   forces, ms   × one shot   training step, ms   × its forces   error")
    for name, layer in layers.items():
        steps = error = "–"
        if isinstance(layer.response_model, SelfConsistentResponse):
            difference = box.forces(layer, box.positions + box.shift) - exact
            if "fixed" not in name:
                error = f"{float(difference.abs().max() / exact.abs().max()):.0e}"
        if isinstance(layer.response_model, SelfConsistentResponse):
            if name == "warm":
                layer.response_model.reset()
                box.forces(layer, box.positions)
                box.forces(layer, box.positions + box.shift)
            steps = str(layer.response_model.iterations)
        forces = min(seconds[name, "forces"])
        line = f"{name:26s} {steps:>10} {1e3 * forces:12.1f} {forces / min(seconds['one shot', 'forces']):12.2f}"
        if (name, "training") in seconds:
            training = min(seconds[name, "training"])
            line += f" {1e3 * training:19.1f} {training / forces:14.1f}"
        else:
            line += f"{'–':>20}{'–':>15}"
        print(f"{line} {error:>7}", flush=True)
    cold, warm = (1e3 * min(seconds[name, "polarizability"]) for name in ("cold", "warm"))
    print(f"collective polarizability alone: {cold:.1f} ms cold, {warm:.1f} ms warm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[192], help="192 n³")
    parser.add_argument("--strengths", type=float, nargs="+", default=[1.0, 10.0], help="times the natural size")
    parser.add_argument("--tolerances", type=float, nargs="+", default=[1e-8])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, float64")
    for n_atoms in options.atoms:
        for strength in options.strengths:
            for tolerance in options.tolerances:
                measure(n_atoms, strength, tolerance, options.repeats)


if __name__ == "__main__":
    main()
