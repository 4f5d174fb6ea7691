"""What test_lammps_ranks.py runs under mpirun: every case of `tiny_domains`, in one process a rank. Writes FOLDER."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tiny_domains import CUTOFF, ELEMENTS, EPSILON, SECTIONS, SUSCEPTIBILITY, TinyDomain, water
from toy_calculator import Toy, molecule

from les_plugins.cli.interruption import terminable
from les_plugins.engines.lammps import create_atoms, new_lammps
from les_plugins.engines.ranks.engine import Evaluator, Observer, attach_ranks
from les_plugins.engines.ranks.failures import ending_all
from les_plugins.engines.ranks.gathered import attach_gathered
from les_plugins.engines.ranks.meeting import meet, part
from les_plugins.engines.ranks.moments import Moments
from les_plugins.engines.ranks.outputs import AtomProperties
from les_plugins.engines.ranks.recorder import Recorder

THERMO = "thermo_style custom pe ke etotal press pxx pyy pzz pxy pxz pyz c_sum"
PAIRS = [f"pair_style zero {CUTOFF}", "pair_coeff * *", "neighbor 0.3 bin", "neigh_modify delay 0 every 1 check yes"]
TOTAL_CHARGE = 0.7


def by_id(lmp: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Values of all atoms in the order of their ids, on every rank."""
    n = lmp.extract_global("nlocal")

    def own(name: str) -> Any:
        return np.array(lmp.numpy.extract_atom(name)[:n]) if n else None

    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, {name: own(name) for name in (*names, "id")})
    parts = [one for one in every if one["id"] is not None]
    order = np.argsort(np.concatenate([one["id"].reshape(-1) for one in parts]))
    return {name: np.concatenate([one[name] for one in parts])[order] for name in names}


def numbers_of(lmp: Any, properties: bool = True) -> dict[str, Any]:
    """Energy, forces, pressure, per-atom energies, charges and dipoles."""
    names = ("f", "d_les_charge", "d2_les_dipole") if properties else ("f",)
    found = by_id(lmp, names) | {"pe": lmp.get_thermo("pe")}
    found["pressure"] = np.array([lmp.get_thermo(name) for name in ("pxx", "pyy", "pzz", "pxy", "pxz", "pyz")])
    return found


def case(lmp: Any, meeting: Any, folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """One section: a single point, then some steps of a barostat with currents recorded."""
    lmp.command("clear")
    model = TinyDomain(SECTIONS[name])
    atoms = water(**changes)
    create_atoms(lmp, atoms, ELEMENTS)
    lmp.commands_list(PAIRS)
    charge = TOTAL_CHARGE if name == "given" else 0.0
    evaluator = Evaluator(model, meeting, charge)
    moments = Moments(model.long_range, EPSILON, SUSCEPTIBILITY)
    place = folder / f"{name}-{meeting.size}.h5"
    recorder = Recorder(place, 1, moments, ELEMENTS, meeting.rank, {}, total_charge=charge)
    observers: list[Observer] = [AtomProperties(moments), *([recorder] if len(atoms) > 2 else [])]
    attach_ranks(lmp, evaluator, ELEMENTS, observers=observers)
    lmp.commands_list(["compute each all pe/atom", "compute sum all reduce sum c_each", THERMO])
    lmp.commands_list(["thermo_modify norm no", "timestep 0.0005", "run 0"])
    found = numbers_of(lmp) | {"sum of energies": lmp.extract_compute("sum", 0, 0)}
    lmp.commands_list(["fix 1 all npt temp 300 300 0.05 tri 0 0 0.5", "run 4"])
    if len(atoms) > 2:
        recorder.finish()
        recorder.close()
    return found | {f"later {key}": value for key, value in numbers_of(lmp).items()}


def balanced(lmp: Any, meeting: Any) -> dict[str, Any]:
    """Units real, atoms that are sorted and moved to other ranks while it runs, NVE; total energy of each step."""
    lmp.command("clear")
    model = TinyDomain(SECTIONS["mesh"])
    atoms = water()
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = atoms.cell.array.tolist()
    lmp.commands_list(
        [
            "units real",
            "box tilt large",
            "comm_style tiled",
            f"region box prism 0 {lx} 0 {ly} 0 {lz} {xy} {xz} {yz}",
            "create_box 2 box",
            "mass 1 1.008",
            "mass 2 15.999",
            "atom_modify sort 1 1.0",
            *PAIRS,
        ]
    )
    types = np.where(atoms.numbers == 8, 2, 1).tolist()
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, atoms.positions.ravel().tolist())
    attach_ranks(lmp, Evaluator(model, meeting), ELEMENTS)
    lmp.commands_list(["velocity all create 2000 1 loop all", "fix 1 all nve", "fix 2 all balance 2 1.0 rcb"])
    lmp.commands_list(["neigh_modify every 1 check no", THERMO.removesuffix(" c_sum")])
    lmp.commands_list(["thermo_modify norm no", "timestep 0.1", "run 0"])
    found = numbers_of(lmp, properties=False)
    totals = [lmp.get_thermo("etotal")]
    for _ in range(6):
        lmp.command("run 5 post no")
        totals.append(lmp.get_thermo("etotal"))
    return found | {"totals": np.array(totals), "kinetic": lmp.get_thermo("ke")}


def commands(lmp: Any, meeting: Any, folder: Path) -> dict[str, Any]:
    """LAMMPS' own `rerun` of a dump, and `minimize`: energies, and the largest force at the end."""
    lmp.command("clear")
    create_atoms(lmp, water(), ELEMENTS)
    lmp.commands_list(PAIRS)
    attach_ranks(lmp, Evaluator(TinyDomain(SECTIONS["given"]), meeting), ELEMENTS)
    file = folder / f"{meeting.size}.dump"
    lmp.commands_list([f"dump 1 all custom 2 {file} id type x y z", "dump_modify 1 format float %.15g"])
    lmp.commands_list(["fix 1 all nve", "timestep 0.0005", "thermo_modify norm no", "run 4"])
    ran = lmp.get_thermo("pe")
    lmp.commands_list(["undump 1", f"rerun {file} dump x y z"])
    again = lmp.get_thermo("pe")
    lmp.commands_list(["unfix 1", "minimize 0 0.05 40 200"])
    return {"ran": ran, "again": again, "minimum": lmp.get_thermo("pe")}


def gathered(lmp: Any, meeting: Any) -> dict[str, Any]:
    """A molecule, which has no domains."""
    lmp.command("clear")
    create_atoms(lmp, molecule(1), ("H", "O"))
    lmp.commands_list(PAIRS)
    calculator = Toy()
    calculator.known_elements = (1, 8)
    attach_gathered(lmp, calculator, ("H", "O"), meeting)
    lmp.command("run 0")
    return by_id(lmp, ("f",)) | {"pe": lmp.get_thermo("pe")}


def main(folder: Path, what: str) -> None:
    torch.set_num_threads(1)
    lmp = new_lammps()
    meeting = meet(lmp)
    with terminable(), ending_all(meeting.store, meeting.rank):
        if what == "cases":
            found = {name: case(lmp, meeting, folder, name) for name in SECTIONS}
            found["few"] = case(lmp, meeting, folder, "pairs", count=2)
            found["balanced"] = balanced(lmp, meeting)
            found["commands"] = commands(lmp, meeting, folder)
            found["gathered"] = gathered(lmp, meeting)
            if meeting.rank == 0:
                flat = {f"{one}/{key}": value for one, values in found.items() for key, value in values.items()}
                np.savez(folder / f"{meeting.size}.npz", **flat)
        else:
            fail(lmp, meeting, folder, what)
    part(meeting, lmp)


def fail(lmp: Any, meeting: Any, folder: Path, what: str) -> None:
    """A model that cannot go on at step 2 on the last rank, or whose process is killed or told to end there."""
    model = TinyDomain(SECTIONS["pairs"])
    create_atoms(lmp, water(), ELEMENTS)
    lmp.commands_list(PAIRS)
    evaluate, steps = model.evaluate, []

    def failing(graph: Any) -> Any:
        steps.append(time.time())
        if len(steps) > 2 and meeting.rank == meeting.size - 1:
            (folder / "failed").write_text(repr(time.time()))
            if what != "raised":
                os.kill(os.getpid(), signal.SIGKILL if what == "killed" else signal.SIGTERM)
            raise ArithmeticError("the weights are gone")
        return evaluate(graph)

    model.evaluate = failing
    attach_ranks(lmp, Evaluator(model, meeting), ELEMENTS)
    lmp.commands_list(["fix 1 all nve", "run 10"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
