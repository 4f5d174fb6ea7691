"""Water boxes for the benchmarks: 64 molecules on a jittered grid at ambient density, replicated."""

import numpy as np
from ase import Atoms

EDGE = 12.429  # Å, 64 molecules at 1 g/cm³


def water_box(replicas: int = 1, seed: int = 0) -> Atoms:
    """192 × replicas³ atoms of water in a cubic box, molecules turned at random."""
    generator = np.random.default_rng(seed)
    molecule = np.array([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]])
    positions = []
    for place in np.ndindex(4, 4, 4):
        turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        centre = (np.array(place) + 0.5) * EDGE / 4 + generator.normal(scale=0.1, size=3)
        positions.append(molecule @ turn + centre)
    box = Atoms("OHH" * 64, np.concatenate(positions), cell=[EDGE] * 3, pbc=True)
    return box * (replicas, replicas, replicas)
