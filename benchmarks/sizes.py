"""Time and memory of the periodic layer from 192 to 98,304 atoms: direct sum, particle mesh, torch-pme's P3M.

    python benchmarks/sizes.py layer                       # energy + forces, all moments and both responses
    python benchmarks/sizes.py layer --dtypes float64 float32 --threads 1 2 --wall
    python benchmarks/sizes.py training                    # a training step on energy and forces against the same
    python benchmarks/sizes.py torchpme                    # charges, at the same force error; pip install torch-pme

Water at ambient density, 64 molecules turned at random, repeated and shaken. Every measurement runs in a process of its
own. Times are processor times of that process, the shortest of the repeats, or with --wall elapsed times, which want a
machine at rest and are the only ones that say what a second thread is worth; memory is the growth
of the process's high-water mark from just before the first evaluation, imports and a first small call left out. The
exponent is the slope of log time over log atoms, fitted by least squares from 5,000 atoms up.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.multipoles import traceless
from les_plugins.units import COULOMB_CONSTANT

EDGE = 12.42  # Å, 64 molecules at the density of water
REPEATS = {192: 1, 1536: 2, 5184: 3, 12288: 4, 24000: 5, 41472: 6, 98304: 8}
#: The direct sum is not run above: it takes minutes.
LARGEST_DIRECT = 5184


def water(n_atoms: int) -> tuple[Tensor, Tensor, Multipoles, Tensor, Tensor]:
    """Positions (N, 3), cell (3, 3), latent moments of natural size, softness and polarizability."""
    copies = REPEATS[n_atoms]
    generator = torch.Generator().manual_seed(0)
    centres = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 3) * (EDGE / 4)
    half_angle = math.radians(104.52 / 2)
    x, z = 0.9572 * math.sin(half_angle), 0.9572 * math.cos(half_angle)
    molecule = torch.tensor([[0.0, 0.0, 0.0], [x, 0.0, z], [-x, 0.0, z]], dtype=torch.float64)
    turns, _ = torch.linalg.qr(torch.randn(64, 3, 3, generator=generator, dtype=torch.float64))
    box = (centres[:, None] + molecule @ turns.transpose(1, 2)).reshape(-1, 3)
    shifts = EDGE * torch.cartesian_prod(*[torch.arange(float(copies), dtype=torch.float64)] * 3).view(-1, 3)
    positions = (box + shifts[:, None]).reshape(-1, 3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(n_atoms, *shape, generator=generator, dtype=torch.float64)

    positions = positions + 0.05 * normal(3)
    charge = torch.tensor([-0.6, 0.3, 0.3], dtype=torch.float64).repeat(n_atoms // 3)
    moments = Multipoles(charge, 0.1 * normal(3), 0.1 * traceless(normal(3, 3)))
    cell = copies * EDGE * torch.eye(3, dtype=torch.float64)
    return positions, cell, moments, 0.01 + 0.002 * normal().abs(), 0.02 + 0.004 * normal().abs()


def evaluate(
    layer: LatentElectrostatics,
    positions: Tensor,
    cell: Tensor,
    moments: Multipoles,
    softness: Tensor | None,
    polarizability: Tensor | None,
    training: bool,
) -> Tensor:
    """Forces; with `training`, also the gradients of a loss on energy and forces in everything that a network makes."""
    inputs = [moments.charge, moments.dipole, moments.quadrupole, softness, polarizability]
    inputs = [None if x is None else x.clone().requires_grad_(training) for x in inputs]
    charge, dipole, quadrupole, softness, polarizability = inputs
    assert charge is not None
    places = positions.clone().requires_grad_()
    pbc, batch = torch.ones(1, 3, dtype=torch.bool), torch.zeros(len(places), dtype=torch.long)
    moments = Multipoles(charge, dipole, quadrupole)
    energy = layer(places, cell[None], pbc, batch, moments, softness, polarizability).energy.sum()
    (gradient,) = torch.autograd.grad(energy, places, create_graph=training)
    if training:
        loss = 1e-3 * energy.square() + gradient.square().sum()
        torch.autograd.grad(loss, [places, *(x for x in inputs if x is not None)])
    return -gradient.detach()


def torchpme_forces(positions: Tensor, cell: Tensor, charge: Tensor, setting: str) -> Tensor:
    """The long-range part alone, which needs no neighbours; `setting` is the calculator, its nodes and its spacing."""
    import torchpme

    name, nodes, spacing = setting.split(":")
    potential = torchpme.CoulombPotential(smearing=1.0, prefactor=COULOMB_CONSTANT)
    calculator = getattr(torchpme, name)(potential, mesh_spacing=float(spacing), interpolation_nodes=int(nodes))
    places = positions.clone().requires_grad_()
    none = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, dtype=positions.dtype)
    values = calculator.to(torch.float64)(charge[:, None], cell, places, *none)
    (gradient,) = torch.autograd.grad((charge[:, None] * values).sum(), places)
    return -gradient


def measure(job: dict) -> None:
    """The work of one measuring process; prints one JSON object."""
    torch.set_num_threads(job["threads"])
    clock = time.perf_counter if job["wall"] else time.process_time
    positions, cell, moments, softness, polarizability = water(job["atoms"])
    if job["what"] != "layer":
        moments, softness, polarizability = Multipoles(moments.charge), None, None
    dtype = getattr(torch, job["dtype"])
    positions, cell, moments = positions.to(dtype), cell.to(dtype), moments.to(dtype)
    if softness is not None and polarizability is not None:
        softness, polarizability = softness.to(dtype), polarizability.to(dtype)

    def forces(n_atoms: int, scale: float, training: bool = False) -> Tensor:
        places, box = positions[:n_atoms], scale * cell
        few = moments.select(torch.arange(n_atoms)) if n_atoms < len(positions) else moments
        if job["what"] == "torchpme":
            return torchpme_forces(places, box, few.charge, job["setting"])
        layer = LatentElectrostatics(method=job["method"], mesh_tolerance=job["tolerance"])
        parts = [None if x is None else x[:n_atoms] for x in (softness, polarizability)]
        return evaluate(layer, places, box, few, *parts, training)

    forces(3, 4.0 / float(cell[0, 0]), job["training"])  # loads what a first call loads
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: dict[str, list[float]] = {"seconds": [], "training": []}
    for _ in range(job["repeats"]):
        for name in ("seconds", "training") if job["training"] else ("seconds",):
            start = clock()
            result = forces(len(positions), 1.0, name == "training")
            times[name].append(clock() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (1e3 if sys.platform == "linux" else 1e6)
    out: dict[str, float | None] = {name: min(values) if values else None for name, values in times.items()}
    out["MB"] = peak
    if job["error"]:
        fine = LatentElectrostatics(method="mesh", mesh_tolerance=1e-8)
        exact = evaluate(fine, positions.double(), cell.double(), moments.to(torch.float64), None, None, False)
        out["error"] = float((result - exact).norm() / exact.norm())
    print(json.dumps(out))


def run(atoms: int, method: str = "mesh", **settings: object) -> dict:
    repeats = 2 if atoms > 20000 else 3 if atoms > 2000 else 10
    job = {"what": "layer", "atoms": atoms, "method": method, "dtype": "float64", "threads": 1, "tolerance": 1e-5}
    job |= {"training": False, "error": False, "repeats": repeats, "wall": False} | settings
    done = subprocess.run([sys.executable, __file__, "--measure", json.dumps(job)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{job} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def exponent(times: dict[int, float]) -> float:
    points = [(math.log(n), math.log(t)) for n, t in times.items() if n >= 5000]
    if len(points) < 2:
        return math.nan
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def layer_table(sizes: list[int], dtypes: list[str], threads: list[int], wall: bool) -> None:
    columns = [(dtype, count) for dtype in dtypes for count in threads]
    titles = "".join(f" mesh, {dtype}, {count} thread(s), s | MB |" for dtype, count in columns)
    print(f"| atoms | direct, s | MB |{titles}\n|---:|---:|---:|{'---:|---:|' * len(columns)}")
    times: dict[tuple[str, int], dict[int, float]] = {column: {} for column in columns}
    for atoms in sizes:
        row = f"| {atoms:,} |"
        if atoms <= LARGEST_DIRECT:
            direct = run(atoms, "direct", wall=wall)
            row += f" {direct['seconds']:.3f} | {direct['MB']:.0f} |"
        else:
            row += " – | – |"
        for dtype, count in columns:
            mesh = run(atoms, dtype=dtype, threads=count, wall=wall)
            times[dtype, count][atoms] = mesh["seconds"]
            row += f" {mesh['seconds']:.3f} | {mesh['MB']:.0f} |"
        print(row, flush=True)
    for column, measured in times.items():
        print(f"exponent, {column[0]}, {column[1]} thread(s): {exponent(measured):.2f}")


def training_table(sizes: list[int]) -> None:
    print("| atoms | method | energy + forces, s | training step, s | ratio | MB |\n|---:|---|---:|---:|---:|---:|")
    for atoms in sizes:
        for method in ("direct", "mesh") if atoms <= 5184 else ("mesh",):
            found = run(atoms, method, training=True)
            ratio = found["training"] / found["seconds"]
            print(
                f"| {atoms:,} | {method} | {found['seconds']:.3f} | {found['training']:.3f} | {ratio:.2f} |"
                f" {found['MB']:.0f} |",
                flush=True,
            )


#: torch-pme's calculators at two force errors, P3M and what is faster there, and their nodes. Sizes are powers of two.
TORCHPME = {1e-4: ("P3MCalculator", 4), 1e-5: ("PMECalculator", 7)}
#: torch-pme's largest mesh unless asked for, points an axis: one of 512 takes some 11 GB.
LARGEST_MESH = 256


def torchpme_table(sizes: list[int], tolerances: list[float], largest_mesh: int) -> None:
    print(
        "| tolerance | atoms | layer, s | MB | error | torch-pme | s | MB | error | ratio |\n"
        "|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|"
    )
    for tolerance in tolerances:
        name, nodes = TORCHPME[tolerance]
        for atoms in sizes:
            ours = run(atoms, "auto", what="charges", tolerance=tolerance, error=True)
            edge = REPEATS[atoms] * EDGE
            mesh = 2 ** round(math.log2(edge / 0.3))
            theirs = None
            while (theirs is None or theirs["error"] > tolerance) and mesh <= largest_mesh:
                setting = f"{name}:{nodes}:{2.0001 * edge / (mesh - 1)}"  # its mesh is the next power of two
                repeats = 2 if mesh <= LARGEST_MESH else 1
                theirs = run(atoms, what="torchpme", setting=setting, error=True, repeats=repeats)
                mesh *= 2
            assert theirs is not None
            label = f"{name.removesuffix('Calculator')}, {nodes} nodes, {mesh // 2}³"
            missed = " *" if theirs["error"] > tolerance else ""
            both = [f"{x['seconds']:.4f} | {x['MB']:.0f} | {x['error']:.1e}" for x in (ours, theirs)]
            ratio = theirs["seconds"] / ours["seconds"]
            print(
                f"| {tolerance:.0e} | {atoms:,} | {both[0]} | {label} | {both[1]}{missed} | {ratio:.1f} |", flush=True
            )
    print(f"* misses the tolerance with the largest mesh allowed here, {largest_mesh}³ points")


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measure(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["layer", "training", "torchpme"])
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(REPEATS), default=list(REPEATS))
    parser.add_argument("--dtypes", nargs="+", default=["float64"], choices=["float64", "float32"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--wall", action="store_true", help="elapsed times; needed for more than one thread")
    parser.add_argument(
        "--tolerances", type=float, nargs="+", default=list(TORCHPME), choices=list(TORCHPME), help="against torch-pme"
    )
    parser.add_argument("--largest-mesh", type=int, default=LARGEST_MESH, help="of torch-pme, points an axis")
    options = parser.parse_args()
    if max(options.threads) > 1 and not options.wall:
        parser.error("--threads above 1 needs --wall: processor time adds the threads up")
    print(f"torch {torch.__version__}, {platform.machine()}")
    if options.table == "layer":
        layer_table(options.sizes, options.dtypes, options.threads, options.wall)
    elif options.table == "training":
        training_table(options.sizes)
    else:
        torchpme_table(options.sizes, options.tolerances, options.largest_mesh)


if __name__ == "__main__":
    main()
