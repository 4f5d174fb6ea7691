"""Which index of a file's Born charges is the polarization? One atom of its first frame is moved and Z* is recomputed.

    pip install pyscf
    python examples/mapbi3/index_order.py $DATA/mapbi3/bec_valid.extxyz 0

PBE at the zone centre with Goedecker pseudopotentials (PySCF) in a minimal basis: crude, and quite enough to tell
Z*[a, b] = dP_a/dr_b from its transpose where the two differ by half an electron. The dipole of the cell is its Berry
phase. Four self-consistent calculations, some twenty minutes on one core for 96 atoms.
"""

import argparse

import numpy as np
from ase import Atoms
from ase.io import read
from numpy.typing import NDArray
from pyscf.pbc import dft, gto
from pyscf.pbc.df import ft_ao
from pyscf.pbc.dft import multigrid

#: Å.
STEP = 0.03


def main() -> None:
    """Print the recomputed tensor, that of the file, and the distance between them in both orders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("atom", type=int)
    parser.add_argument("--basis", default="gth-szv-molopt-sr")
    parser.add_argument("--cutoff", type=float, default=60.0, help="of the plane waves that hold the density, hartree")
    given = parser.parse_args()
    atoms = read(given.file)
    labels = np.reshape(atoms.calc.results["born_effective_charges"], (-1, 3, 3))[given.atom]
    found = born_charge(atoms, given.atom, given.basis, given.cutoff)
    with np.printoptions(precision=2, suppress=True):
        print(
            f"atom {given.atom}, {atoms.symbols[given.atom]}: dP_a/dr_b, e, recomputed\n{found}\nin the file\n{labels}"
        )
    off = ~np.eye(3, dtype=bool)
    for name, tensor in (("as it is", labels), ("transposed", labels.T)):
        error = np.sqrt(np.mean((found - tensor)[off] ** 2))
        print(f"file {name}: off-diagonal elements differ by {error:.2f} e (root mean square)")


def born_charge(atoms: Atoms, atom: int, basis: str, cutoff: float) -> NDArray[np.float64]:
    """(3, 3) e, dP_a/dr_b of one atom, by a step of 0.03 Å along each axis."""
    phases, density, valence = electronic_phases(atoms, basis, cutoff, None)
    born = np.zeros((3, 3))
    for axis in range(3):
        moved = atoms.copy()
        moved.positions[atom, axis] += STEP
        change = electronic_phases(moved, basis, cutoff, density)[0] - phases
        change = (change + np.pi) % (2.0 * np.pi) - np.pi
        # two electrons an orbital, of charge -1, whose phase is exp(-i b r)
        born[:, axis] = 2.0 * (change / (2.0 * np.pi)) @ atoms.cell.array / STEP
        born[axis, axis] += valence[atom]
    return born


def electronic_phases(
    atoms: Atoms, basis: str, cutoff: float, density: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """(3,) angles of det⟨m|exp(−i b r)|n⟩ over occupied orbitals, the density matrix, (N,) charges of the cores."""
    cell = gto.Cell(
        a=atoms.cell.array, atom=list(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)), unit="A",
        basis=basis, pseudo="gth-pbe", ke_cutoff=cutoff, precision=1e-7,
    ).build()  # fmt: skip
    field = dft.RKS(cell, xc="pbe")
    field._numint = multigrid.MultiGridNumInt2(cell)
    field.conv_tol, field.conv_tol_grad = 1e-8, 3e-5
    field.kernel(density)
    if not field.converged:
        raise RuntimeError("the self-consistent field has not converged")
    occupied = field.mo_coeff[:, field.mo_occ > 0]
    overlaps = ft_ao.ft_aopair(cell, cell.reciprocal_vectors())
    signs = [np.linalg.slogdet(occupied.T @ overlap @ occupied)[0] for overlap in overlaps]
    return np.angle(signs), field.make_rdm1(), cell.atom_charges()


if __name__ == "__main__":
    main()
