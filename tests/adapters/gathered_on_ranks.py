"""What test_mace_ranks.py runs under mpirun: a slab and a molecule, which are evaluated on rank 0. Writes FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ase import Atoms

import les_plugins
from les_plugins import api
from les_plugins.adapters.mace.contract import tiny_mace
from les_plugins.engines.lammps import new_lammps
from les_plugins.engines.ranks.failures import ending_all
from les_plugins.engines.ranks.gathered import attach_gathered
from les_plugins.engines.ranks.meeting import meet, part
from les_plugins.hosting import registry
from les_plugins.testing.structures import waters

SECTION = {"response": {"dipole": "isotropic"}, "net_charge_warning": None, "hidden": 4}


def structures() -> dict[str, Atoms]:
    """A slab in a skew cell with atoms outside of it along z, and a cluster."""
    slab = waters(8)
    slab.pbc = (True, True, False)
    cell = slab.cell.array.copy()
    cell[2] = (0.0, 0.0, 16.0)
    slab.set_cell(cell)
    return {"slab": slab, "open": waters(8, pbc=False)}


def calculator_of(name: str) -> Any:
    """Of a tiny MACE in float64, or a model of the zoo."""
    if name != "tiny":
        return les_plugins.load(name, dtype="float64")
    model = api.attach(tiny_mace(), SECTION).eval()
    return registry.host("mace").calculator(model, {}, "cpu")


def in_lammps(lmp: Any, atoms: Atoms) -> None:
    """Box and atoms, boundaries as the structure's; the cell is in LAMMPS' orientation already."""
    lmp.command("clear")
    boundary = " ".join("p" if axis else "s" for axis in atoms.pbc)
    lmp.commands_list(["units metal", f"boundary {boundary}", "atom_modify map yes"])
    low, high = atoms.positions.min(0) - 0.5, atoms.positions.max(0) + 0.5
    if atoms.pbc.any():
        (lx, _, _), (xy, ly, _), _ = atoms.cell.array.tolist()
        lmp.command(f"region box prism 0 {lx} 0 {ly} {low[2]} {high[2]} {xy} 0 0")
    else:
        lmp.command("region box block " + " ".join(f"{a} {b}" for a, b in zip(low, high, strict=True)))
    lmp.commands_list(["create_box 2 box", "mass 1 1.008", "mass 2 15.999"])
    types = np.where(atoms.numbers == 8, 2, 1).tolist()
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, atoms.positions.ravel().tolist())
    lmp.commands_list(["pair_style zero 4.0", "pair_coeff * *"])


def deviations(lmp: Any, meeting: Any, calculator: Any, atoms: Atoms) -> dict[str, float]:
    """Of energy and forces, from the calculator in one process."""
    in_lammps(lmp, atoms)
    attach_gathered(lmp, calculator, ("H", "O"), meeting)
    lmp.command("run 0")
    count = lmp.extract_global("nlocal")
    own = [np.array(lmp.numpy.extract_atom(name)[:count]) for name in ("id", "f")] if count else None
    every: list[Any] = [None] * meeting.size
    dist.all_gather_object(every, own)
    energy = lmp.get_thermo("pe")
    ids, forces = (np.concatenate([one[place] for one in every if one]) for place in range(2))
    atoms = atoms.copy()
    atoms.calc = calculator
    expected = atoms.get_forces()
    return {
        "energy": abs(energy - atoms.get_potential_energy()),
        "forces": float(np.abs(forces[np.argsort(ids.reshape(-1))] - expected).max()),
        "largest force": float(np.abs(expected).max()),
        "fewest atoms": min(0 if one is None else len(one[0]) for one in every),
    }


def main(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    lmp = new_lammps()
    meeting = meet(lmp)
    with ending_all(meeting.store, meeting.rank):
        calculator = calculator_of(name)
        found = {kind: deviations(lmp, meeting, calculator, atoms) for kind, atoms in structures().items()}
        if meeting.rank == 0:
            (folder / f"{meeting.size}.json").write_text(json.dumps(found, indent=1))
    part(meeting, lmp)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
