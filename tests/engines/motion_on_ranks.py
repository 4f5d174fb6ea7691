"""Runs of LAMMPS on ranks whose velocities `test_lammps_motion.py` compares with the file's. Writes FOLDER/SIZE.npz."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_domains import ELEMENTS, EPSILON, SECTIONS, SUSCEPTIBILITY, TinyDomain, water
from work_on_ranks import PAIRS, TOTAL_CHARGE, by_id

from les_plugins.engines.lammps import create_atoms, new_lammps
from les_plugins.engines.ranks.engine import Evaluator, attach_ranks
from les_plugins.engines.ranks.failures import ending_all
from les_plugins.engines.ranks.meeting import meet, part
from les_plugins.engines.ranks.moments import Moments
from les_plugins.engines.ranks.recorder import Recorder

#: What moves the atoms; velocities that fixes change at any place of a step.
MOTIONS: dict[str, list[str]] = {
    "nve": ["fix 1 all nve"],
    "nvt": ["fix 1 all nvt temp 300 300 0.02"],
    "csvr": ["fix 1 all nve", "fix 2 all temp/csvr 300 300 0.02 7"],
    "langevin": ["fix 1 all nve", "fix 2 all langevin 300 300 0.02 7"],
    "frozen": ["group mobile id 1:12", "group rest subtract all mobile", "velocity rest set 0 0 0", "fix 1 mobile nve"],
    "forces": [
        "fix 1 all nve",
        "fix 2 all addforce 5 0 0",
        "fix 3 all spring/self 2",
        "fix 4 all momentum 1 linear 1 1 1",
    ],
    "shake": ["fix 1 all nve", "fix 2 all shake 1e-8 100 0 b 1"],
}
STEPS = 4


def bonded() -> tuple[int, int, float]:
    """Two atoms, H and O, and their distance, Å: the closest."""
    distances = water().get_all_distances(mic=True)
    distances[np.ix_(water().numbers == 1, water().numbers == 1)] = distances[
        np.ix_(water().numbers == 8, water().numbers == 8)
    ] = np.inf
    one, other = np.unravel_index(np.argmin(distances), distances.shape)
    return int(one), int(other), float(distances[one, other])


def begin(lmp: Any, meeting: Any, path: Path, bond: bool = False) -> Recorder:
    """An instance with atoms that move, the model and a recorder of every step."""
    lmp.command("clear")
    atoms = water()
    if bond:
        (lx, _, _), (xy, ly, _), (xz, yz, lz) = atoms.cell.array.tolist()
        lmp.commands_list(
            [
                "units metal",
                "atom_style full",
                "box tilt large",
                f"region box prism 0 {lx} 0 {ly} 0 {lz} {xy} {xz} {yz}",
                "create_box 2 box bond/types 1 extra/bond/per/atom 1 extra/special/per/atom 1",
                "mass 1 1.008",
                "mass 2 15.999",
            ]
        )
        types = np.where(atoms.numbers == 8, 2, 1).tolist()
        lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, atoms.positions.ravel().tolist())
        one, other, length = bonded()
        lmp.commands_list(["bond_style zero", f"bond_coeff 1 {length!r}", *PAIRS])
        lmp.command(f"create_bonds single/bond 1 {one + 1} {other + 1}")
    else:
        create_atoms(lmp, atoms, ELEMENTS)
        lmp.commands_list(PAIRS)
    model = TinyDomain(SECTIONS["given"])
    evaluator = Evaluator(model, meeting, TOTAL_CHARGE)
    moments = Moments(model.long_range, EPSILON, SUSCEPTIBILITY)
    recorder = Recorder(path, 1, moments, ELEMENTS, meeting.rank, {}, total_charge=TOTAL_CHARGE)
    attach_ranks(lmp, evaluator, ELEMENTS, observers=[recorder])
    lmp.commands_list(["thermo_modify norm no", "timestep 0.0005", "velocity all create 600 3 loop all"])
    return recorder


def end(recorder: Recorder) -> None:
    recorder.finish()
    recorder.close()


def state(lmp: Any) -> dict[str, Any]:
    """What LAMMPS has after a run: velocities, Å/fs, temperature and kinetic energy."""
    return {"v": by_id(lmp, ("v",))["v"] / 1000.0, "temp": lmp.get_thermo("temp"), "ke": lmp.get_thermo("ke")}


def run_motions(lmp: Any, meeting: Any, folder: Path, names: list[str]) -> dict[str, Any]:
    """Every motion: before the first step, after three, and after one more in a run of its own."""
    found = dict[str, Any]()
    for name in names:
        recorder = begin(lmp, meeting, folder / f"{name}-{meeting.size}.h5", name == "shake")
        lmp.commands_list(MOTIONS[name])
        for step, command in ((0, "run 0"), (STEPS - 1, f"run {STEPS - 1}"), (STEPS, "run 1")):
            lmp.command(command)
            found |= {f"{name}/{step}/{key}": value for key, value in state(lmp).items()}
        end(recorder)
    return found


def rerun(lmp: Any, meeting: Any, folder: Path, columns: str = "x y z vx vy vz") -> None:
    """LAMMPS' rerun of what `nve` did, recorded again."""
    dump = folder / f"{meeting.size}.dump"
    recorder = begin(lmp, meeting, folder / f"run-{meeting.size}.h5")
    lmp.commands_list([f"dump 1 all custom 1 {dump} id type x y z vx vy vz", "dump_modify 1 format float %.17g"])
    lmp.commands_list([*MOTIONS["nve"], f"run {STEPS}"])
    end(recorder)
    recorder = begin(lmp, meeting, folder / f"rerun-{meeting.size}.h5")
    lmp.command(f"rerun {dump} dump {columns}")
    end(recorder)


def after_minimization(lmp: Any, meeting: Any, folder: Path) -> int:
    """A minimization and a run; the step that the run begins with."""
    recorder = begin(lmp, meeting, folder / f"minimized-{meeting.size}.h5")
    lmp.commands_list(["minimize 0 0.05 3 20", *MOTIONS["nve"]])
    first = int(lmp.extract_global("ntimestep"))
    lmp.command("run 2")
    end(recorder)
    return first


def after_new_velocities(lmp: Any, meeting: Any, folder: Path) -> dict[str, Any]:
    """Velocities that are made after `run 0`."""
    recorder = begin(lmp, meeting, folder / f"new-{meeting.size}.h5")
    lmp.commands_list([*MOTIONS["nve"], "run 0", "velocity all create 100 5 loop all", "run 1"])
    found = state(lmp)
    lmp.command("run 1")
    end(recorder)
    return found


def everything(lmp: Any, meeting: Any, folder: Path) -> dict[str, Any]:
    """All of it."""
    found = run_motions(lmp, meeting, folder, list(MOTIONS))
    rerun(lmp, meeting, folder)
    found["minimized"] = after_minimization(lmp, meeting, folder)
    return found | {f"new/{key}": value for key, value in after_new_velocities(lmp, meeting, folder).items()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    lmp = new_lammps()
    meeting = meet(lmp)
    with ending_all(meeting.store, meeting.rank):
        found = everything(lmp, meeting, folder)
        if meeting.rank == 0:
            np.savez(folder / f"{meeting.size}.npz", **found)
    part(meeting, lmp)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
