"""Phonons through phonopy: force constants of any ASE calculator, Z* and ε_∞ handed over for the LO–TO splitting.

`les-plugins phonons` calls this. phonopy does the phonons; it is imported when first used (extra `phonons`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.cell import Cell
from ase.dft.kpoints import parse_path_string
from numpy.typing import ArrayLike, NDArray

from les_plugins.crystals.bands import Bands as Bands
from les_plugins.crystals.neutral import check_neutral
from les_plugins.crystals.phonon_files import WAVENUMBER as WAVENUMBER
from les_plugins.crystals.phonon_files import write_bands as write_bands
from les_plugins.crystals.phonon_files import write_born as write_born
from les_plugins.data.cautions import warn_of_vacuum_in_phonons
from les_plugins.data.evaluation import predict
from les_plugins.data.frames import check_frame
from les_plugins.data.given_charge import charge_read, total_charge_of
from les_plugins.data.isotopes import mesh_symmetry, primitive_matrix
from les_plugins.data.labels import BORN
from les_plugins.electrostatics.observables import enforce_asr, sum_rule_violation
from les_plugins.errors import ConfigError, DataError, GeometryError, HostError, how_to_install
from les_plugins.units import COULOMB_CONSTANT

if TYPE_CHECKING:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

Floats = NDArray[np.float64]

#: Names of the directions along which Γ is approached in reports, and the directions, Cartesian.
DIRECTIONS = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
#: Points on each segment of a band path.
POINTS = 51


@dataclass(frozen=True)
class Phonons:
    """Force constants of a crystal, and how well they keep the laws before they were enforced.

    Attributes:
        phonopy: phonopy's object with forces, force constants and, where asked for, Z* and ε_∞.
        largest_force: of the undisplaced supercell, eV/Å; zero in a relaxed structure.
        translation_violation: largest element of Σ_i Φ_ij and Σ_j Φ_ij, eV/Å², before they were made zero.
        sum_rule_violation: largest element of the mean Z*, e, before the sum rule was enforced; None without Z*.
    """

    phonopy: Phonopy
    largest_force: float
    translation_violation: float
    sum_rule_violation: float | None


def check_available() -> None:
    """HostError where phonopy is missing, with the command that installs it."""
    if find_spec("phonopy") is None:
        raise HostError(f"phonons need phonopy, which is not installed: {how_to_install('phonons')}")


def displaced_supercells(
    atoms: Atoms,
    supercell: ArrayLike,
    distance: float = 0.01,
    symprec: float = 1e-5,
    where: str = "structure",
) -> tuple[Phonopy, list[Atoms]]:
    """phonopy's object of a crystal, and the displaced supercells whose forces it needs.

    Args:
        atoms: unit cell, periodic along three axes, best relaxed with the model itself. Masses are taken from it.
        supercell: (3,) numbers of repetitions, or (3, 3) integer matrix of phonopy.
        distance: displacement, Å.
        symprec: tolerance of the symmetry search, Å.
        where: the structure's name in messages.

    Returns:
        The object, its primitive cell found by phonopy (masses tell isotopes apart), and the supercells; the
        undisplaced one is the last.

    Raises:
        HostError: phonopy is missing.
        DataError, GeometryError: a structure that is no crystal, a left-handed cell.
        ConfigError: a singular supercell, a distance that is not positive.
    """
    check_available()
    check_frame(atoms, where)
    if not atoms.pbc.all():
        flags = " ".join("FT"[int(flag)] for flag in atoms.pbc)
        raise GeometryError(f"{where}: pbc is {flags}; phonons are built for crystals, T T T")
    if atoms.cell.handedness < 0:
        raise GeometryError(f"{where}: the cell is left-handed, which phonopy does not take; exchange two vectors")
    check_neutral(total_charge_of(atoms, where), where, "phonons are")
    matrix = _supercell_matrix(supercell)
    for name, value in (("distance", distance), ("symprec", symprec)):
        if not 0.0 < value < 1.0:
            raise ConfigError(f"--{name} is {value}; allowed: a length above 0 and below 1 Å")
    phonon = _new_phonopy(atoms, matrix, "auto", symprec)
    phonon.generate_displacements(distance=distance)
    displaced = phonon.supercells_with_displacements or []
    return phonon, [_ase_atoms(cell) for cell in (*displaced, phonon.supercell)]


def phonons(calculator: Any, phonon: Phonopy, supercells: Iterable[Atoms], where: str = "structure") -> Phonons:
    """Force constants of a crystal from a calculator's forces.

    The forces of a long-range model hold the interaction of the dipoles that the displacements make, as those of DFT
    do: phonopy takes it out of the supercell and puts it back, summed to infinity, at every wave vector
    (Gonze and Lee, its default) once it knows Z* and ε_∞; see `set_born_charges`.

    Args:
        calculator: ASE calculator, as of `les_plugins.load`.
        phonon, supercells: as `displaced_supercells` gives them.
        where: the structure's name in messages.

    Raises:
        DataError: a force that is not finite, a total charge of the calculator's own.
        LesPluginsError: what the calculator refuses.
    """
    forces = []
    for number, atoms in enumerate(supercells):
        check_neutral(charge_read(calculator, atoms, where), where, "phonons are")
        forces.append(predict(calculator, atoms, ["forces"], f"{where}, displacement {number}")["forces"])
    violation = set_forces(phonon, forces[:-1])
    return Phonons(phonon, float(np.abs(forces[-1]).max()), violation, None)


def set_forces(phonon: Phonopy, forces: ArrayLike) -> float:
    """Form the force constants from the forces of the displaced supercells, of a model or of a reference.

    Args:
        phonon: with its displacements.
        forces: (displacements, atoms of the supercell, 3) eV/Å.

    Returns:
        Largest element of Σ_i Φ_ij and Σ_j Φ_ij, eV/Å²: translating the crystal costs nothing, and forces add up to
        zero. Both are then enforced, with the symmetry under exchange, by phonopy.
    """
    phonon.forces = np.asarray(forces, dtype=float)
    phonon.produce_force_constants(show_drift=False)
    raw = _force_constants(phonon)
    violation = max(float(np.abs(raw.sum(axis=axis)).max()) for axis in (0, 1))
    phonon.symmetrize_force_constants(show_drift=False)
    return violation


def with_born_charges(
    found: Phonons, calculator: Any, epsilon_infinity: float | None = None, where: str = "structure"
) -> Phonons:
    """The same phonons with Z* and ε_∞ of a long-range model.

    Z* made with transfers are those of k = 0 in any cell, and are taken in the unit cell. Else they are taken in the
    supercell, whose smallest wave vectors are nearer to the limit k → 0 that defines them.

    Args:
        found: result of `phonons`.
        calculator: the same calculator, with the results of its last evaluation there.
        epsilon_infinity: ε_∞ that its Z* are scaled with; its own (`epsilon_infinity`) when None.
        where: the structure's name in messages.

    Raises:
        HostError: the model has no long-range part, or no ε_∞.

    Source: theory 8.6, 10.1.
    """
    check_born_charges(calculator)
    epsilon = getattr(calculator, "epsilon_infinity", None) if epsilon_infinity is None else epsilon_infinity
    if epsilon is None:
        raise HostError(f"--born: {type(calculator).__name__} has no epsilon_infinity; give ε_∞")
    supercell = found.phonopy.supercell
    warn_of_vacuum_in_phonons(_ase_atoms(supercell), where)
    if getattr(calculator, "results", {}).get("polarization_source") == "transfers":
        of_unit_cell = predict(calculator, _ase_atoms(found.phonopy.unitcell), [BORN], where)[BORN]
    else:
        born = predict(calculator, _ase_atoms(supercell), [BORN], f"{where}, supercell")[BORN]
        of_unit_cell = born[np.asarray(supercell.u2s_map)]
    violation = set_born_charges(found.phonopy, of_unit_cell, float(epsilon) * np.eye(3))
    return Phonons(found.phonopy, found.largest_force, found.translation_violation, violation)


def check_born_charges(calculator: Any) -> None:
    """HostError where a calculator predicts no Born charges."""
    if BORN not in calculator.implemented_properties or not getattr(calculator, "has_long_range", True):
        raise HostError("--born: the model does not predict Born charges: it has no long-range part")


def set_born_charges(phonon: Phonopy, born: ArrayLike, dielectric: ArrayLike) -> float:
    """Hand Z* and ε_∞ to phonopy; the sum rule is enforced, crystal symmetry by phonopy's own function.

    Args:
        phonon: the crystal.
        born: (atoms of the unit cell, 3, 3) e, first index polarization, second displacement. phonopy's are the same
            way round: it contracts the first index with the wave vector.
        dielectric: (3, 3) ε_∞.

    Returns:
        Largest element of the mean Z*, e, before.

    Source: theory 10.1.
    """
    from phonopy.structure.symmetry import symmetrize_borns_and_epsilon

    tensor = torch.as_tensor(np.asarray(born, dtype=float))
    batch = torch.zeros(len(tensor), dtype=torch.long)
    violation = float(sum_rule_violation(tensor, batch).abs().max())
    symmetric, epsilon = symmetrize_borns_and_epsilon(
        enforce_asr(tensor, batch).numpy(),
        np.asarray(dielectric, dtype=float),
        phonon.unitcell,
        primitive_matrix=phonon.primitive_matrix,
        supercell_matrix=phonon.supercell_matrix,
        symprec=phonon.symmetry.tolerance,
    )
    phonon.nac_params = {"born": symmetric, "dielectric": epsilon, "factor": COULOMB_CONSTANT}
    return violation


def gamma_frequencies(phonon: Phonopy, direction: Sequence[float] | None = None) -> Floats:
    """(branches,) THz at Γ, ascending; imaginary ones are negative.

    Args:
        phonon: with force constants.
        direction: (3,) Cartesian direction in which q goes to zero; None: without the term of Z*, no LO–TO splitting.
    """
    along = None if direction is None else np.asarray(phonon.primitive.cell) @ np.asarray(direction, dtype=float)
    phonon.run_qpoints([[0.0, 0.0, 0.0]], nac_q_direction=along)
    found: Any = phonon.qpoints
    return np.array(found.frequencies[0])


def bands(phonon: Phonopy, path: str | None = None, points: int = POINTS) -> Bands:
    """Frequencies along a path, with and without the term of Z*.

    Args:
        phonon: with force constants; with `nac_params` both are computed.
        path: special points in ASE's notation, as "GXW,LG", a comma for a jump; ASE's own choice for the lattice of
            the primitive cell when None. (phonopy's automatic path needs seekpath, which does not come with it.)
        points: on each segment, ends included.

    Raises:
        ConfigError: a path that is not one of this lattice.
    """
    from phonopy.phonon.band_structure import get_band_qpoints_and_path_connections

    corners, labels = _corners(Cell(phonon.primitive.cell), path)
    qpoints, connected = get_band_qpoints_and_path_connections(corners, npoints=points)
    parameters = phonon.nac_params
    try:
        phonon.nac_params = None
        bare, distances = _run_bands(phonon, qpoints, connected, labels)
    finally:
        phonon.nac_params = parameters
    corrected = None if parameters is None else _run_bands(phonon, qpoints, connected, labels)[0]
    if parameters is None:
        _run_bands(phonon, qpoints, connected, labels)  # setting nac_params took the result from phonopy's object
    return Bands(labels, connected, [np.array(q) for q in qpoints], distances, bare, corrected)


def check_path(phonon: Phonopy, path: str | None) -> None:
    """ConfigError for a band path, in the notation of `bands`, that the lattice of the primitive cell does not have."""
    _corners(Cell(phonon.primitive.cell), path)


def check_mesh(mesh: float) -> None:
    """ConfigError for a length that no mesh can be made with."""
    if not 0.0 < mesh <= 1000.0:
        raise ConfigError(f"--mesh is {mesh}; allowed: a length above 0, at most 1000 Å")


def density_of_states(phonon: Phonopy, mesh: float = 50.0) -> tuple[Floats, Floats]:
    """Frequencies, THz, and density of states, 1/THz per primitive cell, by phonopy's tetrahedra.

    Args:
        phonon: with force constants; Z* are used where it has them.
        mesh: length, Å, that sets the mesh: N = mesh × |b| points along a reciprocal vector b (without 2π).

    Raises:
        ConfigError: a length that is not above 0, or above 1000 Å.
    """
    check_mesh(mesh)
    phonon.run_mesh(mesh, is_mesh_symmetry=mesh_symmetry(phonon))
    phonon.run_total_dos()
    found: Any = phonon.total_dos
    return np.array(found.frequency_points), np.array(found.dos)


def _new_phonopy(atoms: Atoms, matrix: NDArray[np.int64], primitive: Literal["auto", "P"], symprec: float) -> Phonopy:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(wrap=False),
        masses=atoms.get_masses(),
    )
    with warnings.catch_warnings():
        # the primitive cell is asked for by name here; phonopy warns because it was not its default before 4
        warnings.filterwarnings("ignore", message="primitive_matrix defaulted to 'auto'")
        chosen = primitive_matrix(cell, symprec) if primitive == "auto" else primitive
        if not isinstance(chosen, str):
            # the supercell's symmetry, of the elements, is that of the force constants
            warnings.filterwarnings("ignore", message="Warning. Point group symmetries of supercell and primitive")
        return Phonopy(cell, matrix, primitive_matrix=chosen, symprec=symprec)


def _supercell_matrix(supercell: ArrayLike) -> NDArray[np.int64]:
    given = np.asarray(supercell)
    if given.shape not in ((3,), (3, 3)) or not np.issubdtype(given.dtype, np.integer):
        raise ConfigError(f"--supercell is {given.tolist()}; allowed: three integers, or a 3 × 3 matrix of integers")
    matrix = np.diag(given) if given.ndim == 1 else given
    if (given.ndim == 1 and (given < 1).any()) or round(float(np.linalg.det(matrix))) < 1:
        raise ConfigError(f"--supercell {given.tolist()} is singular or left-handed; allowed: a positive determinant")
    return matrix.astype(np.int64)


def _ase_atoms(cell: PhonopyAtoms) -> Atoms:
    return Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, masses=cell.masses, pbc=True)


def _force_constants(phonon: Phonopy) -> Floats:
    if phonon.force_constants is None:
        raise DataError("phonopy has formed no force constants")
    return np.asarray(phonon.force_constants)


def _corners(cell: Cell, path: str | None) -> tuple[list[list[Floats]], list[str]]:
    """Special points of every connected piece of a path, and phonopy's list of labels."""
    try:
        lattice = cell.bandpath(npoints=0)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"ASE finds no band path for the primitive cell: {error}") from None
    pieces = [piece for piece in parse_path_string(lattice.path if path is None else path) if piece]
    known: dict[str, Floats] = lattice.special_points
    strange = sorted({name for piece in pieces for name in piece} - set(known))
    if strange or not pieces or any(len(piece) < 2 for piece in pieces):
        raise ConfigError(
            f"--path {path!r} cannot be followed; allowed: pieces of two or more of {', '.join(sorted(known))}, "
            "with a comma for a jump, as GXW,LG"
        )
    labels = ["Γ" if name == "G" else name for piece in pieces for name in piece]
    return [[known[name] for name in piece] for piece in pieces], labels


def _run_bands(
    phonon: Phonopy, qpoints: Any, connected: Sequence[bool], labels: Sequence[str]
) -> tuple[list[Floats], list[Floats]]:
    phonon.run_band_structure(qpoints, path_connections=connected, labels=labels)
    found: Any = phonon.band_structure
    return [np.array(values) for values in found.frequencies], [np.array(values) for values in found.distances]
