"""What test_<host>_ranks.py runs under mpirun: models of a host, domain by domain and by its own calculator.

mpirun -n 2 python host_on_ranks.py HOST FOLDER [PRETRAINED]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from les_plugins import api
from les_plugins.engines.lammps import create_atoms, new_lammps
from les_plugins.engines.ranks.engine import Evaluator, attach_ranks
from les_plugins.engines.ranks.failures import ending_all
from les_plugins.engines.ranks.meeting import meet, part
from les_plugins.hosting import registry
from les_plugins.testing.structures import waters

ELEMENTS = ("H", "O")
BASE: dict[str, Any] = {"dl": 2.0, "hidden": 4, "net_charge_warning": None}
FULL: dict[str, Any] = {**BASE, "response": {"charge": True, "dipole": "anisotropic"}}
#: Heads on edges, conserved charge, charge over pairs.
EDGES: dict[str, Any] = {
    **BASE,
    "heads": "edge",
    "total_charge": "conserved",
    "response": {"charge": "pairs", "dipole": "isotropic"},
}
SECTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "heads on nodes": FULL,
    "heads on edges": EDGES,
    "mesh": {**FULL, "run": {"method": "mesh"}},
}


def structure(count: int) -> Any:
    """Water in a skew periodic cell."""
    atoms = waters(count)
    atoms.pbc = True
    atoms.set_cell(np.array([[8.0, 0.0, 0.0], [1.0, 7.5, 0.0], [-0.8, 1.2, 7.0]]))
    return atoms


def deviations(lmp: Any, meeting: Any, host: Any, model: Any, atoms: Any) -> dict[str, float]:
    """Of energy and forces, from the host's calculator in one process."""
    lmp.command("clear")
    rotation = create_atoms(lmp, atoms, ELEMENTS)
    domain = host.domain_model(model, {})
    lmp.commands_list([f"pair_style zero {domain.cutoff}", "pair_coeff * *"])
    attach_ranks(lmp, Evaluator(domain, meeting), ELEMENTS)
    lmp.command("run 0")
    n = lmp.extract_global("nlocal")
    own = [np.array(lmp.numpy.extract_atom(name)[:n]) for name in ("id", "f")] if n else None
    every: list[Any] = [None] * meeting.size
    dist.all_gather_object(every, own)
    ids, forces = (np.concatenate([one[place] for one in every if one]) for place in range(2))
    energy = lmp.get_thermo("pe")
    for module in model.modules():
        if hasattr(module, "electrostatics"):
            module.electrostatics.ranks = None  # a host's calculator is of one process
    atoms = atoms.copy()
    atoms.calc = host.calculator(model, {}, "cpu")
    expected = atoms.get_forces() @ rotation
    return {
        "energy": abs(energy - atoms.get_potential_energy()),
        "forces": float(np.abs(forces[np.argsort(ids.reshape(-1))] - expected).max()),
        "largest force": float(np.abs(expected).max()),
        "fewest atoms": min(0 if one is None else len(one[0]) for one in every),
    }


def tiny_models(lmp: Any, meeting: Any, host: Any, name: str) -> dict[str, dict[str, float]]:
    """Of the host's contract, with every section."""
    found = {}
    for contract in host.contract():
        for kind, section in SECTIONS.items():
            model = contract().make_model()
            model = api.attach(model, section) if section else model
            model.eval().requires_grad_(False)
            for count in (4, 1):
                key = f"{contract.model_name or name}, {kind}, {count} molecules"
                found[key] = deviations(lmp, meeting, host, model, structure(count))
    return found


def shipped_model(lmp: Any, meeting: Any, host: Any, name: str) -> dict[str, dict[str, float]]:
    """One that the host ships, in float64, with a long-range part whose weights are random."""
    torch.manual_seed(0)
    model = api.attach(host.pretrained(name, "cpu").calculator.model, FULL)
    model = model.double().eval().requires_grad_(False)
    return {name: deviations(lmp, meeting, host, model, structure(8))}


def main(name: str, folder: Path, pretrained: str = "") -> None:
    torch.set_num_threads(1)
    lmp = new_lammps()
    meeting = meet(lmp)
    with ending_all(meeting.store, meeting.rank):
        host = registry.host(name)
        one = (shipped_model, pretrained) if pretrained else (tiny_models, name)
        found = one[0](lmp, meeting, host, one[1])
        if meeting.rank == 0:
            (folder / f"{meeting.size}.json").write_text(json.dumps(found, indent=1))
    part(meeting, lmp)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
