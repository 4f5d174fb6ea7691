"""Writes the table of operators and waits: operator_table.py > docs/reference/operators.md

Counted on a pretended device (`les_plugins.testing.pretended_device`), which needs no accelerator.
"""

from __future__ import annotations

import sys

import torch

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.testing.pretended_device import PretendedDevice

HEAD = """# Operators and waits

Made by `benchmarks/operator_table.py`; do not edit. On an accelerator small structures cost by the operator, each of
which is a launch, and by the wait, in which the program stands still until the device has answered. Both are counted
on a pretended device: tensors that compute on the CPU and refuse to be mixed with tensors of the CPU. The counts say
nothing of time, and no accelerator was used.

Structures of 20 atoms in 6 Å, charges and dipoles, softness and polarizability, tables of earlier calls at hand,
`net_charge_warning: null` (the warning takes some 120 operators and one wait more, outside training). Views count as
operators. Forces: energy and its gradient in the positions. Training: the gradient of a loss on the forces in
positions and moments. The self-consistent response keeps the total charge and starts from zero. Structures of this
size are solved exactly; large ones iterate.

| boundary | response | structures | operators, forces | waits | operators, training | waits |
|---|---|---:|---:|---:|---:|---:|
"""
TAIL = """
The same device runs the tests of every boundary, method and response, of charge over pairs and of external fields to
the second derivative, of Born effective charges, of the heads and of `LongRange`. Hosts whose models are TorchScript
(MACE's and NequIP's compiled ones among them) do not run on it.
"""
BOUNDARIES = {"periodic": (True, True, True), "slab": (True, True, False), "open": (False, False, False)}
EDGE, ATOMS = 6.0, 20


def counted(n_structures: int, boundary: str, response: str, training: bool, method: str = "direct") -> tuple[int, int]:
    """Operators and waits of one step."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = n_structures * ATOMS
    cell = (EDGE * torch.eye(3, dtype=torch.float64)).repeat(n_structures, 1, 1)
    batch = torch.arange(n_structures).repeat_interleave(ATOMS)
    places = EDGE * torch.rand(n, 3, generator=generator, dtype=torch.float64)
    values = [places, 0.2 * normal(n), 0.1 * normal(n, 3), torch.full((n,), 0.01, dtype=torch.float64)]
    total_charge = "fixed" if response == "self_consistent" else "free"
    settings = {"method": method, "response": response, "total_charge": total_charge, "net_charge_warning": None}
    layer = LatentElectrostatics(**settings).train(training)
    with PretendedDevice() as there:
        geometry = there(cell), there(torch.tensor([BOUNDARIES[boundary]] * n_structures)), there(batch)
        for _ in range(2):
            if response == "self_consistent":
                layer.response_model.reset()
            positions, charge, dipole, coefficient = map(there, values)
            inputs = [positions, charge, dipole] if training else [positions]
            for value in inputs:
                value.requires_grad_()
            there.reset()
            energy = layer(positions, *geometry, Multipoles(charge, dipole), coefficient, coefficient).energy.sum()
            (gradient,) = torch.autograd.grad(energy, positions, create_graph=training)
            if training:
                torch.autograd.grad(energy + gradient.square().sum(), inputs)
    return there.operators, there.waits


def main() -> None:
    """Print the page."""
    lines = []
    for boundary in BOUNDARIES:
        for response in ("one_shot", "self_consistent"):
            for n_structures in (1, 16, 64):
                counts = [counted(n_structures, boundary, response, training) for training in (False, True)]
                cells = " | ".join(f"{operators:,} | {waits}" for operators, waits in counts)
                lines.append(f"| {boundary} | {response.replace('_', '-')} | {n_structures} | {cells} |")
    for n_structures in (1, 16, 64):
        counts = [counted(n_structures, "periodic", "one_shot", training, "mesh") for training in (False, True)]
        cells = " | ".join(f"{operators:,} | {waits}" for operators, waits in counts)
        lines.append(f"| periodic, mesh | one-shot | {n_structures} | {cells} |")
    sys.stdout.write(HEAD + "\n".join(lines) + "\n" + TAIL)


if __name__ == "__main__":
    main()
