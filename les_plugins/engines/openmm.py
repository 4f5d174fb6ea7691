"""OpenMM through OpenMM-ML's own `ase` potential: what a structure of ASE needs to become a System. Users call this.

The force is OpenMM-ML's: it hands positions and box of every evaluation to the ASE calculator, in Å and eV.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from les_plugins.data.evaluation import known_elements
from les_plugins.data.frames import check_elements_of, check_frame
from les_plugins.data.given_charge import refuse_charge_of_engine
from les_plugins.errors import GeometryError, HostError, how_to_install

#: Å.
NANOMETRE = 10.0


class OpenMMSystem(NamedTuple):
    """What `openmm.app.Simulation` and a Context take.

    Attributes:
        system: `openmm.System` with one force, the calculator's.
        topology: `openmm.app.Topology` with the atoms in their order, one residue, no bonds.
        positions: (N, 3) nm.
        rotation: (3, 3), proper; a vector v of the ASE structure is rotation @ v in OpenMM.
        velocities: (N, 3) nm/ps for `Context.setVelocities`; None where the structure has none.
    """

    system: Any
    topology: Any
    positions: NDArray[np.float64]
    rotation: NDArray[np.float64]
    velocities: NDArray[np.float64] | None = None


def system_from_atoms(atoms: Atoms, calculator: Any) -> OpenMMSystem:
    """A System in which an ASE calculator is the force, by `openmmml.MLPotential("ase")`.

    OpenMM wants the first box vector along x, the second in the xy plane, and all of them reduced: the structure is
    turned, and equivalent lattice vectors are taken. Open structures are left as they are.

    Args:
        atoms: periodic along three axes or open; masses are kept.
        calculator: ASE calculator, as of `les_plugins.load`; evaluated with what OpenMM's steps and barostats make of
            positions and box.

    Raises:
        HostError: OpenMM or OpenMM-ML is not installed.
        GeometryError: periodic along some axes only, or constraints, which OpenMM would not know.
        DataError: NaN, a singular cell, an element that the model does not know, a total charge other than
            `calculator.total_charge`.
    """
    _check_installed()
    check_frame(atoms, "structure")
    if (known := known_elements(calculator)) is not None:
        check_elements_of(atoms, known, "structure")
    refuse_charge_of_engine(atoms, calculator, "OpenMM")
    if atoms.constraints:
        raise GeometryError(
            "the structure has constraints of ASE, which OpenMM does not know: remove them, and give atoms that shall "
            "not move the mass 0"
        )
    from openmm import app
    from openmmml import MLPotential

    box, rotation = box_vectors(atoms)
    topology = app.Topology()
    residue = topology.addResidue("LES", topology.addChain())
    for atom in atoms:
        topology.addAtom(atom.symbol, app.Element.getByAtomicNumber(int(atom.number)), residue)
    if box is not None:
        topology.setPeriodicBoxVectors(box / NANOMETRE)
    system = MLPotential("ase").createSystem(topology, calculator=calculator)
    for number, mass in enumerate(atoms.get_masses()):
        system.setParticleMass(number, float(mass))
    velocities = None
    if atoms.has("momenta"):
        velocities = atoms.get_velocities() @ rotation.T * (1000.0 * units.fs / NANOMETRE)
    return OpenMMSystem(system, topology, atoms.positions @ rotation.T / NANOMETRE, rotation, velocities)


def box_vectors(atoms: Atoms) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """The lattice in OpenMM's reduced form, and the rotation that leads to it.

    Args:
        atoms: periodic along three axes or open.

    Returns:
        Box vectors (3, 3) Å as rows, lower triangular, spanning the rotated lattice of `atoms`, or None for an open
        structure; the rotation (3, 3), the identity for an open structure.

    Raises:
        GeometryError: periodic along some axes only.
    """
    if not atoms.pbc.any():
        return None, np.eye(3)
    if not atoms.pbc.all():
        flags = " ".join("T" if flag else "F" for flag in atoms.pbc)
        raise GeometryError(f"pbc is {flags}; OpenMM has boxes that are periodic along three axes (T T T) or none")
    cell = np.asarray(atoms.cell.array, dtype=float)
    if np.linalg.det(cell) < 0:
        cell = -cell  # the same lattice, right-handed: no reflection is needed
    # QR of the columns: cellᵀ = Q R, so cell @ Q = Rᵀ is lower triangular; signs make its diagonal positive
    q, r = np.linalg.qr(cell.T)
    q = q * np.sign(np.diag(r))
    box = np.tril(cell @ q)
    for row, column in ((2, 1), (2, 0), (1, 0)):
        box[row] -= np.round(box[row, column] / box[column, column]) * box[column]
    return box, q.T


def _check_installed() -> None:
    missing = [name for name in ("openmm", "openmmml") if find_spec(name) is None]
    if missing:
        raise HostError(f"{' and '.join(missing)} not installed: {how_to_install('openmm')}")
