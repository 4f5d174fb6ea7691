"""Which index of a file's Born charges is the polarization? Clusters are cut from a liquid and Z* of O is recomputed.

    pip install pyscf
    python examples/water/index_order.py $DATA/water/rpbe_d3_bec_valid.extxyz --clusters 10

A molecule and those whose oxygen is within 3.3 Å of its own, PBE and def2-SVP (PySCF); the dipole of the cluster is
differenced by moving that oxygen. A cluster has no surroundings, so the diagonal comes out a little small; what tells
Z*[a, b] = dP_a/dr_b from its transpose is the sign of the antisymmetric part. A minute or two a cluster.
"""

import argparse

import numpy as np
from ase import Atoms
from ase.io import read
from numpy.typing import NDArray
from pyscf import dft, gto

#: Å.
RADIUS = 3.3
STEP = 0.02


def main() -> None:
    """Print the antisymmetric parts of each cluster, and how those recomputed go with those of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--clusters", type=int, default=10, help="one a frame, a random molecule of it")
    given = parser.parse_args()
    random = np.random.default_rng(0)
    recomputed, in_file = [], []
    for number, atoms in enumerate(read(given.file, f":{given.clusters}")):
        oxygen = int(random.choice(np.flatnonzero(atoms.symbols == "O")))
        labels = np.reshape(atoms.calc.results["born_effective_charges"], (-1, 3, 3))[oxygen]
        tensor = born_charge(cluster(atoms, oxygen))
        recomputed.append(antisymmetric(tensor))
        in_file.append(antisymmetric(labels))
        print(
            f"frame {number}, atom {oxygen}: recomputed {recomputed[-1].round(3)}, in the file {in_file[-1].round(3)}; "
            f"traces / 3: {np.trace(tensor) / 3:.2f}, {np.trace(labels) / 3:.2f} e",
            flush=True,
        )
    x, y = np.ravel(recomputed), np.ravel(in_file)
    alike = np.sum(np.einsum("ij,ij->i", recomputed, in_file) > 0)
    print(f"correlation {x @ y / np.sqrt((x @ x) * (y @ y)):.2f}: towards 1 as the file has it, towards -1 transposed")
    print(f"same direction in {alike} of {len(recomputed)}")


def cluster(atoms: Atoms, oxygen: int) -> Atoms:
    """The molecule of an oxygen, its oxygen first, and its neighbours, whole."""
    vectors = atoms.get_all_distances(mic=True, vector=True)
    hydrogens = np.flatnonzero(atoms.symbols == "H")
    symbols, places = [], []
    neighbors = [i for i in np.flatnonzero(atoms.symbols == "O") if np.linalg.norm(vectors[oxygen, i]) < RADIUS]
    for centre in sorted(neighbors, key=lambda i: np.linalg.norm(vectors[oxygen, i])):
        own = sorted(hydrogens, key=lambda i: np.linalg.norm(vectors[centre, i]))[:2]
        symbols += ["O", "H", "H"]
        places += [vectors[oxygen, centre] + vectors[centre, i] for i in (centre, *own)]
    return Atoms(symbols, places)


def born_charge(atoms: Atoms) -> NDArray[np.float64]:
    """(3, 3) e, dP_a/dr_b of the first atom, by central differences of the dipole."""
    born = np.zeros((3, 3))
    density = None
    for axis in range(3):
        for sign in (-1.0, 1.0):
            moved = atoms.copy()
            moved.positions[0, axis] += sign * STEP
            pairs = list(zip(moved.get_chemical_symbols(), moved.positions, strict=True))
            field = dft.RKS(gto.M(atom=pairs, unit="A", basis="def2-svp", verbose=0), xc="pbe").density_fit()
            field.grids.level, field.conv_tol = 2, 1e-8
            field.kernel(density)
            if not field.converged:
                raise RuntimeError("the self-consistent field has not converged")
            density = field.make_rdm1()
            # atomic units: e · bohr
            born[:, axis] += sign * field.dip_moment(unit="AU", verbose=0) / (2.0 * STEP / 0.529177210903)
    return born


def antisymmetric(tensor: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) half of T_yz − T_zy, T_zx − T_xz and T_xy − T_yx."""
    return 0.5 * np.array([tensor[1, 2] - tensor[2, 1], tensor[2, 0] - tensor[0, 2], tensor[0, 1] - tensor[1, 0]])


if __name__ == "__main__":
    main()
