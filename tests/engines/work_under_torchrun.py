"""What test_rank_calculator.py runs under torchrun: every case of `tiny_domains` with ASE. Rank 0 writes FOLDER."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ase import units
from ase.md.verlet import VelocityVerlet
from tiny_domains import EPSILON, SECTIONS, SUSCEPTIBILITY, TinyDomain, water

from les_plugins.engines.ranks.calculator import RankCalculator, meet_torchrun
from les_plugins.engines.ranks.meeting import Meeting
from les_plugins.errors import DataError

PROPERTIES = ["energy", "forces", "stress", "energies", "charges", "dipole", "born_effective_charges"]
TOTAL_CHARGE, STEPS = 0.7, 12


def results(calculator: RankCalculator, atoms: Any) -> dict[str, Any]:
    """Everything at once, and J."""
    calculator.calculate(atoms, [*PROPERTIES, "polarizability"])
    found = {name: calculator.results[name] for name in PROPERTIES}
    found |= {name: calculator.results[name] for name in ("polarizability",) if name in calculator.results}
    calculator.always = ("current",)
    calculator.calculate(atoms, ["forces"])
    found["current"] = calculator.current(atoms.get_velocities(), atoms)
    calculator.always = ()
    return found


def ticks(meeting: Meeting) -> dict[str, Any]:
    """Seconds of one evaluation by a clock that counts how often it is asked, and the exchanges of ghosts in it."""
    calculator = RankCalculator.of(TinyDomain(SECTIONS["pairs"]), meeting, EPSILON, SUSCEPTIBILITY)
    calculator.calculate(water(), ["forces"])
    evaluator: Any = calculator._evaluator
    asked, evaluate, found = itertools.count(), evaluator.evaluate, {}
    evaluator.count_by(lambda: float(next(asked)))

    def watched(*arguments: Any) -> Any:
        before = evaluator.domains.halo.calls
        evaluation = evaluate(*arguments)
        found.update(exchanges=evaluator.domains.halo.calls - before, asked=next(asked))
        return evaluation

    evaluator.evaluate = watched
    calculator.calculate(water(), ["forces"])
    seconds = evaluator.seconds
    return found | {"ticks": np.array([seconds.lists, seconds.model, seconds.long_range, seconds.halo])}


def refusal(calculator: RankCalculator, atoms: Any) -> str:
    """The kind of error that a structure raises."""
    try:
        calculator.calculate(atoms, ["energy"])
    except DataError as error:
        return type(error).__name__
    return ""


def as_by_torchrun(rank: int, size: int, port: int, folder: str) -> None:
    """`main` in a process with the variables that torchrun sets."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    main(Path(folder))


def main(folder: Path) -> None:
    """All cases."""
    torch.set_num_threads(1)
    meeting, found = meet_torchrun(), dict[str, Any]()
    for name, section in SECTIONS.items():
        atoms = water()
        atoms.positions += 20.0 * atoms.cell.array[0]  # anywhere
        if name == "given":
            atoms.info["charge"] = TOTAL_CHARGE
        calculator = RankCalculator.of(TinyDomain(section), meeting, EPSILON, SUSCEPTIBILITY)
        found |= {f"{name}/{key}": value for key, value in results(calculator, atoms).items()}
        atoms.calc = calculator
        atoms.set_velocities(10.0 * atoms.get_velocities())
        VelocityVerlet(atoms, 1.0 * units.fs).run(STEPS)
        found |= {f"{name}/later positions": atoms.positions, f"{name}/later forces": atoms.get_forces()}
    found |= ticks(meeting)
    own = RankCalculator.of(TinyDomain(SECTIONS["mutual"]), meeting, EPSILON)
    own.calculate(water(), ["energy", "polarizability"])
    found |= {f"own/{name}": own.results[name] for name in ("charges", "polarizability")}
    few = water(2)
    calculator = RankCalculator.of(TinyDomain(SECTIONS["pairs"]), meeting, EPSILON, SUSCEPTIBILITY)
    found |= {f"few/{key}": value for key, value in results(calculator, few).items()}
    slab = water()
    slab.pbc = [True, True, False]
    found["slab"] = refusal(calculator, slab)
    found["other"] = refusal(calculator, water(4 + 2 * meeting.rank))
    swapped, lost, strange = water(), water(), water()
    if meeting.rank == meeting.size - 1 and meeting.size > 1:
        swapped.numbers[:2] = swapped.numbers[1::-1]
        lost.positions[3, 1] = np.nan
        strange.info["charge"] = "plus"
    given = RankCalculator.of(TinyDomain(SECTIONS["given"]), meeting, EPSILON, SUSCEPTIBILITY)
    found |= {"swapped": refusal(calculator, swapped), "lost": refusal(calculator, lost)}
    found |= {"strange": refusal(given, strange)}
    found["after"] = results(calculator, water())["energy"]
    if meeting.rank == 0:
        np.savez(folder / f"{meeting.size}.npz", **found)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
