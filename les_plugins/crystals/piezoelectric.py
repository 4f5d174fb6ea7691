"""Piezoelectric tensors of a crystal, clamped-ion and relaxed-ion, improper and proper, through its ASE calculator.

`les-plugins piezoelectric` calls it. A tensor is ∂P_a/∂η_bc, symmetric in b and c: with b ≠ c it is the derivative by
the engineering strain γ = 2 η_bc, so that e_14 of Voigt's notation is the element [0, 1, 2].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.optimize import BFGS

from les_plugins.committee.agreement import check_single
from les_plugins.crystals.neutral import check_neutral
from les_plugins.crystals.zone_center import ZoneCenter, zone_center
from les_plugins.data.given_charge import charge_of_results, charge_read
from les_plugins.data.metrics import Floats
from les_plugins.electrostatics.observables import enforce_asr, sum_rule_violation
from les_plugins.errors import ConfigError, DataError, GeometryError

#: Voigt's order: xx, yy, zz, yz, xz, xy.
_ROWS, _COLUMNS = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
#: cm⁻¹: a softer mode has no finite answer to a strain that differences could tell.
SOFTEST = 1.0


@dataclass(frozen=True)
class Piezoelectricity:
    """∂P_a/∂η_bc at fixed fractional coordinates, (3, 3, 3) e/Å², symmetric in b and c.

    Attributes:
        improper: of P = D/V with the positions as given: depends on which image of each atom was given.
        proper: what flows through a strained sample, improper + δ_bc P_a − ½(δ_ab P_c + δ_ac P_b): free of that choice
            from quadrupoles, and from strains for charges that strain does not change.
        charge_response: (N,) largest |∂q/∂η|, e, of a tensor from strains. Where it is not small, moving an atom to
            another image changes the proper tensor too, by ∂q/∂η × lattice vector / V: charges of strained cells do not
            say which way the charge flowed. None of a tensor from quadrupoles or transfers, which do.
        source: "strains" of charges, "transfers" in strained cells (theory 8.6), or "quadrupoles".
    """

    improper: Floats
    proper: Floats
    charge_response: Floats | None
    source: str = "strains"


@dataclass(frozen=True)
class RelaxedPiezoelectricity:
    """∂P_a/∂η_bc with the ions at rest in the strained cell, (3, 3, 3) e/Å².

    Attributes:
        clamped: the part at fixed fractional coordinates.
        internal: the part of the ions' own motion, (1/V) Σ_i Z*_{i,ad} Γ_{i,d,bc}; the same in both tensors.
        internal_strain: (N, 3, 3, 3) Å, Γ = ∂r_i/∂η beyond the motion of the cell, the mean over atoms zero.
        born: (N, 3, 3) e, Z* with the sum rule enforced: they add up to zero, or to the net charge that a model keeps.
        sum_rule_violation: e, largest element of the mean Z* before, less that of the net charge.
        center: modes of the zone centre.
    """

    clamped: Piezoelectricity
    internal: Floats
    internal_strain: Floats
    born: Floats
    sum_rule_violation: float
    center: ZoneCenter

    @property
    def improper(self) -> Floats:
        """(3, 3, 3) e/Å², of P = D/V: depends on the images that were given."""
        return self.clamped.improper + self.internal

    @property
    def proper(self) -> Floats:
        """(3, 3, 3) e/Å², what flows through a strained sample: the one that is measured at zero field."""
        return self.clamped.proper + self.internal


def clamped_piezoelectric_tensor(
    calculator: Any, atoms: Atoms, strain: float = 1e-3, supercell: tuple[int, int, int] = (3, 3, 3)
) -> Piezoelectricity:
    """Clamped-ion tensor by what the calculator has: transfers in strained cells, else quadrupoles, else charges.

    Args:
        calculator, atoms, strain: as for `piezoelectric_tensor`.
        supercell: as for `long_wave_piezoelectric_tensor`.

    Raises:
        GeometryError, ConfigError, DataError: as both.
    """
    _check(calculator, atoms, strain)
    _repeated(atoms, supercell)
    if "dynamical_quadrupoles" in calculator.implemented_properties and not _has_transfers(calculator, atoms):
        return long_wave_piezoelectric_tensor(calculator, atoms, supercell)
    return piezoelectric_tensor(calculator, atoms, strain)


def piezoelectric_tensor(calculator: Any, atoms: Atoms, strain: float = 1e-3) -> Piezoelectricity:
    """Clamped-ion piezoelectric tensor by central differences, thirteen evaluations.

    Args:
        calculator: ASE calculator with dipole and charges.
        atoms: periodic structure; not changed.
        strain: size of the symmetric strains η.

    Returns:
        Both tensors in e/Å², × 16.02 in C/m². The ions' own relaxation, Z* times internal strain, is not in it. The
        screening ε_e is held at its value without strain, as Z* has it.

    Raises:
        GeometryError: not periodic along three axes.
        ConfigError: strain not above zero.
        DataError: a total charge.

    Source: theory 10.2; D. Vanderbilt, J. Phys. Chem. Solids 61, 147 (2000) for proper and improper.
    """
    _check(calculator, atoms, strain)
    moment = _at_strain(calculator, atoms, np.zeros((3, 3)), forces=False)
    return _clamped(atoms, moment, _strain_slopes(calculator, atoms, strain, moment, forces=False))


def long_wave_piezoelectric_tensor(
    calculator: Any, atoms: Atoms, supercell: tuple[int, int, int] = (3, 3, 3)
) -> Piezoelectricity:
    """Clamped-ion piezoelectric tensor from dynamical quadrupoles, one evaluation of a supercell.

    A long acoustic wave strains the crystal here and leaves it alone there, so the charge that it moves says which way
    it flowed: charges may change with strain.

    Args:
        calculator: ASE calculator with dipole and dynamical_quadrupoles.
        atoms: periodic structure; not changed.
        supercell: repetitions of the cell; what is left falls with the fourth power of its length.

    Raises:
        GeometryError: not periodic along three axes.
        ConfigError: a supercell of less than one cell.
        DataError: a total charge.

    Source: theory 10.2; R. M. Martin, Phys. Rev. B 5, 1607 (1972).
    """
    _check(calculator, atoms, 1e-3)
    repeated = _repeated(atoms, supercell)
    found = np.asarray(calculator.get_property("dynamical_quadrupoles", repeated), dtype=float)[: len(atoms)]
    proper = from_quadrupoles(found, atoms.get_volume())
    polarization = np.asarray(calculator.get_property("dipole", atoms), dtype=float) / atoms.get_volume()
    unit = np.eye(3)
    turned = np.einsum("ab,c->abc", unit, polarization)
    improper = proper + 0.5 * (turned + turned.transpose(0, 2, 1)) - np.einsum("bc,a->abc", unit, polarization)
    return Piezoelectricity(improper, proper, None, "quadrupoles")


def from_quadrupoles(quadrupoles: Floats, volume: float) -> Floats:
    """Proper clamped-ion tensor (3, 3, 3) e/Å² of dynamical quadrupoles (N, 3, 3, 3) e·Å of a cell of `volume` Å³.

    A wave u exp(ik·r) moves the charge −½ k_a k_c Σ_i Q_{i,b,ac} u_b/V, and that is −ik·P with P_a = e_abc ik_c u_b:
    e_abc + e_cba = −Σ Q_{b,ac}/V, solved with e_abc = e_acb.
    """
    total = quadrupoles.sum(0)  # [b, a, c]
    first, second = total.transpose(1, 0, 2), total.transpose(1, 2, 0)  # of b and of c, as [a, b, c]
    return np.asarray(-(first + second - total) / (2.0 * volume))


def relaxed_piezoelectric_tensor(
    calculator: Any,
    atoms: Atoms,
    strain: float = 1e-3,
    distance: float = 0.01,
    supercell: tuple[int, int, int] = (3, 3, 3),
    largest_force: float = 0.01,
) -> RelaxedPiezoelectricity:
    """Relaxed-ion piezoelectric tensor, e = e_clamped + (1/V) Σ Z* Φ⁺ Λ, at zero macroscopic field.

    Λ = ∂F/∂η at fixed fractional coordinates, Φ⁺ the inverse of the force constants of the zone centre without the
    three translations, so Φ⁺ Λ is how far ions move per strain. Thirteen evaluations, 6 N more, and one with Z*.
    Where the polarization is made with transfers, or the calculator has no dynamical quadrupoles, the clamped part is
    from the same strains; else it is that of the quadrupoles, and Z* that of long waves.

    Args:
        calculator: ASE calculator with dipole, charges, forces and born_effective_charges.
        atoms: periodic structure whose ions are at rest; the cell may be under stress. Not changed.
        strain: size of the symmetric strains η.
        distance: displacement of the force constants, Å.
        supercell: repetitions of the cell in which Z* and quadrupoles are taken: where charge flows, its smallest wave
            vectors are nearer to the limit k → 0 that defines them. Not needed, and not used, with transfers.
        largest_force: eV/Å, above which ions are not at rest.

    Raises:
        GeometryError: not periodic along three axes, a single atom; ions not at rest; an unstable structure.
        ConfigError: strain or distance out of range.
        DataError: a total charge.

    Source: theory 10.2; X. Wu, D. Vanderbilt, D. R. Hamann, Phys. Rev. B 72, 035105 (2005).
    """
    _check(calculator, atoms, strain)
    repeated = _repeated(atoms, supercell)
    start = _at_strain(calculator, atoms, np.zeros((3, 3)), forces=True)
    if (force := float(np.abs(start.forces).max())) > largest_force:
        raise GeometryError(
            f"the ions are not at rest: largest force {force:.3g} eV/Å, allowed {largest_force:g}; relax them in this "
            "cell with the same model (les-plugins piezoelectric --relax)"
        )
    center = zone_center(calculator, atoms, distance)
    if (soft := float(center.frequencies[0])) < SOFTEST:
        raise GeometryError(
            f"the structure is not stable at the zone centre: its softest mode is {_shown(soft)}, needed are "
            f"{SOFTEST:g} cm⁻¹; ions would leave it when strained, there is no relaxed-ion tensor"
        )
    slopes = _strain_slopes(calculator, atoms, strain, start, forces=True)
    motion = center.displacements(slopes.forces)
    transfers = _has_transfers(calculator, atoms)
    long_wave = "dynamical_quadrupoles" in calculator.implemented_properties and not transfers
    clamped = (
        long_wave_piezoelectric_tensor(calculator, atoms, supercell) if long_wave else _clamped(atoms, start, slopes)
    )
    name = "long_wave_born_charges" if long_wave else "born_effective_charges"
    raw = np.asarray(calculator.get_property(name, atoms if transfers else repeated), dtype=float)
    kept = charge_of_results(calculator) * len(atoms) / len(raw)  # of a model with `neutralize: keep`
    born, batch = torch.tensor(raw[: len(atoms)]), torch.zeros(len(atoms), dtype=torch.long)
    total = torch.tensor([kept], dtype=born.dtype)
    violation = float(sum_rule_violation(born, batch, total).abs().max())
    effective = enforce_asr(born, batch, total).numpy()
    internal = np.einsum("nad,ndbc->abc", effective, motion) / atoms.get_volume()
    return RelaxedPiezoelectricity(clamped, internal, motion, effective, violation, center)


def relax_ions(calculator: Any, atoms: Atoms, largest_force: float = 1e-3, steps: int = 500) -> Atoms:
    """A copy of a structure with its ions at rest in the same cell, by ASE's BFGS.

    Raises:
        DataError: not at rest after that many steps.
    """
    relaxed: Atoms = atoms.copy()
    relaxed.set_constraint()
    relaxed.calc = calculator
    if not BFGS(relaxed, logfile=None).run(fmax=largest_force, steps=steps):
        force = float(np.abs(relaxed.get_forces()).max())
        raise DataError(f"the ions are not at rest after {steps} steps: largest force {force:.3g} eV/Å")
    relaxed.calc = None
    return relaxed


def voigt(tensor: Floats) -> Floats:
    """(3, 6) of a (3, 3, 3) tensor, columns xx, yy, zz, yz, xz, xy; no factors: see the top of this file."""
    return tensor[:, _ROWS, _COLUMNS]


class _AtStrain(NamedTuple):
    """Of one strained structure, or slopes by strain with its two indices appended."""

    dipole: Floats  # (3,) e·Å
    charges: Floats  # (N,) e
    forces: Floats  # (N, 3) eV/Å
    root: float  # physical over latent charge
    transfers: bool = False  # whether the dipole was made with them


def _check(calculator: Any, atoms: Atoms, strain: float) -> None:
    check_single(calculator, "piezoelectric tensor")
    check_neutral(charge_read(calculator, atoms), "structure", "piezoelectric tensors are")
    if not atoms.pbc.all():
        raise GeometryError(f"pbc is {atoms.pbc.tolist()}; a piezoelectric tensor needs three periodic directions")
    if not 0 < strain < 0.1:
        raise ConfigError(f"strain is {strain}; allowed: above 0, below 0.1")


def _repeated(atoms: Atoms, supercell: tuple[int, int, int]) -> Atoms:
    if any(number < 1 for number in supercell):
        raise ConfigError(f"supercell is {tuple(supercell)}; allowed: three integers of at least 1")
    repeated: Atoms = atoms.repeat(supercell)
    repeated.set_constraint()
    return repeated


def _has_transfers(calculator: Any, atoms: Atoms) -> bool:
    """Whether the polarization of a structure is made with transfers: strained cells then say where charge flowed."""
    return _at_strain(calculator, atoms, np.zeros((3, 3)), forces=False).transfers


def _at_strain(calculator: Any, atoms: Atoms, eta: Floats, forces: bool) -> _AtStrain:
    copy = atoms.copy()
    copy.set_constraint()
    copy.set_cell(atoms.cell.array @ (np.eye(3) + eta), scale_atoms=False)
    copy.positions = atoms.positions @ (np.eye(3) + eta)
    names = ["dipole", "charges", *(["forces"] if forces else [])]
    found = [np.asarray(calculator.get_property(name, copy), dtype=float).copy() for name in names]
    for name, values in zip(names, found, strict=True):
        if not np.isfinite(values).all():
            raise DataError(f"{name} of the crystal strained by {np.abs(eta).max():g} is not finite")
    latent = getattr(calculator, "results", {}).get("latent_charges")
    size = 0.0 if latent is None else float(np.linalg.norm(latent))
    root = float(np.linalg.norm(found[1])) / size if size > 0 else 1.0
    transfers = getattr(calculator, "results", {}).get("polarization_source") == "transfers"
    return _AtStrain(found[0], found[1], found[2] if forces else np.zeros((len(atoms), 3)), root, transfers)


def _strain_slopes(calculator: Any, atoms: Atoms, strain: float, start: _AtStrain, forces: bool) -> _AtStrain:
    """Central differences; physical moments are those of the screening without strain."""
    slopes = _AtStrain(np.zeros((3, 3, 3)), np.zeros((len(atoms), 3, 3)), np.zeros((len(atoms), 3, 3, 3)), 0.0)
    for b in range(3):
        for c in range(b, 3):
            eta = np.zeros((3, 3))
            eta[b, c] += 0.5 * strain
            eta[c, b] += 0.5 * strain
            up, down = (_at_strain(calculator, atoms, sign * eta, forces) for sign in (1, -1))
            for name in ("dipole", "charges", "forces"):
                scales = [1.0 if name == "forces" else start.root / each.root for each in (up, down)]
                slope = (scales[0] * getattr(up, name) - scales[1] * getattr(down, name)) / (2.0 * strain)
                getattr(slopes, name)[..., b, c] = getattr(slopes, name)[..., c, b] = slope
    return slopes


def _clamped(atoms: Atoms, start: _AtStrain, slopes: _AtStrain) -> Piezoelectricity:
    unit, volume = np.eye(3), atoms.get_volume()
    turned = np.einsum("ab,c->abc", unit, start.dipole)
    proper = (slopes.dipole - 0.5 * (turned + turned.transpose(0, 2, 1))) / volume
    improper = (slopes.dipole - np.einsum("bc,a->abc", unit, start.dipole)) / volume
    if start.transfers:
        return Piezoelectricity(improper, proper, None, "transfers")
    return Piezoelectricity(improper, proper, np.abs(slopes.charges).max((1, 2)))


def _shown(frequency: float) -> str:
    return f"{abs(frequency):.3g}i cm⁻¹ (imaginary)" if frequency < 0 else f"{frequency:.3g} cm⁻¹"
