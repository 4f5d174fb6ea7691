"""Energy and forces of the layer against the N × K sum of cosines and sines that such codes usually take.

    python benchmarks/electrostatics.py
    python benchmarks/electrostatics.py --method auto --terms quQ all
    python benchmarks/electrostatics.py --sizes 192 1536 --terms quQ --dl 1.2 --repeats 5 --json results.json

Water, float64, one thread. Every measurement runs in a process of its own. Its time is the processor time of that one
thread, the shortest of the repeats: the wall time of an idle machine, which other jobs stretch little. Its peak memory
is the growth of the process's high-water mark from just before the first evaluation. The N × K sum keeps its (N, K)
arrays for autograd; where they would exceed the memory allowed, it takes the k-vectors in the largest chunks that fit,
or in those of --chunk, and differentiates each chunk's energy at once, which costs it no recomputation. Small chunks
(200 vectors) make it faster than it is in the codes that hold all of k-space at once. "all" is charges, dipoles and
quadrupoles with both responses, for which the sum is made twice: for potential and field, and for the forces.
--method is the layer's; with `auto` it takes the mesh where that is faster, and the force error is that of the mesh.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.units import RECIPROCAL_PREFACTOR

EDGE = 12.42  # Å, 64 molecules at the density of water
SIGMA = 1.0  # Å
TERMS = ("q", "quQ", "all")
SOFTNESS, POLARIZABILITY = 0.01, 0.01  # e²/eV, e²·Å²/eV: the natural size of a fresh model's
#: Arrays of (N, K) float64 that the baseline holds at its peak, by terms, as measured at 1,536 atoms.
ARRAYS_HELD = {"q": 6, "quQ": 8, "all": 12}


def water(n_atoms: int) -> tuple[Tensor, Tensor, Multipoles]:
    """Positions (N, 3), cell (3, 3) and latent moments of natural size of a cubic box of N = 192 n³ water atoms."""
    repeats = round((n_atoms / 192) ** (1 / 3))
    if 192 * repeats**3 != n_atoms:
        raise SystemExit(f"--sizes {n_atoms}: allowed are 192 n³: 192, 1536, 5184, 12288 …")
    generator = torch.Generator().manual_seed(0)
    centres = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 3) * (EDGE / 4)
    half_angle = math.radians(104.52 / 2)
    arm = 0.9572 * torch.tensor([[0.0, 0.0], [math.sin(half_angle), math.cos(half_angle)]], dtype=torch.float64)
    molecule = torch.tensor(
        [[0.0, 0.0, 0.0], [arm[1, 0], 0.0, arm[1, 1]], [-arm[1, 0], 0.0, arm[1, 1]]], dtype=torch.float64
    )
    turns, _ = torch.linalg.qr(torch.randn(64, 3, 3, generator=generator, dtype=torch.float64))
    box = (centres[:, None] + molecule @ turns.transpose(1, 2)).reshape(-1, 3)
    shifts = torch.cartesian_prod(*[torch.arange(float(repeats), dtype=torch.float64)] * 3).view(-1, 3) * EDGE
    positions = (box + shifts[:, None]).reshape(-1, 3)
    positions = positions + 0.05 * torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    dipole = 0.1 * torch.randn(n_atoms, 3, generator=generator, dtype=torch.float64)
    quadrupole = 0.1 * torch.randn(n_atoms, 3, 3, generator=generator, dtype=torch.float64)
    quadrupole = 0.5 * (quadrupole + quadrupole.transpose(1, 2))
    quadrupole -= torch.eye(3, dtype=torch.float64) * quadrupole.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    charge = torch.tensor([-0.6, 0.3, 0.3], dtype=torch.float64).repeat(n_atoms // 3)
    return positions, repeats * EDGE * torch.eye(3, dtype=torch.float64), Multipoles(charge, dipole, quadrupole)


def with_terms(moments: Multipoles, terms: str) -> Multipoles:
    return Multipoles(moments.charge) if terms == "q" else moments


def layer_energy_and_forces(
    positions: Tensor, cell: Tensor, moments: Multipoles, dl: float, method: str, response: bool
) -> tuple[float, Tensor]:
    places = positions.clone().requires_grad_()
    pbc, batch = torch.ones(1, 3, dtype=torch.bool), torch.zeros(len(positions), dtype=torch.long)
    softness = torch.full_like(moments.charge, SOFTNESS) if response else None
    polarizability = torch.full_like(moments.charge, POLARIZABILITY) if response else None
    layer = LatentElectrostatics(sigma=SIGMA, dl=dl, method=method)
    energy = layer(places, cell[None], pbc, batch, moments, softness, polarizability).energy.sum()
    (gradient,) = torch.autograd.grad(energy, places)
    return float(energy.detach()), -gradient


def baseline_energy_and_forces(
    positions: Tensor, cell: Tensor, moments: Multipoles, dl: float, chunk: int, response: bool
) -> tuple[float, Tensor]:
    """The N × K sum over half of k-space, `chunk` vectors at a time, forces from autograd."""
    k, weight = half_space(cell, dl)
    parts = [(k[part : part + chunk], weight[part : part + chunk]) for part in range(0, len(k), chunk)]
    if response:
        return with_response(positions, moments, parts)
    places = positions.clone().requires_grad_()
    total, forces = -self_energy(moments), torch.zeros_like(positions)
    for vectors, weights in parts:
        energy = partial_energy(places, moments, vectors, weights)
        (gradient,) = torch.autograd.grad(energy, places)
        total, forces = total + float(energy.detach()), forces - gradient
    return total, forces


def with_response(positions: Tensor, moments: Multipoles, parts: list[tuple[Tensor, Tensor]]) -> tuple[float, Tensor]:
    """One-shot response: potential and field of one sum, forces of a second one with what the atoms answer."""
    assert moments.dipole is not None
    charge, dipole = (moment.clone().requires_grad_() for moment in (moments.charge, moments.dipole))
    total, potential, field = -self_energy(moments), *own_potential_and_field(moments)
    for vectors, weights in parts:
        energy = partial_energy(positions, Multipoles(charge, dipole, moments.quadrupole), vectors, weights)
        of_charge, of_dipole = torch.autograd.grad(energy, [charge, dipole])
        total, potential, field = total + float(energy.detach()), potential + of_charge, field - of_dipole
    total -= 0.5 * float(SOFTNESS * potential.square().sum() + POLARIZABILITY * field.square().sum())
    answers = Multipoles(-SOFTNESS * potential, POLARIZABILITY * field)
    places, forces = positions.clone().requires_grad_(), torch.zeros_like(positions)
    for vectors, weights in parts:
        energy = partial_energy(places, moments, vectors, weights, answers)
        forces = forces - torch.autograd.grad(energy, places)[0]
    return total, forces


def partial_energy(
    positions: Tensor, moments: Multipoles, k: Tensor, weight: Tensor, answers: Multipoles | None = None
) -> Tensor:
    """Σ_k w |S(k)|², and 2 w Re S*(k) A(k) of what the atoms answer, whose slope is that of the response's energy."""
    phase = positions @ k.T  # (N, K)
    cosine, sine = torch.cos(phase), torch.sin(phase)
    real, imaginary = structure_factor(moments, k, cosine, sine)
    energy = real.square() + imaginary.square()
    if answers is not None:
        also_real, also_imaginary = structure_factor(answers, k, cosine, sine)
        energy = energy + 2.0 * (real * also_real + imaginary * also_imaginary)
    return (weight * energy).sum()


def structure_factor(moments: Multipoles, k: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    if moments.dipole is None:
        return moments.charge @ cosine, moments.charge @ sine
    even, odd = moments.charge[:, None], moments.dipole @ k.T  # (N, K)
    if moments.quadrupole is not None:
        products = (k[:, :, None] * k[:, None, :]).reshape(len(k), 9)
        even = even - 0.5 * moments.quadrupole.reshape(-1, 9) @ products.T
    return (even * cosine - odd * sine).sum(0), (even * sine + odd * cosine).sum(0)


def half_space(cell: Tensor, dl: float) -> tuple[Tensor, Tensor]:
    """(K, 3) vectors with 0 < |k| ≤ 2π/dl, one of each ±k, and their weight in the energy."""
    cutoff = 2.0 * math.pi / dl * (1.0 + 1e-9)
    last = [int(cutoff * length / (2.0 * math.pi)) for length in cell.norm(dim=1).tolist()]
    a, b, c = torch.meshgrid(torch.arange(0, last[0] + 1), *[torch.arange(-n, n + 1) for n in last[1:]], indexing="ij")
    half = (a > 0) | ((a == 0) & (b > 0)) | ((a == 0) & (b == 0) & (c > 0))
    index = torch.stack([a[half], b[half], c[half]], 1).double()
    k = 2.0 * math.pi * index @ torch.linalg.inv(cell).T
    square = k.square().sum(1)
    k, square = k[square <= cutoff**2], square[square <= cutoff**2]
    volume = float(torch.linalg.det(cell).abs())
    return k, 2.0 * RECIPROCAL_PREFACTOR / volume * torch.exp(-0.5 * SIGMA**2 * square) / square


def self_energy(moments: Multipoles) -> float:
    factor = RECIPROCAL_PREFACTOR / (2.0 * math.pi) ** 1.5
    energy = factor / SIGMA * moments.charge.square().sum()
    if moments.dipole is not None:
        energy = energy + factor / (3.0 * SIGMA**3) * moments.dipole.square().sum()
    if moments.quadrupole is not None:
        energy = energy + factor / (10.0 * SIGMA**5) * moments.quadrupole.square().sum()
    return float(energy)


def own_potential_and_field(moments: Multipoles) -> tuple[Tensor, Tensor]:
    """What each atom would feel of itself, with the sign that takes it away."""
    assert moments.dipole is not None
    factor = 2.0 * RECIPROCAL_PREFACTOR / (2.0 * math.pi) ** 1.5
    return -factor / SIGMA * moments.charge, factor / (3.0 * SIGMA**3) * moments.dipole


def measure(
    method: str, n_atoms: int, terms: str, dl: float, repeats: int, memory: float, chunk: int, forces_file: str
) -> None:
    """The work of one measuring process; prints one JSON object."""
    torch.set_num_threads(1)
    positions, cell, moments = water(n_atoms)
    moments = with_terms(moments, terms)
    n_vectors = len(half_space(cell, dl)[0])
    needed = 8.0 * n_atoms * n_vectors * ARRAYS_HELD[terms] / 1e9
    chunk = n_vectors if needed <= memory else chunk or int(n_vectors * memory / needed)

    response = terms == "all"

    def evaluate(places: Tensor, cell: Tensor, moments: Multipoles) -> tuple[float, Tensor]:
        if method == "baseline":
            return baseline_energy_and_forces(places, cell, moments, dl, chunk, response)
        return layer_energy_and_forces(places, cell, moments, dl, method, response)

    few = Multipoles(*(None if moment is None else moment[:3] for moment in moments))  # type: ignore[arg-type]
    evaluate(positions[:3], 0.2 * cell, few)  # loads what a first call loads
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeats):
        start = time.process_time()
        energy, forces = evaluate(positions, cell, moments)
        times.append(time.process_time() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (1e3 if sys.platform == "linux" else 1e6)
    torch.save(forces, forces_file)
    chunks = math.ceil(n_vectors / chunk)
    print(json.dumps({"seconds": min(times), "peak_MB": peak, "energy": energy, "K": n_vectors, "chunks": chunks}))


def in_own_process(method: str, n_atoms: int, terms: str, dl: float, repeats: int, memory: float, chunk: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "forces.pt")
        job = [method, str(n_atoms), terms, str(dl), str(repeats), str(memory), str(chunk), file]
        done = subprocess.run([sys.executable, __file__, "--measure", *job], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(job[:4])} failed:\n{done.stderr}")
        return json.loads(done.stdout) | {"forces": torch.load(file)}


def compare(method: str, n_atoms: int, terms: str, dl: float, repeats: int, memory: float, chunk: int) -> dict:
    layer = in_own_process(method, n_atoms, terms, dl, max(3, repeats), memory, chunk)
    baseline = in_own_process("baseline", n_atoms, terms, dl, 1 if n_atoms > 2000 else repeats, memory, chunk)
    difference = (layer.pop("forces") - (reference := baseline.pop("forces"))).abs().max() / reference.abs().max()
    return {
        "atoms": n_atoms,
        "terms": terms,
        "dl": dl,
        "K": layer["K"],
        "layer": layer,
        "baseline": baseline,
        "time_ratio": baseline["seconds"] / layer["seconds"],
        "memory_ratio": baseline["peak_MB"] / max(layer["peak_MB"], 0.1),
        "energy_error": abs(layer["energy"] - baseline["energy"]) / abs(baseline["energy"]),
        "force_error": float(difference),
    }


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        method, n_atoms, terms, dl, repeats, memory, chunk, file = sys.argv[2:]
        measure(method, int(n_atoms), terms, float(dl), int(repeats), float(memory), int(chunk), file)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 1536, 5184], help="atoms, 192 n³")
    parser.add_argument("--method", choices=("direct", "auto", "mesh"), default="direct", help="of the layer")
    parser.add_argument("--terms", nargs="+", choices=TERMS, default=list(TERMS[:2]))
    parser.add_argument("--dl", type=float, nargs="+", default=[1.2, 2.0], help="Å")
    parser.add_argument("--repeats", type=int, default=3, help="the baseline above 2,000 atoms runs once")
    parser.add_argument("--memory", type=float, default=5.0, help="GB that the baseline may take")
    parser.add_argument(
        "--chunk", type=int, default=0, help="vectors in a chunk of the baseline where all do not fit; 0: as many as do"
    )
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, float64; times in ms, memory in MB")
    print("atoms  terms   dl       K |     layer  baseline   ratio |  layer  baseline   ratio | energy   force error")
    results = []
    for n_atoms in options.sizes:
        for terms in options.terms:
            for dl in options.dl:
                row = compare(options.method, n_atoms, terms, dl, options.repeats, options.memory, options.chunk)
                results.append(row)
                layer, baseline = row["layer"], row["baseline"]
                note = f"  (baseline in {baseline['chunks']} chunks)" if baseline["chunks"] > 1 else ""
                print(
                    f"{n_atoms:5d}  {terms:>5}  {dl:3.1f}  {row['K']:6d} | {1e3 * layer['seconds']:9.1f} "
                    f"{1e3 * baseline['seconds']:9.0f} {row['time_ratio']:7.1f} | {layer['peak_MB']:6.0f} "
                    f"{baseline['peak_MB']:9.0f} {row['memory_ratio']:7.1f} | {row['energy_error']:.0e}  "
                    f"{row['force_error']:.0e}{note}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
