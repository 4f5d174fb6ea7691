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

## Structures of one size

20 atoms in 6 Å, charges and dipoles, softness and polarizability, tables of earlier calls at hand,
`net_charge_warning: null` (the warning takes some 120 operators and one wait more, outside training). Views count as
operators. Forces: energy and its gradient in the positions. Training: the gradient of a loss on the forces in
positions and moments. The self-consistent response keeps the total charge and starts from zero. Structures of this
size are solved exactly; large ones iterate.

| boundary | response | structures | operators, forces | waits | operators, training | waits |
|---|---|---:|---:|---:|---:|---:|
"""
RAGGED = """
## Structures of different sizes

2 to 60 atoms at the same density, in cubes but where said; a third each of mixed boundaries. Everything else as above.

| structures | boundary | response | operators, forces | waits | operators, training | waits |
|---:|---|---|---:|---:|---:|---:|
"""
LIMITS = """
Every further size of mesh costs some 36 operators. On the mesh the self-consistent response iterates, as it does over
pairs; so do structures too large for an exact solution.

Rows of atoms and grids are filled up to those of the largest structure of a group. How much of that is allowed depends
on the device of the tensors (`les_plugins.electrostatics.groups`): on the CPU 1.5 times the work of each structure by
itself, or 4·10⁵ products of atoms and grid points; elsewhere 4 times, or 2·10⁸. A batch with structures of thousands of
atoms makes several groups, of so much arithmetic each that launches do not count.

Elsewhere charges and dipoles of small structures, up to 10⁹ products of two moments and a wave or some 200 atoms of
water, are summed as plane waves at all atoms and as matrices of pairs of open ones, periodic structures, slabs and open
ones together. That is more arithmetic and a fraction of the operators. Larger structures, quadrupoles, the mesh and
`precision: single` are summed as on the CPU, by two to three times as many operators.

Memory is bounded. Arrays of more than one structure have at most 2²² numbers on the CPU, 32 MiB, and 2²⁴ elsewhere,
128 MiB. Energy and forces of 136 periodic structures of 60 atoms took 0.5 GiB on the CPU, those of 290 open ones
1.0 GiB. The self-consistent response is solved exactly up to 10⁷ products of two moments and a wave on the CPU, and up
to 10⁹ elsewhere; the waves of a group's moments then take up to 512 MiB. Other open structures are summed pair by pair,
elsewhere up to 2²¹ at once, 3.1 GiB with quadrupoles. These limits were chosen by counting operations; no accelerator
was there to time them.
"""
TAIL = """
The same device runs the tests of every boundary, method and response, of charge over pairs and of external fields to
the second derivative in positions and strain, of Born effective charges, of the heads and of `LongRange`. Hosts whose
models are TorchScript (MACE's and NequIP's compiled ones among them) do not run on it.
"""
BOUNDARIES = {"periodic": (True, True, True), "slab": (True, True, False), "open": (False, False, False)}
EDGE, ATOMS = 6.0, 20
#: Of the ragged batches.
SMALLEST, LARGEST = 2, 60
RESPONSES = ("one_shot", "self_consistent")


def counted(
    sizes: list[int], boundaries: list[str], response: str, training: bool, method: str = "direct", stretch: float = 1.0
) -> tuple[int, int]:
    """Operators and waits of one step."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = sum(sizes)
    atoms = torch.tensor(sizes)
    cell = _edges(atoms.double(), stretch)[:, :, None] * torch.eye(3, dtype=torch.float64)
    batch = torch.arange(len(sizes)).repeat_interleave(atoms)
    places = _edges(atoms.double(), stretch)[batch] * torch.rand(n, 3, generator=generator, dtype=torch.float64)
    values = [places, 0.2 * normal(n), 0.1 * normal(n, 3), torch.full((n,), 0.01, dtype=torch.float64)]
    total_charge = "fixed" if response == "self_consistent" else "free"
    settings = {"method": method, "response": response, "total_charge": total_charge, "net_charge_warning": None}
    layer = LatentElectrostatics(**settings).train(training)
    with PretendedDevice() as there:
        pbc = torch.tensor([BOUNDARIES[boundaries[place % len(boundaries)]] for place in range(len(sizes))])
        geometry = there(cell), there(pbc), there(batch)
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


def _edges(atoms: torch.Tensor, stretch: float) -> torch.Tensor:
    """(B, 3) Å of cells at one density; stretched ones are long along x, y or z in turn."""
    edges = (EDGE * (atoms / ATOMS) ** (1.0 / 3.0))[:, None].repeat(1, 3)
    for axis in range(3):
        edges[axis::3, axis] *= stretch
        edges[axis::3, axis - 1] /= stretch
    return edges


def main() -> None:
    """Print the page."""
    lines = []
    for boundary in BOUNDARIES:
        for response in RESPONSES:
            lines += [_line([ATOMS] * n, [boundary], response) for n in (1, 16, 64)]
    lines += [_line([ATOMS] * n, ["periodic"], "one_shot", "mesh") for n in (1, 16, 64)]
    ragged = []
    for n in (4, 16):
        sizes = torch.randint(SMALLEST, LARGEST + 1, (n,), generator=torch.Generator().manual_seed(1)).tolist()
        for response in RESPONSES:
            cases = [([name], "direct", 1.0) for name in BOUNDARIES] + [([*BOUNDARIES], "direct", 1.0)]
            cases.append((["periodic"], "direct", 2.5))
            if n == 4 or response == "one_shot":  # many iterations on many meshes take minutes here
                cases.append((["periodic"], "mesh", 1.0))
            ragged += [_ragged_line(sizes, boundaries, response, *rest) for boundaries, *rest in cases]
    sys.stdout.write(HEAD + "\n".join(lines) + "\n" + RAGGED + "\n".join(ragged) + "\n" + LIMITS + TAIL)


def _line(sizes: list[int], boundaries: list[str], response: str, method: str = "direct") -> str:
    name = boundaries[0] + (", mesh" if method == "mesh" else "")
    return f"| {name} | {response.replace('_', '-')} | {len(sizes)} | {_counts(sizes, boundaries, response, method)} |"


def _ragged_line(sizes: list[int], boundaries: list[str], response: str, method: str, stretch: float) -> str:
    name = boundaries[0] if len(boundaries) == 1 else "mixed"
    name += ", mesh" if method == "mesh" else ", elongated" if stretch > 1.0 else ""
    counts = _counts(sizes, boundaries, response, method, stretch)
    return f"| {len(sizes)} | {name} | {response.replace('_', '-')} | {counts} |"


def _counts(sizes: list[int], boundaries: list[str], response: str, method: str, stretch: float = 1.0) -> str:
    found = [counted(sizes, boundaries, response, training, method, stretch) for training in (False, True)]
    return " | ".join(f"{operators:,} | {waits}" for operators, waits in found)


if __name__ == "__main__":
    main()
