"""torch-sim: an ASE calculator as a model, and states of structures that both can take. Users call this.

torch-sim has one periodicity for all systems of a state (0.3: one flag, newer: three); `state_from_atoms` raises an
error for what does not fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from les_plugins.data.batch import evaluate_batch
from les_plugins.data.frames import check_elements_of, check_frame
from les_plugins.data.given_charge import refuse_charge_of_engine
from les_plugins.errors import ConfigError, DataError, GeometryError, HostError, LesPluginsWarning, how_to_install

try:
    import torch_sim
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    raise HostError(
        f"torch-sim cannot be imported ({error}): {how_to_install('torch-sim')} (Python 3.11 or newer)"
    ) from None


class CalculatorModel(ModelInterface):  # type: ignore[misc]
    """An ASE calculator under torch-sim's interface; all systems of a state in one evaluation where the host can.

    Positions, momenta and results are float64, whatever the precision of the model.

    Args:
        calculator: as of `les_plugins.load`, on its device. A calculator with `evaluate_batch` gets all systems at
            once; any other one gets them one by one.
        compute_stress: whether `forward` returns the stress; of open systems there is none.
    """

    def __init__(self, calculator: Any, compute_stress: bool = True) -> None:
        super().__init__()
        self.calculator = calculator
        self._device = torch.device(getattr(calculator, "device", "cpu"))
        self._dtype = torch.float64
        self._compute_forces = True
        self._compute_stress = compute_stress

    def forward(self, state: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Energies, forces and stresses of all systems.

        Args:
            state: `torch_sim.SimState` of B systems with N atoms, or a dictionary with its attributes.
            **kwargs: not used, as in torch-sim's own models.

        Returns:
            energy (B,) eV; forces (N, 3) eV/Å; stress (B, 3, 3) eV/Å³, ASE's sign, of periodic systems.

        Raises:
            DataError, GeometryError: what the calculator refuses.
        """
        if isinstance(state, dict):
            state = torch_sim.SimState(**{"masses": torch.ones(len(state["positions"])), **state})
        frames = atoms_of(state)
        found = evaluate_batch(self.calculator, frames)
        results = {"energy": found.energy, "forces": found.forces}
        if self.compute_stress and all(atoms.pbc.all() for atoms in frames):
            results["stress"] = found.stress
        return {name: torch.as_tensor(value, dtype=state.dtype, device=state.device) for name, value in results.items()}


def state_from_atoms(frames: Sequence[Atoms], model: CalculatorModel) -> Any:
    """A `torch_sim.SimState` of structures, after a look at what torch-sim and the model can take.

    The conversion of torch-sim 0.3 takes a structure that is periodic along one or two axes for an open one.

    A state holds no velocities and torch-sim draws some; a warning says so where the structures have their own.

    Args:
        frames: structures of one periodicity: crystals, open ones, or slabs where torch-sim has a flag for each axis.
        model: what will evaluate them.

    Raises:
        ConfigError: no structures.
        GeometryError: structures of different periodicity, a wire, or a slab that this torch-sim does not keep.
        DataError: NaN, a singular cell, an element that the model does not know, a total charge other than
            `model.calculator.total_charge`: that of all systems of a state is the same.
    """
    if not frames:
        raise ConfigError("a state needs at least one structure")
    known = getattr(model.calculator, "known_elements", None)
    for number, atoms in enumerate(frames):
        where = f"structure {number}"
        check_frame(atoms, where)
        if known is not None:
            check_elements_of(atoms, known, where)
        if atoms.pbc.sum() == 1:
            raise GeometryError(
                f"{where}: pbc is {_flags(atoms)}; a wire is not summed: allowed are two or three axes, or none"
            )
        if (atoms.pbc != frames[0].pbc).any():
            raise GeometryError(
                f"{where}: pbc is {_flags(atoms)}, that of structure 0 {_flags(frames[0])}: torch-sim has one "
                "periodicity for all systems of a state; make two states"
            )
        refuse_charge_of_engine(atoms, model.calculator, "torch-sim")
        if atoms.constraints:
            raise DataError(f"{where}: has constraints of ASE, which torch-sim does not know: remove them")
    if moving := [number for number, atoms in enumerate(frames) if atoms.has("momenta") and atoms.get_momenta().any()]:
        warnings.warn(
            f"structure {moving[0]} has velocities, which a state of torch-sim does not hold: its integrators draw new "
            "ones; to keep them set momenta_of(frames, model) as the momenta of the integrator's state",
            LesPluginsWarning,
            stacklevel=2,
        )
    state = torch_sim.io.atoms_to_state(list(frames), model.device, model.dtype)
    if (_pbc_of(state) != frames[0].pbc).any():
        raise GeometryError(
            f"structure 0: pbc is {_flags(frames[0])}, which this torch-sim takes for {_pbc_of(state).tolist()}; "
            "allowed: T T T or F F F, or slabs in a torch-sim that has a flag for each axis (0.4 and newer)"
        )
    return state


def momenta_of(frames: Sequence[Atoms], model: CalculatorModel) -> Tensor:
    """Momenta (N, 3) of structures, u Å per unit of time of torch-sim's metal units (as ASE's), for an MD state.

    An integrator's own state has them: `state = begin(state_from_atoms(frames, model)); state.momenta = momenta_of(…)`.
    """
    momenta = np.concatenate([atoms.get_momenta() for atoms in frames])
    return torch.as_tensor(momenta, dtype=model.dtype, device=model.device)


def atoms_of(state: Any) -> list[Atoms]:
    """The systems of a `torch_sim.SimState` as structures of ASE with positions, numbers, cell and pbc.

    A total charge other than zero, which states have in newer versions, is in `info`.
    """
    positions, cells = (_array(value) for value in (state.positions, state.row_vector_cell))
    numbers, system = _array(state.atomic_numbers), _array(state.system_idx)
    borders = np.flatnonzero(np.diff(system)) + 1
    pieces = zip(np.split(numbers, borders), np.split(positions, borders), cells, strict=True)
    pbc = _pbc_of(state)
    found = [Atoms(number, place, cell=cell, pbc=pbc) for number, place, cell in pieces]
    if (charges := getattr(state, "charge", None)) is not None:
        for atoms, charge in zip(found, np.broadcast_to(_array(charges).reshape(-1), len(found)), strict=True):
            if charge:  # zero is what a state has that was told nothing
                atoms.info["charge"] = float(charge)
    return found


def _pbc_of(state: Any) -> Any:
    """(3,) bool: one flag in 0.3, three since 0.4."""
    return np.array(np.broadcast_to(_array(torch.as_tensor(state.pbc)), 3))


def _flags(atoms: Atoms) -> str:
    return " ".join("T" if flag else "F" for flag in atoms.pbc)


def _array(value: Tensor) -> Any:
    return value.detach().cpu().numpy()
