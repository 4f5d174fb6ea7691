"""A driver for i-PI: a model's energies, forces, virial, Z*, dipole and polarizability in atomic units.

i-PI loads this file by its path (`-m custom -P`, `<pes_path>`) under the file's name, which therefore must not be
that of one of its own modules: it is not called ipi.py. `python -m les_plugins.engines.ipi_pes` prints the path.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ipi.pes.dummy import Dummy_driver
from ipi.utils import messages
from ipi.utils.units import unit_to_internal, unit_to_user

from les_plugins import api
from les_plugins.data.evaluation import known_elements
from les_plugins.data.frames import boundary_of, check_elements_of, read_frames
from les_plugins.data.metrics import Floats
from les_plugins.engines.evaluation import StructureResult, check_born, evaluate_structure
from les_plugins.errors import ConfigError, GeometryError, HostError, LesPluginsWarning

__DRIVER_NAME__ = "les"
__DRIVER_CLASS__ = "LesDriver"

OPTIONS = ("model", "template", "pbc", "device", "epsilon_infinity", "born", "sum_rule", "verbose")


class LesDriver(Dummy_driver):  # type: ignore[misc]
    """i-PI's view of a model. A driver of another calculator overrides `make_calculator`.

    Args:
        model: checkpoint folder of les-plugins.
        template: structure file of ASE, its last frame taken, or ase.Atoms: elements in the order of i-PI's atoms, and
            which directions are periodic. Its positions and cell are not used, but i-PI's.
        pbc: true, false, or three letters T or F, in place of the template's; needed where the template does not say,
            as a plain xyz file or one of i-PI's own.
        device: torch device.
        epsilon_infinity: ε_∞ of the material, in place of the model's own.
        born: send Z* to i-PI with every structure, as its electric-field ensembles need; several times the cost.
        sum_rule: take the mean of Z* off every atom; i-PI refuses Z* whose mean is not zero.
        verbose: as i-PI's other drivers; not used.

    Raises:
        ConfigError: an option that is missing, unknown or of the wrong kind; a template without lattice, and no pbc.
        DataError: a template that cannot be read, or with elements that the model does not know.
        HostError: Born charges asked of a model that has none; others of `les_plugins.load`.
    """

    def __init__(
        self,
        model: str | None = None,
        template: str | Atoms | None = None,
        pbc: bool | str | None = None,
        device: str = "cpu",
        epsilon_infinity: float | None = None,
        born: bool = False,
        sum_rule: bool = True,
        verbose: bool = False,
        verbosity: Any = None,  # i-PI's ffdirect hands it over
        **unknown: Any,
    ) -> None:
        if unknown:
            raise ConfigError(f"i-PI driver: unknown option {', '.join(unknown)}; allowed: {', '.join(OPTIONS)}")
        for name, value in (("born", born), ("sum_rule", sum_rule)):
            if not isinstance(value, bool):
                raise ConfigError(f"i-PI driver: {name} is {value!r}; allowed: true, false")
        self.model, self.device, self.epsilon_infinity = model, device, epsilon_infinity
        self.born, self.sum_rule = born, sum_rule
        self.template = _template(template, pbc)
        self.calculator: Any = None
        self._reported = False
        messages.info(f" @LES: {len(self.template)} atoms, {boundary_of(self.template)}", messages.verbosity.low)
        super().__init__(verbose=verbose)

    def make_calculator(self) -> Any:
        """The ASE calculator: that of the checkpoint folder `model`."""
        if self.model is None:
            raise ConfigError("i-PI driver: model is missing: give a checkpoint folder, model=water.les")
        calculator = api.load(self.model, device=self.device)
        if self.epsilon_infinity is not None:
            if not isinstance(self.epsilon_infinity, (int, float)) or not 1.0 <= self.epsilon_infinity < float("inf"):
                raise ConfigError(
                    f"i-PI driver: epsilon_infinity is {self.epsilon_infinity}; allowed: a number of at least 1"
                )
            if not getattr(calculator, "has_long_range", False):
                raise HostError(f"i-PI driver: epsilon_infinity: {self.model} has no long-range part")
            calculator.epsilon_infinity = float(self.epsilon_infinity)
        return calculator

    def check_parameters(self) -> None:
        """Load the model; called by i-PI's base class when the driver is made."""
        self.calculator = self.make_calculator()
        known = known_elements(self.calculator)
        if known is not None:
            check_elements_of(self.template, known, "i-PI driver: template")
        if self.born:
            check_born(self.calculator, "i-PI driver: born")

    def compute_structure(self, cell: Floats, pos: Floats) -> tuple[float, Floats, Floats, str]:
        """Energy, forces (N, 3), virial (3, 3) and the extras as JSON, all in atomic units.

        Args:
            cell: (3, 3) bohr, lattice vectors in the columns.
            pos: (N, 3) bohr.

        Raises:
            GeometryError: another number of atoms than the template's.
            LesPluginsError: what the calculator refuses.
        """
        positions = np.asarray(pos, dtype=float).reshape(-1, 3)
        if len(positions) != len(self.template):
            raise GeometryError(
                f"i-PI driver: i-PI has {len(positions)} atoms, the template {len(self.template)} "
                f"({self.template.get_chemical_formula()})"
            )
        atoms = self.template.copy()
        atoms.positions = unit_to_user("length", "angstrom", positions)
        if atoms.pbc.any():
            atoms.cell = unit_to_user("length", "angstrom", np.asarray(cell, dtype=float).T)
        else:
            atoms.cell = None  # i-PI's is as large as the user made it, and means nothing
        found = evaluate_structure(self.calculator, atoms, "i-PI driver", self.born, self.sum_rule)
        if found.sum_rule_violation is not None and self.sum_rule and not self._reported:
            self._reported = True
            messages.info(
                f" @LES: largest mean Z* before it was made zero: {found.sum_rule_violation:.2g} e",
                messages.verbosity.low,
            )
        length, energy = _atomic_units()
        # not i-PI's own unit of force: it has fewer digits, and forces should be the derivatives of the energy
        return found.energy * energy, found.forces * (energy / length), found.virial * energy, json.dumps(extras(found))


def extras(found: StructureResult) -> dict[str, Any]:
    """What i-PI reads of a structure beside energy, forces and virial, those that there are, in atomic units.

    Returns:
        BEC (3N, 3): rows are displacements, atom by atom, columns polarization, so that BEC·E is a force: of every
        atom the transpose of our Z*. dipole (3,) e·bohr. polarizability (3, 3) e²·bohr²/hartree.
    """
    length, energy = _atomic_units()
    sent: dict[str, Any] = {}
    if found.born is not None:
        sent["BEC"] = found.born.transpose(0, 2, 1).reshape(-1, 3).tolist()
    if found.dipole is not None:
        sent["dipole"] = (found.dipole * length).tolist()
    if found.polarizability is not None:
        sent["polarizability"] = (found.polarizability * length**2 / energy).tolist()
    return sent


def _atomic_units() -> tuple[float, float]:
    """Å in bohr and eV in hartree, as i-PI has them."""
    return float(unit_to_internal("length", "angstrom", 1.0)), float(unit_to_internal("energy", "electronvolt", 1.0))


def _template(given: str | Atoms | None, pbc: bool | str | None) -> Atoms:
    if given is None:
        raise ConfigError(
            "i-PI driver: template is missing: i-PI sends no elements; give a structure file with the same atoms in "
            "the same order, template=start.xyz"
        )
    atoms = given.copy() if isinstance(given, Atoms) else read_frames(Path(str(given)), "-1")[0]
    atoms.calc = None
    if atoms.constraints:
        atoms.set_constraint()
        warnings.warn(
            "i-PI driver: the constraints of the template are not used: i-PI moves the atoms, and holds those of its "
            "own <fixatoms>",
            LesPluginsWarning,
            stacklevel=2,
        )
    if pbc is None and not atoms.cell.rank and not atoms.pbc.any() and not _says_that_it_is_open(given):
        raise ConfigError(
            f"i-PI driver: template {'of ase.Atoms' if isinstance(given, Atoms) else given} has no lattice and does "
            "not say whether anything is periodic: give pbc=true (i-PI's cell is taken), pbc=false (open), or three "
            "letters as pbc=TTF"
        )
    if isinstance(pbc, bool):
        atoms.pbc = pbc
    elif pbc is not None:
        flags = str(pbc).upper()
        if len(flags) != 3 or set(flags) - set("TF"):
            raise ConfigError(f"i-PI driver: pbc is {pbc!r}; allowed: true, false, or three letters T or F, as TTT")
        atoms.pbc = [flag == "T" for flag in flags]
    return atoms


def _says_that_it_is_open(given: str | Atoms) -> bool:
    """Whether a file says pbc in so many words, as ASE writes for a molecule; a plain xyz file cannot."""
    if isinstance(given, Atoms):
        return False
    with contextlib.suppress(OSError, UnicodeDecodeError), Path(given).open(encoding="utf-8") as file:
        return any("pbc=" in line for _, line in zip(range(2), file, strict=False))
    return False


if __name__ == "__main__":
    sys.stdout.write(f"{Path(__file__).resolve()}\n")
